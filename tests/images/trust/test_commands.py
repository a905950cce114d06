"""The key ceremony of docs/trust.md as people type it."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deskgrid.cli.main import run
from deskgrid.cli.output import Exit
from deskgrid.images.format.manifest import Package
from deskgrid.images.trust.keys import make_key, read_public
from deskgrid.images.trust.signing.covered import words_of
from tests.images.built import built_image

from .published import manifest

pytestmark = pytest.mark.slow

PASSWORD = "correct horse battery"
PEOPLE = ("ada", "bob", "cleo", "rita", "paul", "online")


class Room:
    """A folder with keys of everybody, and a shell in it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.repository, self._capsys = folder, folder / "repository", capsys
        self.password = folder / "password"
        self.password.write_text(PASSWORD + "\n")
        for name in PEOPLE:
            make_key(folder / name, name, PASSWORD, scrypt=1 << 10)

    def key(self, name: str) -> Path:
        return self.folder / name

    def public(self, name: str) -> Path:
        return self.folder / f"{name}.pub"

    def type(self, *argv: object, code: int = 0) -> str:
        """Run `deskgrid trust …`; return what it printed, error or not."""
        self._capsys.readouterr()
        got = run(["trust", *map(str, argv)])
        out, err = self._capsys.readouterr()
        assert got == code, out + err
        assert "Traceback" not in err
        return out if code == 0 else err

    def here(self, command: str, *argv: object, code: int = 0) -> str:
        return self.type(command, *argv, "--repository", self.repository, code=code)

    def signing(self, command: str, *argv: object, code: int = 0) -> str:
        return self.here(command, *argv, "--password-file", self.password, code=code)

    def root(self) -> Path:
        """The root that the administrators gave to everybody."""
        own = self.folder / "1.root.json"
        if not own.exists():
            shutil.copy(self.repository / "metadata/1.root.json", own)
        return own

    def publish(self, image: str, **more: Any) -> Path:
        """What `image publish` left on the researcher's side."""
        path = self.folder / image.replace("/", "-")
        path.write_bytes(manifest(image, **more))
        return path

    def both(self, image: str) -> None:
        self.signing("propose", image, self.publish(image), self.key("rita"), "--root", self.root())
        self.signing("approve", image, self.key("paul"), "--yes", "--root", self.root())

    def json(self, command: str, *argv: object) -> Any:
        return json.loads(self.here(command, *argv, "--json"))

    def begin(self) -> None:
        admins = [word for name in PEOPLE[:3] for word in ("--admin", self.public(name))]
        self.here("init", *admins, "--online", self.public("online"))
        self.here("add-key", "einstein-researcher", self.public("rita"))
        self.here("add-key", "einstein-approver", self.public("paul"))
        self.signing("sign", self.key("ada"), "--yes")
        self.signing("sign", self.key("bob"), "--yes")


@pytest.fixture
def room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Room:
    return Room(tmp_path, capsys)


def test_from_nothing_to_an_image_that_a_desktop_trusts_and_its_end(room: Room) -> None:
    admins = [word for name in PEOPLE[:3] for word in ("--admin", room.public(name))]
    assert "root version 1: waiting for 2 of ada (" in room.here("init", *admins, "--online", room.public("online"))
    room.here("add-key", "einstein-researcher", room.public("rita"))
    room.here("add-key", "einstein-approver", room.public("paul"))
    assert "waiting for 1 of bob (" in room.signing("sign", room.key("ada"), "--yes")
    assert "complete: targets" in room.signing("sign", room.key("bob"), "--yes")
    made = room.publish("einstein/search/1.0", packages=(Package("gcc", "12"),))
    propose = ("propose", "einstein/search/1.0", made, room.key("rita"))
    assert "you hold no root yet" in room.signing(*propose, code=Exit.WRONG)
    assert "complete: einstein-researcher" in room.signing(*propose, "--root", room.root())
    status = room.here("status")
    assert "einstein/search/1.0 waits for its approver; it is to be the latest" in status
    assert "the first version, with 1 package" in status
    assert "gcc" not in status
    approved = room.signing("approve", "einstein/search/1.0", room.key("paul"), "--yes", "--root", room.root())
    assert "complete: einstein-approver" in approved
    assert "timestamp 1" in room.signing("renew", room.key("online"))
    assert "nothing waits for anybody" in room.here("status")
    check = ("--root", room.repository / "metadata/1.root.json", "--from", room.repository)
    assert "einstein/search/1.0 is trusted" in room.type("verify", "einstein/search/latest", *check)
    room.signing("revoke", "einstein/search/1.0", room.key("paul"), "--reason", "telnet was left in")
    room.signing("renew", room.key("online"))
    assert "revoked: telnet was left in" in room.type("verify", "einstein/search/1.0", *check, code=Exit.REFUSED)
    assert "einstein/search/1.0 is revoked: telnet was left in" in room.here("status")


