"""Asks this machine for what `doctor` judges: changes nothing, never raises for what it finds."""

import os
import pwd
import re
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from deskgrid.host.doctor.contact import contact
from deskgrid.host.doctor.facts import PACKAGES, AgentFacts, ComputerFacts, Kvm, Namespaces
from deskgrid.host.doctor.machine import look
from deskgrid.host.doctor.trial import EMULATION, TRIAL_SECONDS, try_all
from deskgrid.host.system import sandbox
from deskgrid.host.system.account import service_account
from deskgrid.host.system.paths import cache_folder
from deskgrid.host.system.process import run
from deskgrid.host.system.programs import program
from deskgrid.host.trees.debstrap import KEYRING
from deskgrid.model.inventory import Trial

_ASK_SECONDS, _ANSWER_SECONDS = 10, 3
_Part = dict[str, Any]
"""Some of the facts, by their names in `ComputerFacts`."""
_YOUNG_FILES = ("/var/lib/dpkg/status", "/etc", "/etc/resolv.conf", "/var/log")


def gather(
    cache: Path | None = None, agent: AgentFacts | None = None, trial_seconds: float = TRIAL_SECONDS
) -> ComputerFacts:
    """Ask this machine.

    Args:
        cache: the folder whose disk is looked at; None: the agent's, or deskgrid's own.
        agent: the agent here. trial_seconds: how long each accelerator is tried with a guest at most; 0: not at all.
    """
    who = _who(agent)
    return ComputerFacts(
        **_system(),
        **_computer(),
        **_virtual_machines(who, trial_seconds),
        **_folders(cache or (agent.state if agent is not None else cache_folder()), agent, who),
    )


def _system() -> _Part:
    """The operating system, the account that asks, and what is installed."""
    release, uid = _release(), os.geteuid()
    user, apt = _user(uid), program("apt-get") is not None
    codename = release.get("VERSION_CODENAME", "")
    apt_uri, backports = _apt(codename) if apt else ("", False)
    return {
        "python": sys.version_info[:3],
        "system": release.get("PRETTY_NAME", "an unknown system"),
        "codename": codename,
        "apt": apt,
        "apt_uri": apt_uri,
        "backports": backports,
        "user": user,
        "uid": uid,
        "sudo": uid == 0 or run(["sudo", "-n", "true"], _ASK_SECONDS).ok,
        "in_chroot": _in_chroot(),
        "programs": frozenset(name for name in (*PACKAGES, "sudo") if program(name)),
        "archive_keys": KEYRING.exists(),
        "namespaces": _namespaces(uid),
        "subordinate_ids": all(_has_range(path, user, uid) for path in ("/etc/subuid", "/etc/subgid")),
        "now": datetime.now(UTC),
        "newest_file_at": _newest(),
        "clock_synchronised": True if Path("/run/systemd/timesync/synchronized").exists() else None,
    }


def _computer() -> _Part:
    """What the computer is made of."""
    computer = look()
    memory_bytes, memory_available_bytes = _memory()
    return {
        "virtualisation": computer.flag,
        "hypervised": computer.hypervised,
        "vendor": computer.vendor,
        "memory_bytes": memory_bytes,
        "memory_available_bytes": memory_available_bytes,
        "offered": computer.offered,
        "said_off": computer.said_off,
        "vboxdrv": computer.vboxdrv,
        "virtualbox": computer.virtualbox,
        "processor": computer.processor,
        "cpus": computer.cpus,
        "kernel": computer.kernel,
        "maker": computer.maker,
        "product": computer.product,
        "firmware": computer.firmware,
    }


def _virtual_machines(who: "Who", trial_seconds: float) -> _Part:
    """What runs virtual machines here, tried."""
    qemu, kvm = _qemu(), _kvm(who)
    return {"qemu": qemu, "kvm": kvm, "trials": _trials(kvm, trial_seconds) if qemu is not None else ()}


def _folders(folder: Path, agent: AgentFacts | None, who: "Who") -> _Part:
    """The disk that is used, and what the agent and its account find: state, input devices, logind, coordinator."""
    cache_error, disk_free_bytes = _disk(folder, who.may if agent is not None else os.access)
    devices = list(Path("/dev/input").glob("event*"))
    return {
        "cache": str(folder),
        "cache_error": cache_error,
        "disk_free_bytes": disk_free_bytes,
        "input_devices": len(devices),
        "input_refused": sum(not who.may(path, os.R_OK) for path in devices),
        "account": who.name,
        "state": str(agent.state) if agent is not None else "",
        "state_error": _state_error(agent.state) if agent is not None else "",
        "logind": run(["loginctl", "--no-legend", "list-sessions"], _ANSWER_SECONDS).ok,
        "contact": contact(agent.coordinator, agent.ca_file) if agent is not None and agent.coordinator else None,
    }


