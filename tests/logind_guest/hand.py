"""Runs in the guest as root: takes commands on the second serial port, answers with what came of them.

One line of JSON each way: {"id", "argv", "stdin", "seconds"} and {"id", "code", "out", "err", "at"}; code null: it took
too long. at: seconds of the guest's steady clock when it had ended. Standard library only.
"""

import json
import subprocess
import sys
import termios
import time
import tty
from pathlib import Path

PORT = Path("/dev/ttyS1")


def obey(ask: dict) -> dict:
    """Run one command."""
    answer = {"id": ask["id"], "code": None, "out": "", "err": ""}
    try:
        done = subprocess.run(
            ask["argv"], input=ask["stdin"], capture_output=True, text=True, timeout=ask["seconds"], errors="replace"
        )
        answer |= {"code": done.returncode, "out": done.stdout, "err": done.stderr}
    except subprocess.TimeoutExpired as error:
        answer["err"] = f"it took more than {error.timeout} s"
    except OSError as error:
        answer |= {"code": 127, "err": str(error)}
    return answer | {"at": time.monotonic()}


def main() -> None:
    """Obey until the machine goes down."""
    with PORT.open("r+b", buffering=0) as port:
        tty.setraw(port, termios.TCSANOW)
        port.write(b'{"hello": 1}\n')
        rest = b""
        while data := port.read(4096):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                try:
                    ask = json.loads(line)
                except ValueError:  # half a line: the machine has slept meanwhile
                    continue
                port.write(json.dumps(obey(ask)).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
