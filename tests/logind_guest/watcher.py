"""Runs in the guest as the agent's account: the presence driver alone, and what it says, line by line of JSON.

{"reading": …, "at": …} at each call of the driver and once a second; {"key": …} for each key that the kernel has had,
by its own time stamp. All on the steady clock. Holds the computer from sleeping until it has said what it saw.

Arguments: file to write to, input device to time, "running" or "at-rest".
"""

import fcntl
import json
import struct
import sys
import threading
import time
from pathlib import Path

import msgspec

from deskgrid.presence.linux.presence import LinuxPresence

_SET_CLOCK, _MONOTONIC = 0x400445A0, 1  # EVIOCSCLOCKID of linux/input.h
_EVENT = struct.Struct("qqHHi")
_EV_KEY, _DOWN = 1, 1


def main(path: str, device: str, pace: str) -> None:
    """Watch until killed."""
    lock = threading.Lock()
    out = Path(path).open("a", buffering=1)  # noqa: SIM115 -- until it is killed

    def say(line: dict[str, object]) -> None:
        with lock:
            out.write(json.dumps(line) + "\n")

    presence = LinuxPresence()

    def look(told: bool) -> None:
        at = time.monotonic()
        reading = presence.read()
        say({"at": at, "told": told, "reading": msgspec.to_builtins(reading)})
        if reading.ending is not None:
            presence.ready_to_end()

    threading.Thread(target=time_keys, args=(device, say), daemon=True).start()
    presence.watch(lambda: look(True))
    presence.pace(pace == "running")
    while True:
        look(False)
        time.sleep(1)


def time_keys(device: str, say) -> None:
    """Say when the kernel has had each key."""
    with Path(device).open("rb", buffering=0) as source:
        fcntl.ioctl(source, _SET_CLOCK, struct.pack("i", _MONOTONIC))
        while data := source.read(_EVENT.size * 64):
            for seconds, micro, kind, _, value in _EVENT.iter_unpack(data):
                if kind == _EV_KEY and value == _DOWN:
                    say({"key": seconds + micro / 1e6})


if __name__ == "__main__":
    main(*sys.argv[1:])
