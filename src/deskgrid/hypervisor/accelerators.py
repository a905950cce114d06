"""Which QEMU is here, and on what it may run guests: by trial, and remembered.

The rules:
- The order is kvm, hvf, whpx, tcg. What the system offers at all is asked of the system; whether QEMU comes up with it
  is tried by the keeper; whether a guest then lives is seen by the agent, who says `distrust` if not.
- Distrust holds for one version of QEMU on one version of the system's kernel; after an update it is tried again.
- Software emulation (tcg) is never distrusted: a guest that is silent there is a broken guest.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from deskgrid.host.files import write_atomic

ORDER = ("kvm", "hvf", "whpx", "tcg")
LAST_RESORT = "tcg"
LEAST_VERSION = (8, 2)
_VERSION_SECONDS = 10
_OS_RELEASE = Path("/etc/os-release")


class NoHypervisor(Exception):
    """QEMU is missing or too old; the message says what mends it."""


class Program(msgspec.Struct, frozen=True):
    """A QEMU that can be used. version: as it says itself."""

    path: Path
    version: str


def find_qemu(name: str = "qemu-system-x86_64") -> Program:
    """The QEMU that will run VMs.

    Args:
        name: a program's name or path.

    Raises:
        NoHypervisor: it is missing, doesn't run or is older than 8.2.
    """
    found = shutil.which(name)
    if found is None:
        raise NoHypervisor(f"hypervisor: got no program {name}, expected QEMU 8.2 or later; {mend()}")
    try:
        said = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoHypervisor(f"hypervisor {found}: got {error}, expected its version; {mend()}") from error
    match = re.search(r"version (\d+)\.(\d+)\S*", said.stdout)
    if match is None or (int(match[1]), int(match[2])) < LEAST_VERSION:
        got = match[0] if match else repr(said.stdout[:60])
        raise NoHypervisor(f"hypervisor {found}: got {got}, expected QEMU 8.2 or later; {mend()}")
    return Program(Path(found), match[0].removeprefix("version "))


def mend(os_release: Path = _OS_RELEASE) -> str:
    """The command that installs a QEMU that is new enough here."""
    try:
        system = os_release.read_text()
    except OSError:
        system = ""
    if re.search(r"^VERSION_CODENAME=\"?bookworm", system, re.MULTILINE):
        return "enable bookworm-backports, then: apt install -t bookworm-backports qemu-system-x86"
    return "try: apt install qemu-system-x86"


def offered() -> tuple[str, ...]:
    """The accelerators that this system seems to have, best first; "seems": only a guest that lives proves one."""
    here = {"kvm": _kvm_opens(), "hvf": sys.platform == "darwin", "whpx": sys.platform == "win32", "tcg": True}
    return tuple(name for name in ORDER if here[name])


def _kvm_opens() -> bool:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class Trust:
    """What has been distrusted on this machine, in one small file. Any thread may ask."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()

    def distrust(self, accelerator: str, version: str) -> None:
        """Do not use it again with this version of QEMU."""
        if accelerator == LAST_RESORT or accelerator not in ORDER:
            return
        with self._lock:
            named = sorted({*self._read(version), accelerator})
            content = {"bound_to": _bound_to(version), "distrusted": named}
            write_atomic(self._file, json.dumps(content).encode(), 0o600)

    def trusted(self, version: str, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `candidates` that may be used, in their order."""
        with self._lock:
            distrusted = self._read(version)
        return tuple(name for name in candidates if name not in distrusted)

    def _read(self, version: str) -> frozenset[str]:
        """A file that can't be understood says nothing: the worst that follows is one more trial."""
        try:
            content = json.loads(self._file.read_bytes())
            if content["bound_to"] == _bound_to(version):
                return frozenset(content["distrusted"])
        except (OSError, ValueError, TypeError, KeyError):
            pass
        return frozenset()


def _bound_to(version: str) -> str:
    return f"QEMU {version}, {platform.system()} {platform.release()}"
