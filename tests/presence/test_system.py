"""logind and NetworkManager over a real D-Bus daemon: locks, sessions, inhibitors, sleep, shutdown, and their absence.

The services are python-dbusmock's templates: real peers on the bus, but not systemd's own program.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deskgrid.model.presence import Ending, Reading, SessionReading
from deskgrid.presence.linux.presence import FIRST_ANSWERS_SECONDS, LinuxPresence, Roots
from tests.presence.bus_with_services import MANAGER, NETWORK, SESSION, BusWithServices, needs_bus
from tests.waiting import SOON_SECONDS, eventually, short_folder

pytestmark = [pytest.mark.slow, needs_bus]
ROOT = "/org/freedesktop/login1"


class Desk:
    """A made-up machine with a real bus."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "dev", folder / "run", folder / "proc", folder / "sys")
        (self.roots.dev / "pts").mkdir(parents=True)
        (self.roots.dev / "input").mkdir()
        os.mkfifo(self.roots.dev / "input/event0")
        self.hand = os.open(self.roots.dev / "input/event0", os.O_RDWR | os.O_NONBLOCK)
        (self.roots.run / "systemd/sessions").mkdir(parents=True)
        self.bus = BusWithServices(self.roots.run)
        self.bus.start()
        self.told = threading.Event()
        self.patience_seconds = SOON_SECONDS
        self._driver: LinuxPresence | None = None

    @property
    def driver(self) -> LinuxPresence:
        if self._driver is None:
            self._driver = LinuxPresence(self.roots, frozenset(), self.patience_seconds)
            self._driver.watch(self.told.set)
        return self._driver

    def read(self) -> Reading:
        return self.driver.read()

    def close(self) -> None:
        if self._driver is not None:
            self._driver.close()
        self.bus.stop()
        os.close(self.hand)


@pytest.fixture
def desk() -> Iterator[Desk]:
    with short_folder() as folder:
        made = Desk(folder)
        yield made
        made.close()


def test_the_first_reading_knows_what_logind_says(desk: Desk) -> None:
    desk.bus.logind()
    desk.bus.log_in("2", LockedHint=("b", True))
    desk.bus.inhibit("idle:sleep", "Totem", "playing a\nfilm")
    desk.bus.be(MANAGER, ROOT, LidClosed=("b", True))
    reading = desk.read()
    assert (reading.logged_in, reading.locked, reading.remote, reading.lid_closed) == (True, True, False, True)
    assert reading.watching == ("Totem: playing a film",)
    assert "logind: 1 session" in reading.sources
    assert reading.faults == ()


def test_sessions_that_come_lock_are_remote_and_go_are_told_each_time(desk: Desk) -> None:
    desk.bus.logind()
    assert desk.read().logged_in is False
    path = desk.bus.log_in("2")
    assert desk.told.wait(SOON_SECONDS)
    eventually(lambda: desk.read().logged_in)
    assert desk.read().locked is False
    desk.bus.be(SESSION, path, LockedHint=("b", True))
    eventually(lambda: desk.read().locked)
    desk.bus.log_in("7", uid=1001, Remote=("b", True), Type=("s", "x11"))
    eventually(lambda: desk.read().remote)
    reading = desk.read()
    assert (reading.locked, reading.logged_in) == (False, True)
    desk.bus.log_out("7")
    desk.bus.log_out("2")
    eventually(lambda: desk.read().logged_in is False)
    assert desk.read().locked is None


def test_greeters_are_nobody(desk: Desk) -> None:
    desk.bus.logind()
    desk.bus.log_in("c1", uid=110, Class=("s", "greeter"))
    assert desk.read().logged_in is False


def test_an_inhibitor_that_ends_no_longer_counts_and_one_on_sleep_alone_never_did(desk: Desk) -> None:
    desk.bus.logind()
    film = desk.bus.inhibit("idle", "Totem", "a film")
    desk.bus.inhibit("sleep", "Updates", "installing")
    desk.bus.inhibit("idle", "Clock", "waits", mode="delay")
    assert desk.read().watching == ("Totem: a film",)
    film.close()
    eventually(lambda: not any(one[1] == "Totem" for one in desk.bus.inhibitors()))
    desk.bus.be(MANAGER, ROOT, BlockInhibited=("s", ""))
    eventually(lambda: desk.read().watching == ())


