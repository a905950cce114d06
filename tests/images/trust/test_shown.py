"""What a person is shown before a signature is made, that it is the whole of it, and that it is remembered."""

import hashlib
import json
import os
import shutil
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from deskgrid.cli.trust import trust
from deskgrid.coordinator.images.signed import SignedCatalogue
from deskgrid.coordinator.settings import ImageSettings
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.keys import make_key
from deskgrid.images.trust.pointer import check_pointer, decode
from deskgrid.images.trust.roles import entry_of
from deskgrid.images.trust.signing.editor import RepositoryEditor
from deskgrid.images.trust.signing.repository import target_file
from deskgrid.images.trust.signing.status import approvals_of, status, waiting
from deskgrid.images.trust.tufapi import Metadata
from deskgrid.images.trust.values import ListedVersion, Pointer

from .rig import NOW, ONE, TWO, Grid, person, refused, told
from .town import APPROVER, EVIL, PASSWORD, PEOPLE, POINTER, RESEARCHER, Intruder, Town, town

THREE = msgspec.structs.replace(ONE, version="3.0")


def newest(here: Town, role: str) -> Metadata[Any]:
    path = max(here.web.glob(f"metadata/*.{role}.json"), key=lambda path: int(path.name.split(".")[0]))
    return Metadata.from_bytes(path.read_bytes())


# -- who holds no root ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["rita", "paul", "ada"])
@pytest.mark.parametrize("folder", ["as it is", "without its root"])
def test_without_a_root_of_one_s_own_nothing_is_signed_whatever_the_folder_has(
    place: Path, built: Path, who: str, folder: str
) -> None:
    with town(place, built) as here:
        assert here.propose()
        if folder != "as it is":
            (here.web / "metadata/1.root.json").unlink()
        here.key(f"{who}.held").unlink()
        before = here.signatures()
        here.first_command(who)
        assert before == here.signatures()
        for command in (("point", "einstein/search/1.0"), ("revoke", "einstein/search/1.0", "--reason", "x")):
            here.key(f"{who}.held").unlink(missing_ok=True)
            assert here.signing(*command, here.key(who)) == (1, "")
        assert before == here.signatures()


def ceremony(folder: Path) -> Town:
    here = Town(folder)
    (folder / "password").write_text(PASSWORD)
    for who in PEOPLE:
        make_key(folder / who, who, PASSWORD, scrypt=2)
    begin(here, "cleo")
    return here


def begin(here: Town, third: str) -> None:
    admins = [word for who in ("ada", "bob", third) for word in ("--admin", here.folder / f"{who}.pub")]
    assert here.type("init", *admins, "--online", here.folder / "online.pub")[0] == 0


def test_the_very_first_root_is_signed_before_or_with_all_else_and_only_by_who_says_yes(tmp_path: Path) -> None:
    here = ceremony(tmp_path)
    assert here.signing("sign", here.key("ada"), "--role", "targets", "--yes") == (1, "")
    assert here.signing("sign", here.key("ada"), decide=lambda _: False)[0] == 1
    assert not here.key("ada.held").exists()
    assert here.signing("sign", here.key("ada"))[0] == 0
    assert here.key("ada.held").exists()


def test_another_first_root_than_the_one_that_was_signed_is_not_signed(tmp_path: Path) -> None:
    here = ceremony(tmp_path)
    assert here.signing("sign", here.key("ada"))[0] == 0
    held = here.key("ada.held").read_bytes()
    shutil.rmtree(here.web)
    begin(here, "rita")
    assert here.signing("sign", here.key("ada")) == (1, "")
    assert here.key("ada.held").read_bytes() == held
    assert here.signatures() == set()


# -- what is signed is what was shown, and asked for ----------------------------------------------------------


