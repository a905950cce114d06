"""The agent's side of neighbours: nothing listens unless the policy says so, and never while somebody is here."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from deskgrid.agent.neighbour import Neighbour
from deskgrid.model.desktop import Availability
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason

ON = Policy(neighbours=True)
FREE = Availability(True)
FULL = Availability(False, (Reason("memory-reserve", "No more memory."),))
IN_USE = Availability(False, (Reason("owner-active", "Somebody is here."),))


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[Neighbour]:
    made = Neighbour(tmp_path)
    yield made
    made.close()


def soon(holds: Callable[[], object], seconds: float = 30.0) -> bool:
    """Wait until it holds."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


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
    assert soon(lambda: neighbour.port)
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
    assert soon(lambda: neighbour.port)
    port = neighbour.port
    neighbour.obey(policy, availability)
    assert neighbour.port == 0
    assert soon(lambda: not listens(port)) and soon(lambda: children() <= before)
    neighbour.obey(ON, FREE)
    assert soon(lambda: neighbour.port)


def test_ending_it_before_it_listens_leaves_no_port(neighbour: Neighbour) -> None:
    before = children()
    for _ in range(3):
        neighbour.obey(ON, FREE)
        neighbour.obey(ON, IN_USE)
    assert soon(lambda: children() <= before)
    assert neighbour.port == 0


def test_one_that_was_killed_is_said_to_be_gone_and_is_not_started_again_at_once(neighbour: Neighbour) -> None:
    before = children()
    neighbour.obey(ON, FREE)
    assert soon(lambda: neighbour.port)
    (pid,) = children() - before
    os.kill(pid, signal.SIGKILL)
    assert soon(lambda: neighbour.port == 0)
    neighbour.obey(ON, FREE)
    assert children() <= before, "it waits, lest it end and start for ever"


def test_a_port_that_is_taken_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("", 0)) as taken:
        neighbour = Neighbour(tmp_path, taken.getsockname()[1])
        neighbour.obey(ON, FREE)
        assert soon(lambda: "choose another port" in caplog.text)
        assert neighbour.port == 0
        neighbour.close()
