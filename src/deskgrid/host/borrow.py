"""Run a program of a root tree without entering the tree.

The tree's own dynamic loader starts the program with the tree's libraries; it sees this machine's files, needs no
privilege, no namespace and no mount, and works inside a chroot. Good for programs that read what they are told to
(HTCondor's tools, with CONDOR_CONFIG in their environment); not for daemons that start others by fixed paths.

Source: ld.so(8), "--library-path".
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from deskgrid.host.trees import Tree

_LOADERS = ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/ld-linux-aarch64.so.1")
_FOLDERS = ("usr/bin", "usr/sbin", "bin", "sbin")


class NotInTree(Exception):
    """The tree has no such program, or no loader that we know."""


def borrow(tree: Tree, argv: Sequence[str]) -> list[str]:
    """Return the argv that runs the tree's program `argv[0]` (a bare name) on this machine.

    Raises: NotInTree.
    """
    loader = _first(tree.root / name for name in _LOADERS)
    program = _first(tree.root / folder / argv[0] for folder in _FOLDERS)
    if loader is None or program is None:
        raise NotInTree(f"root tree {tree.root}: got no {argv[0] if loader else 'dynamic loader'}; build it again")
    libraries = [*sorted((tree.root / "usr/lib").glob("*-linux-gnu")), tree.root / "usr/lib"]
    return [str(loader), "--library-path", ":".join(map(str, libraries)), str(program), *argv[1:]]


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)