def ours(desk: Desk) -> list[tuple[str, ...]]:
    return [one[:4] for one in desk.bus.inhibitors() if one[1] == "deskgrid"]


@pytest.mark.parametrize(
    ("signal", "ending"), [("PrepareForSleep", Ending.SLEEP), ("PrepareForShutdown", Ending.SHUTDOWN)]
)
def test_the_end_is_told_and_waits_until_the_agent_is_ready(desk: Desk, signal: str, ending: Ending) -> None:
    desk.bus.logind()
    driver = desk.driver
    eventually(lambda: ours(desk))
    assert ours(desk)[0][0::3] == ("sleep:shutdown", "delay")
    desk.told.clear()
    desk.bus.emit(signal, "b", ("b", True))
    assert desk.told.wait(SOON_SECONDS)
    eventually(lambda: driver.read().ending is ending)
    assert ours(desk)
    driver.ready_to_end()
    eventually(lambda: not ours(desk))
    desk.told.clear()
    desk.bus.emit(signal, "b", ("b", False))
    assert desk.told.wait(SOON_SECONDS)
    eventually(lambda: driver.read().ending is None)
    eventually(lambda: ours(desk), "held again after waking up")


def test_sleep_waits_for_nobody_while_nothing_runs(desk: Desk) -> None:
    desk.bus.logind()
    eventually(lambda: desk.driver and ours(desk))
    desk.driver.pace(running=False)
    eventually(lambda: not ours(desk))
    desk.driver.pace(running=True)
    eventually(lambda: ours(desk))
    desk.driver.close()
    eventually(lambda: not ours(desk))


def test_without_logind_there_is_a_fault_the_files_go_on_and_what_it_alone_knows_counts_as_busy(desk: Desk) -> None:
    (desk.roots.run / "systemd/sessions/4").write_text("UID=1000\nCLASS=user\nSTATE=active\nTYPE=wayland\nSEAT=seat0\n")
    reading = desk.read()
    assert (reading.logged_in, reading.locked) == (True, None)
    assert "logind: got no answer over D-Bus" in reading.faults[0]
    assert "not known" in reading.watching[0]
    desk.bus.logind()
    eventually(lambda: desk.read().faults == ())
    assert desk.read().watching == ()


def test_a_logind_that_restarts_is_named_and_heard_again(desk: Desk) -> None:
    desk.bus.logind()
    desk.bus.log_in("2", LockedHint=("b", True))
    film = desk.bus.inhibit("idle", "Totem", "a film")
    assert desk.read().locked is True
    desk.bus.end("logind")
    eventually(lambda: desk.read().faults)
    reading = desk.read()
    assert (reading.locked, reading.watching) == (None, ("Totem: a film",))
    film.close()
    desk.bus.logind()
    eventually(lambda: desk.read().watching == ())
    desk.bus.log_in("9", uid=1001)
    eventually(lambda: desk.read().logged_in)
    eventually(lambda: desk.read().faults == ())
    eventually(lambda: ours(desk))


def test_a_bus_that_is_killed_is_a_fault_until_it_is_back_and_input_is_heard_all_the_while(desk: Desk) -> None:
    desk.bus.logind()
    assert desk.read().faults == ()
    desk.bus.stop()
    eventually(lambda: desk.read().faults)
    assert "D-Bus" in desk.read().faults[0]
    time.sleep(0.2)
    desk.told.clear()
    os.write(desk.hand, bytes(24))
    assert desk.told.wait(SOON_SECONDS)
    desk.bus.start()
    desk.bus.logind()
    desk.bus.log_in("2")
    eventually(lambda: desk.read().faults == ())
    eventually(lambda: desk.read().logged_in)


