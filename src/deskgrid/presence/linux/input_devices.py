"""Keyboards, mice and touchpads, as the kernel reports them in /dev/input/event*.

Rules:
- Only that something happened counts. What was typed is thrown away unread, in the same call that took it.
- A device counts as a person's if it has keys, buttons or relative axes. Those with nothing else but absolute axes or
  switches (accelerometers, jack detection) move by themselves.
- Devices come and go; one that appears or goes is a sign of somebody. udev gives the group its right to a device
  some milliseconds after the device is there, so what may not be read is asked for again.
- Before the first look there is no memory: the devices count as touched when we began to listen.
"""

import errno
import fcntl
import os
import re
import select
import time
from contextlib import suppress
from pathlib import Path

_EVIOCGBIT_0 = 2 << 30 | 4 << 16 | ord("E") << 8 | 0x20  # linux/input.h: which kinds of event can it send
_EV_KEY, _EV_REL = 0x01, 0x02
_EVENT = re.compile(r"event\d+\Z")
_BUFFER_BYTES = 64 * 24
_MAX_READS = 64


class InputDevices:
    """All input devices of people.

    Args:
        folder: /dev/input.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._unfit: dict[str, int] = {}  # name -> inode of a device that isn't a person's
        self.refused: dict[str, str] = {}
        self._epoll = select.epoll()
        self._touched_at = time.monotonic()
        self.scan()

    def fileno(self) -> int:
        """A descriptor that is readable when a device has something to say."""
        return self._epoll.fileno()

    @property
    def count(self) -> int:
        """How many devices are listened to."""
        return len(self._open)

    @property
    def complete(self) -> bool:
        """Whether every device of people is listened to, and there is one."""
        return bool(self._open) and not self.refused

    def idle_seconds(self) -> float:
        """Return how long no device was touched, as far as we listened."""
        return time.monotonic() - self._touched_at

    def drain(self) -> bool:
        """Throw away what the devices said. Returns whether they said anything."""
        sign = False
        for descriptor, _ in self._epoll.poll(0):
            name = self._names[descriptor]
            if not self._empty(descriptor):
                self._forget(name)
            sign = True
        if sign:
            self._touched_at = time.monotonic()
        return sign

    def scan(self) -> bool:
        """Open what is new, close what is gone. Returns whether a device came or went."""
        try:
            names = {path.name for path in self._folder.iterdir() if _EVENT.match(path.name)}
        except OSError:
            names = set()
        gone = self._open.keys() - names
        for name in gone:
            self._forget(name)
        for table in (self._unfit, self.refused):
            for name in table.keys() - names:
                del table[name]
        came = [name for name in names if name not in self._open and self._try(name)]
        if gone or came:
            self._touched_at = time.monotonic()
        return bool(gone or came)

    def close(self) -> None:
        """Close all; may be called twice."""
        for name in list(self._open):
            self._forget(name)
        self._epoll.close()

    def _try(self, name: str) -> bool:
        """Open one device that isn't open. Returns whether it is now."""
        path = self._folder / name
        try:
            inode = path.stat().st_ino
            if self._unfit.get(name) == inode:
                return False
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                self.refused.pop(name, None)  # gone since we listed the folder
            else:
                self.refused[name] = error.strerror or str(error)
            return False
        self.refused.pop(name, None)
        if not _of_people(descriptor):
            os.close(descriptor)
            self._unfit[name] = inode
            return False
        self._epoll.register(descriptor, select.EPOLLIN)
        self._open[name], self._names[descriptor] = descriptor, name
        return True

    def _forget(self, name: str) -> None:
        descriptor = self._open.pop(name)
        del self._names[descriptor]
        with suppress(OSError, ValueError):
            self._epoll.unregister(descriptor)
        os.close(descriptor)

    @staticmethod
    def _empty(descriptor: int) -> bool:
        """Read until nothing is left. Returns False when the device is gone."""
        try:
            for _ in range(_MAX_READS):
                if not os.read(descriptor, _BUFFER_BYTES):
                    return False
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


def _of_people(descriptor: int) -> bool:
    """Whether a device has keys, buttons or relative axes. What can't be asked counts as a person's."""
    kinds = bytearray(4)
    try:
        fcntl.ioctl(descriptor, _EVIOCGBIT_0, kinds)
    except OSError:
        return True
    return bool(kinds[0] & (1 << _EV_KEY | 1 << _EV_REL))
