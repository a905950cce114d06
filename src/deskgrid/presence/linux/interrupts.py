"""A weak source: the interrupts of keyboard and USB controllers, for when the input devices may not be read.

Rules:
- An interrupt of such a controller may be a key, or a disk on the same bus: moving counters say busy, rightly or not.
- Counters that stand still say idle only if each keyboard and mouse that the kernel knows (/proc/bus/input/devices)
  hangs on a controller whose interrupts we count. Otherwise they say nothing.
- A bus that is never quiet isn't told of again and again: the reading says busy anyway.
- Counters have no memory: idle time is counted from the first look.
- /sys/kernel/irq/N/per_cpu_count is one short line; /proc/interrupts is long, and read only to find N.
"""

import os
import re
import time
from pathlib import Path

_LINE = re.compile(r"\s*(\d+):((?:\s+\d+)+)\s+(.*)")
_CONTROLLERS = {
    "0011": re.compile(r"\bi8042\b"),
    "0003": re.compile(r"\b[xeou]hci"),
    "0005": re.compile(r"\b[xeou]hci"),
    "0018": re.compile(r"i2c_designware|\bi801_smbus\b|pinctrl_amd|\b(ELAN|SYNA|DLL|ALPS)\w*"),
}
"""By the bus of a device (linux/input.h: BUS_I8042, BUS_USB, BUS_BLUETOOTH, BUS_I2C): whose interrupts show its use."""
_STILL_SECONDS = 1.0
_NOT_TYPED_ON = ("0010", "0019")  # BUS_ISA: the speaker; BUS_HOST: power buttons and the like


class Interrupts:
    """The interrupt counters of controllers that people's devices hang on.

    Args:
        proc: /proc. sysfs: /sys.
    """

    def __init__(self, proc: Path, sysfs: Path) -> None:
        self._proc, self._sysfs = proc, sysfs
        self._numbers: tuple[str, ...] = ()
        self._counts: tuple[str, ...] | None = None
        self._moved_at = time.monotonic()
        self.covered = False
        """Every keyboard and mouse is on a controller that we count."""
        self.keyboards: bool | None = None
        """Whether the kernel knows a keyboard or mouse at all; None: unknown."""

    def find(self) -> None:
        """Find out what to count; call again when devices came or went."""
        try:
            table = parse_interrupts((self._proc / "interrupts").read_text(errors="replace"))
            devices = (self._proc / "bus/input/devices").read_text(errors="replace")
        except OSError:
            self._numbers, self.covered, self.keyboards = (), False, None
            return
        wanted = {
            bus: {number for number, label in table.items() if pattern.search(label)}
            for bus, pattern in _CONTROLLERS.items()
        }
        buses = buses_of_people(devices)
        self.keyboards = bool(buses)
        self.covered = bool(buses) and all(wanted.get(bus) for bus in buses)
        self._numbers = tuple(sorted(set().union(*(wanted.get(bus, set()) for bus in buses))))

    def scan(self) -> bool:
        """Look at the counters. Returns whether one has moved after they had all stood still for a second."""
        counts = self._read()
        before, self._counts = self._counts, counts
        if counts == before:
            return False
        still_seconds, self._moved_at = self.idle_seconds(), time.monotonic()
        return before is not None and still_seconds >= _STILL_SECONDS

    @property
    def active(self) -> bool:
        """Whether there is anything to count."""
        return bool(self._numbers) and self._counts is not None

    def idle_seconds(self) -> float:
        """Return how long all counters have stood still, as far as we looked."""
        return time.monotonic() - self._moved_at

    def _read(self) -> tuple[str, ...] | None:
        try:
            return tuple(_read_line(f"{self._sysfs}/kernel/irq/{number}/per_cpu_count") for number in self._numbers)
        except OSError:
            self.covered = False
            return None


def parse_interrupts(text: str) -> dict[str, str]:
    """Return the label of each numbered line of /proc/interrupts."""
    return {match[1]: match[3] for line in text.splitlines() if (match := _LINE.match(line))}


def buses_of_people(devices: str) -> set[str]:
    """Return the buses of keyboards, mice and touchpads in /proc/bus/input/devices.

    Four hexadecimal digits, or "virtual": made by a program through uinput, whatever bus it claims.
    """
    buses = set()
    for block in devices.split("\n\n"):
        bus = re.search(r"^I: Bus=(\w{4})", block, re.MULTILINE)
        handlers = re.search(r"^H: Handlers=(.*)$", block, re.MULTILINE)
        if bus and handlers and re.search(r"\b(kbd|mouse\d+)\b", handlers[1]) and bus[1] not in _NOT_TYPED_ON:
            buses.add("virtual" if "Sysfs=/devices/virtual/input/" in block else bus[1])
    return buses


def _read_line(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)
