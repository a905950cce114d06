"""A command in a root tree: what it sees, who it is, how it ends."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deskgrid.host.system.process import run
from deskgrid.host.trees import entry, trees
from deskgrid.host.trees.entry import NoWay, direct, enter, run_in, tidy

pytestmark = pytest.mark.real
ENTER = Path(entry.__file__).with_name("enter.sh")


@pytest.fixture(scope="module")
def tree() -> trees.Tree:
    return trees.provide()


@pytest.fixture
def folder(tree: trees.Tree) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


def test_a_command_is_the_account_and_can_gain_nothing(tree: trees.Tree) -> None:
    said = run_in(tree, ["sh", "-c", "id -u; id -un; grep -E '^(Cap|NoNewPrivs)' /proc/self/status"], 20).stdout
    uid, name, *lines = said.splitlines()
    assert (int(uid), name) == (tree.account.uid, "deskgrid")
    caps = dict(line.split() for line in lines if line.startswith("Cap"))
    # The bounding set bounds what a set-uid program may give, and none may give anything: chroot(1) needed three.
    assert int(caps.pop("CapBnd:"), 16) & ~0x400C0 == 0
    assert set(caps.values()) == {"0" * 16}
    assert "NoNewPrivs:\t1" in lines


def test_a_command_sees_the_bound_folder_at_its_path_and_not_the_hosts_files(tree: trees.Tree, folder: Path) -> None:
    (folder / "in").write_text("hello")
    said = run_in(tree, ["sh", "-c", "cat in; echo back > out; cat /etc/debian_version"], 20, [folder], cwd=folder)
    assert said.ok and said.stdout.startswith("hello13")
    assert (folder / "out").read_text() == "back\n"
    assert not run_in(tree, ["test", "-e", str(folder / "in")], 20).ok, "not bound, not there"


def test_a_command_finds_the_names_that_the_host_knows_without_a_network(tree: trees.Tree) -> None:
    assert run_in(tree, ["cat", "/etc/hosts"], 20).stdout == Path("/etc/hosts").read_text()


def test_a_commands_environment_holds_only_what_was_given(tree: trees.Tree) -> None:
    said = run_in(tree, ["env"], 20, env={"A": "b c"}).stdout
    assert sorted(line.split("=")[0] for line in said.splitlines()) == ["A", "HOME", "LANG", "PATH"]
    assert "A=b c\n" in said


def test_nothing_that_is_mounted_for_a_command_is_seen_outside(tree: trees.Tree, folder: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    inside = run_in(tree, ["cat", "/proc/self/mountinfo"], 20, [folder]).stdout
    assert str(folder) in inside
    assert Path("/proc/self/mountinfo").read_text() == before


def test_hostile_arguments_stay_arguments(tree: trees.Tree) -> None:
    hostile = ["$(id)", "; rm -rf /", "--", "a b", "`id`", "*", "é\n"]
    assert run_in(tree, ["printf", "%s|", *hostile], 20).stdout == "".join(f"{word}|" for word in hostile)


def test_a_relative_folder_is_refused(tree: trees.Tree) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        enter(tree, ["true"], [Path("relative")])


def test_the_signal_that_ends_the_started_process_ends_the_command(tree: trees.Tree) -> None:
    process = subprocess.Popen(enter(tree, ["sleep", "100"]))
    time.sleep(1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM


def test_a_command_that_takes_too_long_is_ended(tree: trees.Tree) -> None:
    began = time.monotonic()
    assert not run_in(tree, ["sleep", "100"], 1).ok
    assert time.monotonic() - began < 90, "it was waited for"


def test_a_tool_of_the_tree_runs_without_entering_it(tree: trees.Tree, folder: Path) -> None:
    (folder / "disk").write_bytes(b"\0" * (1 << 20))
    said = run(direct(tree.root, "usr/sbin/mke2fs", ["-q", "-F", str(folder / "disk")]), 20)
    assert said.ok, said.stderr
    assert run(direct(tree.root, "usr/bin/condor_version"), 20).stdout.startswith("$CondorVersion: 2")


def test_a_folder_that_is_no_tree_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoWay, match="no dynamic loader"):
        direct(tmp_path, "usr/bin/true")


@pytest.fixture
def small(tree: trees.Tree, tmp_path: Path) -> trees.Tree:
    """As much of the tree as a shell and `id` need, the account's own."""
    tmp_path.chmod(0o755)
    root = tmp_path / "root"
    for name in ("usr/bin", "usr/lib64", "etc", "proc", "dev", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "usr/lib").symlink_to("lib64")
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("sh", "id", "env", "true", "timeout"):
        shutil.copy(tree.root / "usr/bin" / name, root / "usr/bin" / name)
    found = [*tree.root.glob("lib64/ld-linux-*.so.*"), *tree.root.glob("lib/ld-linux-*.so.*")]
    for name in ("libc.so.6", "libselinux.so.1", "libpcre2-8.so.0"):
        found += tree.root.glob(f"usr/lib/*-linux-gnu/{name}")
    for path in found:
        shutil.copy(path, root / "usr/lib64" / path.name)
    run(["chown", "-R", "-h", f"{tree.account.uid}:{tree.account.gid}", str(root)], 20)
    return trees.Tree(root, tree.account)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has more than the account")