def test_a_key_is_made_at_the_command_line(room: Room) -> None:
    said = room.type("new-key", room.key("dora"), "--owner", "dora", "--password-file", room.password)
    assert "keep it and its password apart" in said
    assert room.public("dora").exists()
    again = room.type("new-key", room.key("dora"), "--owner", "x", "--password-file", room.password, code=Exit.WRONG)
    assert "choose another name" in again


def test_a_step_back_of_latest_must_be_said_and_signed_by_both(room: Room) -> None:
    room.begin()
    for version in ("1.0", "2.0"):
        room.both(f"einstein/search/{version}")
    back = ("point", "einstein/search/1.0", room.key("rita"))
    assert "say so explicitly" in room.signing(*back, code=Exit.WRONG)
    room.signing(*back, "--back")
    assert "BACK" in room.here("status")
    room.signing("approve", "einstein/search/1.0", room.key("paul"), "--yes")
    room.signing("renew", room.key("online"))
    check = ("--root", room.repository / "metadata/1.root.json", "--from", room.repository, "--json")
    assert json.loads(room.type("verify", "einstein/search/latest", *check))["version"]["version"] == "1.0"


def test_keys_come_and_go_and_lives_are_renewed(room: Room) -> None:
    room.begin()
    make_key(room.key("dora"), "dora", PASSWORD, scrypt=1 << 10)
    room.here("rotate", "administrators", "--add", room.public("dora"), "--remove", "cleo")
    found = room.json("status")
    assert [each["role"] for each in found["waiting"]] == ["root"]
    room.signing("sign", room.key("ada"), "--yes")
    room.signing("sign", room.key("bob"), "--yes")
    assert "you hold no root" in room.signing("sign", room.key("cleo"), "--yes", code=Exit.WRONG)
    assert "nothing waits" in room.signing("sign", room.key("cleo"), "--yes", "--root", room.root(), code=Exit.WRONG)
    assert [each["role"] for each in room.json("rotate", "administrators")["waiting"]] == ["root", "targets"]
    assert "dora" in room.here("rotate", "einstein-approver")


