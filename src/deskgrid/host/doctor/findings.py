"""What this machine lacks to run deskgrid, and the commands that mend it.

Rules:
- `doctor_facts.gather` asks the machine, once; `examine` decides from those values alone and asks nothing.
- Each finding is a sentence and a level: BAD stops deskgrid, WARN makes it worse or may, OK is said too.
- Nothing is mended here. The commands are text for a person: they name `sudo` unless the caller is root, and nothing
  that a person would have to guess.
- /dev/kvm that opens proves nothing: it can run the firmware and hang every guest. Only a guest that ran counts.
"""

import re
import shlex
from datetime import timedelta

from deskgrid.host.doctor import desktop as parts
from deskgrid.host.doctor.facts import GIB, PACKAGES, ComputerFacts, Finding, Level, as_root, sudo
from deskgrid.host.doctor.facts import worst as worst
from deskgrid.host.system import sandbox

LEAST_PYTHON = (3, 11)
LEAST_QEMU = (8, 2)
_LEAST_MEMORY_BYTES = 3 * GIB  # the policy's reserve of 2 GiB and one small VM
_GOOD_MEMORY_BYTES = 6 * GIB
_LEAST_DISK_BYTES = 7 * GIB  # the policy's floor of 5 GiB, a root tree and an image
_GOOD_DISK_BYTES = 20 * GIB
_CLOCK_AHEAD = timedelta(days=5 * 365)


def examine(facts: ComputerFacts, desktop: bool = False) -> tuple[Finding, ...]:
    """Say what this machine has and lacks.

    Args:
        facts: as `gather` found them. desktop: leave out what only building images and the demo need.

    Returns:
        All findings, the good ones too, in the order in which to mend them.
    """
    builder = () if desktop else (*_programs(facts), _root_trees(facts), _subordinate_ids(facts))
    return (
        _python(facts),
        _rights(facts),
        _clock(facts),
        _qemu(facts),
        *builder,
        parts.cpu(facts),
        parts.kvm(facts),
        parts.accelerators(facts),
        parts.virtualbox(facts),
        _memory(facts),
        _disk(facts),
        parts.owner(facts),
        parts.logind(facts),
        parts.state_folder(facts),
        parts.coordinator(facts),
        parts.coordinator_clock(facts),
    )


def _install(facts: ComputerFacts, *packages: str) -> tuple[str, ...]:
    if not facts.apt:
        return ()
    return as_root(facts, "apt-get update", f"apt-get install --no-install-recommends {' '.join(packages)}")


def _python(facts: ComputerFacts) -> Finding:
    version = ".".join(map(str, facts.python))
    if facts.python[:2] >= LEAST_PYTHON:
        return Finding("python", Level.OK, f"Python {version}.")
    sentence = f"Python {version} is too old: deskgrid needs 3.11 or later."
    return Finding("python", Level.BAD, sentence, _install(facts, "python3", "python3-venv"))


def _rights(facts: ComputerFacts) -> Finding:
    if facts.uid == 0:
        sentence = (
            "You are root: what needs no privileges will run as uid 61999. An agent for good has a user of its own."
        )
        return Finding("rights", Level.OK, sentence)
    if facts.sudo:
        return Finding("rights", Level.OK, f"You are {facts.user}, without privileges, and may use sudo.")
    if facts.namespaces.works:
        return Finding("rights", Level.OK, f"You are {facts.user}, without privileges; none are needed here.")
    if "sudo" not in facts.programs:
        sentence = f"You are {facts.user} and there is no sudo here: the commands that this machine needs are for root."
        return Finding("rights", Level.WARN, sentence)
    sentence = f"You are {facts.user} and sudo asks for a password or refuses: what needs root must be done beforehand."
    return Finding("rights", Level.WARN, sentence, ("sudo -v",))