def test_root_runs_nothing_of_a_tree_whatever_its_account_put_there(small: trees.Tree) -> None:
    spy = small.root / "usr/bin/spy"
    spy.write_text("#!/bin/sh\nid -u >> /tmp/seen\nexec /bin/id -u\n")
    spy.chmod(0o755)
    (small.root / "tmp").chmod(0o777)
    for name in ("setpriv", "mount", "chroot", "unshare", "mkdir"):
        (small.root / "usr/bin" / name).symlink_to("spy")
    assert run_in(small, ["/usr/bin/setpriv"], 20).stdout == f"{small.account.uid}\n"
    assert (small.root / "tmp/seen").read_text() == f"{small.account.uid}\n"  # by us just now, and never by root


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has more than the account")
def test_root_makes_nothing_where_a_link_in_the_tree_leads(small: trees.Tree, tmp_path: Path, folder: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(0o700)
    assert run_in(small, ["true"], 20, [folder]).ok
    tidy(small, folder)
    for name in ("tmp", "etc"):
        shutil.rmtree(small.root / name, ignore_errors=True)
        (small.root / name).symlink_to(private)
    assert not run_in(small, ["true"], 20, [folder]).ok
    assert not list(private.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root enters others' trees")
def test_a_tree_in_a_home_that_nobody_else_may_look_into_is_entered(small: trees.Tree, tmp_path: Path) -> None:
    os.chown(tmp_path, small.account.uid, small.account.gid)
    tmp_path.chmod(0o700)
    said = run_in(small, ["id", "-u"], 20)
    assert (said.stdout, said.stderr) == (f"{small.account.uid}\n", "")


CHROOT = """
    tree=$1 script=$2 uid=$3
    mount --make-rshared /
    mount --bind "$tree" "$tree/tmp/inner"
    mount --rbind /proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    before=$(wc -l < /proc/self/mountinfo)
    for n in 1 2; do
        unshare --mount --propagation unchanged \\
            chroot "$tree" /bin/sh "$script" /tmp/inner drop "$uid" "$uid" -- /usr/bin/id -u || exit 1
    done
    echo "$before $(wc -l < /proc/self/mountinfo)"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a chroot")
def test_from_a_chroot_on_a_system_with_shared_mounts_a_tree_is_entered_and_no_mount_is_left(tree: trees.Tree) -> None:
    """What is left of one entry would double with the next; the tree is the chroot and the tree inside it."""
    inner, script = tree.root / "tmp/inner", tree.root / "tmp/enter.sh"
    inner.mkdir(exist_ok=True)
    script.write_bytes(ENTER.read_bytes())
    try:
        words = [str(tree.root), "/tmp/enter.sh", str(tree.account.uid)]
        if not run(["unshare", "--mount", "true"], 10).ok:
            pytest.skip("this is a chroot itself, whose mounts can't be shared anew")
        done = run(["unshare", "--mount", "sh", "-c", CHROOT, "chroot", *words], 30)
    finally:
        script.unlink()
        inner.rmdir()
    assert done.ok, done.stderr
    first, second, counted = done.stdout.splitlines()
    assert first == second == str(tree.account.uid)
    before, after = counted.split()
    assert before == after


def test_the_empty_places_of_a_bound_folder_are_tidied_away(tree: trees.Tree, folder: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    assert run_in(tree, ["true"], 20, [folder / "a/b"]).ok
    place = tree.root / (folder / "a/b").relative_to("/")
    assert place.exists()
    tidy(tree, folder / "a/b")
    assert not place.parents[1].exists() and (tree.root / "tmp").exists()
    assert (folder / "a/b").exists()
