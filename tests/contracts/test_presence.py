"""What every presence driver does, whoever it asks: the fake (told directly, by a file, by a file without inotify),
and Linux over real pseudo terminals and a real pipe in the place of an input device. What drivers do besides, where the
system lets them: the fake, and Linux over a real D-Bus with logind's interface."""

import os
import pty
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from deskgrid.model.presence import Ending, Reading, SessionReading
from deskgrid.presence.contract import Presence, SystemPresence
from deskgrid.presence.fake import AWAY, PRESENT, FakePresence, Has, Owner, set_presence
from deskgrid.presence.linux.presence import LinuxPresence, Roots
from tests.presence.bus_with_services import MANAGER, NETWORK, SESSION, BusWithServices, needs_bus
from tests.waiting import SOON_SECONDS, Calls, eventually, short_folder

pytestmark = pytest.mark.slow


class Bench:
    """A driver, and the owner's hands on it."""

    def __init__(
        self, driver: Presence, sign: Callable[[], None], blind: Callable[[], None], close: Callable[[], None]
    ) -> None:
        self.driver, self.sign, self.blind, self.close = driver, sign, blind, close


def fake_told(_: Path) -> Bench:
    driver = FakePresence()
    turns = iter(range(10**9))
    return Bench(
        driver,
        lambda: driver.set(Owner(logged_in=True, present=True, idle_seconds=float(next(turns)))),
        lambda: driver.set(Owner()),
        driver.close,
    )


def fake_by_file(folder: Path, poll: bool = False) -> Bench:
    path = folder / "owner"
    set_presence(path, AWAY)
    driver = FakePresence(path, poll=poll)
    return Bench(driver, lambda: set_presence(path, PRESENT), lambda: set_presence(path, Owner()), driver.close)


def fake_polled(folder: Path) -> Bench:
    return fake_by_file(folder, poll=True)


def linux_roots(folder: Path) -> Roots:
    roots = Roots(folder / "dev", folder / "run", folder / "proc", folder / "sys")
    (roots.dev / "pts").mkdir(parents=True)
    (roots.dev / "input").mkdir()
    (roots.run / "systemd/sessions").mkdir(parents=True)
    return roots


def linux_terminal(folder: Path) -> Bench:
    roots = linux_roots(folder)
    keyboard, screen = pty.openpty()
    real = os.ttyname(screen)
    (roots.dev / "pts/7").symlink_to(real)
    os.utime(real, (time.time() - 3600, time.time() - 3600))
    driver = LinuxPresence(roots, grid_uids=frozenset())

    def sign() -> None:
        if time.time() - Path(real).stat().st_atime < 60:
            os.utime(real)  # the kernel tells of one key in 8 s; this stands for a key after that
            return
        os.write(keyboard, b"x\n")
        os.read(screen, 100)

    def close() -> None:
        driver.close()
        os.close(keyboard)
        os.close(screen)

    return Bench(driver, sign, lambda: _somebody(roots, "x9", "TYPE=x11\nREMOTE=1"), close)


def linux_device(folder: Path) -> Bench:
    roots = linux_roots(folder)
    os.mkfifo(roots.dev / "input/event0")
    driver = LinuxPresence(roots, grid_uids=frozenset())
    hand = os.open(roots.dev / "input/event0", os.O_RDWR)

    def close() -> None:
        driver.close()
        os.close(hand)

    blind = lambda: _somebody(roots, "x9", "TYPE=x11\nREMOTE=1")  # noqa: E731
    return Bench(driver, lambda: os.write(hand, bytes(24)) and None, blind, close)


def _somebody(roots: Roots, name: str, facts: str) -> None:
    fresh = roots.run / "systemd" / f".{name}"
    fresh.write_text(f"UID=1000\nCLASS=user\nSTATE=active\n{facts}\n")
    fresh.replace(roots.run / "systemd/sessions" / name)


@pytest.fixture(params=[fake_told, fake_by_file, fake_polled, linux_terminal, linux_device])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = request.param(tmp_path)
    yield made
    made.close()


def test_a_reading_names_its_sources(bench: Bench) -> None:
    reading = bench.driver.read()
    assert isinstance(reading, Reading)
    assert reading.sources


def test_a_sign_of_the_owner_is_told_once_watched_and_makes_the_desktop_busy(bench: Bench) -> None:
    calls = Calls()
    bench.driver.watch(calls)
    time.sleep(0.05)
    assert calls.times == []
    bench.sign()
    assert calls.wait()
    idle = bench.driver.read().idle_seconds
    assert idle is not None
    assert idle < SOON_SECONDS


