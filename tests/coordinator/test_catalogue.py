"""What is on offer: chosen from what is listed, read from a real signed repository as time passes."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.coordinator.images.catalogue import FixedCatalogue, Unreadable
from deskgrid.coordinator.images.signed import SignedCatalogue
from deskgrid.core.fleet.catalogue import CatalogueEntry, Choice, Listing, choose, gone
from deskgrid.images.format.keys import make_key
from deskgrid.images.format.published import digest
from deskgrid.images.trust.keys import make_key as make_signing_key
from deskgrid.images.trust.values import Version
from deskgrid.model.image import ImageRef
from deskgrid.model.reason import Reason

from .lab import Lab
from .values import FACTS

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BAD = Reason("image-revoked", "It is bad.")
PROJECTS = frozenset({"einstein", "newton"})


def listed(
    version: int, latest: bool = False, refused: Reason | None = None, project: str = "einstein"
) -> CatalogueEntry:
    ref = ImageRef("search", f"{version}{len(project)}".rjust(64, "0"))
    return CatalogueEntry(ref, project, f"{version}.0", version, latest, refused=refused)


def chosen(*versions: CatalogueEntry, owners: dict[str, str] | None = None) -> Choice:
    return choose(Listing(versions, PROJECTS), owners or {})


# -- decisions ------------------------------------------------------------------------------------------------


def test_the_latest_is_offered_and_older_ones_are_not() -> None:
    choice = chosen(listed(1), listed(2, latest=True), listed(3))
    assert choice.offered["search"].version == "2.0"
    assert (choice.absent, choice.problems) == ({}, ())
    assert choice.owners == {"search": "einstein"}


def test_a_revoked_latest_gives_way_to_the_good_one_before_it_and_never_to_one_after_it() -> None:
    choice = chosen(listed(1), listed(2), listed(3, latest=True, refused=BAD), listed(4))
    assert choice.offered["search"].version == "2.0"
    assert choice.problems == ("image einstein/search: It is bad. Version 2.0 is offered instead.",)
    assert choice.absent == {}


def test_with_nothing_good_before_it_the_name_is_absent_with_the_reason() -> None:
    choice = chosen(listed(1, latest=True, refused=BAD), listed(2))
    assert (choice.offered, choice.absent) == ({}, {"search": BAD})
    assert choice.owners == {}


def test_an_image_without_a_latest_says_what_waits_or_that_a_pointer_lacks() -> None:
    waits = Reason("image-unsigned", "It waits for paul.")
    assert chosen(listed(1, refused=waits)).absent["search"] == waits
    assert chosen(listed(1)).absent["search"].name == "image-no-latest"


def test_a_name_belongs_to_the_first_project_that_published_under_it_while_that_exists() -> None:
    both = (listed(1, latest=True, project="newton"), listed(1, latest=True))
    choice = chosen(*both, owners={"search": "newton"})
    assert choice.offered["search"].project == "newton"
    assert choice.absent == {}
    (problem,) = choice.problems
    assert "image einstein/search: The name search belongs to project newton" in problem
    assert chosen(*both, owners={"search": "kepler"}).offered["search"].project == "einstein"


def test_a_name_that_anothers_project_holds_without_offering_it_is_absent_for_its_owners_reason() -> None:
    choice = chosen(listed(1, latest=True), listed(1, True, BAD, "newton"), owners={"search": "newton"})
    assert (choice.offered, choice.absent) == ({}, {"search": BAD})


def test_a_name_whose_owner_lists_nothing_under_it_now_is_absent_since_it_is_taken() -> None:
    choice = chosen(listed(1, latest=True), owners={"search": "newton"})
    assert (choice.offered, choice.absent["search"].name) == ({}, "image-name-taken")


def test_what_may_not_go_on_is_what_was_revoked_and_what_belonged_to_a_project_that_is_no_more() -> None:
    listing = Listing(projects=PROJECTS, revoked={"a": "bad"})
    assert gone({"b": "einstein", "c": "kepler"}, listing) == {"a": "bad", "c": "project kepler is no more"}


def test_a_fixed_catalogue_says_what_it_offers_once_and_has_no_keys() -> None:
    fixed = FixedCatalogue(FACTS)
    first = fixed.look(NOW)
    assert first is not None
    assert choose(first, {}).offered == {FACTS.ref.name: FACTS}
    assert fixed.look(NOW) is None
    assert fixed.key("") is None


def version(text: str) -> Version:
    return Version(*text.split("/"))


# -- a real repository ----------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "lab", NOW)
    yield made


def catalogue(lab: Lab, **more: object) -> SignedCatalogue:
    return SignedCatalogue(lab.more(**more), lab.folder / "memory")


def look(one: SignedCatalogue, now: datetime = NOW) -> Listing:
    listing = one.look(now)
    assert listing is not None
    return listing


def state(listing: Listing) -> dict[str, str]:
    return {str(v): v.refused.name if v.refused else "latest" if v.latest else "good" for v in listing.versions}


def test_what_both_signed_is_listed_with_its_sizes_its_signers_and_its_digest(lab: Lab) -> None:
    content = lab.publish("einstein/search/1.0")
    one = catalogue(lab)
    (found,) = look(one).versions
    assert found.ref == ImageRef("search", digest(content))
    assert (found.latest, found.refused, found.number) == (True, None, 1)
    assert [name.split(" ")[0] for name in found.signers] == ["rita", "paul"]
    assert (found.memory_bytes, found.disk_bytes) == (256 << 20, 20_000 * len("einstein/search/1.0"))
    assert found.size_bytes > 0
    assert one.key("einstein") == (lab.keys / "einstein.key").read_text().strip()
    assert one.key("newton") is None


def test_the_coordinator_renews_by_itself_and_reads_again_only_when_something_changed_or_it_is_due(lab: Lab) -> None:
    lab.publish("einstein/search/1.0")
    one = catalogue(lab)
    until = look(one).until
    assert until is not None
    assert until == NOW + timedelta(days=1)
    one.look(NOW)  # its own files were the change
    assert one.look(NOW + timedelta(seconds=200)) is None
    assert look(one, NOW + timedelta(seconds=301)).until == until
    later = look(one, NOW + timedelta(hours=20)).until
    assert later is not None
    assert later > until
    lab.publish("einstein/search/2.0")
    assert state(look(one, NOW + timedelta(hours=20, seconds=1))) == {
        "einstein/search/1.0": "good",
        "einstein/search/2.0": "latest",
    }


def test_a_version_that_waits_is_listed_with_the_people_who_have_to_sign(lab: Lab) -> None:
    lab.propose("einstein/search/1.0")
    (found,) = look(catalogue(lab)).versions
    assert found.refused is not None
    assert found.refused.name == "image-unsigned"
    assert "einstein/search/1.0 waits for the signature of paul (" in found.refused.sentence
    assert found.refused.sentence.endswith(" (einstein-approver).")


def test_a_version_that_only_a_draft_names_waits_for_both(lab: Lab) -> None:
    with lab.grid.shelf.editing():
        lab.grid.shelf.propose(version("einstein/search/1.0"), b"{}", NOW)
    (found,) = look(catalogue(lab)).versions
    assert found.refused is not None
    assert "rita" in found.refused.sentence
    assert "paul" in found.refused.sentence
    assert found.signers == ()


def test_while_an_update_waits_the_version_before_stays_on_offer(lab: Lab) -> None:
    lab.publish("einstein/search/1.0")
    lab.propose("einstein/search/2.0")
    listing = look(catalogue(lab))
    assert state(listing) == {"einstein/search/1.0": "latest", "einstein/search/2.0": "image-unsigned"}
    assert choose(listing, {}).offered["search"].version == "1.0"


def test_a_revocation_is_listed_also_when_nothing_can_be_renewed(lab: Lab) -> None:
    first = digest(lab.publish("einstein/search/1.0"))
    second = digest(lab.publish("einstein/search/2.0"))
    one = catalogue(lab)
    look(one)
    lab.revoke("einstein/search/2.0")
    listing = look(one)
    assert state(listing) == {"einstein/search/1.0": "good", "einstein/search/2.0": "image-revoked"}
    assert listing.revoked == {second: "telnet was left in"}
    assert choose(listing, {}).offered["search"].ref.digest == first
    lab.password.write_text("wrong")
    lab.revoke("einstein/search/1.0", "and in this one")
    again = SignedCatalogue(lab.settings, lab.folder / "memory")
    assert look(again).revoked == {second: "telnet was left in", first: "and in this one"}
    with pytest.raises(Unreadable) as error:
        again.look(NOW + timedelta(days=2))
    assert error.value.revoked == {second: "telnet was left in", first: "and in this one"}
    assert any("wrong password" in problem for problem in error.value.problems)


def test_a_project_without_its_key_or_with_another_offers_nothing_and_a_new_key_is_seen_at_once(lab: Lab) -> None:
    lab.publish("einstein/search/1.0")
    key = lab.keys / "einstein.key"
    one = catalogue(lab)
    look(one)
    key.chmod(0o644)
    listing = look(one)
    assert state(listing) == {"einstein/search/1.0": "image-keyless"}
    assert listing.problems == (
        f"project einstein: its images are not on offer: project key {key}: got mode 644, expected 600; chmod it",
    )
    assert one.key("einstein") is None
    key.rename(lab.folder / "aside")
    assert "No such file" in look(one).problems[0]
    make_key(key)
    (found,) = look(one).versions
    assert found.refused is not None
    assert "encrypted with another key" in found.refused.sentence
    key.unlink()
    (lab.folder / "aside").rename(key)
    key.chmod(0o600)
    assert state(look(one)) == {"einstein/search/1.0": "latest"}
    assert "images.keys is not set" in look(catalogue(lab, keys=None)).problems[0]


def test_without_an_online_key_it_only_reads(lab: Lab) -> None:
    lab.publish("einstein/search/1.0")
    reader = catalogue(lab, online_key=None, online_password_file=None)
    with pytest.raises(Unreadable):
        reader.look(NOW)
    lab.grid.renew(NOW)
    assert state(look(reader)) == {"einstein/search/1.0": "latest"}


def test_a_wrong_online_key_is_a_problem_and_what_is_current_goes_on_until_its_end(lab: Lab) -> None:
    lab.publish("einstein/search/1.0")
    look(catalogue(lab))
    make_signing_key(lab.folder / "other", "mallory", "correct horse", scrypt=1 << 10)
    one = catalogue(lab, online_key=lab.folder / "other")
    listing = look(one)
    assert state(listing) == {"einstein/search/1.0": "latest"}
    assert any("root does not name it as the online key" in problem for problem in listing.problems)
    with pytest.raises(Unreadable, match="expired-timestamp"):
        one.look(NOW + timedelta(days=2))


def test_a_missing_a_broken_and_a_changed_repository_raise_nothing_but_unreadable(lab: Lab) -> None:
    lab.publish("einstein/search/1.0")
    one = catalogue(lab)
    look(one)
    moments = (NOW + timedelta(minutes=10 * number) for number in range(1, 9))

    def unreadable() -> str:
        with pytest.raises(Unreadable) as error:
            one.look(next(moments))
        return str(error.value)

    (lab.web / "metadata" / "timestamp.json").write_text("{")
    assert "timestamp.json: can't be read" in unreadable()
    lab.web.rename(lab.folder / "away")
    assert "there is none" in unreadable()
    lab.web.write_text("a file")
    assert "there is none" in unreadable()
    lab.web.unlink()
    (lab.web / "metadata").mkdir(parents=True)
    assert "root and targets wait for signatures" in unreadable()
    shutil.rmtree(lab.web)
    (lab.folder / "away").rename(lab.web)
    (lab.web / "metadata" / "timestamp.json").unlink()
    assert state(look(one, next(moments))) == {"einstein/search/1.0": "latest"}


def test_a_manifest_that_is_of_another_image_or_no_manifest_is_not_offered(lab: Lab) -> None:
    content = lab.publish("einstein/search/1.0")
    lab.grid.publish(version("einstein/other/1.0"), content)
    lab.grid.publish(version("einstein/text/1.0"), b"no manifest")
    listing = look(catalogue(lab))
    assert state(listing) == {
        "einstein/other/1.0": "image-damaged",
        "einstein/search/1.0": "latest",
        "einstein/text/1.0": "image-damaged",
    }


def test_other_content_under_a_version_that_was_seen_is_refused(lab: Lab) -> None:
    kept = lab.folder / "kept"
    shutil.copytree(lab.web, kept)
    lab.publish("einstein/search/1.0")
    one = catalogue(lab)
    look(one)
    shutil.rmtree(lab.web)
    kept.rename(lab.web)
    assert lab.grid.shelf.held is not None
    lab.grid.shelf.held.seen.clear()  # their computers are new: else they would not sign that
    for number in range(4):  # so that no version of metadata is older than one that was seen
        lab.grid.publish(version(f"einstein/filler/{number}"), b"no manifest")
    lab.grid.publish(version("einstein/search/1.0"), b"other content")
    refused = {str(v): v.refused for v in look(one).versions}["einstein/search/1.0"]
    assert refused is not None
    assert "a name and version never change" in refused.sentence


# -- whatever is listed ---------------------------------------------------------------------------------------

STANDINGS = st.sampled_from([None, BAD, Reason("image-unsigned", "It waits.")])


@st.composite
def listings(draw: st.DrawFn) -> Listing:
    found = []
    for project in draw(st.lists(st.sampled_from(["einstein", "newton", "kepler"]), unique=True)):
        for name in draw(st.lists(st.sampled_from(["search", "fold"]), unique=True)):
            standings = draw(st.lists(STANDINGS, max_size=4))
            pointed = draw(st.integers(0, 4))
            for number, refused in enumerate(standings, 1):
                ref = ImageRef(name, digest(f"{project} {name} {number}".encode()))
                found.append(CatalogueEntry(ref, project, f"{number}.0", number, number == pointed, refused=refused))
    return Listing(tuple(draw(st.permutations(found))), frozenset(one.project for one in found))


@given(st.lists(listings(), max_size=5))
def test_whatever_is_listed_only_good_versions_of_a_names_owner_are_offered_and_a_reason_stands_for_the_rest(
    story: list[Listing],
) -> None:
    owners: dict[str, str] = {}
    for listing in story:
        choice = choose(listing, owners)
        by_digest = {one.ref.digest: one for one in listing.versions}
        for name, facts in choice.offered.items():
            one = by_digest[facts.ref.digest]
            assert (one.refused, one.ref.name, one.project) == (None, name, choice.owners[name])
            (pointed,) = (v for v in listing.versions if v.latest and (v.ref.name, v.project) == (name, one.project))
            assert one.number <= pointed.number
        for name, project in owners.items():
            if project in listing.projects:
                assert choice.owners[name] == project
        names = {one.ref.name for one in listing.versions}
        assert choice.offered.keys() | choice.absent.keys() <= names
        assert not choice.offered.keys() & choice.absent.keys()
        for name in names - choice.offered.keys():
            assert name in choice.absent
        owners = dict(choice.owners)
