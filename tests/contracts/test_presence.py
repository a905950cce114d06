"""What every presence driver does, whoever it asks: the fake (told directly, by a file, by a file without inotify),
and Linux over real pseudo terminals and a real pipe in the place of an input device."""

import os
import pty
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deskgrid.model.presence import Reading
from deskgrid.presence.contract import Presence
from deskgrid.presence.fake import AWAY, PRESENT, FakePresence, Owner, set_presence
from deskgrid.presence.linux import LinuxPresence, Roots

SOON_SECONDS = 3.0  # the contract says 0.2; a busy machine may be late, and bench measures it


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


class Calls:
    """Counts calls, and waits for them."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._new = threading.Condition()

    def __call__(self) -> None:
        with self._new:
            self.times.append(time.monotonic())
            self._new.notify_all()

    def wait(self, count: int = 1) -> bool:
        with self._new:
            return self._new.wait_for(lambda: len(self.times) >= count, SOON_SECONDS)


def test_a_reading_comes_at_once_and_names_its_sources(bench: Bench) -> None:
    started = time.perf_counter()
    reading = bench.driver.read()
    assert time.perf_counter() - started < 1.0  # the contract says 0.1
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
    while time.monotonic() < until:
        bench.sign()
        time.sleep(0.002)
    last = time.monotonic()
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
