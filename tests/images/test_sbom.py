"""The packages of an image as a CycloneDX document: by a library, with sums, the same bytes each time."""

import hashlib
import json
from pathlib import Path

import pytest

from deskgrid.images.build import sbom
from deskgrid.images.build.roottar import RootTar
from deskgrid.images.build.sbom import Deb, document, installed, sums
from deskgrid.images.build.tree import FACTS_LIST

from .trees import plain, write

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc (2.41-1)
Version: 2.41-1+b2
Description: GNU C Library
 Version: not this one

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: own
Status: install ok installed
Architecture: all
Version: 1:2.0~rc1
"""
FACTS = f"""\
Package: libc6
Architecture: amd64
Source: glibc (2.41-1)
Version: 2.41-1+b2
SHA256: {"a" * 64}

Package: libc6
Architecture: amd64
Version: 2.42-1
SHA256: {"b" * 64}

Package: own
Architecture: all
Version: 1:2.0~rc1
"""


@pytest.fixture
def debs(tmp_path: Path) -> list[Deb]:
    tar = write(
        tmp_path / "tree.tar",
        plain("./var/lib/dpkg/status", STATUS.encode()),
        plain(f"./{FACTS_LIST}", FACTS.encode()),
        plain("./var/lib/dpkg/info/own.md5sums", b"sums"),
    )
    with RootTar(tar) as tree:
        return installed(tree, FACTS_LIST)


def test_a_package_has_the_sum_of_its_deb_or_else_of_dpkgs_list(debs: list[Deb]) -> None:
    assert debs == [
        Deb("libc6", "2.41-1+b2", "amd64", "glibc", "a" * 64),
        Deb("own", "1:2.0~rc1", "all", "own", "", hashlib.sha256(b"sums").hexdigest()),
    ]


def test_the_same_packages_give_the_same_document_and_others_another_serial_number(debs: list[Deb]) -> None:
    one = document("demo", "trixie", debs)
    assert one == document("demo", "trixie", debs)
    other = document("demo", "trixie", debs[:1])
    assert json.loads(one)["serialNumber"] != json.loads(other)["serialNumber"]
    assert b"timestamp" not in one


def test_the_document_is_what_its_readers_expect(debs: list[Deb]) -> None:
    told = json.loads(document("demo", "trixie", debs))
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert told["metadata"]["component"]["name"] == "demo"
    libc, own = told["components"]
    assert libc["purl"] == "pkg:deb/debian/libc6@2.41-1%2Bb2?arch=amd64&distro=trixie"
    assert libc["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert {"name": "deskgrid:source", "value": "glibc"} in libc["properties"]
    assert "hashes" not in own
    assert {"name": sbom.FILES_SUM, "value": hashlib.sha256(b"sums").hexdigest()} in own["properties"]


def test_sums_are_read_back(debs: list[Deb]) -> None:
    assert sums(document("demo", "trixie", debs)) == {"libc6:amd64": "a" * 64, "own:all": ""}


def test_a_tree_without_the_facts_of_apt_still_has_its_packages(tmp_path: Path) -> None:
    with RootTar(write(tmp_path / "tree.tar", plain("./var/lib/dpkg/status", STATUS.encode()))) as tree:
        assert [deb.name for deb in installed(tree, FACTS_LIST)] == ["libc6", "own"]
