"""The desktop's side when nobody means harm."""

from datetime import timedelta
from pathlib import Path

import pytest

from deskgrid.images.trust.desktop.client import Trusted
from deskgrid.images.trust.desktop.source import RepositoryServer
from deskgrid.images.trust.errors import Duty
from deskgrid.images.trust.values import Version

from .rig import DAY, HOUR, NOW, ONE, TWO, Attacker, Grid, desktop, refused, served

pytestmark = pytest.mark.slow


def test_what_both_have_signed_is_given_out_byte_for_byte(grid: Grid, home: Path) -> None:
    content = grid.publish(ONE)
    with desktop(home, grid) as trusted:
        assert trusted.refresh(NOW).offline == ""
        assert trusted.manifest(ONE, NOW) == content
        assert trusted.latest("einstein", "search", NOW) == ONE


def test_the_same_over_http(grid: Grid, home: Path) -> None:
    content = grid.publish(ONE)
    with served(grid.shelf.folder) as url, desktop(home, grid, RepositoryServer(url)) as trusted:
        trusted.refresh(NOW)
        assert trusted.manifest(ONE, NOW) == content


def test_what_only_the_researcher_has_signed_is_not_given_out(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    grid.propose(TWO, b"{}")
    grid.renew()
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        said = refused("not-both", Duty.SIGNERS, lambda: trusted.manifest(TWO, NOW))
        assert "einstein-approver has not signed it" in said


def test_while_the_next_version_waits_for_its_approver_latest_is_the_one_before(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        for version in (TWO, Version("einstein", "search", "3.0")):
            grid.propose(version, str(version).encode())
            grid.renew()
            trusted.refresh(NOW)
            assert trusted.latest("einstein", "search", NOW) == ONE
        grid.approve(Version("einstein", "search", "3.0"))
        grid.renew()
        trusted.refresh(NOW)
        assert trusted.latest("einstein", "search", NOW) == Version("einstein", "search", "3.0")


def test_an_image_that_nobody_signed_is_a_wrong_request(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        refused("no-image", Duty.REQUEST, lambda: trusted.manifest(TWO, NOW))
        refused("no-project", Duty.REQUEST, lambda: trusted.manifest(Version("other", "search", "1.0"), NOW))
        refused("no-image", Duty.REQUEST, lambda: trusted.latest("einstein", "nothing", NOW))


def test_nothing_is_known_before_the_first_refresh(grid: Grid, home: Path) -> None:
    with desktop(home, grid) as trusted:
        refused("not-refreshed", Duty.DESKTOP, lambda: trusted.manifest(ONE, NOW))


def test_without_the_repository_it_goes_on_until_the_timestamp_expires(grid: Grid, home: Path) -> None:
    content = grid.publish(ONE)
    away = RepositoryServer("http://127.0.0.1:1", seconds=2)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        trusted.manifest(ONE, NOW)
    later = NOW + DAY - HOUR
    with desktop(home, grid, away) as trusted:
        assert "can't be reached" in trusted.refresh(later).offline
        assert trusted.manifest(ONE, later) == content
        said = refused("expired-timestamp", Duty.REPOSITORY, lambda: trusted.manifest(ONE, NOW + DAY))
        assert "2026-11-23 12:00 UTC" in said
    with desktop(home, grid, away) as trusted:
        refused("expired-timestamp", Duty.REPOSITORY, lambda: trusted.refresh(NOW + DAY))


def test_a_desktop_that_never_reached_the_repository_says_so(grid: Grid, home: Path) -> None:
    with desktop(home, grid, RepositoryServer("http://127.0.0.1:1", seconds=2)) as trusted:
        refused("unreachable", Duty.NETWORK, lambda: trusted.refresh(NOW))


def test_freshness_is_looked_at_at_every_start_without_a_fetch(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        trusted.check(ONE, NOW + DAY - timedelta(seconds=1))
        refused("expired-timestamp", Duty.REPOSITORY, lambda: trusted.check(ONE, NOW + DAY))


def test_a_renewed_timestamp_lets_it_go_on(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        grid.renew(NOW + 2 * DAY)
        refused("expired-timestamp", Duty.REPOSITORY, lambda: trusted.check(ONE, NOW + 2 * DAY))
        trusted.refresh(NOW + 2 * DAY)
        trusted.check(ONE, NOW + 2 * DAY)


def test_only_what_is_new_is_fetched(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        trusted.manifest(ONE, NOW)
    watched = Attacker(grid.source)
    with desktop(home, grid, watched) as trusted:
        trusted.refresh(NOW)
        trusted.manifest(ONE, NOW)
    assert watched.asked == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_a_second_client_in_one_folder_is_refused(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid):
        said = refused("locked", Duty.DESKTOP, lambda: Trusted(home, grid.bootstrap, grid.source).__enter__())
        assert "another process" in said
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)


@pytest.mark.parametrize(
    "name", ["timestamp", "snapshot", "targets", "einstein-researcher", "einstein-approver", "2.root", "manifest"]
)
@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"{", b'{"signed": {}}'])
def test_a_damaged_file_is_fetched_again(grid: Grid, home: Path, name: str, damage: bytes) -> None:
    content = grid.publish(ONE)
    grid.rotate("online", (grid.ada, grid.bob), add=[], threshold=1)
    grid.renew()
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        trusted.manifest(ONE, NOW)
    if name == "manifest":
        (place,) = (path for path in (home / "manifests").iterdir())
    else:
        place = home / f"{name}.json"
    assert place.exists()
    place.write_bytes(damage)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        assert trusted.manifest(ONE, NOW) == content


def test_a_memory_that_cannot_be_read_is_this_computers_fault(grid: Grid, home: Path) -> None:
    with desktop(home, grid):
        pass
    (home / "seen").write_text("{")
    refused("damaged", Duty.DESKTOP, lambda: Trusted(home, grid.bootstrap, grid.source).__enter__())


def test_a_root_that_is_none_is_this_computers_fault(grid: Grid, home: Path) -> None:
    with Trusted(home, b"{}", grid.source) as trusted:
        refused("damaged", Duty.DESKTOP, lambda: trusted.refresh(NOW))


def test_a_folder_that_cannot_be_written_is_this_computers_fault(grid: Grid, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused("disk", Duty.DESKTOP, lambda: Trusted(tmp_path / "file" / "x", grid.bootstrap, grid.source).__enter__())


# -- latest ---------------------------------------------------------------------------------------------------


def test_latest_moves_with_each_version(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        assert trusted.latest("einstein", "search", NOW) == ONE
        grid.publish(TWO)
        trusted.refresh(NOW)
        assert trusted.latest("einstein", "search", NOW) == TWO


def test_latest_stays_where_it_is_when_a_version_is_published_without_it(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    grid.publish(TWO, latest=False)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        assert trusted.latest("einstein", "search", NOW) == ONE


def test_latest_goes_back_only_when_that_is_signed(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    grid.publish(TWO)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        assert trusted.latest("einstein", "search", NOW) == TWO
        refused("backwards", Duty.REQUEST, lambda: grid.shelf.point(ONE, NOW))
        with grid.shelf.editing():
            grid.shelf.point(ONE, NOW, back=True)
            grid.signed(grid.rita)
        grid.approve(ONE)
        grid.renew()
        trusted.refresh(NOW)
        assert trusted.latest("einstein", "search", NOW) == ONE


def test_a_desktop_that_missed_the_step_back_accepts_what_followed(grid: Grid, home: Path) -> None:
    three, four = Version("einstein", "search", "3.0"), Version("einstein", "search", "4.0")
    for version in (ONE, TWO, three, four):
        grid.publish(version)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        assert trusted.latest("einstein", "search", NOW) == four
        for version, back in ((ONE, True), (TWO, False)):
            with grid.shelf.editing():
                grid.shelf.point(version, NOW, back=back)
                grid.signed(grid.rita)
            grid.approve(version)
        grid.renew()
        trusted.refresh(NOW)
        assert trusted.latest("einstein", "search", NOW) == TWO


# -- revoked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["einstein-researcher", "einstein-approver"])
def test_either_of_the_two_can_revoke_and_the_reason_is_told(grid: Grid, home: Path, role: str) -> None:
    grid.publish(ONE)
    grid.publish(TWO)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        trusted.check(ONE, NOW)
        assert trusted.revoked([ONE, TWO], NOW) == {}
        grid.revoke(role, ONE)
        trusted.refresh(NOW)
        assert trusted.revoked([ONE, TWO], NOW) == {ONE: "it has a hole"}
        assert "it has a hole" in refused("revoked", Duty.SIGNERS, lambda: trusted.check(ONE, NOW))
        trusted.check(TWO, NOW)


def test_revoked_is_remembered_also_when_nothing_is_fresh(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    grid.revoke("einstein-approver", ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        assert ONE in trusted.revoked([ONE], NOW)
    with desktop(home, grid) as trusted:
        assert trusted.revoked([ONE], NOW + 900 * DAY) == {ONE: "it has a hole"}


def test_expired_metadata_end_nothing_that_runs(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        trusted.check(ONE, NOW)
        assert trusted.revoked([ONE], NOW + 900 * DAY) == {}


def test_a_project_that_the_administrators_took_out_is_withdrawn(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        trusted.check(ONE, NOW)
        with grid.shelf.editing():
            draft = grid.shelf.draft("targets", NOW)
            draft.signed.delegations.roles.pop("einstein-researcher")
            draft.signed.delegations.keys.pop(grid.rita.public_key.keyid)
            grid.shelf.keep("targets", draft)
            grid.signed(grid.ada, grid.bob)
        grid.renew()
        trusted.refresh(NOW)
        assert "no role einstein-researcher" in trusted.revoked([ONE], NOW)[ONE]


# -- the chain of metadata, link by link ----------------------------------------------------------------------


def test_a_timestamp_with_other_content_but_the_same_version_changes_nothing(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    watched = Attacker(grid.source)
    with desktop(home, grid, watched) as trusted:
        trusted.refresh(NOW)
        kept = (home / "timestamp.json").read_bytes()
        stamp = grid.file("timestamp.json")
        stamp.signed.snapshot_meta.version = 100
        stamp.sign(grid.online)
        watched.instead["metadata/timestamp.json"] = stamp.to_bytes()
        trusted.refresh(NOW)
        trusted.check(ONE, NOW)
    assert (home / "timestamp.json").read_bytes() == kept


def test_a_shipped_root_that_its_administrators_did_not_sign_asks_nobody(grid: Grid, home: Path) -> None:
    root = grid.file("1.root.json")
    root.signatures.clear()
    root.sign(grid.ada)
    watched = Attacker(grid.source)
    with Trusted(home, root.to_bytes(), watched) as trusted:
        refused("bad-signatures", Duty.DESKTOP, lambda: trusted.refresh(NOW))
    assert watched.asked == []


def test_fields_of_root_that_we_do_not_know_are_not_signed_by_us_and_do_desktops_no_harm(
    grid: Grid, home: Path
) -> None:
    grid.publish(ONE)
    with grid.shelf.editing():
        root = grid.shelf.draft("root", NOW)
        root.signed.unrecognized_fields["x-later"] = {"a": [1, None]}
        grid.shelf.keep("root", root)
        refused("strange", Duty.SIGNERS, lambda: grid.signed(grid.ada, grid.bob))
    for signer in (grid.ada, grid.bob):  # with a tool of later
        root.sign(signer, append=True)
    (grid.shelf.metadata / "2.root.json").write_bytes(root.to_bytes())
    with desktop(home, grid) as trusted:
        assert trusted.refresh(NOW).root == 2


def test_a_new_root_is_kept_also_when_it_is_expired_and_what_followed_then_heals(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    late = NOW + 3 * DAY
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        with grid.shelf.editing():
            root = grid.shelf.draft("root", NOW)
            root.signed.expires = NOW + DAY
            grid.shelf.keep("root", root)
            grid.signed(grid.ada, grid.bob)
        grid.renew(late)
        refused("expired-root", Duty.SIGNERS, lambda: trusted.refresh(late))
        assert (home / "2.root.json").exists()
        grid.rotate("administrators", (grid.ada, grid.bob), threshold=2)
        assert trusted.refresh(late).root == 3


def test_an_expired_timestamp_that_was_kept_still_guards_against_older_ones(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    first = grid.file("timestamp.json")
    grid.publish(TWO)
    late = NOW + 3 * DAY
    attacker = Attacker(grid.source)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        first.signed.expires = late + DAY
        first.sign(grid.online)
        attacker.instead["metadata/timestamp.json"] = first.to_bytes()
        refused("rolled-back", Duty.REPOSITORY, lambda: trusted.refresh(late))
        attacker.instead.clear()
        grid.renew(late)
        trusted.refresh(late)
        trusted.check(TWO, late)


def test_how_long_it_is_good_is_the_shortest_of_all_lives(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        assert trusted.refresh(NOW).expires_at == NOW + DAY
    late = NOW + 400 * DAY - HOUR
    grid.renew(late)
    with desktop(home, grid) as trusted:
        assert trusted.refresh(late).expires_at == late + HOUR
