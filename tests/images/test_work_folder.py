"""What stays of a build that did not end."""

import os
import time
from pathlib import Path

import pytest

from deskgrid.images.build.work_folder import KEPT_SECONDS, TREE, clean, finish, leave, tree_is_whole


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / ".demo.work"
    folder.mkdir()
    for name in (TREE, "disk.raw", "grub.cfg"):
        (folder / name).write_text(name)
    return folder


def test_a_whole_tree_of_the_same_recipe_stays_and_nothing_beside_it(work: Path) -> None:
    tree_is_whole(work, "key")
    assert clean(work, "key")
    assert sorted(path.name for path in work.iterdir()) == ["tree.key", TREE]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_what_another_account_could_have_changed_is_not_used(work: Path) -> None:
    tree_is_whole(work, "key")
    os.chown(work, 61999, 61999)
    assert not clean(work, "key")
    assert not work.exists()


def test_what_a_failed_build_leaves_is_the_builders_alone(work: Path) -> None:
    tree_is_whole(work, "key")
    leave(work, "key")
    assert work.stat().st_mode & 0o777 == 0o700
    assert clean(work, "key")


def test_a_tree_that_was_not_finished_is_removed(work: Path) -> None:
    assert not clean(work, "key")
    assert not work.exists()


def test_a_tree_of_another_recipe_or_a_rebuild_is_removed(work: Path) -> None:
    tree_is_whole(work, "key")
    assert not clean(work, "other")
    assert not work.exists()


def test_a_rebuild_keeps_nothing(work: Path) -> None:
    tree_is_whole(work, "")
    assert not clean(work, "")
    assert not work.exists()


@pytest.mark.parametrize("age", [KEPT_SECONDS + 60, -3600])
def test_a_tree_of_yesterday_or_of_the_future_is_removed(work: Path, age: int) -> None:
    tree_is_whole(work, "key")
    then = time.time() - age
    os.utime(work / "tree.key", (then, then))
    assert not clean(work, "key")


def test_after_the_disk_is_made_nothing_stays(work: Path) -> None:
    tree_is_whole(work, "key")
    finish(work)
    assert not clean(work, "key")
    assert not work.exists()


def test_a_folder_that_is_not_there_is_clean(tmp_path: Path) -> None:
    assert not clean(tmp_path / "gone", "key")
