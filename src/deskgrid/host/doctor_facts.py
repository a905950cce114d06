"""What `doctor` judges, and how to ask this machine for it: changes nothing, never raises for what it finds."""

import os
import pwd
import re
import shutil
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from deskgrid.host.account import service_account
from deskgrid.host.debstrap import KEYRING
from deskgrid.host.paths import cache_folder
from deskgrid.host.process import run

GIB = 1 << 30
_TRIAL_SECONDS = 10
_YOUNG_FILES = ("/var/lib/dpkg/status", "/etc", "/etc/resolv.conf", "/var/log")


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


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What `gather` found. Defaults are those of a machine that lacks nothing.

    codename: VERSION_CODENAME of os-release. apt: the machine has apt-get. apt_uri: where its Debian packages come
    from. backports: apt already knows CODENAME-backports. qemu: first line of `qemu-system-x86_64 --version`; None:
    not installed. programs: those of PACKAGES that are there, and "sudo". subordinate_ids: the account has lines in
    subuid and subgid. sudo: `sudo -n` works. in_chroot: None: unknown. virtualisation: the CPU has vmx or svm.
    hypervised: this machine is itself a virtual one. cache_error: why the cache folder can't be written, or "".
    newest_file_at: the youngest of files that were surely not made in the future. clock_synchronised: None: unknown.
    input_devices, input_refused: /dev/input/event*, and those of them that this account may not read.
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


def gather(cache: Path | None = None) -> Facts:
    """Ask this machine.

    Args:
        cache: the folder whose disk is looked at; None: deskgrid's own.
    """
    folder = cache or cache_folder()
    release = _release()
    uid = os.geteuid()
    user = _user(uid)
    apt = shutil.which("apt-get") is not None
    codename = release.get("VERSION_CODENAME", "")
    apt_uri, backports = _apt(codename) if apt else ("", False)
    cpu = _text("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", cpu, re.MULTILINE)
    vendor = re.search(r"^vendor_id\s*:\s*(\S+)", cpu, re.MULTILINE)
    known = flags[1].split() if flags else []
    memory_bytes, memory_available_bytes = _memory()
    cache_error, disk_free_bytes = _disk(folder)
    input_devices, input_refused = _input()
    return Facts(
        python=sys.version_info[:3],
        system=release.get("PRETTY_NAME", "an unknown system"),
        codename=codename,
        apt=apt,
        apt_uri=apt_uri,
        backports=backports,
        user=user,
        uid=uid,
        sudo=uid == 0 or run(["sudo", "-n", "true"], _TRIAL_SECONDS).ok,
        in_chroot=_in_chroot(),
        qemu=_qemu(),
        programs=frozenset(name for name in (*PACKAGES, "sudo") if shutil.which(name)),
        archive_keys=KEYRING.exists(),
        namespaces=_namespaces(uid),
        subordinate_ids=all(_has_range(path, user, uid) for path in ("/etc/subuid", "/etc/subgid")),
        virtualisation=bool({"vmx", "svm"} & set(known)),
        hypervised="hypervisor" in known,
        vendor=vendor[1] if vendor else "",
        kvm=_kvm(),
        memory_bytes=memory_bytes,
        memory_available_bytes=memory_available_bytes,
        cache=str(folder),
        cache_error=cache_error,
        disk_free_bytes=disk_free_bytes,
        now=datetime.now(UTC),
        newest_file_at=_newest(),
        clock_synchronised=True if Path("/run/systemd/timesync/synchronized").exists() else None,
        input_devices=input_devices,
        input_refused=input_refused,
    )


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
    said = run(["apt-get", "indextargets", "--no-release-info", "--format", "$(RELEASE) $(REPO_URI)"], _TRIAL_SECONDS)
    sources = dict(reversed([line.split(" ", 1) for line in said.stdout.splitlines() if " " in line]))
    uri = re.sub(r"//[^/@]*@", "//", sources.get(codename, ""))
    return uri, f"{codename}-backports" in sources


def _qemu() -> str | None:
    if shutil.which("qemu-system-x86_64") is None:
        return None
    said = run(["qemu-system-x86_64", "--version"], _TRIAL_SECONDS)
    return next(iter((said.stdout or said.stderr).splitlines()), "")


def _in_chroot() -> bool | None:
    """In a chroot the kernel shows no mount at "/" (proc(5), mountinfo), unless a mount was chosen as the root."""
    table = _text("/proc/self/mountinfo")
    return all(line.split()[4] != "/" for line in table.splitlines()) if table else None


def _namespaces(uid: int) -> Namespaces:
    """Try what root trees need: a mount namespace; without root one of one's own user, in which it can be mounted.

    Root mounts nothing: with "unchanged", which alone works inside a chroot, the mount could be seen outside.
    """
    if uid == 0:
        argv = ["unshare", "--mount", "--propagation", "unchanged", "true"]
    else:
        argv = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    trial = run(argv, _TRIAL_SECONDS)
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


def _kvm() -> Kvm:
    """For the account that will run the VMs, which isn't root when we are."""
    path = Path("/dev/kvm")
    try:
        mode = path.stat().st_mode
    except OSError:
        return Kvm.MISSING
    if service_account().uid == os.geteuid():
        may = os.access(path, os.R_OK | os.W_OK)
    else:
        may = mode & 0o006 == 0o006
    return Kvm.OPENS if may else Kvm.REFUSED


def _memory() -> tuple[int, int]:
    table = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE))
    return int(table.get("MemTotal", 0)) * 1024, int(table.get("MemAvailable", 0)) * 1024


def _disk(folder: Path) -> tuple[str, int]:
    """Why the folder can't be written (or made), and the space on its disk."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    error = "" if os.access(there, os.W_OK | os.X_OK) else f"no right to write in {there}"
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


def _input() -> tuple[int, int]:
    devices = list(Path("/dev/input").glob("event*"))
    return len(devices), sum(not os.access(path, os.R_OK) for path in devices)