def test_what_cannot_be_done_is_one_sentence_with_the_right_code(room: Room) -> None:
    assert "there is none" in room.here("status", code=Exit.ABSENT)
    room.begin()
    one, two, nobodys = (room.publish(image) for image in ("einstein/x/1", "einstein/x/2", "nobody/x/1"))
    for name in ("rita", "paul"):
        room.here("status", "--key", room.key(name), "--root", room.root())
    rita, paul = room.key("rita"), room.key("paul")
    for argv, code, said in (
        (("propose", "einstein/search", "x", rita), Exit.WRONG, "expected PROJECT/IMAGE/VERSION"),
        (("propose", "einstein/../1", "x", rita), Exit.WRONG, "image: got '..'"),
        (("propose", "einstein/x/1", room.password, rita), Exit.WRONG, "manifest"),
        (("propose", "einstein/x/1", two, rita), Exit.WRONG, "got the one of einstein/x/2"),
        (("propose", "nobody/x/1", nobodys, rita), Exit.ABSENT, "nobody-researcher"),
        (("propose", "einstein/x/1", one, paul), Exit.WRONG, "it may not sign for"),
        (("propose", "einstein/x/2", two, rita), Exit.WRONG, "more waits there than einstein/x/2"),
        (("approve", "einstein/x/1", room.key("paul"), "--yes"), Exit.WRONG, "does not wait for its approver"),
        (("revoke", "einstein/x/1", room.key("ada"), "--reason", "x"), Exit.ABSENT, "in no role of project einstein"),
        (("revoke", "einstein/x/1", room.key("paul"), "--reason", "x"), Exit.ABSENT, "does not list it"),
        (("renew", room.key("rita")), Exit.WRONG, "root does not name it"),
        (("sign", room.key("nobody"), "--yes"), Exit.ABSENT, "can't be read"),
    ):
        assert said in room.signing(*argv, code=code), argv
    room.here("add-key", "einstein-approver", room.public("rita"), code=Exit.REFUSED)
    room.here("add-key", "boss", room.public("rita"), code=Exit.ABSENT)
    room.here("rotate", "administrators", "--remove", "nobody", code=Exit.ABSENT)
    room.here("init", "--admin", room.public("ada"), "--online", room.public("online"), code=Exit.WRONG)
    none = ("--root", room.password, "--from", "http://127.0.0.1:1")
    room.type("verify", "einstein/x/1", *none, code=Exit.NO)
    none = ("--root", room.repository / "metadata/1.root.json", "--from", "http://127.0.0.1:1")
    assert "can't be reached" in room.type("verify", "einstein/x/1", *none, code=Exit.UNREACHABLE)


def test_no_secret_can_be_given_on_the_command_line(room: Room) -> None:
    for command in ("new-key", "sign", "propose", "approve", "revoke", "renew"):
        text = room.type(command, "--help")
        assert "--password-file" in text
        assert "--password " not in text
        assert "--pin" not in text