def test_a_bus_that_takes_no_connections_does_not_make_us_wait(desk: Desk) -> None:
    desk.bus.stop()
    desk.bus.path.unlink(missing_ok=True)
    deaf = socket.socket(socket.AF_UNIX)
    deaf.bind(str(desk.bus.path))
    deaf.listen(0)
    desk.patience_seconds = FIRST_ANSWERS_SECONDS
    driver = desk.driver
    assert not any("no answer" in one for one in driver.read().faults)  # the bus still waits for it
    eventually(lambda: any("no answer for 3 s" in one for one in driver.read().faults))
    deaf.close()


def test_a_logind_that_hangs_keeps_nobody_waiting_is_named_and_is_heard_when_it_goes_on(desk: Desk) -> None:
    desk.bus.logind()
    desk.bus.log_in("2", LockedHint=("b", True))
    desk.bus.freeze("logind")
    desk.patience_seconds = FIRST_ANSWERS_SECONDS
    reading = desk.read()
    assert (reading.logged_in, reading.locked) == (False, None)  # its files say nobody
    assert "not known" in reading.watching[0]
    assert "its files are read instead" in reading.faults[0]  # the bus still waits for its answer
    eventually(lambda: any("no answer for 3 s" in one for one in desk.read().faults))
    assert not any("polkit" in one for one in desk.read().faults)
    desk.bus.thaw("logind")
    eventually(lambda: desk.read().locked)
    eventually(lambda: (desk.read().faults, desk.read().watching) == ((), ()))


def test_signals_that_anybody_sent_are_not_believed(desk: Desk) -> None:
    desk.bus.logind()
    desk.bus.serve("upower", "org.freedesktop.UPower")
    driver = desk.driver
    mocked = ("org.freedesktop.UPower", "/org/freedesktop/UPower", "org.freedesktop.DBus.Mock", "EmitSignal", "sssav")
    desk.bus.ask(*mocked, MANAGER, "PrepareForShutdown", "b", [("b", True)])
    time.sleep(0.2)
    assert driver.read().ending is None


def test_metered_is_what_network_manager_says_unknown_while_it_is_silent_and_false_without_it(desk: Desk) -> None:
    assert desk.driver.metered() is False
    desk.bus.network_manager()
    for value, metered in ((1, True), (2, False), (3, True), (4, False), (0, False)):
        desk.bus.be(NETWORK, "/org/freedesktop/NetworkManager", NETWORK, Metered=("u", value))
        eventually(lambda metered=metered: (desk.read(), desk.driver.metered() is metered)[1])
    desk.bus.stop()
    eventually(lambda: (desk.read(), desk.driver.metered() is None)[1])


def test_a_helper_vouches_for_its_own_session_where_keyboards_can_not_be_heard(desk: Desk) -> None:
    desk.bus.logind()
    desk.bus.log_in("2")
    (desk.roots.dev / "input/event1").symlink_to("event1")  # can't be opened by anybody
    driver = desk.driver
    time.sleep(1.1)
    assert driver.read().idle_seconds is None
    driver.told(1001, SessionReading("mutter", 700.0))
    assert driver.read().idle_seconds is None
    driver.told(1000, SessionReading("mutter", 900.0, locked=True, full_screen=True, watching=("Firefox: a film",)))
    reading = driver.read()
    assert reading.idle_seconds is not None
    assert (reading.locked, reading.full_screen, reading.watching) == (False, True, ("Firefox: a film",))
    assert any(one.startswith("helper of uid 1000 (mutter) 90") for one in reading.sources)
    desk.told.clear()
    driver.told(1000, SessionReading("mutter", 0.0))
    assert desk.told.wait(SOON_SECONDS)
    idle = driver.read().idle_seconds
    assert idle is not None
    assert idle < 500
    driver.told(1000, None)
    assert driver.read().idle_seconds is None


def test_what_logind_does_not_say_of_lids_the_kernel_does(desk: Desk) -> None:
    desk.bus.logind()
    lid = desk.roots.proc / "acpi/button/lid/LID0/state"
    lid.parent.mkdir(parents=True)
    lid.write_text("state:      closed\n")
    assert desk.read().lid_closed is True
    lid.write_text("state:      open\n")
    assert desk.read().lid_closed is False
