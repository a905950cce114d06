"""Root trees: whole or not there, owned by the account, built once."""

import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import psutil
import pytest

from deskgrid.host.system.account import Account, service_account
from deskgrid.host.trees import debstrap, entry, trees
from deskgrid.host.trees.debstrap import BuildFailed

SMALL = trees.TreeRecipe("trixie", ("mount",))


def make_tar(path: Path) -> None:
    """A tiny root tree as mmdebstrap would write it, with a device and a set-uid program."""
    with tarfile.open(path, "w") as tar:
        for name, content, mode in (
            ("./etc/passwd", b"root:x:0:0::/root:/bin/sh\nold:x:61999:61999::/:/bin/sh\n", 0o644),
            ("./etc/group", b"root:x:0:\n", 0o644),
            ("./usr/bin/su", b"#!", 0o4755),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid, member.gid = len(content), mode, 0, 0
            tar.addfile(member, io.BytesIO(content))
        device = tarfile.TarInfo("./dev/null")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        tar.addfile(device)


def test_a_tree_is_unpacked_as_the_accounts_own_without_devices(tmp_path: Path) -> None:
    make_tar(tmp_path / "tree.tar")
    owner = service_account()
    trees.unpack(tmp_path / "tree.tar", tmp_path / "root", owner)
    program = (tmp_path / "root/usr/bin/su").stat()
    assert (program.st_uid, program.st_gid) == (owner.uid, owner.gid)
    assert not (tmp_path / "root/dev/null").exists()


def test_a_tar_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(BuildFailed, match="unpacking"):
        trees.unpack(tmp_path / "tree.tar", tmp_path / "root", service_account())


def test_the_key_of_a_tree_changes_with_what_is_in_it_and_with_its_owner(tmp_path: Path) -> None:
    one = trees.TreeRecipe("trixie", ("a", "b"))
    places = {
        trees._place(recipe, account, tmp_path)
        for recipe in (one, trees.TreeRecipe("trixie", ("a",)), trees.TreeRecipe("sid", ("a", "b")))
        for account in (Account(1, 1), Account(2, 2))
    }
    assert len(places) == 6
    assert trees._place(one, Account(1, 1), tmp_path) == trees._place(
        trees.TreeRecipe("trixie", ("b", "a")), Account(1, 1), tmp_path
    )


def test_a_tree_that_is_half_built_is_not_there(tmp_path: Path) -> None:
    assert trees.find(SMALL, cache=tmp_path) is None
    place = trees._place(SMALL, service_account(), tmp_path)
    (place / "root").mkdir(parents=True)
    assert trees.find(SMALL, cache=tmp_path) is None


def test_a_failed_build_names_the_fault_and_what_to_do() -> None:
    sentence = debstrap._explain("trixie", 25, ["I: running apt-get update...", "E: apt-get update failed", "I: done"])
    assert "E: apt-get update failed" in sentence and "network" in sentence
    assert "too long" in debstrap._explain("trixie", 124, [])


@pytest.mark.real
def test_a_small_tree_is_built_with_progress_entered_and_not_built_twice(tmp_path: Path) -> None:
    leftover = tmp_path / "trees" / f".{trees._place(SMALL, service_account(), tmp_path).name}.new"
    (leftover / "root").mkdir(parents=True)
    told: list[float] = []
    tree = trees.provide(SMALL, lambda fraction, _sentence: told.append(fraction), cache=tmp_path)
    assert told == sorted(told) and told[-1] == 1.0 and len(told) > 5
    assert not leftover.exists()
    assert (tree.root / "usr/bin/mount").exists()
    told.clear()
    assert trees.provide(SMALL, lambda fraction, _sentence: told.append(fraction), cache=tmp_path) == tree
    assert told == [1.0]
    assert entry.run_in(tree, ["id", "-un"], 20).stdout == "deskgrid\n"


BUILDER = """
import sys
from pathlib import Path
from deskgrid.host.trees import trees
wanted = trees.TreeRecipe("trixie", ("mount",))
trees.provide(wanted, lambda part, what: print(part, flush=True), cache=Path(sys.argv[1]))
"""


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_and_a_killed_one_does_not_hinder_the_next(
    tmp_path: Path, number: int
) -> None:
    builder = subprocess.Popen([sys.executable, "-c", BUILDER, str(tmp_path)], stdout=subprocess.PIPE, stderr=-3)
    assert builder.stdout is not None and builder.stdout.readline()
    children = psutil.Process(builder.pid).children(recursive=True)
    builder.send_signal(number)
    builder.wait(timeout=40)
    if number == signal.SIGINT:
        assert [path.name for path in (tmp_path / "trees").iterdir() if not path.name.endswith(".lock")] == []
        assert not psutil.wait_procs(children, timeout=20)[1], "mmdebstrap ended with its caller"
    else:
        assert trees.provide(SMALL, cache=tmp_path).root.exists()


@pytest.mark.real
def test_a_suite_that_does_not_exist_fails_with_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="nosuchsuite"):
        trees.provide(trees.TreeRecipe("nosuchsuite", ("mount",)), cache=tmp_path)
    assert [path.name for path in (tmp_path / "trees").iterdir() if not path.name.endswith(".lock")] == []


def test_the_folder_of_the_cache_is_the_users_own_unless_root() -> None:
    from deskgrid.host.system.paths import cache_folder

    assert (cache_folder() == Path("/var/cache/deskgrid")) == (os.geteuid() == 0)
