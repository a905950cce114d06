"""A root tree's tar, normalised: the same tree gives the same bytes, and nothing of one machine stays in it."""

import hashlib
import random
import tarfile
from pathlib import Path

import pytest

from deskgrid.images.build.contents import TreeEntry, decode, encode
from deskgrid.images.build.roottar import RootTar
from deskgrid.images.contract import ImageError

from .trees import EPOCH, folder, member, plain, write

FILES = [
    folder("./"),
    folder("./etc"),
    plain("./etc/zeta", b"last"),
    plain("./etc/alpha", b"first", uid=42, gid=43, mode=0o640),
    folder("./usr"),
    folder("./usr/bin"),
    plain("./usr/bin/tool", b"program", mode=0o4755, pax_headers={"SCHILY.xattr.security.capability": "cap"}),
    (member("./usr/bin/another", tarfile.LNKTYPE, linkname="./usr/bin/tool"), b""),
    (member("./bin", tarfile.SYMTYPE, linkname="usr/bin"), b""),
]


def normal(tmp_path: Path, files: list[tuple[tarfile.TarInfo, bytes]], **options: object) -> Path:
    output = tmp_path / "normal.tar"
    with RootTar(write(tmp_path / "tree.tar", *files)) as tree:
        tree.write_normal(output, EPOCH, options.pop("added", {}), **options)  # type: ignore[arg-type]
    return output


def members(tar: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(tar) as opened:
        return {info.name: info for info in opened}


def test_the_order_in_which_a_tree_was_written_does_not_matter(tmp_path: Path) -> None:
    sums = set()
    for seed in range(5):
        files = FILES.copy()
        random.Random(seed).shuffle(files)
        sums.add(hashlib.sha256(normal(tmp_path, files).read_bytes()).hexdigest())
    assert len(sums) == 1


def test_parents_come_before_children_and_links_after_what_they_link_to(tmp_path: Path) -> None:
    names = list(members(normal(tmp_path, FILES[::-1])))
    assert names.index("usr") < names.index("usr/bin") < names.index("usr/bin/tool") < names.index("usr/bin/another")
    assert names[0] == "."


def test_owners_modes_capabilities_and_links_stay(tmp_path: Path) -> None:
    found = members(normal(tmp_path, FILES))
    alpha, tool = found["etc/alpha"], found["usr/bin/tool"]
    assert (alpha.uid, alpha.gid, alpha.mode) == (42, 43, 0o640)
    assert (tool.mode, tool.pax_headers["SCHILY.xattr.security.capability"]) == (0o4755, "cap")
    assert found["usr/bin/another"].linkname == "usr/bin/tool"
    assert found["bin"].linkname == "usr/bin"


def test_no_time_is_later_than_the_epoch_and_earlier_ones_stay(tmp_path: Path) -> None:
    files = [*FILES, plain("./etc/old", mtime=77)]
    found = members(normal(tmp_path, files))
    assert max(info.mtime for info in found.values()) == EPOCH
    assert found["etc/old"].mtime == 77


@pytest.mark.parametrize(
    "path",
    [
        "./etc/ssh/ssh_host_ed25519_key",
        "./var/cache/ldconfig/aux-cache",
        "./var/cache/apt/pkgcache.bin",
        "./var/lib/apt/lists/deb_InRelease",
        "./var/lib/dpkg/status-old",
        "./var/lib/systemd/random-seed",
        "./var/log/dpkg.log",
        "./var/log/apt/history.log",
        "./etc/shadow-",
        "./run/lock/x",
        "./tmp/x",
        "./boot/initrd.img-6.12",
        "./root/.bash_history",
        "./etc/ssl/private/ssl-cert-snakeoil.key",
        "./etc/munge/munge.key",
        "./usr/share/python3/debpython/__pycache__/files.cpython-313.pyc",
        "./etc/.pwd.lock",
        "./var/cache/fontconfig/a.cache-9",
        "./var/lib/cloud/data/instance-id",
        "./var/lib/urandom/random-seed",
        "./etc/condor/passwords.d/POOL",
        "./usr/lib/deskgrid/build/script-000-x",
    ],
)
def test_what_belongs_to_one_machine_or_moment_is_left_out(tmp_path: Path, path: str) -> None:
    assert path[2:] not in members(normal(tmp_path, [*FILES, plain(path)]))


def test_devices_are_left_out(tmp_path: Path) -> None:
    devices = [(member(f"./srv/{kind!r}", kind), b"") for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)]
    assert not any(name.startswith("srv") for name in members(normal(tmp_path, [*FILES, *devices])))