def test_what_waits_says_nothing_of_the_image_that_is_typed(place: Path, built: Path) -> None:
    with town(place, built) as here:
        assert here.propose()
        assert here.approve()
        Intruder(here, "paul").lay_earlier()
        assert here.propose()
        assert "earlier" not in newest(here, RESEARCHER).signed.targets[POINTER].unrecognized_fields["custom"]


def test_what_stays_the_latest_until_the_approver_signs_is_told(grid: Grid) -> None:
    grid.publish(ONE)
    with grid.shelf.editing():
        grid.shelf.propose(TWO, b"two", NOW)
        found = waiting(grid.shelf, "einstein-researcher")
    assert found is not None
    (told,) = (change for change in found.changes if change.startswith("latest"))
    assert "becomes 2.0, number 2, serial 2: " in told
    assert "until its approver signs that, 1.0 stays the latest (SHA-256 " in told


def pointed(grid: Grid, pointer: Pointer) -> None:
    """The researcher's role is signed with this pointer, past all tools."""
    content = msgspec.json.encode(pointer)
    draft = grid.shelf.draft("einstein-researcher", NOW)
    entry = ListedVersion(len(content), hashlib.sha256(content).hexdigest())
    draft.signed.targets[ONE.latest] = target_file(ONE.latest, entry)
    grid.shelf.put(ONE.latest, content, entry)
    draft.sign(grid.rita)
    (grid.shelf.metadata / f"{draft.signed.version}.einstein-researcher.json").write_bytes(draft.to_bytes())


def test_a_step_back_is_told_as_one_whatever_serial_it_names(grid: Grid) -> None:
    grid.publish(ONE)
    grid.publish(TWO)
    pointed(grid, Pointer("1.0", 1, 9, 8))
    (approval,) = approvals_of(grid.shelf, "einstein", told)
    assert "becomes 1.0, number 1, serial 9, a step BACK" in approval.becomes
    with grid.shelf.editing():
        grid.shelf.approve(ONE, NOW)
        found = waiting(grid.shelf, "einstein-approver")
    assert found is not None
    assert "a step BACK" in found.changes[0]


def test_a_step_back_is_the_one_that_was_known_or_one_since() -> None:
    seen = Pointer("1.0", 1, 5, 3)
    check_pointer("x", seen, Pointer("2.0", 2, 8, 7))
    for back_at in (0, 2, 4, 5):
        other = Pointer("2.0", 2, 8, back_at)
        refused("bad-pointer", Duty.SIGNERS, lambda other=other: check_pointer("x", seen, other))  # type: ignore[misc]
    ahead = msgspec.json.encode(Pointer("1.0", 1, 5, 6))
    refused("bad-pointer", Duty.SIGNERS, lambda: decode("x", ahead))


def test_a_revocation_that_is_taken_back_is_refused_before_it_is_signed(grid: Grid) -> None:
    grid.publish(ONE)
    grid.revoke("einstein-approver", ONE)
    with grid.shelf.editing():
        draft = grid.shelf.draft("einstein-approver", NOW)
        draft.signed.targets[ONE.path].unrecognized_fields["custom"].pop("revoked")
        grid.shelf.keep("einstein-approver", draft)
        refused("unrevoked", Duty.SIGNERS, lambda: grid.shelf.sign(grid.paul))
        refused("unrevoked", Duty.SIGNERS, lambda: waiting(grid.shelf, "einstein-approver"))
    assert grid.shelf.pending("einstein-approver").signatures == {}  # type: ignore[union-attr]


def test_a_revocation_under_keys_that_are_gone_is_told_when_it_is_taken_back(grid: Grid) -> None:
    grid.publish(ONE)
    grid.revoke("einstein-approver", ONE)
    dora = person("dora")
    grid.rotate("einstein-approver", (grid.ada, grid.bob), add=[dora.public_key], remove=[grid.paul.public_key.keyid])
    with grid.shelf.editing():
        draft = grid.shelf.draft("einstein-approver", NOW)
        draft.signed.targets[ONE.path].unrecognized_fields["custom"].pop("revoked")
        grid.shelf.keep("einstein-approver", draft)
        found = waiting(grid.shelf, "einstein-approver")
    assert found is not None
    assert any(change.startswith(f"TAKES BACK the revocation of {ONE}: it has a hole") for change in found.changes)


