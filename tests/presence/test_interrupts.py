"""The weak source: interrupts of keyboard and USB controllers, from tables as kernels print them."""

import time
from pathlib import Path

import pytest

from deskgrid.presence.linux.interrupts import Interrupts, buses_of_people, parse_interrupts

pytestmark = pytest.mark.slow

INTERRUPTS = """\
            CPU0       CPU1
   1:          0       9873   IO-APIC    1-edge      i8042
   8:          0          0   IO-APIC    8-edge      rtc0
  12:     120034          0   IO-APIC   12-edge      i8042
 128:          0     993842  IR-PCI-MSI-0000:00:14.0    0-edge      xhci_hcd
 130:        100          0  IR-PCI-MSI-0000:00:1f.6    0-edge      enp0s31f6
 NMI:          1          1   Non-maskable interrupts
"""
KEYBOARD = """\
I: Bus=0011 Vendor=0001 Product=0001 Version=ab54
N: Name="AT Translated Set 2 keyboard"
P: Phys=isa0060/serio0/input0
H: Handlers=sysrq kbd leds event3
B: EV=120013
"""
MOUSE = """\
I: Bus=0003 Vendor=046d Product=c077 Version=0111
N: Name="Logitech USB Optical Mouse"
P: Phys=usb-0000:00:14.0-1/input0
H: Handlers=mouse0 event5
B: EV=17
"""
BUTTON = 'I: Bus=0019 Vendor=0000 Product=0001 Version=0000\nN: Name="Power Button"\nH: Handlers=kbd event0\n'
JACK = 'I: Bus=0000 Vendor=0000 Product=0000 Version=0000\nN: Name="HDA Intel PCH Mic"\nH: Handlers=event9\n'
TOUCHPAD = 'I: Bus=0018 Vendor=04f3 Product=30fb Version=0100\nN: Name="ELAN Touchpad"\nH: Handlers=mouse1 event7\n'
VIRTUAL = 'I: Bus=0006 Vendor=0000 Product=0000 Version=0000\nN: Name="py-evdev-uinput"\nH: Handlers=kbd event8\n'
PRETENDER = (
    'I: Bus=0003 Vendor=beef Product=dead Version=0111\nN: Name="Mouse passthrough"\n'
    "S: Sysfs=/devices/virtual/input/input15\nH: Handlers=mouse2 event11\n"
)


class Machine:
    """A made-up /proc and /sys."""

    def __init__(self, folder: Path, *devices: str) -> None:
        self.proc, self.sys = folder / "proc", folder / "sys"
        (self.proc / "bus/input").mkdir(parents=True)
        (self.proc / "interrupts").write_text(INTERRUPTS)
        (self.proc / "bus/input/devices").write_text("\n".join(devices))
        for number in parse_interrupts(INTERRUPTS):
            self.count(number, "0,0")
        self.source = Interrupts(self.proc, self.sys)
        self.source.find()
        self.source.scan()

    def count(self, number: str, counts: str) -> None:
        folder = self.sys / "kernel/irq" / number
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "per_cpu_count").write_text(counts + "\n")


def test_only_numbered_lines_are_interrupts_of_devices() -> None:
    assert parse_interrupts(INTERRUPTS)["12"].endswith("i8042")
    assert set(parse_interrupts(INTERRUPTS)) == {"1", "8", "12", "128", "130"}


def test_power_buttons_and_jacks_are_not_typed_on() -> None:
    assert buses_of_people("\n".join([KEYBOARD, MOUSE, BUTTON, JACK])) == {"0011", "0003"}


def test_standing_counters_say_idle_only_if_they_cover_every_keyboard_and_mouse(tmp_path: Path) -> None:
    assert Machine(tmp_path / "a", KEYBOARD, MOUSE, BUTTON).source.covered
    assert not Machine(tmp_path / "b", KEYBOARD, MOUSE, TOUCHPAD).source.covered
    assert not Machine(tmp_path / "c", KEYBOARD, VIRTUAL).source.covered
    assert not Machine(tmp_path / "d", BUTTON).source.covered
    assert not Machine(tmp_path / "e", KEYBOARD, PRETENDER).source.covered


def test_a_moving_counter_is_a_sign_and_others_are_not(tmp_path: Path) -> None:
    machine = Machine(tmp_path, KEYBOARD, MOUSE)
    assert not machine.source.scan()
    machine.count("130", "5,5")
    machine.count("8", "5,5")
    assert not machine.source.scan()
    for number in ("1", "12", "128"):
        time.sleep(1.05)
        machine.count(number, "0,1")
        began = time.monotonic()
        assert machine.source.scan()
        assert machine.source.idle_seconds() <= time.monotonic() - began
    assert not machine.source.scan()


def test_a_bus_that_is_never_quiet_is_busy_and_told_of_only_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, MOUSE)
    time.sleep(1.05)
    signs = []
    for count in range(15):
        machine.count("128", f"0,{count + 1}")
        began = time.monotonic()
        signs.append(machine.source.scan())
        time.sleep(0.1)
        assert machine.source.idle_seconds() <= time.monotonic() - began
    assert signs == [True, *([False] * 14)]


def test_a_counter_that_goes_covers_nothing_any_more(tmp_path: Path) -> None:
    machine = Machine(tmp_path, KEYBOARD)
    (machine.sys / "kernel/irq/1/per_cpu_count").unlink()
    machine.source.scan()
    assert not machine.source.active
    assert not machine.source.covered


def test_without_keyboards_there_is_nothing_to_count_and_that_is_known(tmp_path: Path) -> None:
    source = Machine(tmp_path, BUTTON).source
    assert (source.active, source.keyboards) == (False, False)


def test_without_the_kernels_tables_it_knows_nothing(tmp_path: Path) -> None:
    source = Interrupts(tmp_path / "proc", tmp_path / "sys")
    source.find()
    source.scan()
    assert (source.active, source.covered, source.keyboards) == (False, False, None)


def test_this_kernels_own_tables_can_be_read() -> None:
    source = Interrupts(Path("/proc"), Path("/sys"))
    source.find()
    source.scan()
    assert isinstance(source.covered, bool)
