"""Keyboards and mice: pipes in their place, which can be read, fill, go and come as they do; and uinput where it is."""

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deskgrid.presence.linux.input_devices import InputDevices

KEY = struct.pack("llHHi", 0, 0, 1, 30, 1)  # struct input_event (linux/input.h): EV_KEY, KEY_A, pressed


class Desk:
    """A made-up /dev/input and the driver that listens to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.hands: list[int] = []
        self.plug("event0")
        self.plug("event1")
        self.devices = InputDevices(folder)

    def plug(self, name: str) -> int:
        os.mkfifo(self.folder / name)
        self.hands.append(os.open(self.folder / name, os.O_RDWR | os.O_NONBLOCK))
        return self.hands[-1]

    def close(self) -> None:
        self.devices.close()
        for hand in self.hands:
            os.close(hand)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "input")
    yield made
    made.close()


def test_only_event_devices_are_opened(tmp_path: Path) -> None:
    for name in ("mice", "mouse0", "js0", "by-id", "eventful"):
        (tmp_path / name).write_text("")
    devices = InputDevices(tmp_path)
    assert (devices.count, devices.complete, dict(devices.refused)) == (0, False, {})
    devices.close()


def test_a_key_is_a_sign_once(desk: Desk) -> None:
    time.sleep(0.05)
    assert not desk.devices.drain()
    assert desk.devices.idle_seconds() >= 0.05
    os.write(desk.hands[1], KEY * 3)
    began = time.monotonic()
    assert desk.devices.drain()
    assert desk.devices.idle_seconds() <= time.monotonic() - began
    assert not desk.devices.drain()


def test_a_device_that_says_more_than_fits_is_emptied_all_the_same(desk: Desk) -> None:
    os.write(desk.hands[0], KEY * 2000)
    assert desk.devices.drain()
    assert not desk.devices.drain()


def test_listening_counts_as_touched_as_there_is_no_memory_before(desk: Desk) -> None:
    assert desk.devices.idle_seconds() < 1
    assert desk.devices.complete


def test_a_device_that_is_plugged_in_is_a_sign_and_is_heard_from_then_on(desk: Desk) -> None:
    hand = desk.plug("event2")
    assert desk.devices.scan()
    assert not desk.devices.scan()
    os.write(hand, KEY)
    assert desk.devices.drain()
    assert desk.devices.count == 3


def test_a_device_that_is_pulled_out_is_a_sign_and_may_come_back_under_its_name(desk: Desk) -> None:
    (desk.folder / "event1").unlink()
    assert desk.devices.scan()
    assert desk.devices.count == 1
    hand = desk.plug("event1")
    assert desk.devices.scan()
    os.write(hand, KEY)
    assert desk.devices.drain()


def test_a_device_that_ends_is_dropped_and_does_not_wake_us_for_ever(desk: Desk) -> None:
    os.close(desk.hands.pop())
    assert desk.devices.drain()
    assert desk.devices.count == 1
    assert not desk.devices.drain()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_device_that_may_not_be_read_yet_is_opened_when_it_may(desk: Desk) -> None:
    desk.plug("event2")
    (desk.folder / "event2").chmod(0)
    assert not desk.devices.scan()
    assert desk.devices.refused == {"event2": "Permission denied"}
    assert not desk.devices.complete
    (desk.folder / "event2").chmod(0o600)
    assert desk.devices.scan()
    assert desk.devices.complete


def test_what_can_not_be_opened_is_refused_with_the_reason_and_forgotten_when_it_goes(desk: Desk) -> None:
    (desk.folder / "event9").symlink_to(desk.folder / "event9")  # a loop: not even root can open it
    assert not desk.devices.scan()
    assert list(desk.devices.refused) == ["event9"]
    assert not desk.devices.complete
    (desk.folder / "event9").unlink()
    desk.devices.scan()
    assert desk.devices.complete


def test_closing_twice_does_no_harm(desk: Desk) -> None:
    desk.devices.close()
    desk.devices.close()


UI_DEV_CREATE, UI_DEV_DESTROY = 0x5501, 0x5502
UI_SET_EVBIT, UI_SET_KEYBIT, UI_SET_ABSBIT = 0x40045564, 0x40045565, 0x40045567


def _uinput(*bits: tuple[int, int]) -> int:
    """Make a virtual input device (linux/uinput.h, the older way by struct uinput_user_dev)."""
    handle = os.open("/dev/uinput", os.O_WRONLY | os.O_NONBLOCK)
    for request, bit in bits:
        fcntl.ioctl(handle, request, bit)
    os.write(handle, b"deskgrid test".ljust(80, b"\0") + struct.pack("4HI256i", 3, 1, 1, 1, 0, *[0] * 256))
    fcntl.ioctl(handle, UI_DEV_CREATE)
    time.sleep(0.5)
    return handle


@pytest.mark.skipif(not os.access("/dev/uinput", os.W_OK), reason="this kernel or account has no /dev/uinput")
def test_a_real_keyboard_is_heard_and_an_accelerometer_is_not() -> None:
    before = InputDevices(Path("/dev/input"))
    keyboard = _uinput((UI_SET_EVBIT, 1), (UI_SET_KEYBIT, 30))
    sensor = _uinput((UI_SET_EVBIT, 3), (UI_SET_ABSBIT, 0))
    try:
        before.scan()
        after = InputDevices(Path("/dev/input"))
        after.drain()
        os.write(sensor, struct.pack("llHHi", 0, 0, 3, 0, 5) + struct.pack("llHHi", 0, 0, 0, 0, 0))
        assert not after.drain()
        os.write(keyboard, KEY + struct.pack("llHHi", 0, 0, 0, 0, 0))
        assert after.drain()
        assert before.count == after.count
        after.close()
    finally:
        for handle in (keyboard, sensor):
            fcntl.ioctl(handle, UI_DEV_DESTROY)
            os.close(handle)
        before.close()