def test_a_sign_is_seen_by_reading_alone_without_watching(bench: Bench) -> None:
    bench.driver.read()
    bench.sign()
    idle = bench.driver.read().idle_seconds
    assert idle is not None
    assert idle < SOON_SECONDS


def test_many_signs_are_told_at_most_ten_times_a_second_and_the_last_one_is_not_lost(bench: Bench) -> None:
    calls = Calls()
    bench.driver.watch(calls)
    until = time.monotonic() + 0.75
    last = 0.0
    while (now := time.monotonic()) < until:
        last = now
        bench.sign()
        time.sleep(0.002)
    while (not calls.times or calls.times[-1] < last - 0.11) and time.monotonic() < last + SOON_SECONDS:
        time.sleep(0.01)
    assert calls.times[-1] >= last - 0.11
    gaps = [later - earlier for earlier, later in zip(calls.times, calls.times[1:], strict=False)]
    assert min(gaps) > 0.09


def test_a_reading_between_a_sign_and_its_telling_does_not_swallow_it(bench: Bench) -> None:
    calls = Calls()
    bench.driver.watch(calls)
    for turn in range(1, 4):
        bench.sign()
        bench.driver.read()
        assert calls.wait(turn)
        time.sleep(0.15)


def test_nothing_is_told_after_close_and_closing_twice_does_no_harm(bench: Bench) -> None:
    calls = Calls()
    bench.driver.watch(calls)
    bench.driver.close()
    bench.sign()
    time.sleep(0.25)
    assert calls.times == []
    bench.driver.close()
    bench.driver.read()


def test_it_may_be_closed_from_its_own_callback(bench: Bench) -> None:
    closed = threading.Event()

    def changed() -> None:
        bench.driver.close()
        closed.set()

    bench.driver.watch(changed)
    bench.sign()
    assert closed.wait(SOON_SECONDS)