def _trials(kvm: Kvm, seconds: float) -> tuple[Trial, ...]:
    return try_all((*(("kvm",) if kvm is Kvm.OPENS else ()), EMULATION), seconds=seconds) if seconds > 0 else ()


class Who(msgspec.Struct, frozen=True):
    """The account that runs the agent, or will."""

    name: str
    uid: int
    groups: frozenset[int]

    def may(self, path: Path, how: int) -> bool:
        """Whether it may read (os.R_OK), write (os.W_OK), enter (os.X_OK) a file."""
        if self.uid == os.geteuid():
            return os.access(path, how)
        try:
            state = path.stat()
        except OSError:
            return False
        shift = 6 if state.st_uid == self.uid else 3 if state.st_gid in self.groups else 0
        return state.st_mode >> shift & how == how


def _who(agent: AgentFacts | None) -> Who:
    """The owner of the agent's state folder; else whoever would run VMs for the caller."""
    try:
        uid = agent.state.stat().st_uid if agent is not None else service_account().uid
    except OSError:
        uid = service_account().uid
    try:
        entry = pwd.getpwuid(uid)
        return Who(entry.pw_name, uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))
    except KeyError:
        return Who(f"uid {uid}", uid, frozenset({uid}))


def _state_error(folder: Path) -> str:
    try:
        state = folder.stat()
    except OSError as error:
        return error.strerror or str(error)
    if state.st_uid == 0:
        return "it is root's, and an agent never runs as root"
    return "others may look into it" if state.st_mode & 0o077 else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _release() -> dict[str, str]:
    lines = (_text("/etc/os-release") or _text("/usr/lib/os-release")).splitlines()
    return {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines) if value}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _apt(codename: str) -> tuple[str, bool]:
    """The archive that this release's packages come from, without credentials, and whether backports are there."""
    # --no-release-info: what the sources say, also before the first `apt-get update`
    said = run(["apt-get", "indextargets", "--no-release-info", "--format", "$(RELEASE) $(REPO_URI)"], _ASK_SECONDS)
    sources = dict(reversed([line.split(" ", 1) for line in said.stdout.splitlines() if " " in line]))
    uri = re.sub(r"//[^/@]*@", "//", sources.get(codename, ""))
    return uri, f"{codename}-backports" in sources


def _qemu() -> str | None:
    if program("qemu-system-x86_64") is None:
        return None
    said = run(["qemu-system-x86_64", *sandbox.words(), "--version"], _ASK_SECONDS)
    return next(iter((said.stdout or said.stderr).splitlines()), "")


def _in_chroot() -> bool | None:
    """In a chroot the kernel shows no mount at "/" (proc(5), mountinfo), unless a mount was chosen as the root."""
    table = _text("/proc/self/mountinfo")
    return all(line.split(" ")[4] != "/" for line in table.split("\n")[:-1]) if table else None


def _namespaces(uid: int) -> Namespaces:
    """Try what root trees need: a mount namespace; without root one of one's own user, in which it can be mounted.

    Root mounts nothing: with "unchanged", which alone works inside a chroot, the mount could be seen outside.
    """
    if uid == 0:
        argv = ["unshare", "--mount", "--propagation", "unchanged", "true"]
    else:
        argv = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    trial = run(argv, _ASK_SECONDS)
    restricts = _text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip()
    clone = _text("/proc/sys/kernel/unprivileged_userns_clone").strip()
    limit = _text("/proc/sys/user/max_user_namespaces").strip()
    return Namespaces(
        trial.ok,
        "" if trial.ok else " ".join(trial.stderr.split())[:200],
        restricts == "1" if restricts else None,
        clone == "1" if clone else None,
        int(limit) if limit.isdecimal() else None,
    )


def _has_range(path: str, user: str, uid: int) -> bool:
    return any(line.split(":")[0] in (user, str(uid)) for line in _text(path).splitlines())


def _kvm(who: Who) -> Kvm:
    path = Path("/dev/kvm")
    if not path.exists():
        return Kvm.MISSING
    return Kvm.OPENS if who.may(path, os.R_OK | os.W_OK) else Kvm.REFUSED


def _memory() -> tuple[int, int]:
    table = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE))
    return int(table.get("MemTotal", 0)) * 1024, int(table.get("MemAvailable", 0)) * 1024


def _disk(folder: Path, may: Callable[[Path, int], bool]) -> tuple[str, int]:
    """Why the folder can't be written (or made), and the space on its disk."""
    there = next(one for one in (folder, *folder.parents) if os.path.exists(one))  # noqa: PTH110 - never raises
    error = "" if may(there, os.W_OK | os.X_OK) else f"no right to write in {there}"
    if not error and not there.is_dir():
        error = f"{there} is no folder"
    try:
        return error, shutil.disk_usage(there).free
    except OSError as fault:
        return error or fault.strerror or str(fault), 0


def _newest() -> datetime:
    times = [0.0]
    for path in (Path(__file__), *map(Path, _YOUNG_FILES)):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(times), UTC)
