"""A real coordinator service on the loopback interface, in a thread of the test, and a desktop that speaks HTTPS."""

import contextlib
import queue
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import urllib3

from deskgrid.coordinator.client import OperatorClient
from deskgrid.coordinator.http.connection import BOUNDS, ConnectionBounds
from deskgrid.coordinator.images.catalogue import FixedCatalogue
from deskgrid.coordinator.service import Ready, run
from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.model.desktop import VmReport
from deskgrid.wire.messages import Answer, Enrol, Enrolled, Problem, Report
from tests.pool.fake import FakePool

from .values import FREE, GIB, ROOM, settings


def now() -> datetime:
    return datetime.now(UTC)


class Service:
    """A service that runs."""

    def __init__(self, at: Ready, state: Path, pool: FakePool, catalogue: FixedCatalogue) -> None:
        self.offer = catalogue.offer
        self.at, self.state, self.pool = at, state, pool
        self.operator = OperatorClient(at.url, state)
        self.http = urllib3.PoolManager(ca_certs=str(state / "ca.pem"), retries=False, maxsize=8, timeout=20)

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
        """Say anything."""
        answer = self.http.request("POST", self.at.url + path, body=body, headers=headers)
        return answer.status, answer.data

    def enrol(self, name: str, token: str | None = None) -> "HttpsDesktop":
        """A new member."""
        token = token or self.operator.make_token().token
        status, body = self.post("/v1/enrol", msgspec.json.encode(Enrol(token, name)))
        assert status == 200, body
        return HttpsDesktop(self, msgspec.json.decode(body, type=Enrolled))


class HttpsDesktop:
    """A desktop at the other end of the wire."""

    def __init__(self, service: Service, who: Enrolled) -> None:
        self.service, self.who = service, who
        self.sequence = 0

    @property
    def bearer(self) -> str:
        return f"Bearer {self.who.desktop}:{self.who.credential}"

    def report(self, *vms: VmReport, **more: object) -> Report:
        self.sequence += 1
        report = Report("first", self.sequence, now(), FREE, ROOM, 4, 8 * GIB, vms=vms)
        return msgspec.structs.replace(report, **more)

    def post(self, body: bytes) -> tuple[int, bytes]:
        return self.service.post("/v1/report", body, Authorization=self.bearer)

    def say(self, *vms: VmReport, **more: object) -> Answer:
        status, body = self.post(msgspec.json.encode(self.report(*vms, **more)))
        assert status == 200, body
        return msgspec.json.decode(body, type=Answer)


def problem(answered: tuple[int, bytes]) -> tuple[int, str]:
    """Status and code of a refusal, which must be a Problem with a sentence."""
    status, body = answered
    refused = msgspec.json.decode(body, type=Problem)
    assert refused.sentence.endswith((".", "?"))
    return status, refused.code


@contextlib.contextmanager
def service(
    state: Path, pool: FakePool | None = None, bounds: ConnectionBounds = BOUNDS, **more: object
) -> Iterator[Service]:
    """Run a service from here to there."""
    pool = pool or FakePool(now)
    chosen = msgspec.structs.replace(settings(state), **{"cycle_seconds": 0.1, **more})
    catalogue = FixedCatalogue()
    came: queue.Queue[Ready | BaseException] = queue.Queue()
    thread = threading.Thread(target=_run, args=(chosen, pool, came, None if "images" in more else catalogue, bounds))
    thread.start()
    at = came.get(timeout=20)
    if isinstance(at, BaseException):
        thread.join()
        raise at
    running = Service(at, state, pool, catalogue)
    try:
        yield running
    finally:
        running.operator.close()
        running.http.clear()
        at.stop()
        thread.join(20)
        assert not thread.is_alive()


def _run(
    chosen: CoordinatorSettings,
    pool: FakePool,
    came: "queue.Queue[Ready | BaseException]",
    catalogue: FixedCatalogue | None,
    bounds: ConnectionBounds,
) -> None:
    try:
        run(chosen, pool, came.put, catalogue=catalogue, bounds=bounds)
    except BaseException as error:
        came.put(error)


def context(state: Path) -> ssl.SSLContext:
    """Trusts this coordinator's CA and nothing else."""
    return ssl.create_default_context(cafile=state / "ca.pem")
