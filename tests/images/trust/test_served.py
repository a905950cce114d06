"""What counts in a repository's folder: what follows from the root that its reader holds, and nothing else there."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from deskgrid.images.trust.errors import Duty
from deskgrid.images.trust.form import MOST_VERSION
from deskgrid.images.trust.signing import repository
from deskgrid.images.trust.signing.editor import RepositoryEditor
from deskgrid.images.trust.signing.held import MemoryFile, SignersMemory, digest_of
from deskgrid.images.trust.signing.repository import again
from deskgrid.images.trust.signing.status import approvals_of, status, waiting
from deskgrid.images.trust.tufapi import DelegatedRole, Delegations, Metadata, Targets
from deskgrid.images.trust.values import Version

from .rig import DAY, NOW, ONE, TWO, Grid, desktop, person, refused, told

THREE = Version("einstein", "search", "3.0")
EVIL = b'{"image": "with a back door"}'


def laid(grid: Grid, role: str, *signers: Any) -> Metadata[Any]:
    """A higher version of a role lies there, with something more in it."""
    base = grid.shelf.settled(role)
    assert base is not None
    draft = again(base, base.signed.version + 1, NOW)
    entry = repository.propose(draft, THREE, EVIL)
    grid.shelf.put(THREE.path, EVIL, entry)
    for signer in signers:
        draft.sign(signer, append=True)
    (grid.shelf.metadata / f"{draft.signed.version}.{role}.json").write_bytes(draft.to_bytes())
    return draft


def fresh(grid: Grid) -> RepositoryEditor:
    """The folder as somebody sees it who has the root, and has not looked before."""
    return RepositoryEditor(grid.shelf.folder, SignersMemory.of(grid.bootstrap))


@pytest.mark.parametrize("signer", ["nobody", "a stranger", "the other role's"])
def test_the_highest_number_counts_for_nothing_without_its_signatures(grid: Grid, signer: str) -> None:
    grid.publish(ONE)
    signers = {"nobody": (), "a stranger": (person("mallory"),), "the other role's": (grid.paul,)}[signer]
    laid(grid, "einstein-researcher", *signers)
    settled = fresh(grid).settled("einstein-researcher")
    assert settled is not None
    assert THREE.path not in settled.signed.targets
    grid.propose(TWO, b"2")
    assert [each.version for each in approvals_of(fresh(grid), "einstein", told)] == [TWO]
    assert "lies there" not in " ".join(grid.renew().problems)  # what was laid there was written over


def test_what_enough_have_signed_counts(grid: Grid) -> None:
    grid.publish(ONE)
    laid(grid, "einstein-researcher", grid.rita)
    assert [each.version for each in approvals_of(fresh(grid), "einstein", told)] == [THREE]


def test_a_repository_of_another_root_is_none(grid: Grid, tmp_path: Path) -> None:
    grid.publish(ONE)
    other = Grid(tmp_path / "other")
    other.publish(ONE)
    shelf = RepositoryEditor(other.shelf.folder, SignersMemory.of(grid.bootstrap))
    assert shelf.settled("einstein-researcher") is None
    assert approvals_of(shelf, "einstein", told) == ()
    shutil.rmtree(grid.shelf.metadata)
    shutil.copytree(other.shelf.metadata, grid.shelf.metadata)
    with grid.shelf.editing():
        refused("rolled-back", Duty.REPOSITORY, lambda: grid.shelf.propose(TWO, b"2", NOW))


def test_a_root_that_its_own_keys_have_not_signed_is_no_beginning(grid: Grid) -> None:
    root = grid.file("1.root.json")
    root.signatures.clear()
    refused("bad-root", Duty.REQUEST, lambda: SignersMemory.of(root.to_bytes()))
    refused("bad-root", Duty.REQUEST, lambda: SignersMemory.of(b"{"))


def test_new_roots_are_followed_from_the_one_that_is_held_and_kept(grid: Grid) -> None:
    grid.publish(ONE)
    dora = person("dora")
    grid.rotate("administrators", (grid.ada, grid.bob), add=[dora.public_key])
    shelf = fresh(grid)
    settled = shelf.settled("root")
    assert settled is not None
    assert settled.signed.version == 2
    assert shelf.held is not None
    assert len(shelf.held.roots) == 2
    for path in grid.shelf.metadata.glob("*.root.json"):
        path.unlink()
    again_ = RepositoryEditor(grid.shelf.folder, shelf.held).settled("root")
    assert again_ is not None
    assert again_.signed.version == 2


def test_a_folder_that_lacks_what_was_seen_or_has_another_is_refused(grid: Grid) -> None:
    grid.publish(ONE)
    first = fresh(grid)
    assert first.settled("einstein-approver") is not None
    grid.publish(TWO)
    seen = fresh(grid)
    assert seen.settled("einstein-approver") is not None
    (grid.shelf.metadata / "2.einstein-approver.json").unlink()
    said = refused("rolled-back", Duty.REPOSITORY, lambda: seen.settled("einstein-approver"))
    assert "sign nothing" in said
    other = grid.file("1.einstein-approver.json")
    other.signed.version, other.signed.expires = 2, NOW + DAY
    other.sign(grid.paul)
    (grid.shelf.metadata / "2.einstein-approver.json").write_bytes(other.to_bytes())
    assert "got another" in refused("rolled-back", Duty.REPOSITORY, lambda: seen.settled("einstein-approver"))


def test_what_was_signed_under_keys_that_went_is_the_new_keys_draft_and_all_of_it_is_shown(grid: Grid) -> None:
    grid.publish(ONE)
    rosa = person("rosa")
    gone = [grid.rita.public_key.keyid]
    grid.rotate("einstein-researcher", (grid.ada, grid.bob), add=[rosa.public_key], remove=gone)
    for pending in grid.shelf.waiting.iterdir():
        pending.unlink()
    shelf = fresh(grid)
    assert shelf.settled("einstein-researcher") is None
    draft = shelf.draft("einstein-researcher", NOW)
    assert draft.signed.version == 2
    assert ONE.path in draft.signed.targets
    shelf.keep("einstein-researcher", draft)
    found = waiting(shelf, "einstein-researcher")
    assert found is not None
    assert set(found.paths) == {ONE.path, ONE.latest}


@pytest.mark.parametrize("content", [b"{", b"", b"null", b"[" * 10_000])
def test_what_can_not_be_read_is_as_if_it_were_not_there(grid: Grid, content: bytes) -> None:
    grid.publish(ONE)
    for role in ("root", "targets", "einstein-researcher", "einstein-approver"):
        (grid.shelf.metadata / f"7.{role}.json").write_bytes(content)
    assert status(fresh(grid), told).approvals == ()
    grid.publish(TWO)


def test_what_a_signer_holds_is_kept_beside_the_key_and_begins_once(grid: Grid, tmp_path: Path) -> None:
    holding, root = MemoryFile(tmp_path / "rita"), tmp_path / "root"
    root.write_bytes(grid.bootstrap)
    assert holding.read() is None
    held = holding.begin(root)
    shelf = RepositoryEditor(grid.shelf.folder, held)
    assert shelf.settled("targets") is not None
    holding.keep(held)
    assert (tmp_path / "rita.held").stat().st_mode & 0o777 == 0o600
    again_ = holding.begin(root)
    assert again_.seen.keys() == {"targets"}
    other = Grid(tmp_path / "other")
    root.write_bytes(other.bootstrap)
    refused("other-root", Duty.REQUEST, lambda: holding.begin(root))
    refused("no-root", Duty.REQUEST, lambda: holding.begin(tmp_path / "none"))
    holding.path.write_text("{")
    refused("damaged", Duty.DESKTOP, holding.read)
    nowhere = MemoryFile(tmp_path / "none" / "rita")
    refused("disk", Duty.DESKTOP, lambda: nowhere.keep(held))


def test_the_first_root_is_held_as_it_was_shown(grid: Grid, tmp_path: Path) -> None:
    shown = digest_of(grid.file("1.root.json"))
    assert RepositoryEditor(grid.shelf.folder, SignersMemory(shown)).settled("root") is not None
    other = Grid(tmp_path / "other")
    assert RepositoryEditor(other.shelf.folder, SignersMemory(shown)).settled("root") is None


# -- nothing that is not shown --------------------------------------------------------------------------------


def strangely(draft: Metadata[Any], how: str) -> None:
    """Put something into a project's role that deskgrid never writes."""
    targets = draft.signed
    file = targets.targets[ONE.path]
    key = person("mallory").public_key
    match how:
        case "delegations":
            targets.delegations = Delegations({key.keyid: key}, {})
        case "field":
            targets.unrecognized_fields["x-mine"] = "hello"
        case "field of an entry":
            file.unrecognized_fields["x-mine"] = "hello"
        case "custom field":
            file.unrecognized_fields["custom"]["x-mine"] = 1
        case "hash":
            file.hashes["sha512"] = "0" * 128
        case "version":
            targets.version = MOST_VERSION
        case "unreadable reason":
            file.unrecognized_fields["custom"]["revoked"] = "\x1b[2J"
        case "version of the specification":
            targets.spec_version = "1.0." + "6" * 3000
        case _:
            strange_entry(targets, how)


