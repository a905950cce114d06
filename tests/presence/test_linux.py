"""The Linux driver as a whole, over made-up /run and /dev trees with real pipes in them, and on this machine."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deskgrid.presence.linux.presence import ALL_SECONDS, LinuxPresence, Roots
from tests.waiting import SOON_SECONDS


class Desk:
    """A made-up machine."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "dev", folder / "run", folder / "proc", folder / "sys")
        (self.roots.dev / "pts").mkdir(parents=True)
        self.sessions = self.roots.run / "systemd/sessions"
        self.sessions.mkdir(parents=True)
        self.told = threading.Event()
        self.hands: list[int] = []
        self.driver: LinuxPresence | None = None

    def start(self) -> LinuxPresence:
        self.driver = LinuxPresence(self.roots, grid_uids=frozenset())
        return self.driver

    def watch(self) -> LinuxPresence:
        driver = self.start()
        driver.watch(self.told.set)
        return driver

    def plug(self, name: str) -> int:
        (self.roots.dev / "input").mkdir(exist_ok=True)
        os.mkfifo(self.roots.dev / "input" / name)
        self.hands.append(os.open(self.roots.dev / "input" / name, os.O_RDWR | os.O_NONBLOCK))
        return self.hands[-1]

    def log_in(self, name: str, kind: str = "wayland", seat: str = "seat0", tty: str = "", remote: int = 0) -> None:
        fresh = self.sessions.parent / name
        fresh.write_text(
            f"UID=1000\nACTIVE=1\nSTATE=active\nREMOTE={remote}\nTYPE={kind}\nCLASS=user\nSEAT={seat}\nTTY={tty}\n"
        )
        fresh.replace(self.sessions / name)

    def heard(self) -> bool:
        happened = self.told.wait(SOON_SECONDS)
        time.sleep(0.15)  # its rest after telling
        self.told.clear()
        return happened

    def close(self) -> None:
        if self.driver is not None:
            self.driver.close()
        for hand in self.hands:
            os.close(hand)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def test_logging_in_and_out_is_told(desk: Desk) -> None:
    driver = desk.watch()
    desk.log_in("2")
    assert desk.heard()
    assert driver.read().logged_in is True
    (desk.sessions / "2").unlink()
    assert desk.heard()
    assert driver.read().logged_in is False


def test_a_session_that_only_rewrites_its_file_is_not_told(desk: Desk) -> None:
    desk.log_in("2")
    desk.watch()
    desk.log_in("2")
    assert not desk.told.wait(0.3)


def test_a_keyboard_that_is_plugged_in_is_told_and_then_heard(desk: Desk) -> None:
    (desk.roots.dev / "input").mkdir()
    driver = desk.watch()
    hand = desk.plug("event3")
    assert desk.heard()
    os.write(hand, bytes(24))
    assert desk.heard()
    assert driver.read().sources[0].startswith("1 input device ")


def test_the_folder_of_input_devices_may_appear_later(desk: Desk) -> None:
    desk.watch()
    desk.plug("event3")
    assert desk.told.wait(ALL_SECONDS + SOON_SECONDS)


def test_a_new_terminal_is_told_at_once(desk: Desk) -> None:
    desk.watch()
    (desk.roots.dev / "pts/5").write_text("")
    assert desk.heard()


def test_a_graphical_session_without_a_keyboard_to_listen_to_is_unknown_and_with_one_is_known(desk: Desk) -> None:
    desk.log_in("2", tty="tty2")
    (desk.roots.dev / "tty2").write_text("")
    os.utime(desk.roots.dev / "tty2", (1, 1))
    reading = desk.start().read()
    assert (reading.logged_in, reading.idle_seconds) == (True, None)
    desk.close()
    desk.plug("event0")
    driver = desk.start()
    time.sleep(0.1)
    idle = driver.read().idle_seconds
    assert idle is not None
    assert 0.1 <= idle < SOON_SECONDS


def test_a_device_that_may_not_be_read_is_a_fault_and_leaves_the_seat_unknown(desk: Desk) -> None:
    desk.log_in("2")
    desk.plug("event0")
    (desk.roots.dev / "input/event1").symlink_to("event1")  # can't be opened by anybody
    driver = desk.start()
    time.sleep(1.1)
    reading = driver.read()
    assert reading.idle_seconds is None
    assert any("for 1 of 2, expected to read them; add this account to group input" in one for one in reading.faults)


def test_interrupts_stand_in_for_devices_that_may_not_be_read_and_are_called_weak(desk: Desk) -> None:
    desk.log_in("2")
    (desk.roots.dev / "input").mkdir()
    (desk.roots.dev / "input/event1").symlink_to("event1")
    (desk.roots.proc / "bus/input").mkdir(parents=True)
    (desk.roots.proc / "interrupts").write_text("   1:   5   IO-APIC   1-edge   i8042\n")
    (desk.roots.proc / "bus/input/devices").write_text("I: Bus=0011 \nH: Handlers=sysrq kbd event1 \n")
    counter = desk.roots.sysfs / "kernel/irq/1/per_cpu_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("5\n")
    driver = desk.watch()
    time.sleep(1.2)
    reading = driver.read()
    assert reading.idle_seconds is not None
    assert reading.idle_seconds >= 1.1
    assert any("weak" in source for source in reading.sources)
    assert any("group input" in fault for fault in reading.faults)
    counter.write_text("6\n")
    assert desk.heard()


def test_without_anything_to_read_it_is_unknown_and_does_not_raise(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    driver = LinuxPresence(Roots(nowhere, nowhere, nowhere, nowhere))
    driver.watch(lambda: None)
    reading = driver.read()
    assert (reading.logged_in, reading.idle_seconds) == (None, None)
    assert len(reading.faults) >= 3
    driver.close()


def test_nothing_happens_when_nothing_happens(desk: Desk) -> None:
    desk.plug("event0")
    desk.watch()
    assert not desk.told.wait(1.5)


def test_it_can_be_watched_anew_and_the_old_callback_is_silent_then(desk: Desk) -> None:
    hand = desk.plug("event0")
    driver = desk.watch()
    anew = threading.Event()
    driver.watch(anew.set)
    os.write(hand, bytes(24))
    assert anew.wait(SOON_SECONDS)
    assert not desk.told.is_set()


def test_no_descriptor_is_left_open(desk: Desk) -> None:
    desk.plug("event0")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        driver = LinuxPresence(desk.roots)
        driver.watch(lambda: None)
        driver.watch(lambda: None)
        driver.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_on_this_machine_it_answers(desk: Desk) -> None:
    driver = LinuxPresence()
    reading = driver.read()
    assert reading.sources or reading.faults
    driver.close()