def test_what_is_signed_is_shown_and_asked_for_first(room: Room) -> None:
    room.begin()
    room.here("add-key", "other-approver", room.public("cleo"))
    argv = [sys.executable, "-m", "deskgrid", "trust", "sign", room.key("ada"), "--repository", room.repository]
    ended = subprocess.run(
        [*argv, "--password-file", room.password], input="n\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, "sign this?" in ended.stderr) == (Exit.NO, True), ended.stderr
    assert "new role other-approver" in ended.stdout
    assert room.json("status")["waiting"][0]["signed"] == []
    said = room.signing("sign", room.key("ada"), "--yes")
    assert "other-approver: + 1 must sign" in said
    assert "other-approver: + cleo, key in words: " in said


def test_two_administrators_sign_copies_on_computers_without_a_network(room: Room) -> None:
    room.begin()
    room.here("add-key", "other-approver", room.public("cleo"))
    for name in ("ada", "bob"):
        stick = room.folder / f"stick-{name}"
        shutil.copytree(room.repository, stick)
        room.type("sign", room.key(name), "--yes", "--password-file", room.password, "--repository", stick)
        said = room.here("merge", stick)
        assert "signed: targets" in said
    assert "complete: targets" in said
    assert "no signature that lacks" in room.here("merge", stick, code=Exit.WRONG)


def test_a_manifest_is_proposed_only_from_the_researcher_s_own_side_and_as_it_was_published(room: Room) -> None:
    room.begin()
    own = room.publish("einstein/search/1.0")
    there = room.repository / "images/einstein/search/1.0.json"
    there.parent.mkdir(parents=True)
    there.write_bytes(manifest("einstein/search/1.0", cmdline="evil"))
    rita = (room.key("rita"), "--root", room.root())
    said = room.signing("propose", "einstein/search/1.0", there, *rita, code=Exit.WRONG)
    assert "where others may write" in said
    said = room.signing("propose", "einstein/search/1.0", own, *rita, code=Exit.NO)
    assert "it is not what lies at" in said
    there.write_bytes(own.read_bytes())
    said = room.signing("propose", "einstein/search/1.0", own, *rita)
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    assert f"SHA-256 {digest}; in words: {words_of(digest)}" in said


def test_a_manifest_with_something_in_it_that_nobody_would_see_is_not_proposed(room: Room) -> None:
    room.begin()
    own = room.publish("einstein/search/1.0")
    own.write_bytes(own.read_bytes().replace(b'{"project"', b'{"x-mine":1,"project"'))
    rita = (room.key("rita"), "--root", room.root())
    said = room.signing("propose", "einstein/search/1.0", own, *rita, code=Exit.WRONG)
    assert "nobody would see it" in said


def test_the_approver_is_shown_the_digest_and_all_by_which_a_machine_would_differ(room: Room) -> None:
    room.begin()
    room.both("einstein/search/1.0")
    two = room.publish("einstein/search/2.0", cmdline="quiet init=/evil", chunks=("a", "b"))
    room.signing("propose", "einstein/search/2.0", two, room.key("rita"))
    digest = hashlib.sha256(two.read_bytes()).hexdigest()
    said = room.signing("approve", "einstein/search/2.0", room.key("paul"), "--yes")
    assert f"SHA-256 of its manifest: {digest}" in said
    assert words_of(digest) in said
    assert "kernel command line: quiet → quiet init=/evil" in said
    assert "disk: 4096 bytes → 6096 bytes" in said
    assert "chunks: 2 of 2 are new, 2000 of 2000 bytes; 0 are gone" in said
    assert "memory: 268435456 bytes, the same" in said


def test_words_of_keys_roots_and_manifests_can_be_read_aloud(room: Room) -> None:
    room.begin()
    made = room.publish("einstein/search/1.0")
    said = room.type("words", room.public("ada"), room.root(), made)
    ada = read_public(room.public("ada"))
    assert "key of ada" in said and words_of(ada.keyid) in said and ada.keyid in said
    assert "root version 1" in said
    assert words_of(hashlib.sha256(made.read_bytes()).hexdigest()) in said
    room.public("bob").write_bytes(room.public("ada").read_bytes().replace(b"ed25519", b"ed25518"))
    shown = room.here("status", "--root", room.root())
    assert "what the folder says of itself" not in shown
    assert "what the folder says of itself" in room.here("status")


def test_what_one_s_own_key_saw_can_not_be_taken_back(room: Room) -> None:
    room.begin()
    room.both("einstein/search/1.0")
    kept = room.folder / "kept"
    shutil.copytree(room.repository, kept)
    room.both("einstein/search/2.0")
    shutil.rmtree(room.repository)
    kept.rename(room.repository)
    three = room.publish("einstein/search/3.0")
    said = room.signing("propose", "einstein/search/3.0", three, room.key("rita"), code=Exit.NO)
    assert "sign nothing" in said


def test_the_approver_looks_into_the_image_and_compares_it_with_a_build_of_his_own(room: Room) -> None:
    room.begin()
    built, key = built_image(room.folder / "built", name="search"), room.folder / "einstein.key"
    made = ["image", "publish", built, room.repository, "--project", "einstein", "--version", "1.0", "--key", key]
    assert run([*map(str, made), "--new-key", "--no-trial"]) == 0
    own = built / "einstein-1.0.manifest.json"
    room.signing("propose", "einstein/search/1.0", own, room.key("rita"), "--root", room.root())
    approve = ("approve", "einstein/search/1.0", room.key("paul"), "--root", room.root(), "--yes", "--json")
    look = ("--look", room.folder / "look")
    assert "expected --project-key" in room.signing(*approve, *look, code=Exit.WRONG)
    other = built_image(room.folder / "other", name="search", disk=b"another disk")
    with_key = (*look, "--project-key", key)
    said = room.signing(*approve, *with_key, "--built", other, code=Exit.REFUSED)
    assert "don't approve it" in said
    assert room.json("status")["approvals"] != []
    shutil.rmtree(room.folder / "look")
    room.signing(*approve, *with_key, "--built", built)
    assert (room.folder / "look/disk.raw").read_bytes() == (built / "disk.raw").read_bytes()
    assert room.json("status")["approvals"] == []
