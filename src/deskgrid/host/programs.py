"""Where our processes find programs and code: never by what whoever started them has set.

Rules, told first
- A program is looked for in the system's own folders, in this order; a path that somebody wrote into a setting is used
  as it is. `PATH` of the caller counts nowhere but on Windows, where programs have no common folders.
- A child gets `ENVIRONMENT`, and what its starter adds by name: so no `LD_PRELOAD`, `PYTHONPATH`, `QEMU_MODULE_DIR`.
- A Python child is isolated (`python -I`: no PYTHON… variables, no folder of the user's, none of where it was started),
  and loads the very package that its starter runs.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_MORE = {"darwin": ("/opt/homebrew/bin",)}
FOLDERS = (*_FOLDERS, *_MORE.get(sys.platform, ()))
ENVIRONMENT = {"PATH": ":".join(FOLDERS), "LC_ALL": "C.UTF-8"}
"""All that a program of the system gets from us."""

_START = Path(__file__).with_name("start.py")


def program(name: str) -> str | None:
    """Return the path of a program by its name, or by a path; None when there is none."""
    if Path(name).name != name:
        return shutil.which(str(Path(name).absolute()))
    return shutil.which(name) if sys.platform == "win32" else shutil.which(name, path=os.pathsep.join(FOLDERS))


def python(module: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the argv that runs one of our modules."""
    return [sys.executable, "-I", str(_START), module, *arguments]


def environment(*names: str) -> dict[str, str]:
    """Return what a Python child gets: ENVIRONMENT, and of our own what is named."""
    return ENVIRONMENT | {name: os.environ[name] for name in names if name in os.environ}
