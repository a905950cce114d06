"""The publishing side: who must sign, what may follow what, and that nothing is shown that may not be."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.pointer import check_pointer, next_pointer
from deskgrid.images.trust.roles import project_of
from deskgrid.images.trust.signing.editor import RepositoryEditor, keys_of
from deskgrid.images.trust.signing.online import renew
from deskgrid.images.trust.signing.repository import first_root, key_named
from deskgrid.images.trust.signing.status import approvals_of, revocations, status, waiting
from deskgrid.images.trust.values import Pointer, Version

from .rig import DAY, HOUR, NOW, ONE, TWO, Grid, desktop, person, refused, told


def test_root_waits_until_two_of_three_have_signed(tmp_path: Path) -> None:
    shelf, people = RepositoryEditor(tmp_path), [person("ada"), person("bob"), person("cleo")]
    with shelf.editing(new=True):
        shelf.keep("root", first_root([each.public_key for each in people], 2, person("host").public_key, NOW))
        assert shelf.settle() == []
        assert shelf.sign(people[2]) == ["root"]
        assert shelf.settle() == []
        shelf.sign(people[2])  # again: counts once
        assert shelf.settle() == []
        (waiting,) = status(shelf, told).waiting
        assert waiting.sentence.startswith("waiting for 1 of ada (")
        assert [each.split(" ")[0] for each in waiting.signed] == ["cleo"]
        shelf.sign(people[0])
        assert shelf.settle() == ["root"]


@pytest.mark.parametrize(("keys", "threshold"), [(1, 2), (2, 0), (0, 1)])
def test_a_threshold_that_cannot_be_met_or_means_nothing_is_refused(keys: int, threshold: int) -> None:
    people = [person(f"p{n}").public_key for n in range(keys)]
    refused("threshold", Duty.REQUEST, lambda: first_root(people, threshold, person("host").public_key, NOW))


def test_a_stranger_s_key_signs_nothing(grid: Grid) -> None:
    with grid.shelf.editing():
        grid.shelf.propose(ONE, b"{}", NOW)
        assert grid.shelf.sign(person("mallory")) == []
        assert grid.shelf.sign(grid.paul) == []
        assert grid.shelf.sign(grid.rita) == ["einstein-researcher"]


def test_an_edit_makes_the_signatures_void(grid: Grid) -> None:
    with grid.shelf.editing():
        grid.shelf.rotate("administrators", NOW, threshold=3)
        grid.shelf.sign(grid.ada)
        grid.shelf.rotate("administrators", NOW, threshold=2)
        pending = grid.shelf.pending("root")
        assert pending is not None
        assert (pending.signatures, pending.signed.version) == ({}, 2)


def test_signatures_from_two_copies_on_two_offline_computers_come_together(grid: Grid, tmp_path: Path) -> None:
    copies = []
    with grid.shelf.editing():
        grid.shelf.rotate("other-approver", NOW, [person("otto").public_key])
    for signer in (grid.ada, grid.bob):
        copy = RepositoryEditor(tmp_path / f"stick{len(copies)}")
        shutil.copytree(grid.shelf.folder, copy.folder)
        with copy.editing():
            assert copy.sign(signer) == ["targets"]
            assert copy.settle() == []
        copies.append(copy)
    with grid.shelf.editing():
        for copy in copies:
            assert grid.shelf.merge(copy) == ["targets"]
        assert grid.shelf.settle() == ["targets"]
        assert grid.shelf.merge(copies[0]) == []


def test_signatures_for_something_else_are_not_taken_over(grid: Grid, tmp_path: Path) -> None:
    copy = RepositoryEditor(tmp_path / "stick")
    with grid.shelf.editing():
        grid.shelf.rotate("other-approver", NOW, [person("otto").public_key])
    shutil.copytree(grid.shelf.folder, copy.folder)
    with copy.editing():
        copy.rotate("other-approver", NOW, [person("mallory").public_key])
        copy.sign(grid.ada)
    with grid.shelf.editing():
        assert grid.shelf.merge(copy) == []


# -- versions -------------------------------------------------------------------------------------------------


def test_a_published_version_cannot_be_published_again_with_other_content(grid: Grid) -> None:
    content = grid.publish(ONE)
    with grid.shelf.editing():
        said = refused("published", Duty.REQUEST, lambda: grid.shelf.propose(ONE, b"other", NOW))
        assert "choose another version" in said
        grid.shelf.propose(ONE, content, NOW)  # the same: nothing new


def test_a_revoked_version_cannot_be_published_again(grid: Grid) -> None:
    content = grid.publish(ONE)
    grid.revoke("einstein-researcher", ONE)
    refused("published", Duty.REQUEST, lambda: grid.shelf.propose(ONE, content, NOW))


def test_versions_are_numbered_per_image(grid: Grid) -> None:
    grid.publish(ONE)
    with grid.shelf.editing():
        assert grid.shelf.propose(TWO, b"2", NOW).number == 2
        assert grid.shelf.propose(Version("einstein", "other", "9"), b"3", NOW).number == 1


@pytest.mark.parametrize("edit", ["drop", "swap", "unrevoke", "renumber"])
def test_what_may_not_follow_is_refused_even_with_all_signatures(grid: Grid, edit: str) -> None:
    grid.publish(ONE)
    grid.publish(TWO)
    grid.revoke("einstein-approver", ONE)
    before = grid.shelf.settled("snapshot")
    with grid.shelf.editing():
        draft = grid.shelf.draft("einstein-approver", NOW)
        targets = draft.signed.targets
        if edit == "drop":
            del targets[TWO.path]
        elif edit == "swap":
            targets[TWO.path].hashes["sha256"] = "0" * 64
        elif edit == "unrevoke":
            targets[ONE.path].unrecognized_fields["custom"].pop("revoked")
        else:
            targets[TWO.path].unrecognized_fields["custom"]["number"] = 9
        grid.shelf.keep("einstein-approver", draft)
        code = "unrevoked" if edit == "unrevoke" else "changed"
        refused(code, Duty.SIGNERS, lambda: grid.signed(grid.paul))
        draft.sign(grid.paul)  # and laid in among what is served, by hand
        (grid.shelf.metadata / f"{draft.signed.version}.einstein-approver.json").write_bytes(draft.to_bytes())
    done = grid.renew()
    assert any(code in problem for problem in done.problems)
    assert before is not None
    after = grid.shelf.settled("snapshot")
    assert after is not None
    assert after.signed.meta == before.signed.meta


def test_a_pointer_that_goes_back_unsaid_is_refused_even_with_all_signatures(grid: Grid) -> None:
    refused("backwards", Duty.REQUEST, lambda: next_pointer(Pointer("2.0", 2, 5), "1.0", 1))
    refused("backwards", Duty.SIGNERS, lambda: check_pointer("x", Pointer("2.0", 2, 5), Pointer("1.0", 1, 6)))
    refused(
        "pointer-rolled-back", Duty.REPOSITORY, lambda: check_pointer("x", Pointer("2", 2, 5), Pointer("1", 1, 4, 4))
    )
    refused("pointer-rolled-back", Duty.REPOSITORY, lambda: check_pointer("x", Pointer("2", 2, 5), Pointer("3", 3, 5)))
    check_pointer("x", Pointer("2.0", 2, 5), Pointer("1.0", 1, 6, 6))


def test_nobody_can_approve_what_the_researcher_has_not_signed(grid: Grid) -> None:
    refused("not-proposed", Duty.REQUEST, lambda: grid.shelf.approve(ONE, NOW))
    grid.publish(ONE)
    with grid.shelf.editing():
        grid.shelf.propose(TWO, b"2", NOW)  # waits: not signed yet
    refused("not-proposed", Duty.REQUEST, lambda: grid.shelf.approve(TWO, NOW))
    refused("no-version", Duty.REQUEST, lambda: grid.shelf.point(Version("einstein", "search", "9"), NOW))
    refused("no-version", Duty.REQUEST, lambda: grid.shelf.revoke("einstein-approver", TWO, "why", NOW))
    refused("no-role", Duty.REQUEST, lambda: grid.shelf.propose(Version("nobody", "x", "1"), b"x", NOW))


# -- renewing -------------------------------------------------------------------------------------------------


def test_renewing_writes_only_when_it_is_due(grid: Grid) -> None:
    grid.publish(ONE)
    first = grid.renew()
    assert grid.renew(NOW + HOUR) == first
    later = grid.renew(NOW + 12 * HOUR)
    assert (later.timestamp, later.snapshot) == (first.timestamp + 1, first.snapshot)
    assert later.expires_at == NOW + 12 * HOUR + DAY
    assert grid.renew(NOW + 5 * DAY).snapshot == first.snapshot + 1


def test_a_host_whose_clock_was_ahead_renews_again_when_it_is_right(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    grid.renew(NOW + 5 * DAY)
    assert grid.renew(NOW).expires_at == NOW + DAY
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)


def test_renewing_needs_root_targets_and_the_right_key(grid: Grid, tmp_path: Path) -> None:
    refused("wrong-key", Duty.REQUEST, lambda: renew(grid.shelf.folder, grid.rita, NOW))
    empty = RepositoryEditor(tmp_path / "empty")
    refused("no-repository", Duty.REQUEST, lambda: renew(empty.folder, grid.online, NOW))
    with empty.editing(new=True):
        empty.keep("root", first_root([grid.ada.public_key], 1, grid.online.public_key, NOW))
    refused("unsigned", Duty.SIGNERS, lambda: renew(empty.folder, grid.online, NOW))


def test_only_one_process_changes_a_repository(grid: Grid) -> None:
    with grid.shelf.editing():
        refused("locked", Duty.DESKTOP, lambda: renew(grid.shelf.folder, grid.online, NOW))


def test_a_damaged_repository_is_a_sentence(grid: Grid) -> None:
    grid.publish(ONE)
    (grid.shelf.metadata / "timestamp.json").write_bytes(b"{")
    refused("damaged", Duty.REPOSITORY, lambda: grid.renew())


# -- status ---------------------------------------------------------------------------------------------------


def test_the_approver_is_shown_what_changed_since_the_version_before(grid: Grid) -> None:
    grid.publish(ONE, b"one")
    grid.propose(TWO, b"two")
    (approval,) = status(grid.shelf, told).approvals
    assert (approval.version, approval.before, approval.latest) == (TWO, "1.0", True)
    assert approval.changes == ("b'one' → b'two'",)
    grid.approve(TWO)
    assert status(grid.shelf, told).approvals == ()


def test_a_step_back_of_latest_waits_for_the_approver_as_such(grid: Grid) -> None:
    grid.publish(ONE)
    grid.publish(TWO)
    with grid.shelf.editing():
        grid.shelf.point(ONE, NOW, back=True)
        grid.signed(grid.rita)
    (approval,) = status(grid.shelf, told).approvals
    assert approval.version == ONE
    assert (approval.changes, "becomes 1.0, number 1, serial 3, a step BACK" in approval.becomes) == (
        ("no new content",),
        True,
    )


def test_status_says_what_keys_come_and_go_and_what_expires(grid: Grid) -> None:
    grid.publish(ONE)
    with grid.shelf.editing():
        grid.shelf.rotate("administrators", NOW, [person("dora").public_key], [grid.cleo.public_key.keyid])
    found = status(grid.shelf, told)
    root = next(each for each in found.waiting if each.role == "root")
    assert any(each.startswith("root: + dora") for each in root.changes)
    assert any(each.startswith("root: - cleo") for each in root.changes)
    states = {each.role: each.state(NOW + timedelta(days=390)) for each in found.held}
    assert states["root"] == "good"
    assert states["targets"] == "expires soon: sign again"
    assert states["timestamp"] == "expired: sign again"


def test_revocations_are_told_to_the_coordinator(grid: Grid) -> None:
    grid.publish(ONE)
    grid.publish(TWO)
    assert revocations(grid.shelf) == []
    grid.revoke("einstein-researcher", ONE)
    assert list(revocations(grid.shelf)) == [(ONE, "it has a hole")]


def test_a_key_is_found_by_its_owner_or_the_start_of_its_id(grid: Grid) -> None:
    keys = keys_of(grid.shelf, "root")
    assert key_named(keys, "ada").keyid == grid.ada.public_key.keyid
    assert key_named(keys, grid.bob.public_key.keyid[:8]).keyid == grid.bob.public_key.keyid
    refused("no-key", Duty.REQUEST, lambda: key_named(keys, "rita"))
    assert keys_of(grid.shelf, "einstein-approver").keys() == {grid.paul.public_key.keyid}


@pytest.mark.parametrize("role", ["", "-researcher", "root", "einstein", "einstein-", "einstein-boss"])
def test_other_names_are_no_project_s_roles(grid: Grid, role: str) -> None:
    assert project_of(role) is None
    if role != "root":
        with pytest.raises(TrustError):
            grid.shelf.rotate(role, NOW, [person("x").public_key])


def test_the_approver_is_never_shown_a_manifest_that_the_researcher_did_not_sign(grid: Grid) -> None:
    grid.propose(ONE, b"gcc 12")
    (file,) = (path for path in grid.shelf.targets.rglob("*.1.0.json"))
    file.write_bytes(b"gcc 6.")
    said = refused("mixed", Duty.REPOSITORY, lambda: approvals_of(grid.shelf, "einstein", told))
    assert "sign nothing" in said
    assert said in status(grid.shelf, told).problems[0]
    refused("mixed", Duty.REPOSITORY, lambda: grid.shelf.approve(ONE, NOW))


def test_what_a_signer_wrote_cannot_move_the_cursor_of_who_reads_it(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    grid.revoke("einstein-approver", ONE, "\x1b[2J" + "x" * 1000)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        assert trusted.revoked([ONE], NOW)[ONE] == "\\x1b[2J" + "x" * 193 + "…"


def test_metadata_of_absurd_size_and_a_folder_without_root_are_sentences(grid: Grid, tmp_path: Path) -> None:
    with (grid.shelf.waiting / "targets.json").open("wb") as file:
        file.truncate(1 << 30)
    refused("too-long", Duty.REPOSITORY, lambda: waiting(grid.shelf, "targets"))
    empty = RepositoryEditor(tmp_path / "empty")
    with empty.editing(new=True):
        refused("no-root", Duty.REPOSITORY, lambda: empty.root())
