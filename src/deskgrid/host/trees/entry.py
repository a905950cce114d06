"""Run commands in a root tree as the unprivileged account.

    argv = enter(tree, ["condor_status", "-json"], binds=[run_folder], env={"CONDOR_CONFIG": "…"})
    finished = process.run(argv, timeout_seconds=20)

The tree's command sees the host's /proc, /dev, /sys and resolver, the folders in `binds` at the same path, an
environment that holds nothing but PATH, HOME, LANG and `env`, and has no privileges. There is no network, process
or user isolation: this is a way to have Debian's packages, not a jail. The signal that ends the started process
ends the command: every step is an exec (but see SUDO).

Three ways, chosen by trial once in a process:
- ROOT: the caller is root: `unshare --mount`, mounts, chroot, then setpriv to the account.
- USER_NAMESPACE: the caller isn't: the same in a user namespace.
- SUDO: neither works (for example inside a chroot): `sudo -n` before the first way. The caller can't signal sudo;
  the command itself belongs to the caller and can be signalled. `timeout_seconds` puts a limit inside.
"""

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path

from deskgrid.host.system.process import Finished, run
from deskgrid.host.trees.trees import Tree

_SCRIPT = Path(__file__).with_name("enter.sh")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Way(StrEnum):
    """How a tree is entered here."""

    ROOT = "root"
    USER_NAMESPACE = "user-namespace"
    SUDO = "sudo"


class NoWay(Exception):
    """No way to enter a root tree works on this machine. The message says what to do."""


def enter(
    tree: Tree,
    argv: Sequence[str],
    binds: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_seconds: float | None = None,
) -> list[str]:
    """Return the argv that runs `argv` in the tree.

    Args:
        binds: absolute paths of the host that are to be there at the same path.
        env: variables for the command; they can be seen in its argv for an instant: no secrets.
        cwd: folder to run in; the tree's root if None.
        timeout_seconds: end the command after this time, from inside; needed only for the way SUDO.

    Raises:
        NoWay: when no way works here.
    """
    return _argv(way(tree), tree, argv, binds, env or {}, cwd, timeout_seconds)


def run_in(
    tree: Tree,
    argv: Sequence[str],
    timeout_seconds: float,
    binds: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
) -> Finished:
    """Run `argv` in the tree and wait for at most `timeout_seconds`. Raises: NoWay."""
    inside = timeout_seconds if way(tree) is Way.SUDO else None
    return run(enter(tree, argv, binds, env, cwd, inside), timeout_seconds + 1, stdin)


def tidy(tree: Tree, bind: Path) -> None:
    """Remove the empty folders on which `bind` was mounted in the tree, when nobody uses it there any more."""
    place = tree.root / bind.relative_to("/")
    if place.resolve() != tree.root.resolve() / bind.relative_to("/"):
        return  # a link that somebody put there leads out of the tree
    while place != tree.root and not place.is_mount():
        try:
            place.rmdir()
        except OSError:
            return
        place = place.parent


def way(tree: Tree) -> Way:
    """Return the first way that works here, by trial; remembered in this process. Raises: NoWay."""
    return _trial(tree.root, tree)


@cache
def _trial(_root: Path, tree: Tree) -> Way:
    candidates = (Way.ROOT,) if os.geteuid() == 0 else (Way.USER_NAMESPACE, Way.SUDO)
    said = []
    for candidate in candidates:
        argv = _argv(candidate, tree, ["/bin/true"], [Path("/tmp")], {}, None, 20)  # noqa: S108 -- is everywhere
        tried = run(argv, timeout_seconds=20)
        if tried.ok:
            return candidate
        said.append(f"{candidate}: {tried.fault}")
    raise NoWay(
        f"no way to run programs in the root tree {tree.root} ({'; '.join(said)}). Run as root, allow user "
        "namespaces, or allow this user to use sudo without a password."
    )


def _argv(
    chosen: Way,
    tree: Tree,
    argv: Sequence[str],
    binds: Sequence[Path],
    env: Mapping[str, str],
    cwd: Path | None,
    timeout_seconds: float | None,
) -> list[str]:
    unshare = ["unshare", "--mount", "--propagation", "unchanged"]
    if chosen is Way.USER_NAMESPACE:
        unshare += ["--user", "--map-current-user", "--keep-caps"]
    elif chosen is Way.SUDO:
        unshare = ["sudo", "-n", "--", *unshare]
    how = "keep" if chosen is Way.USER_NAMESPACE else "drop"
    for bind in binds:
        if not bind.is_absolute():
            raise ValueError(f"folder to bind into the tree: got {str(bind)!r}, expected an absolute path")
    variables = {"PATH": _PATH, "HOME": "/tmp", "LANG": "C.UTF-8", **env}  # noqa: S108 -- inside the tree
    limit = [] if timeout_seconds is None else ["timeout", "--signal=KILL", str(timeout_seconds)]
    return [
        *unshare,
        "--",
        "/bin/sh",
        str(_SCRIPT),
        str(tree.root),
        how,
        str(tree.account.uid),
        str(tree.account.gid),
        *(str(bind) for bind in binds),
        "--",
        "/usr/bin/env",
        "-i",
        f"--chdir={cwd or '/'}",
        *(f"{key}={value}" for key, value in variables.items()),
        *limit,
        *argv,
    ]


def direct(root: Path, program: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return an argv that runs a program of a tree without entering it, by the tree's own dynamic loader.

    Needs no privileges and no namespaces, and is quicker than `enter`; but the program sees the host's files, so
    it is for tools that read what their arguments name (condor_status, mke2fs), not for daemons.

    Args:
        program: its path inside the tree, such as "usr/bin/condor_status".

    Raises:
        NoWay: when the tree has no dynamic loader that we know.
    """
    for pattern in ("lib64/ld-linux-*.so.*", "lib/ld-linux-*.so.*"):
        for loader in sorted(root.glob(pattern)):
            folders = [*sorted((root / "usr/lib").glob("*-linux-gnu")), root / "usr/lib"]
            return [str(loader), "--library-path", ":".join(map(str, folders)), str(root / program), *arguments]
    raise NoWay(f"root tree {root}: got no dynamic loader in lib64 or lib, expected one; build the tree again")