def test_a_revocation_is_told_with_the_digest_of_what_it_ends(grid: Grid) -> None:
    content = grid.publish(ONE)
    with grid.shelf.editing():
        grid.shelf.revoke("einstein-approver", ONE, "a hole", NOW)
        found = waiting(grid.shelf, "einstein-approver")
    assert found is not None
    assert found.changes[0].startswith(f"REVOKES {ONE}: a hole; number 1: ")
    assert hashlib.sha256(content).hexdigest() in found.changes[0]


@pytest.mark.parametrize("command", ["sign", "approve"])
def test_json_signs_nothing_that_nobody_was_shown(place: Path, built: Path, command: str) -> None:
    with town(place, built) as here:
        intruder = Intruder(here, "rita")
        assert here.propose()
        if command == "sign":
            intruder.lay(APPROVER)
        before = here.signatures()
        image = ("einstein/search/2.0",) if command == "approve" else ()
        assert here.signing(command, *image, here.key("paul"), "--json") == (1, "")
        assert before == here.signatures()
        assert EVIL.path not in newest(here, APPROVER).signed.targets


def test_what_the_approver_says_yes_to_was_on_the_screen_before(place: Path, built: Path) -> None:
    with town(place, built) as here:
        assert here.propose()
        asked: list[str] = []
        decide = lambda screen: bool(asked.append(screen)) or True  # noqa: E731
        assert here.signing("approve", "einstein/search/2.0", here.key("paul"), decide=decide)[0] == 0
        for path in ("images/einstein/search/2.0.json", POINTER):
            entry = entry_of(newest(here, APPROVER).signed, path)
            assert entry is not None
            assert entry.sha256 in asked[0]


def test_what_was_shown_is_remembered_also_by_who_says_no(place: Path, built: Path) -> None:
    with town(place, built) as here:
        intruder = Intruder(here, None)
        assert here.propose()
        no = here.signing("approve", "einstein/search/2.0", here.key("paul"), decide=lambda _: False)
        assert (no[0], "einstein/search/2.0" in no[1]) == (1, True)
        intruder.put_back()
        assert here.type("status", "--key", here.key("paul"))[0] == 1


def test_the_approver_s_look_is_taken_also_where_only_latest_moves(place: Path, built: Path) -> None:
    with town(place, built) as here:
        assert here.propose()
        assert here.approve()
        assert here.signing("point", "einstein/search/1.0", here.key("rita"), "--back")[0] == 0
        approve, before = ("approve", "einstein/search/1.0", here.key("paul"), "--yes"), here.signatures()
        assert here.signing(*approve, "--look", here.folder / "look")[0] == 1  # it can't be: that needs a project's key
        assert here.signatures() == before
        assert here.signing(*approve)[0] == 0


