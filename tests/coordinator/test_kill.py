"""The real service is killed with SIGKILL in the middle of traffic, and started again on the same folder."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
import urllib3

from deskgrid.coordinator.client import OperatorClient
from deskgrid.coordinator.db.database import open_database
from deskgrid.coordinator.db.queries import lease, live_leases, story
from deskgrid.model.desktop import Transition, VmReport, VmState
from deskgrid.wire.messages import Answer, Enrol, Enrolled
from tests.waiting import eventually

from .running import now
from .values import FREE, FULL, GIB, ROOM

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, threading, time
from pathlib import Path
import msgspec
from deskgrid.coordinator.images.catalogue import FixedCatalogue
from deskgrid.coordinator.service import run, utc_now
from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.model.image import ImageFacts, ImageRef
from tests.pool.fake import FakePool

class Crowded(FakePool):
    "Jobs wait for ever, and each question is a negotiation."
    def snapshot(self):
        self.negotiate()
        return super().snapshot()

pool = Crowded(utc_now)
pool.submit("its-sl6", 1000)
settings = CoordinatorSettings(state_dir=Path(sys.argv[1]), port=int(sys.argv[2]), cycle_seconds=0.05)
facts = ImageFacts(ImageRef("its-sl6", "a" * 64), 1 << 29, 4 << 30)
run(settings, pool, lambda at: print(at.url, flush=True), catalogue=FixedCatalogue(facts))
"""


class Victim:
    """The service in a process of its own."""

    def __init__(self, state: Path, port: int = 0) -> None:
        argv = [sys.executable, "-c", PROGRAM, str(state), str(port)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the service did not start"
        self.port = int(self.url.rsplit(":", 1)[1])

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


class Peer(threading.Thread):
    """A desktop that runs what it is told, ends it after a while, and remembers what was acknowledged."""

    def __init__(self, url: str, state: Path, name: str, token: str) -> None:
        super().__init__()
        self.http = urllib3.PoolManager(ca_certs=str(state / "ca.pem"), retries=False, timeout=5)
        body = self.http.request("POST", url + "/v1/enrol", body=msgspec.json.encode(Enrol(token, name))).data
        self.who = msgspec.json.decode(body, type=Enrolled)
        self.url, self.stopping = url, False
        self.vms: dict[str, VmReport] = {}
        self.ended: dict[str, VmReport] = {}
        self.story: list[Transition] = []
        self.acknowledged: set[str] = set()
        self.recorded: list[Transition] = []
        self.ordered: set[str] = set()
        self.sequence = 0
        self.failures = self.failed_before = 0
        self.refusals: list[bytes] = []

    def run(self) -> None:
        while not self.stopping:
            try:
                self.say()
            except urllib3.exceptions.HTTPError:
                self.failures += 1
                time.sleep(0.02)

    def say(self) -> None:
        self.sequence += 1
        raw = {
            "incarnation": "first",
            "sequence": self.sequence,
            "sent_at": now(),
            "availability": FREE,
            "room": FULL if self.vms else ROOM,
            "cpus": 4,
            "memory_bytes": 8 * GIB,
            "vms": list(self.vms.values()),
            "ended": list(self.ended.values()),
            "story": list(self.story),
        }
        headers = {"Authorization": f"Bearer {self.who.desktop}:{self.who.credential}"}
        answer = self.http.request("POST", self.url + "/v1/report", body=msgspec.json.encode(raw), headers=headers)
        if answer.status != 200:
            self.refusals.append(answer.data)
            time.sleep(0.02)
            return
        self.obey(msgspec.json.decode(answer.data, type=Answer))

    def obey(self, told: Answer) -> None:
        self.acknowledged |= set(told.acknowledged)
        for vm_id in told.acknowledged:
            self.ended.pop(vm_id, None)
        self.recorded += self.story[: told.story_count]
        del self.story[: told.story_count]
        for vm_id, vm in list(self.vms.items()):
            self.ended[vm_id] = msgspec.structs.replace(vm, state=VmState.ENDED)
            self.story.append(Transition(vm_id, now(), "ended", "gone", "It is gone."))
            del self.vms[vm_id]
        for order in told.orders:
            lease = order.lease
            if lease.vm_id not in self.ordered:
                self.ordered.add(lease.vm_id)
                self.vms[lease.vm_id] = VmReport(
                    lease.vm_id, lease.image, lease.size, VmState.RUNNING, now(), lease.reason, "tcg"
                )
                self.story.append(Transition(lease.vm_id, now(), "running", "alive", "It is up."))


def test_killed_in_the_middle_of_traffic_and_started_again_it_has_lost_nothing_that_it_said(tmp_path: Path) -> None:
    state = tmp_path / "state"
    victim = Victim(state)
    operator = OperatorClient(victim.url, state)
    token = operator.make_token(uses=4).token
    peers = [Peer(victim.url, state, f"desk-{i}", token) for i in range(4)]
    try:
        for peer in peers:
            peer.start()
        for _ in range(2):
            traffic(peers)
            assert victim.end(signal.SIGKILL) == -signal.SIGKILL
            eventually(lambda: all(peer.failures > peer.failed_before for peer in peers), "they notice")
            victim = Victim(state, victim.port)
        traffic(peers)
    finally:
        for peer in peers:
            peer.stopping = True
        for peer in peers:
            peer.join(10)
        with contextlib.suppress(ProcessLookupError):
            assert victim.end(signal.SIGTERM) == 0
    check(state, peers)


def traffic(peers: list[Peer]) -> None:
    """All have been told something since they were asked last."""
    before = [(len(peer.ordered), len(peer.recorded)) for peer in peers]
    for peer in peers:
        peer.failed_before = peer.failures
    eventually(
        lambda: all(
            len(peer.ordered) > orders and len(peer.recorded) > lines
            for peer, (orders, lines) in zip(peers, before, strict=True)
        ),
        "traffic",
    )


def check(state: Path, peers: list[Peer]) -> None:
    """What any desktop was told is in the database, with the ends and the stories that were acknowledged."""
    assert all(peer.refusals == [] for peer in peers)
    database = open_database(f"sqlite:///{state / 'coordinator.sqlite'}")
    with database.begin() as connection:
        for peer in peers:
            for vm_id in peer.ordered:
                kept = lease(connection, vm_id)
                assert kept is not None
                assert kept.lease.desktop == peer.who.desktop
                if vm_id in peer.acknowledged:
                    assert kept.ended_at is not None
            for line in peer.recorded:
                told = [(kept.told_at, kept.event) for kept in story(connection, line.vm_id)]
                assert told.count((line.at, line.event)) == 1
        running = {vm_id for peer in peers for vm_id in peer.vms}
        assert running <= {kept.lease.vm_id for kept in live_leases(connection)}
    database.close()


def test_killed_while_it_starts_it_starts_again(tmp_path: Path) -> None:
    state = tmp_path / "state"
    argv = [sys.executable, "-c", PROGRAM, str(state), "0"]
    for wait_seconds in (0.4, 0.6):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        time.sleep(wait_seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    victim = Victim(state)
    try:
        assert OperatorClient(victim.url, state).status().desktops == 0
    finally:
        assert victim.end(signal.SIGINT) == 0