def test_folders_of_logs_stay(tmp_path: Path) -> None:
    assert "var/log/condor" in members(normal(tmp_path, [*FILES, folder("./var/log/condor")]))


def test_machine_id_and_host_name_are_neutral_unless_the_recipe_brings_them(tmp_path: Path) -> None:
    files = [*FILES, plain("./etc/machine-id", b"abc"), plain("./etc/hostname", b"builder"), plain("./etc/hosts", b"h")]
    with tarfile.open(normal(tmp_path, files, wanted={"etc/hosts"})) as tar:
        contents = {name: tar.extractfile(name).read() for name in ("etc/machine-id", "etc/hostname", "etc/hosts")}
    assert contents == {"etc/machine-id": b"", "etc/hostname": b"deskgrid\n", "etc/hosts": b"h"}


def test_added_files_are_there_once(tmp_path: Path) -> None:
    output = normal(tmp_path, [*FILES, plain("./boot/vmlinuz", b"old")], added={"boot/vmlinuz": b"new"})
    with tarfile.open(output) as tar:
        assert [info.name for info in tar].count("boot/vmlinuz") == 1
        assert tar.extractfile("boot/vmlinuz").read() == b"new"


def test_what_was_written_is_told_with_its_sums(tmp_path: Path) -> None:
    with RootTar(write(tmp_path / "tree.tar", *FILES)) as tree:
        told = {entry.path: entry for entry in tree.write_normal(tmp_path / "normal.tar", EPOCH, {"boot/x": b"new"})}
    tool = hashlib.sha256(b"program").hexdigest()
    assert told["usr/bin/tool"] == TreeEntry("usr/bin/tool", "file", 0o4755, 0, 0, 7, tool)
    assert (told["usr/bin/another"].size, told["usr/bin/another"].sha256) == (7, tool)
    assert told["bin"] == TreeEntry("bin", "link", 0o644, 0, 0, link="usr/bin")
    assert (told["etc/alpha"].uid, told["etc/alpha"].gid, told["etc/alpha"].mode) == (42, 43, 0o640)
    assert told["boot/x"].sha256 == hashlib.sha256(b"new").hexdigest()
    assert told["usr"].kind == "dir"
    assert decode(encode(told.values())) == told


def test_a_list_of_files_keeps_any_name(tmp_path: Path) -> None:
    odd = [
        TreeEntry(path, "file", 0o644, 0, 0, 1, "a") for path in ("a b", "ü/#x", "back\\slash", "new\nline", "\udcff")
    ]
    odd.append(TreeEntry("l", "link", 0o777, 0, 0, link="to a = b"))
    assert decode(encode(odd)) == {entry.path: entry for entry in odd}


@pytest.mark.parametrize("content", [b"", b"x", b"#mtree\n./a mode=x\n", b"#mtree\n./a\n"])
def test_a_damaged_list_of_files_is_one_sentence(content: bytes) -> None:
    with pytest.raises(ImageError, match="build the image again"):
        decode(content)


def test_a_hard_links_content_is_that_of_its_file(tmp_path: Path) -> None:
    with RootTar(write(tmp_path / "tree.tar", *FILES)) as tree:
        assert tree.read("usr/bin/another") == b"program"
        with pytest.raises(KeyError):
            tree.read("bin")
