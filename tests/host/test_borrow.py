"""Programs of a root tree run without entering it."""

import os

import pytest

from deskgrid.host import trees
from deskgrid.host.borrow import NotInTree, borrow
from deskgrid.host.process import run


@pytest.mark.real
def test_an_account_without_privileges_runs_a_tool_of_the_tree() -> None:
    tree = trees.provide()
    plain = ["setpriv", "--reuid=61999", "--regid=61999", "--clear-groups"] if os.geteuid() == 0 else []
    finished = run([*plain, *borrow(tree, ["mke2fs", "-V"])], timeout_seconds=20)
    assert finished.code == 0
    assert "mke2fs 1.47" in finished.stderr
    with pytest.raises(NotInTree, match="no_such_program"):
        borrow(tree, ["no_such_program"])