def test_a_callback_that_raises_does_not_end_the_watch(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    calls = Calls()

    def changed() -> None:
        calls()
        raise RuntimeError("the agent has a bug")

    bench.driver.watch(changed)
    bench.sign()
    assert calls.wait(1)
    bench.sign()
    assert calls.wait(2)
    assert "the agent has a bug" in caplog.text


def test_what_is_not_known_is_none_and_says_why(bench: Bench) -> None:
    bench.blind()
    time.sleep(1.1)  # an input device counts as touched when it was first seen
    reading = bench.driver.read()
    assert reading.idle_seconds is None
    assert reading.faults


def test_several_threads_may_read_at_once(bench: Bench) -> None:
    bench.driver.watch(lambda: None)
    readings: list[Reading] = []
    threads = [
        threading.Thread(target=lambda: readings.extend(bench.driver.read() for _ in range(20))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    bench.sign()
    for thread in threads:
        thread.join()
    assert len(readings) == 80


class System:
    """A driver, and the hands on its system: one session is there, of uid 1000, at the seat."""

    driver: SystemPresence

    def lock(self, locked: bool) -> None:
        raise NotImplementedError

    def film(self) -> None:
        raise NotImplementedError

    def lid(self, closed: bool) -> None:
        raise NotImplementedError

    def end(self, ending: Ending, begins: bool) -> None:
        raise NotImplementedError

    def metered(self, metered: bool) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.driver.close()


class FakeSystem(System):
    def __init__(self, _: Path) -> None:
        self._owner = Owner(logged_in=True, idle_seconds=900.0, locked=False)
        self.driver = self._fake = FakePresence(owner=self._owner)

    def _be(self, **facts: object) -> None:
        self._owner = msgspec.structs.replace(self._owner, **facts)
        self._fake.set(self._owner)

    def lock(self, locked: bool) -> None:
        self._be(locked=locked)

    def film(self) -> None:
        self._be(watching=("Totem: a film",))

    def lid(self, closed: bool) -> None:
        self._be(lid_closed=closed)

    def end(self, ending: Ending, begins: bool) -> None:
        self._be(ending=ending if begins else None)

    def metered(self, metered: bool) -> None:
        self._be(machine=Has(metered=metered))


class LinuxSystem(System):
    def __init__(self, folder: Path) -> None:
        roots = linux_roots(folder)
        self._bus = BusWithServices(roots.run)
        self._bus.start()
        self._bus.logind()
        self._bus.network_manager()
        self._session = self._bus.log_in("2")
        os.mkfifo(roots.dev / "input/event0")
        self._hand = os.open(roots.dev / "input/event0", os.O_RDWR)
        self.driver = LinuxPresence(roots, frozenset(), patience_seconds=SOON_SECONDS)

    def lock(self, locked: bool) -> None:
        self._bus.be(SESSION, self._session, LockedHint=("b", locked))

    def film(self) -> None:
        self._bus.inhibit("idle", "Totem", "a film")

    def lid(self, closed: bool) -> None:
        self._bus.be(MANAGER, "/org/freedesktop/login1", LidClosed=("b", closed))

    def end(self, ending: Ending, begins: bool) -> None:
        member = {Ending.SLEEP: "PrepareForSleep", Ending.SHUTDOWN: "PrepareForShutdown"}[ending]
        self._bus.emit(member, "b", ("b", begins))

    def metered(self, metered: bool) -> None:
        self._bus.be(NETWORK, "/org/freedesktop/NetworkManager", NETWORK, Metered=("u", 1 if metered else 2))

    def close(self) -> None:
        super().close()
        self._bus.stop()
        os.close(self._hand)


@pytest.fixture(params=[FakeSystem, pytest.param(LinuxSystem, marks=needs_bus)])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    with short_folder() as folder:
        made = request.param(folder)
        yield made
        made.close()


def test_a_session_that_locks_and_unlocks_is_told_and_known(system: System) -> None:
    told = threading.Event()
    system.driver.watch(told.set)
    assert system.driver.read().locked is False
    for locked in (True, False):
        told.clear()
        system.lock(locked)
        assert told.wait(SOON_SECONDS)
        eventually(lambda locked=locked: system.driver.read().locked is locked)


def test_what_keeps_the_computer_awake_is_told_and_named(system: System) -> None:
    told = threading.Event()
    assert system.driver.read().watching == ()
    system.driver.watch(told.set)
    system.film()
    assert told.wait(SOON_SECONDS)
    eventually(lambda: system.driver.read().watching == ("Totem: a film",))


def test_a_lid_that_closes_is_known(system: System) -> None:
    system.driver.watch(lambda: None)
    assert system.driver.read().lid_closed is False
    system.lid(True)
    eventually(lambda: system.driver.read().lid_closed)


@pytest.mark.parametrize("ending", list(Ending))
def test_an_end_that_is_announced_is_told_and_known_until_it_is_over(system: System, ending: Ending) -> None:
    told = threading.Event()
    system.driver.watch(told.set)
    system.end(ending, begins=True)
    assert told.wait(SOON_SECONDS)
    eventually(lambda: system.driver.read().ending is ending)
    system.driver.ready_to_end()
    assert system.driver.read().ending is ending
    system.end(ending, begins=False)
    eventually(lambda: system.driver.read().ending is None)


def test_a_helper_may_only_make_the_desktop_count_as_used(system: System) -> None:
    told = threading.Event()
    system.driver.watch(told.set)
    time.sleep(1.2)  # an input device counts as touched when it was first seen
    before = system.driver.read()
    system.driver.told(1000, SessionReading("a liar", 1e6, locked=True, full_screen=False))
    after = system.driver.read()
    assert before.idle_seconds is not None
    assert after.idle_seconds is not None
    assert after.idle_seconds < before.idle_seconds + SOON_SECONDS
    assert (after.locked, after.watching, after.full_screen) == (False, (), False)
    told.clear()
    system.driver.told(1000, SessionReading("a helper", 0.0, full_screen=True, watching=("a talk",)))
    assert told.wait(SOON_SECONDS)
    busy = system.driver.read()
    assert busy.idle_seconds is not None
    assert busy.idle_seconds < SOON_SECONDS
    assert (busy.full_screen, busy.watching) == (True, ("a talk",))
    system.driver.told(1000, None)
    assert system.driver.read().watching == ()


def test_a_paced_driver_still_reads_all(system: System) -> None:
    system.driver.watch(lambda: None)
    system.driver.pace(running=False)
    system.film()
    eventually(lambda: system.driver.read().watching)
    system.driver.pace(running=True)
    system.lock(True)
    eventually(lambda: system.driver.read().locked)


def test_a_metered_network_is_known(system: System) -> None:
    system.driver.watch(lambda: None)
    for metered in (True, False):
        system.metered(metered)
        eventually(lambda metered=metered: (system.driver.read(), system.driver.metered() is metered)[1])
