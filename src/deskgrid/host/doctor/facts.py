"""What `doctor` judges and what it says, as values. `gather.py` asks this machine; the defaults lack nothing."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from deskgrid.host.doctor.contact import Contact
from deskgrid.model.inventory import Trial, Verdict

GIB = 1 << 30

PACKAGES = {
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
"""Programs that are called, and the package of Debian and Ubuntu that has each."""


class Kvm(StrEnum):
    """What the account that will run the VMs can do with /dev/kvm."""

    MISSING = "missing"
    REFUSED = "refused"
    OPENS = "opens"


class Namespaces(msgspec.Struct, frozen=True):
    """May this account make the namespaces that root trees are entered with?

    works: it was tried, and worked. error: what the trial said. Switches are None where the kernel hasn't them.
    apparmor_restricts: kernel.apparmor_restrict_unprivileged_userns (Ubuntu 23.10 and later).
    clone_allowed: kernel.unprivileged_userns_clone (Debian). limit: user.max_user_namespaces.
    """

    works: bool
    error: str = ""
    apparmor_restricts: bool | None = None
    clone_allowed: bool | None = None
    limit: int | None = None


class ComputerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What `gather` found. Defaults are those of a machine that lacks nothing.

    codename: VERSION_CODENAME of os-release. apt: the machine has apt-get. apt_uri: where its Debian packages come
    from. backports: apt already knows CODENAME-backports. qemu: first line of `qemu-system-x86_64 --version`; None:
    not installed. programs: those of PACKAGES that are there, and "sudo". subordinate_ids: the account has lines in
    subuid and subgid. sudo: `sudo -n` works. in_chroot: None: unknown. virtualisation: the CPU has vmx or svm.
    hypervised: this machine is itself a virtual one. cache_error: why the cache folder can't be written, or "".
    newest_file_at: the youngest of files that were surely not made in the future. clock_synchronised: None: unknown.
    input_devices, input_refused: /dev/input/event*, and those of them that the agent's account may not read.
    account: who runs the agent and VMs, or will. state, state_error: the agent's folder, and what is wrong with it.
    logind: it answers. contact: with the coordinator; None: no agent's settings. trials: of accelerators.
    offered, said_off, vboxdrv and what follows: as in `Computer`.
    """

    python: tuple[int, int, int] = (3, 13, 0)
    system: str = "Debian GNU/Linux 13 (trixie)"
    codename: str = "trixie"
    apt: bool = True
    apt_uri: str = ""
    backports: bool = False
    user: str = "alice"
    uid: int = 1000
    sudo: bool = True
    in_chroot: bool | None = False
    qemu: str | None = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"
    programs: frozenset[str] = frozenset({*PACKAGES, "sudo"})
    archive_keys: bool = True
    namespaces: Namespaces = Namespaces(works=True)
    subordinate_ids: bool = True
    virtualisation: bool = True
    hypervised: bool = False
    vendor: str = "GenuineIntel"
    kvm: Kvm = Kvm.OPENS
    memory_bytes: int = 16 * GIB
    memory_available_bytes: int = 12 * GIB
    cache: str = "/var/cache/deskgrid"
    cache_error: str = ""
    disk_free_bytes: int = 100 * GIB
    now: datetime
    newest_file_at: datetime
    clock_synchronised: bool | None = True
    input_devices: int = 5
    input_refused: int = 0
    account: str = "alice"
    state: str = ""
    state_error: str = ""
    logind: bool = True
    contact: Contact | None = None
    trials: tuple[Trial, ...] = (Trial("kvm", Verdict.WORKS, 120, "a guest ran on it in 120 ms"),)
    offered: bool | None = None
    said_off: bool | None = None
    vboxdrv: bool = False
    virtualbox: str = ""
    processor: str = ""
    cpus: int = 4
    kernel: str = ""
    maker: str = ""
    product: str = ""
    firmware: str = ""


class AgentFacts(msgspec.Struct, frozen=True):
    """What an agent's settings say: its state folder; its coordinator and the certificate that enrolment left, if the
    way there is to be tried.
    """

    state: Path
    coordinator: str = ""
    ca_file: Path = Path()


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. mend: commands for a shell, in order; empty: nothing to do, or nothing to type."""

    name: str
    level: Level
    sentence: str
    mend: tuple[str, ...] = ()


def worst(findings: Sequence[Finding]) -> Level:
    """The level of the worst finding."""
    return max((one.level for one in findings), key=tuple(Level).index, default=Level.OK)


def sudo(facts: ComputerFacts) -> str:
    """What goes before a command that needs root."""
    return "sudo " if facts.uid != 0 and "sudo" in facts.programs else ""


def as_root(facts: ComputerFacts, *commands: str) -> tuple[str, ...]:
    """Commands that need root."""
    return tuple(f"{sudo(facts)}{command}" for command in commands)


def join_group(facts: ComputerFacts, group: str) -> tuple[str, ...]:
    """How the account that runs the agent gets into a group."""
    return as_root(facts, f"usermod -aG {group} {shlex.quote(facts.account)}  # then log in again")
