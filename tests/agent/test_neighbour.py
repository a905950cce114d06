"""The agent's side of neighbours: nothing listens unless the policy says so, and never while somebody is here."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from deskgrid.agent.neighbour import Neighbour
from deskgrid.coordinator.state.neighbours import Neighbours
from deskgrid.images.fetch.fetch import Fetcher
from deskgrid.images.fetch.source import Origin, open_source
from deskgrid.images.store.store import ChunkStore
from deskgrid.images.store.upkeep import verify
from deskgrid.model.desktop import Availability
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason
from deskgrid.wire.messages import Report
from tests.coordinator.values import IMAGE, ROOM, START
from tests.images.chunks.ground import ROOMY, content, origin, published, web
from tests.waiting import comes_true

ON = Policy(neighbours=True)
FREE = Availability(True)
FULL = Availability(False, (Reason("memory-reserve", "No more memory."),))
IN_USE = Availability(False, (Reason("owner-active", "Somebody is here."),))


def report(port: int) -> Report:
    return Report("start-1", 1, START, FREE, ROOM, 8, 1 << 34, images=(IMAGE,), neighbour_port=port)


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[Neighbour]:
    made = Neighbour(tmp_path)
    yield made
    made.close()


def children() -> set[int]:
    """Processes of ours that have not ended."""
    return {one.pid for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE}


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(("policy", "availability"), [(Policy(), FREE), (ON, IN_USE)])
def test_nothing_runs_or_listens_by_default_or_while_somebody_is_here(
    neighbour: Neighbour, policy: Policy, availability: Availability
) -> None:
    before = children()
    neighbour.obey(policy, availability)
    assert neighbour.port == 0 and children() <= before


def test_it_listens_when_switched_on_and_goes_on_when_there_is_no_room_for_more(neighbour: Neighbour) -> None:
    neighbour.obey(ON, FREE)
    assert comes_true(lambda: neighbour.port)
    port = neighbour.port
    neighbour.obey(ON, FULL)
    neighbour.obey(msgspec.structs.replace(ON, download_bytes_per_second=20_000), FREE)
    assert neighbour.port == port and listens(port)


@pytest.mark.parametrize(("policy", "availability"), [(Policy(), FREE), (ON, IN_USE)])
def test_it_ends_at_once_when_switched_off_or_when_somebody_comes(
    neighbour: Neighbour, policy: Policy, availability: Availability
) -> None:
    before = children()
    neighbour.obey(ON, FREE)
    assert comes_true(lambda: neighbour.port)
    port = neighbour.port
    neighbour.obey(policy, availability)
    assert neighbour.port == 0
    assert comes_true(lambda: not listens(port)) and comes_true(lambda: children() <= before)
    neighbour.obey(ON, FREE)
    assert comes_true(lambda: neighbour.port)


def test_ending_it_before_it_listens_leaves_no_port(neighbour: Neighbour) -> None:
    before = children()
    for _ in range(3):
        neighbour.obey(ON, FREE)
        neighbour.obey(ON, IN_USE)
    assert comes_true(lambda: children() <= before)
    assert neighbour.port == 0


def test_from_report_to_fetch_nothing_but_the_introduction_comes_from_the_coordinator(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    given, taken = ChunkStore(tmp_path / "a", ROOMY), ChunkStore(tmp_path / "b", ROOMY)
    with given.admit(made.path.read_bytes()) as image:
        Fetcher(given, image, [open_source(origin(tmp_path))]).whole()
    giver, known = Neighbour(tmp_path / "a"), Neighbours(120.0)
    giver.obey(ON, FREE)
    assert comes_true(lambda: giver.port)
    known.hear("desk-a", "127.0.0.2", report(giver.port), START)
    known.hear("desk-b", "127.0.0.3", report(1), START)
    urls = known.of("desk-b", IMAGE, "vm-1", START)
    assert urls == (f"http://127.0.0.2:{giver.port}",)
    with web(tmp_path / "server") as server, taken.admit(made.path.read_bytes()) as image:
        Fetcher(taken, image, [open_source(Origin(urls[0])), open_source(server.origin)]).whole()
        assert server.ranges == []
    assert verify(taken).damaged == 0 and taken.used_bytes() == made.manifest.blob_bytes
    giver.close()


def test_one_that_was_killed_is_said_to_be_gone_and_is_not_started_again_at_once(neighbour: Neighbour) -> None:
    before = children()
    neighbour.obey(ON, FREE)
    assert comes_true(lambda: neighbour.port)
    (pid,) = children() - before
    os.kill(pid, signal.SIGKILL)
    assert comes_true(lambda: neighbour.port == 0)
    neighbour.obey(ON, FREE)
    assert children() <= before, "it waits, lest it end and start for ever"


def test_a_port_that_is_taken_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("", 0)) as taken:
        neighbour = Neighbour(tmp_path, taken.getsockname()[1])
        neighbour.obey(ON, FREE)
        assert comes_true(lambda: "choose another port" in caplog.text)
        assert neighbour.port == 0
        neighbour.close()
