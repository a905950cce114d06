"""The operator's way to the coordinator, for the command line: HTTPS with the coordinator's own CA and nothing else."""

import ssl
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from deskgrid.coordinator.state.inventories import FleetInventory
from deskgrid.core.fleet.lease import LeaseRecord
from deskgrid.core.fleet.why import Why
from deskgrid.host.system.http import HttpClient, HttpFailed, pinned
from deskgrid.model.image import ImageFacts
from deskgrid.model.values.outside import read_json
from deskgrid.wire.messages import Problem, problem_of
from deskgrid.wire.operator import (
    Because,
    DesktopView,
    Done,
    Events,
    GridStatus,
    ImageList,
    MadeToken,
    MakeToken,
    StoryLine,
    VmView,
)

T = TypeVar("T")
_MOST_BYTES = 256 << 20


class NoAnswer(Exception):
    """The coordinator could not be reached. The message says where it was looked for and what to do."""


class CoordinatorRefused(Exception):
    """The coordinator said no. problem: why; status: of HTTP."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(problem.sentence or "it refused without a reason; are its version and yours the same?")
        self.status, self.problem = status, problem


class OperatorClient:
    """Asks the coordinator as its operator.

    url: such as https://localhost:9443. state: the coordinator's state folder, with ca.pem and operator.token.
    """

    def __init__(self, url: str, state: Path, timeout_seconds: float = 15.0) -> None:
        self._url = url.rstrip("/")
        try:
            token = (state / "operator.token").read_text(encoding="ascii").strip()
            context = pinned((state / "ca.pem").read_text(encoding="ascii"))
        except (ssl.SSLError, ValueError):
            raise NoAnswer(
                f"state folder {state}: operator.token or ca.pem is damaged; restore them from a backup, or remove "
                "operator.token and start the coordinator, which then makes another"
            ) from None
        except OSError as error:
            raise NoAnswer(
                f"state folder {state}: {error.strerror} ({Path(error.filename or state).name}); has the coordinator "
                "been started there, and may you read it?"
            ) from None
        self._timeout = timeout_seconds
        self._client = HttpClient(url, context, {"Authorization": f"Bearer {token}"}, timeout_seconds)

    def status(self) -> GridStatus:
        """The whole."""
        return self._get("/v1/status", GridStatus)

    def desktops(self) -> list[DesktopView]:
        """All desktops."""
        return self._get("/v1/desktops", list[DesktopView])

    def desktop(self, name: str) -> DesktopView:
        """One desktop."""
        return self._get(f"/v1/desktop/{quote(name, safe='')}", DesktopView)

    def inventory(self) -> FleetInventory:
        """What the fleet's desktops are made of."""
        return self._get("/v1/inventory", FleetInventory)

    def vms(self) -> list[VmView]:
        """The VMs that live."""
        return self._get("/v1/vms", list[VmView])

    def leases(self, desktop: str | None = None, limit: int = 100) -> list[LeaseRecord]:
        """Leases, living and ended, newest first."""
        query = {"limit": str(limit)} | ({"desktop": desktop} if desktop is not None else {})
        return self._get(f"/v1/leases?{urlencode(query)}", list[LeaseRecord])

    def lease(self, vm_id: str) -> LeaseRecord:
        """One lease, living or ended."""
        return self._get(f"/v1/lease/{quote(vm_id, safe='')}", LeaseRecord)

    def images(self) -> list[ImageFacts]:
        """The images on offer."""
        return list(self.status().images)

    def catalogue(self) -> ImageList:
        """All versions of all images, and what is wrong with them."""
        return self._get("/v1/images", ImageList)

    def story(self, vm_id: str) -> list[StoryLine]:
        """A VM's life."""
        return self._get(f"/v1/story/{quote(vm_id, safe='')}", list[StoryLine])

    def why_job(self, job_id: str) -> Why:
        """Why does a job wait, or where is it?"""
        return self._get(f"/v1/why/job/{quote(job_id, safe='')}", Why)

    def why_desktop(self, name: str) -> Why:
        """Why does a desktop run what it runs, or nothing?"""
        return self._get(f"/v1/why/desktop/{quote(name, safe='')}", Why)

    def events(self, since: int | None = None, wait_seconds: float = 0.0) -> Events:
        """New lines of all stories after number `since` (None: only what comes now)."""
        query = {"wait": str(wait_seconds)} | ({"since": str(since)} if since is not None else {})
        return self._get(f"/v1/events?{urlencode(query)}", Events, wait_seconds)

    def make_token(self, lifetime_seconds: float = 86400.0, uses: int = 1) -> MadeToken:
        """A new enrolment token, with the fingerprint that goes with it."""
        return self._post("/v1/tokens", MakeToken(lifetime_seconds, uses), MadeToken)

    def revoke_token(self, token_id: str, reason: str = "") -> Done:
        """End an enrolment token."""
        return self._post(f"/v1/token/{quote(token_id, safe='')}/revoke", Because(reason), Done)

    def revoke(self, desktop: str, reason: str = "") -> Done:
        """Take a desktop's membership away."""
        return self._post(f"/v1/desktop/{quote(desktop, safe='')}/revoke", Because(reason), Done)

    def end_vm(self, vm_id: str, reason: str = "") -> Done:
        """End a VM."""
        return self._post(f"/v1/vm/{quote(vm_id, safe='')}/end", Because(reason), Done)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _get(self, path: str, kind: type[T], longer_seconds: float = 0.0) -> T:
        return self._ask("GET", path, kind, None, longer_seconds)

    def _post(self, path: str, body: object, kind: type[T]) -> T:
        return self._ask("POST", path, kind, msgspec.json.encode(body), 0.0)

    def _ask(self, method: str, path: str, kind: type[T], body: bytes | None, longer_seconds: float) -> T:
        seconds = 2 * (self._timeout + longer_seconds)
        try:
            answer = self._client.ask(method, path, seconds, _MOST_BYTES, body)
        except HttpFailed as failed:
            raise NoAnswer(
                f"coordinator {self._url}: no answer ({failed}); is it running? "
                "(deskgrid coordinator run, deskgrid doctor)"
            ) from None
        if answer.status != 200:
            raise CoordinatorRefused(answer.status, problem_of(answer.body))
        try:
            return read_json(answer.body, type=kind)
        except msgspec.DecodeError as error:
            raise NoAnswer(f"coordinator {self._url}: an answer that can't be read ({error})") from None