def strange_entry(targets: Targets, how: str) -> None:
    custom = {path: file.unrecognized_fields["custom"] for path, file in targets.targets.items()}
    match how:
        case "earlier of a version":
            custom[ONE.path]["earlier"] = "ab" * 32
        case "number of a pointer":
            custom[ONE.latest]["number"] = 7
        case "revoked pointer":
            custom[ONE.latest]["revoked"] = "hidden"
        case "earlier of the approver's pointer":
            custom[ONE.latest]["earlier"] = "ab" * 32


STRANGE = [
    *("delegations", "field", "field of an entry", "custom field", "hash", "version", "unreadable reason"),
    *("version of the specification", "earlier of a version", "number of a pointer", "revoked pointer"),
    "earlier of the approver's pointer",
]


@pytest.mark.parametrize("how", STRANGE)
def test_what_nobody_would_be_shown_is_not_signed_not_listed_and_not_taken(grid: Grid, home: Path, how: str) -> None:
    grid.publish(ONE)
    with grid.shelf.editing():
        draft = grid.shelf.draft("einstein-approver", NOW)
        strangely(draft, how)
        grid.shelf.keep("einstein-approver", draft)
        refused("strange", Duty.SIGNERS, lambda: grid.shelf.sign(grid.paul))
        refused("strange", Duty.SIGNERS, lambda: waiting(grid.shelf, "einstein-approver"))
        (grid.shelf.waiting / "einstein-approver.json").unlink()
    draft.sign(grid.paul)
    (grid.shelf.metadata / f"{draft.signed.version}.einstein-approver.json").write_bytes(draft.to_bytes())
    before = grid.file("1.snapshot.json").signed.meta
    grid.renew()
    settled = grid.shelf.settled("snapshot")
    assert settled is not None
    assert settled.signed.meta == before


