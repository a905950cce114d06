"""Which QEMU is here, and on what it may run guests: by trial, and remembered.

Rules:
- The order is kvm, hvf, whpx, tcg. What the system offers at all is asked of the system; whether QEMU comes up with it
  is tried by the keeper. Whether a guest that lives, or is silent, proves or condemns it is decided by the agent
  (`core/desktop/advance.py`); here it is remembered, and obeyed.
- Distrust holds for a week, for one version of QEMU on one version of the system's kernel; then it is tried again.
- Software emulation (tcg) is never distrusted: a guest that is silent there is a broken guest.
"""

import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from deskgrid.host.system import sandbox
from deskgrid.host.system.files import write_atomic
from deskgrid.host.system.programs import ENVIRONMENT, program
from deskgrid.model.values.moment import Moment
from deskgrid.model.values.outside import read_json

ORDER = ("kvm", "hvf", "whpx", "tcg")
LAST_RESORT = "tcg"
LEAST_VERSION = (8, 2)
DISTRUST = timedelta(days=7)
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
        NoHypervisor: it is missing, doesn't run, is older than 8.2 or has no sandbox where QEMU can have one.
    """
    found = program(name)
    if found is None:
        raise NoHypervisor(f"hypervisor: got no program {name}, expected QEMU 8.2 or later; {mend()}")
    try:
        said = subprocess.run(
            [found, *sandbox.words(), "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=True,
            env=ENVIRONMENT,
        )
    except subprocess.CalledProcessError as error:
        if "sandbox" in error.stderr:
            raise NoHypervisor(
                f"hypervisor {found}: it was built without its sandbox (seccomp), expected one that has it; {mend()}"
            ) from error
        raise NoHypervisor(f"hypervisor {found}: got {error}, expected its version; {mend()}") from error
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


class TrustFile(msgspec.Struct, frozen=True):
    """What is remembered. bound_to: of which QEMU on which system. Times are of this computer's clock."""

    bound_to: str
    proven: dict[str, Moment] = {}
    distrusted: dict[str, Moment] = {}


class Trust:
    """What was proven and distrusted on this machine, in one small file. Any thread may ask."""

    def __init__(self, file: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._file = file
        self._now = now
        self._lock = threading.Lock()

    def prove(self, accelerator: str, version: str) -> None:
        """A guest lives on it."""
        if accelerator not in ORDER:
            return
        with self._lock:
            known = self._read(version)
            if accelerator not in known.proven or accelerator in known.distrusted:
                proven = {**known.proven, accelerator: self._now()}
                self._write(known.bound_to, proven, _without(known.distrusted, accelerator))

    def distrust(self, accelerator: str, version: str) -> None:
        """Do not use it again."""
        if accelerator == LAST_RESORT or accelerator not in ORDER:
            return
        with self._lock:
            known = self._read(version)
            distrusted = {**known.distrusted, accelerator: self._now()}
            self._write(known.bound_to, _without(known.proven, accelerator), distrusted)

    def trusted(self, version: str, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `candidates` that may be used, in their order."""
        with self._lock:
            distrusted = self._read(version).distrusted
        return tuple(name for name in candidates if name not in distrusted)

    def proven(self, version: str) -> frozenset[str]:
        """Those on which a guest has lived."""
        with self._lock:
            return frozenset(self._read(version).proven)

    def _read(self, version: str) -> TrustFile:
        """A file that can't be understood says nothing: the worst that follows is one more trial."""
        bound_to, now = _bound_to(version), self._now()
        try:
            known = read_json(self._file.read_bytes(), type=TrustFile)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return TrustFile(bound_to)
        if known.bound_to != bound_to:
            return TrustFile(bound_to)
        held = {name: at for name, at in known.distrusted.items() if at <= now < at + DISTRUST}
        return TrustFile(bound_to, known.proven, held)

    def _write(self, bound_to: str, proven: dict[str, datetime], distrusted: dict[str, datetime]) -> None:
        write_atomic(self._file, msgspec.json.encode(TrustFile(bound_to, proven, distrusted)), 0o600)


def _without(known: dict[str, datetime], accelerator: str) -> dict[str, datetime]:
    return {name: at for name, at in known.items() if name != accelerator}


def _bound_to(version: str) -> str:
    return f"QEMU {version}, {platform.system()} {platform.release()}"