def _clock(facts: ComputerFacts) -> Finding:
    shown = f"{facts.now:%Y-%m-%d %H:%M} UTC"
    mend = as_root(facts, "timedatectl set-ntp true")
    if facts.now < facts.newest_file_at - timedelta(minutes=5):
        sentence = (
            f"The clock is wrong: it says {shown}, but this machine has files from "
            f"{facts.newest_file_at:%Y-%m-%d %H:%M}. Certificates and tokens will be refused."
        )
        return Finding("clock", Level.BAD, sentence, mend)
    if facts.now > facts.newest_file_at + _CLOCK_AHEAD:
        sentence = f"The clock says {shown}, years after anything on this machine: look whether that is right."
        return Finding("clock", Level.WARN, sentence, mend)
    if facts.clock_synchronised is False:
        sentence = f"The clock says {shown} and nothing keeps it right; tokens bear 10 minutes of error at most."
        return Finding("clock", Level.WARN, sentence, mend)
    return Finding("clock", Level.OK, f"The clock says {shown}.")


def _qemu(facts: ComputerFacts) -> Finding:
    if facts.qemu is None:
        return Finding("qemu", Level.BAD, "QEMU is not installed: virtual machines need it.", _install_qemu(facts))
    if "sandbox" in facts.qemu:
        sentence = "QEMU was built without its sandbox (seccomp), and is not used: install one that has it."
        return Finding("qemu", Level.BAD, sentence, _install_qemu(facts))
    match = re.search(r"version (\d+)\.(\d+)", facts.qemu)
    if match is None:
        sentence = f"qemu-system-x86_64 does not say its version, but {facts.qemu[:80]!r}: install it again."
        return Finding("qemu", Level.BAD, sentence, _install_qemu(facts))
    version = (int(match[1]), int(match[2]))
    if version < LEAST_QEMU:
        sentence = (
            f"QEMU {version[0]}.{version[1]} is too old: recent Linux guests crash on it under software emulation. "
            "deskgrid needs 8.2 or later."
        )
        return Finding("qemu", Level.BAD, sentence, _install_qemu(facts))
    wall = sandbox.wall()
    level = Level.OK if wall is sandbox.SECCOMP else Level.WARN
    return Finding("qemu", level, f"QEMU {version[0]}.{version[1]}. {wall.sentence}")


def _install_qemu(facts: ComputerFacts) -> tuple[str, ...]:
    if facts.codename != "bookworm" or not facts.apt:
        return _install(facts, "qemu-system-x86", "qemu-utils")
    source = f"deb {facts.apt_uri or 'YOUR-MIRROR'} bookworm-backports main"
    add = f"echo {shlex.quote(source)} | {sudo(facts)}tee /etc/apt/sources.list.d/bookworm-backports.list"
    return (
        *(() if facts.backports else (add,)),
        *as_root(
            facts,
            "apt-get update",
            "apt-get install --no-install-recommends -t bookworm-backports qemu-system-x86 qemu-utils",
        ),
    )


def _programs(facts: ComputerFacts) -> list[Finding]:
    """qemu-img, mmdebstrap and what root trees are made and entered with."""
    findings = []
    for name, package in PACKAGES.items():
        if name in facts.programs:
            findings.append(Finding(name, Level.OK, f"{name} is there."))
        elif name == "newuidmap":
            level = Level.WARN if facts.uid == 0 or facts.sudo else Level.BAD
            sentence = "newuidmap is missing: without it only root can build root trees and images."
            findings.append(Finding(name, level, sentence, _install(facts, package)))
        else:
            mend = _install_qemu(facts) if name == "qemu-img" else _install(facts, package)
            findings.append(Finding(name, Level.BAD, f"{name} is missing (package {package}).", mend))
    if facts.archive_keys:
        findings.append(Finding("archive-keys", Level.OK, "The keys of Debian's archive are there."))
    else:
        sentence = "The keys of Debian's archive are missing: root trees and images can't be checked, so not built."
        findings.append(Finding("archive-keys", Level.BAD, sentence, _install(facts, "debian-archive-keyring")))
    return findings