def test_words_are_said_as_json_too(place: Path, built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with town(place, built) as here:
        odd = here.folder / os.fsdecode(b"odd\xff.pub")
        shutil.copy(here.key("rita.pub"), odd)
        argv = ["words", str(here.key("rita.pub")), str(odd), "--json"]
        typer.main.get_command(trust.app)(argv, standalone_mode=False)
        plain, strange = json.loads(capsys.readouterr().out)
        assert plain["file"] == str(here.key("rita.pub"))
        assert strange["file"] == f"{here.folder}/odd\\udcff.pub"


# -- one draft stops no other ---------------------------------------------------------------------------------


def spoiled(grid: Grid, role: str, how: str) -> None:
    place = grid.shelf.waiting / f"{role}.json"
    place.unlink(missing_ok=True)
    if how == "a pipe":
        os.mkfifo(place)
    else:
        place.write_bytes(b"{" if how == "half a file" else grid.bootstrap)


SPOILED = ["half a file", "another role's", "a pipe"]


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("role", ["targets", "einstein-researcher", "other-approver"])
def test_what_somebody_lays_in_one_role_stops_no_other(grid: Grid, role: str, how: str) -> None:
    grid.project("other", person("olga"), person("otto"))
    grid.publish(ONE)
    with grid.shelf.editing():
        grid.shelf.revoke("einstein-approver", ONE, "a hole", NOW)
        spoiled(grid, role, how)
        found = status(grid.shelf, told)
        assert [each.role for each in found.waiting] == ["einstein-approver"]
        assert any(role in problem for problem in found.problems)
        assert grid.shelf.signable(grid.paul) == ["einstein-approver"]
        grid.shelf.sign(grid.paul, ("einstein-approver",))
    assert any(role in problem for problem in grid.renew().problems)
    assert status(grid.shelf, told).revoked == ((ONE, "a hole"),)


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("role", ["targets", "einstein-researcher"])
def test_what_somebody_lays_takes_no_revocation_and_no_image_from_the_coordinator(
    grid: Grid, tmp_path: Path, role: str, how: str
) -> None:
    grid.publish(ONE, now=datetime.now(UTC))
    grid.revoke("einstein-approver", ONE, now=datetime.now(UTC))
    spoiled(grid, role, how)
    settings = ImageSettings(repository=grid.shelf.folder, keys=tmp_path / "keys")
    listing = SignedCatalogue(settings, tmp_path / "memory").look(datetime.now(UTC))
    assert listing is not None
    assert list(listing.revoked.values()) == ["it has a hole"]
    assert [each.version for each in listing.versions] == ["1.0"]


def test_a_project_whose_manifest_is_away_hides_no_other_project_s_approvals(grid: Grid) -> None:
    olga = person("olga")
    grid.project("other", olga, person("otto"))
    grid.propose(ONE, b'{"packages": []}')
    with grid.shelf.editing():
        grid.shelf.propose(msgspec.structs.replace(ONE, project="other"), b'{"packages": []}', NOW)
        grid.signed(olga)
    for path in grid.shelf.targets.glob("images/einstein/*/*.1.0.json"):
        path.unlink()
    found = status(grid.shelf, told)
    assert [each.version.project for each in found.approvals] == ["other"]
    assert "project einstein" in found.problems[0]


# -- what lies in the folder is read as far as it can be right ------------------------------------------------


@pytest.mark.parametrize("name", ["9.einstein-researcher.json", "2.targets.json", "1.root.json", "1.snapshot.json"])
def test_a_pipe_in_the_folder_is_waited_for_by_nobody(grid: Grid, name: str) -> None:
    grid.publish(ONE)
    (grid.shelf.metadata / name).unlink(missing_ok=True)
    os.mkfifo(grid.shelf.metadata / name)
    with suppress(TrustError):
        grid.renew()
    with suppress(TrustError):
        status(RepositoryEditor(grid.shelf.folder, grid.shelf.held), told)


def test_of_what_lies_in_place_of_a_manifest_no_more_is_read_than_it_is_long(grid: Grid) -> None:
    grid.publish(ONE)
    settled = grid.shelf.settled("einstein-researcher")
    assert settled is not None
    entry = entry_of(settled.signed, ONE.path)
    assert entry is not None
    (place,) = grid.shelf.targets.rglob(f"{entry.sha256}.1.0.json")
    place.write_bytes(b"")
    os.truncate(place, 256 << 20)
    tracemalloc.start()
    refused("mixed", Duty.REPOSITORY, lambda: grid.shelf.manifest(ONE.path, entry))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    place.unlink()
    os.mkfifo(place)
    refused("no-manifest", Duty.REPOSITORY, lambda: grid.shelf.manifest(ONE.path, entry))
