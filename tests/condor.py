"""HTCondor as tests run it: Debian's stable version, which the product brings, and the newest that Debian has.

A tree is built once and kept in the cache. The newest is what the archive has today: a version that was never tried, or
a tree that can't be had, is a reason to skip and breaks nothing.
"""

import functools
import re

import pytest

from deskgrid.host.trees import trees
from deskgrid.host.trees.debstrap import BuildFailed
from deskgrid.host.trees.entry import run_in
from deskgrid.model.image import Attribute

STABLE, NEWEST = "stable", "newest"
BOTH = (STABLE, NEWEST)
_TRIED = ("23.9", "25.14")
USED: list[str] = []
"""What was used, as the tests' summary tells it."""
_RECIPES = {
    STABLE: trees.TOOL_TREE,
    NEWEST: trees.TreeRecipe("forky", ("ca-certificates", "condor", "iproute2", "procps"), moving=True),
}

SAYS = (
    Attribute("Arch", '"X86_64"'),
    Attribute("CondorVersion", '"$CondorVersion: 23.9.6 2026-07-12 PackageID: 23.9.6 $"'),
    Attribute("HasFileTransfer", "true"),
    Attribute("HasSelfCheckpointTransfers", "true"),
    Attribute("OpSys", '"LINUX"'),
    Attribute("OpSysAndVer", '"Debian13"'),
    Attribute("OpSysMajorVer", "13"),
)
"""What machines of the tests' images say of themselves, a little of it."""


@functools.cache
def _version(tree: trees.Tree) -> str:
    said = run_in(tree, ["condor_version"], 30)
    found = re.search(r"CondorVersion: (\d+\.\d+)\.\d+", said.stdout)
    assert found, said.stdout + said.stderr
    USED.append(f"HTCondor {found[0].partition(': ')[2]} in {tree.root}")
    return found[1]


def tree(which: str) -> trees.Tree:
    """The tree of a version; skips the test when there is none, or one that nobody has tried."""
    try:
        found = trees.provide(_RECIPES[which])
    except BuildFailed as error:
        if which == STABLE:
            raise
        pytest.skip(f"the newest HTCondor is not to be had: {error}")
    version = _version(found)
    if which == NEWEST and version not in _TRIED:
        pytest.skip(f"HTCondor {version} was never tried with deskgrid, {' and '.join(_TRIED)} were")
    return found