def _root_trees(facts: ComputerFacts) -> Finding:
    """Whether there is a way to enter a root tree: as root, in a user namespace, or by sudo."""
    name, spaces = "root-trees", facts.namespaces
    if spaces.works:
        way = "as root" if facts.uid == 0 else "in a user namespace"
        return Finding(name, Level.OK, f"Root trees can be entered {way}.")
    if facts.uid == 0:
        sentence = f"Root may not mount here ({spaces.error}): this looks like a container. Give it CAP_SYS_ADMIN."
        return Finding(name, Level.BAD, sentence)
    if facts.in_chroot:
        sentence = "Inside a chroot the kernel allows no user namespaces, so root trees are entered by sudo."
        why: tuple[str, ...] = ()
    elif spaces.apparmor_restricts:
        sentence = "AppArmor keeps programs without a profile from using user namespaces (Ubuntu 23.10 and later)."
        why = ("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",)
    elif spaces.clone_allowed is False:
        sentence = "User namespaces are for root only here (kernel.unprivileged_userns_clone)."
        why = ("sysctl -w kernel.unprivileged_userns_clone=1",)
    elif spaces.limit == 0:
        sentence = "User namespaces are switched off here (user.max_user_namespaces)."
        why = ("sysctl -w user.max_user_namespaces=15000",)
    else:
        sentence = f"User namespaces do not work here: {spaces.error or 'no reason given'}."
        why = ()
    mend = as_root(facts, *why)
    if facts.sudo:
        return Finding(name, Level.OK if facts.in_chroot else Level.WARN, f"{sentence} sudo is used instead.", mend)
    mend += ("sudo -v",) if "sudo" in facts.programs else ()
    return Finding(name, Level.BAD, f"{sentence} sudo does not work without a password either.", mend)


def _subordinate_ids(facts: ComputerFacts) -> Finding:
    if facts.uid == 0 or facts.subordinate_ids:
        return Finding("subordinate-ids", Level.OK, "Subordinate user and group ids are there or not needed.")
    sentence = f"{facts.user} has no subordinate ids (/etc/subuid, /etc/subgid): images can't be built without root."
    ranges = "--add-subuids 100000-165535 --add-subgids 100000-165535"
    level = Level.WARN if facts.sudo else Level.BAD
    return Finding("subordinate-ids", level, sentence, as_root(facts, f"usermod {ranges} {shlex.quote(facts.user)}"))


def _memory(facts: ComputerFacts) -> Finding:
    shown = f"{facts.memory_bytes / GIB:.1f} GiB of memory, {facts.memory_available_bytes / GIB:.1f} GiB available"
    if facts.memory_bytes < _LEAST_MEMORY_BYTES:
        sentence = f"{shown}: too little for one virtual machine beside the 2 GiB that the system keeps."
        return Finding("memory", Level.BAD, sentence)
    if facts.memory_available_bytes < _LEAST_MEMORY_BYTES or facts.memory_bytes < _GOOD_MEMORY_BYTES:
        return Finding("memory", Level.WARN, f"{shown}: enough for one or two small virtual machines at most.")
    return Finding("memory", Level.OK, f"{shown}.")


def _disk(facts: ComputerFacts) -> Finding:
    if facts.cache_error:
        sentence = f"The cache folder {facts.cache} can't be written ({facts.cache_error}): nothing can be kept."
        own = f"install -d -o {shlex.quote(facts.user)} {shlex.quote(facts.cache)}"
        return Finding("disk", Level.BAD, sentence, as_root(facts, own))
    shown = f"{facts.disk_free_bytes / GIB:.0f} GiB free at {facts.cache}"
    if facts.disk_free_bytes < _LEAST_DISK_BYTES:
        sentence = f"{shown}: too little for a root tree and an image beside the 5 GiB that stay free."
        return Finding("disk", Level.BAD, sentence)
    if facts.disk_free_bytes < _GOOD_DISK_BYTES:
        return Finding("disk", Level.WARN, f"{shown}: enough for a first look, not for many images.")
    return Finding("disk", Level.OK, f"{shown}.")