@pytest.mark.parametrize("how", ["key of no role", "nested role", "entry", "owner", "terminating", "hash prefixes"])
def test_targets_with_anything_that_nobody_would_be_shown_are_not_signed(grid: Grid, how: str) -> None:
    grid.publish(ONE)
    draft = grid.shelf.draft("targets", NOW)
    delegations, key = draft.signed.delegations, person("mallory").public_key
    role = delegations.roles["einstein-approver"]
    match how:
        case "key of no role":
            delegations.keys[key.keyid] = key
        case "nested role":
            delegations.roles["mine"] = DelegatedRole("mine", role.keyids, 1, False, role.paths)
        case "entry":
            repository.propose(draft, TWO, EVIL)
        case "owner":
            delegations.keys[grid.paul.public_key.keyid].unrecognized_fields["x-deskgrid-owner"] = "paul (00000000)"
        case "terminating":
            role.terminating = True
        case "hash prefixes":
            role.paths, role.path_hash_prefixes = None, ["00"]
    with grid.shelf.editing():
        grid.shelf.keep("targets", draft)
        refused("strange", Duty.SIGNERS, lambda: grid.shelf.sign(grid.ada))


@pytest.mark.parametrize("how", ["delegations", "custom field", "hash"])
def test_a_desktop_refuses_a_project_s_role_with_anything_strange_in_it(grid: Grid, home: Path, how: str) -> None:
    from .rig import Attacker
    from .test_attacks import serve_listed

    grid.publish(ONE)
    base = grid.shelf.settled("einstein-approver")
    assert base is not None
    draft = again(base, base.signed.version + 1, NOW)
    strangely(draft, how)
    draft.sign(grid.paul)
    attacker = Attacker(grid.source)
    serve_listed(grid, attacker, {"einstein-approver": draft}, grid.online)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused("strange", Duty.SIGNERS, lambda: trusted.check(ONE, NOW))


def test_whole_keys_are_shown_and_compared(grid: Grid) -> None:
    other = person("paul")
    with grid.shelf.editing():
        draft = grid.shelf.draft("targets", NOW)
        draft.signed.revoke_key(grid.paul.public_key.keyid, "einstein-approver")
        draft.signed.add_key(other.public_key, "einstein-approver")
        grid.shelf.keep("targets", draft)
    found = waiting(grid.shelf, "targets")
    assert found is not None
    came, went = found.changes
    assert came.startswith("einstein-approver: + paul, key in words: ") and came.endswith(other.public_key.keyid)
    assert went.startswith("einstein-approver: - paul, key in words: ")
    assert went.endswith(grid.paul.public_key.keyid)
