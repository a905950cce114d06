"""Where our processes find programs and code: never by what whoever started them has set.

Rules:
- A program is looked for in the system's own folders, in this order; a path that somebody wrote into a setting is used
  as it is. What is not there is looked for in the caller's `PATH`, but never as root, nor in a relative folder.
- A child gets that path, and of its starter's environment what is named: so no `LD_PRELOAD`, `PYTHONPATH`,
  `QEMU_MODULE_DIR`, `APT_CONFIG`.
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
ENVIRONMENT = {"PATH": os.pathsep.join(FOLDERS), "LC_ALL": "C.UTF-8"}
"""All that a program of the system gets from us, where nothing else is said."""
KEPT = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "LANG", "TZ", "SYSTEMROOT", "TEMP")
"""What says where things of a person are, and makes nobody load anything."""
SPARING = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""For glibc, where many pieces of many sizes come and go in several threads (mallopt(3))."""

_START = Path(__file__).with_name("start.py")


def program(name: str) -> str | None:
    """Return the path of a program by its name, or by a path; None when there is none."""
    if Path(name).name != name:
        return shutil.which(str(Path(name).absolute()))
    return shutil.which(name, path=search_path())


def search_path() -> str:
    """Return where programs are looked for."""
    own = os.environ.get("PATH", "").split(os.pathsep)
    trusted = not hasattr(os, "geteuid") or os.geteuid() != 0
    more = [folder for folder in own if trusted and Path(folder).is_absolute() and folder not in FOLDERS]
    return os.pathsep.join((*FOLDERS, *more))


def python(module: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the argv that runs one of our modules."""
    return [sys.executable, "-I", str(_START), module, *arguments]


def environment(*names: str) -> dict[str, str]:
    """Return what a child gets: where programs are, and of our own environment what is named."""
    return {"PATH": search_path()} | {name: os.environ[name] for name in names if name in os.environ}
