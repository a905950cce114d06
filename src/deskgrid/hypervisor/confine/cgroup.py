"""The desktop's cgroup for VMs, where one may be made, and whether VMs really give way to the owner; Linux, cgroup v2.

Rules:
- A group is made only in what was given to us: a folder that this account may write (systemd's `Delegate=`). It is
  called `vms`, beside the group that the agent itself is in (`DelegateSubgroup=agent`); only there controllers are
  switched on. Where the agent is in the delegated group itself, `vms` is made in it without controllers: with them,
  systemd could not start the next agent while VMs live.
- `vms` is idle (`cpu.idle`), and of the least weight for the disk. Memory is not bounded there: that is the guard's.
- Idle counts only among neighbours. A group's place among the owner's is decided where their ways part, so at the
  first level that shares out the CPU; the same holds for SCHED_IDLE. `gives_way` says whether it is idle there.
- Nothing here is needed: without a group VMs run in the idle class of their threads.

`python -m deskgrid.hypervisor.confine.cgroup` prints what it finds, as JSON; with `--make` it makes the group first.

Source: the kernel's cgroup-v2.rst; systemd.resource-control(5).
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

VMS, AGENT = "vms", "agent"
_SETTINGS = (("cpu.idle", "1"), ("io.weight", "default 1"), ("io.bfq.weight", "1"))


class GroupLevel(msgspec.Struct, frozen=True):
    """One group on the way from the root to a process. None: its parent does not share out the CPU."""

    path: str
    cpu_idle: int | None = None
    cpu_weight: int | None = None


class GroupsSeen(msgspec.Struct, frozen=True):
    """What is found here. own: this process's group; group: that of VMs, if there is one. gives_way: None: unknown."""

    own: str
    group: str
    levels: tuple[GroupLevel, ...]
    gives_way: bool | None


def own_path(table: str) -> str | None:
    """The path in the version-2 hierarchy, of /proc/PID/cgroup."""
    return next((line[3:] for line in table.splitlines() if line.startswith("0::/")), None)


def mount_point(table: str) -> Path | None:
    """Where the version-2 hierarchy is mounted, of /proc/self/mountinfo."""
    for line in table.split("\n"):  # others may mount, and name what they mount
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4].replace("\\040", " "))
    return None


def gives_way(levels: Sequence[GroupLevel]) -> bool | None:
    """Whether what is in the last of these groups gets the CPU only when sessions of people do not want it.

    Args:
        levels: from the first group below the root to the VMs'.

    Returns:
        None: nothing here shares out the CPU by groups, so the class of the threads alone decides.
    """
    first = next((level for level in levels if level.cpu_idle is not None), None)
    return None if first is None else first.cpu_idle == 1


def levels_of(root: Path, folder: Path) -> tuple[GroupLevel, ...]:
    """The groups from the first below the root to this one."""
    if folder != root and root not in folder.parents:
        return ()
    chain = [one for one in reversed((folder, *folder.parents)) if root in one.parents]
    return tuple(GroupLevel(str(one), _number(one / "cpu.idle"), _number(one / "cpu.weight")) for one in chain)


def own_folder(proc: Path = Path("/proc/self")) -> tuple[Path, Path] | None:
    """The root of the hierarchy and this process's group in it."""
    root, path = mount_point(_text(proc / "mountinfo")), own_path(_text(proc / "cgroup"))
    if root is None or path is None:
        return None
    return root, root / path.lstrip("/")


def base_of(root: Path, own: Path) -> tuple[Path, bool] | None:
    """The group in which `vms` is to be made, and whether controllers may be switched on there; None: nowhere."""
    if own.name == AGENT and _ours(root, own.parent):
        return own.parent, True
    return (own, False) if _ours(root, own) else None


def make(root: Path, own: Path) -> Path | None:
    """Make the group for VMs, or find it again. Returns: its folder; None where we may not."""
    base = base_of(root, own)
    if base is None:
        return None
    folder, controllers = base[0] / VMS, base[1]
    try:
        if controllers:
            for name in ("cpu", "io", "memory"):
                with suppress(OSError):
                    (base[0] / "cgroup.subtree_control").write_text(f"+{name}")
        folder.mkdir(exist_ok=True)
    except OSError:
        return None
    for name, value in _SETTINGS:
        with suppress(OSError):
            if (folder / name).exists():
                (folder / name).write_text(value)
    return folder if os.access(folder / "cgroup.procs", os.W_OK) else None


def made_here() -> Path | None:
    """The same for this process."""
    found = own_folder()
    return None if found is None else make(*found)


def group_of(pid: int) -> str:
    """The group's folder of a process, or nothing."""
    found = own_folder(Path(f"/proc/{pid}"))
    return "" if found is None or found[0] == found[1] else str(found[1])


def see(pid: int | None = None) -> GroupsSeen:
    """What is found of an agent, by its process; None: of this process."""
    found = own_folder(Path(f"/proc/{pid or 'self'}"))
    if found is None:
        return GroupsSeen("", "", (), None)
    root, own = found
    group = (own.parent if own.name == AGENT else own) / VMS
    there = own != root and group.is_dir()
    levels = levels_of(root, group if there else own)
    return GroupsSeen(str(own), str(group) if there else "", levels, gives_way(levels))


def _ours(root: Path, folder: Path) -> bool:
    """The root of all groups is nobody's to share out, not even root's."""
    needed = (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control")
    return root in folder.parents and all(os.access(path, os.W_OK) for path in needed)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def main() -> None:
    """Print what is found."""
    if "--make" in sys.argv[1:]:
        made_here()
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(see()), indent=2).decode() + "\n")


if __name__ == "__main__":
    main()
