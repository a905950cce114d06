"""Debian root trees that belong to the unprivileged account: built once, kept in the cache, entered when needed.

    tree = trees.provide(TOOL_TREE, progress=bar)            # seconds when cached, about a minute when not
    argv = entry.enter(tree, ["condor_version"], binds=[run])   # an argv for subprocess; see entry.py

A tree is at <cache>/trees/<key>/root, where the key is a hash of suite, packages and owner. It is unpacked beside
its place and renamed, so a tree that is there is whole. A lock keeps two builders apart; the one that comes second
finds the tree of the first. What an interrupted build left is removed by the next.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from deskgrid.host.system.account import SERVICE_NAME, Account, service_account
from deskgrid.host.system.files import make_folder, own_folder, write_atomic
from deskgrid.host.system.locks import locked
from deskgrid.host.system.paths import cache_folder
from deskgrid.host.system.programs import ENVIRONMENT
from deskgrid.host.trees.debstrap import BuildFailed, Progress, bootstrap, quiet

_FORMAT = 1


class TreeRecipe(msgspec.Struct, frozen=True):
    """What is in a tree.

    moving: of a suite that changes daily, such as testing: a mirror's copy may be past the date that it is valid until.
    """

    suite: str
    packages: tuple[str, ...]
    moving: bool = False


class Tree(msgspec.Struct, frozen=True):
    """A root tree that is there. root: its folder. account: who owns it and who runs commands in it."""

    root: Path
    account: Account


TOOL_TREE = TreeRecipe(
    suite="trixie",
    packages=(
        "condor",
        "ca-certificates",
        "iproute2",
        "procps",
        "e2fsprogs",
        "libarchive13t64",
        "grub-pc-bin",
        "grub-common",
    ),
)
"""One tree for both HTCondor and image building (mke2fs with tar support, grub-mkimage)."""


def find(recipe: TreeRecipe = TOOL_TREE, account: Account | None = None, cache: Path | None = None) -> Tree | None:
    """Return the tree if it is in the cache."""
    owner = account or service_account()
    root = _place(recipe, owner, cache) / "root"
    return Tree(root, owner) if (root.parent / "tree.json").exists() else None


def provide(
    recipe: TreeRecipe = TOOL_TREE,
    progress: Progress = quiet,
    account: Account | None = None,
    cache: Path | None = None,
) -> Tree:
    """Return the tree, building it if it is not in the cache.

    Raises:
        BuildFailed: with the reason and what to do.
    """
    owner = account or service_account()
    place = _place(recipe, owner, cache)
    there = find(recipe, owner, cache)
    if there is not None:
        progress(1.0, "the tree is ready")
        return there
    make_folder(place.parent)
    with locked(place.parent / f".{place.name}.lock"):
        tree = find(recipe, owner, cache)
        if tree is None:
            _build(recipe, owner, place, progress)
            tree = Tree(place / "root", owner)
    progress(1.0, "the tree is ready")
    return tree


def _place(recipe: TreeRecipe, owner: Account, cache: Path | None) -> Path:
    facts = msgspec.json.encode([_FORMAT, recipe.suite, sorted(recipe.packages), owner.uid, owner.gid])
    folder = (cache or cache_folder()) / "trees"
    return folder / f"{recipe.suite}-{hashlib.sha256(facts).hexdigest()[:12]}"


def _build(recipe: TreeRecipe, owner: Account, place: Path, progress: Progress) -> None:
    """Build beside the place and rename. The caller holds the lock."""
    fresh = place.parent / f".{place.name}.new"
    for rest in (fresh, place):
        if rest.exists():
            shutil.rmtree(rest)
    make_folder(fresh, new=True)
    tar = fresh / "tree.tar"
    try:
        options = ['--aptopt=Acquire::Check-Valid-Until "false"'] if recipe.moving else []
        bootstrap(recipe.suite, recipe.packages, tar, progress, options)
        progress(0.96, "unpacking the tree")
        unpack(tar, fresh / "root", owner)
        tar.unlink()
        _add_account(fresh / "root", owner)
        write_atomic(fresh / "tree.json", msgspec.json.encode(recipe))
        fresh.rename(place)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def unpack(tar: Path, root: Path, owner: Account) -> None:
    """Unpack a root tree's tar into a new folder, every file owned by `owner`; device nodes are left out.

    Raises:
        BuildFailed: when it can't be unpacked whole.
    """
    own_folder(root, owner)
    as_owner = []
    if os.geteuid() == 0:
        as_owner = ["setpriv", f"--reuid={owner.uid}", f"--regid={owner.gid}", "--clear-groups", "--"]
    argv = [*as_owner, "tar", "-x", "--no-same-owner", "--exclude=./dev/*", "-f", "-"]
    with tar.open("rb") as source:
        # The folder is handed over as the working directory: the owner need not be able to reach it by its path.
        done = subprocess.run(
            argv, stdin=source, stderr=subprocess.PIPE, cwd=root, env=ENVIRONMENT, umask=0o022, check=False
        )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise BuildFailed(f"unpacking {tar} to {root}: {said}; check the space on the disk")


def _add_account(root: Path, owner: Account) -> None:
    """Give the owner a name inside the tree: programs such as HTCondor ask for it."""
    _add_line(root / "etc/passwd", f"{SERVICE_NAME}:x:{owner.uid}:{owner.gid}::/tmp:/bin/sh", owner)
    _add_line(root / "etc/group", f"{SERVICE_NAME}:x:{owner.gid}:", owner)


def _add_line(path: Path, line: str, owner: Account) -> None:
    text = path.read_text()
    identity = line.split(":")[2]
    kept = [old for old in text.splitlines() if old.split(":")[2:3] != [identity]]
    write_atomic(path, ("\n".join([*kept, line]) + "\n").encode(), owner=owner)
