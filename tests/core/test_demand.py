"""From matches to VMs, and which machines are offered."""

from datetime import timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.core.fleet.demand import ad_of, covered, fresh, jobs_per_vm, offers, wants
from deskgrid.core.fleet.fitness import could_start
from deskgrid.core.fleet.health import Health
from deskgrid.model.desktop import Desktop
from deskgrid.model.image import Attribute
from deskgrid.model.lease import Size
from deskgrid.model.plan import Outcome, PlanSettings, Snapshot, Want
from deskgrid.model.policy import GIB
from deskgrid.model.pool import Foreign, Job, JobGroup, Match, OfflineAd, PoolSnapshot

from .values import IMAGE, NOW, OTHER, SMALL, after, desktop, facts, outcome

LARGE = Size(4, 4 * GIB)
SETTINGS = PlanSettings(sizes=(SMALL, LARGE))
GROUP = JobGroup("schedd", 1, IMAGE.name, 1, 1024, 10)


def match(count: int = 5, size: Size = SMALL, autocluster: int = 1, ago: float = 0.0, image: str = IMAGE.name) -> Match:
    return Match(image, size, "schedd", autocluster, count, after(-ago))


def pool(*matches: Match, idle: tuple[JobGroup, ...] | None = (GROUP,)) -> PoolSnapshot:
    return PoolSnapshot(NOW, matches, idle, ())


def group(idle: int = 10, cpus: int = 1, memory_mb: int = 1024, autocluster: int = 1) -> JobGroup:
    return JobGroup("schedd", autocluster, IMAGE.name, cpus, memory_mb, idle)


# -- wants --------------------------------------------------------------------------------------------------------


def test_matched_jobs_that_wait_are_wanted_one_vm_each() -> None:
    assert wants(pool(match(5)), SETTINGS) == (Want(IMAGE.name, SMALL, 5, 5),)


def test_matches_that_could_not_be_read_are_unknown_and_not_none() -> None:
    assert wants(PoolSnapshot(NOW, None, (GROUP,), ()), SETTINGS) is None
    assert wants(pool(), SETTINGS) == ()


def test_idle_jobs_that_could_not_be_read_leave_the_matches_as_they_are() -> None:
    assert wants(pool(match(5, LARGE), idle=None), SETTINGS) == (Want(IMAGE.name, LARGE, 5, 5),)


def test_no_more_jobs_are_counted_than_wait() -> None:
    assert wants(pool(match(25), idle=(group(3),)), SETTINGS) == (Want(IMAGE.name, SMALL, 3, 3),)


def test_jobs_that_no_longer_wait_are_not_wanted() -> None:
    assert wants(pool(match(25), idle=()), SETTINGS) == ()


def test_an_old_match_is_no_demand() -> None:
    assert wants(pool(match(5, ago=180)), SETTINGS) != ()
    assert wants(pool(match(5, ago=180.1)), SETTINGS) == ()


def test_a_match_of_a_clock_that_was_ahead_is_none() -> None:
    for later in (0.0, 86400.0):
        seen = msgspec.structs.replace(pool(match(5, ago=-365 * 86400.0)), at=after(later))
        assert wants(seen, SETTINGS) == ()
    assert wants(pool(match(5, ago=-60)), SETTINGS) != ()


def test_a_job_that_forges_the_number_of_others_takes_none_of_theirs_away() -> None:
    forged = msgspec.structs.replace(group(1), vm_name="zzz")
    for idle in ((group(10), forged), (forged, group(10))):
        assert wants(pool(match(10), idle=idle), SETTINGS) == (Want(IMAGE.name, SMALL, 10, 10),)
    small = group(1, cpus=0, memory_mb=1)
    for idle in ((group(10), small), (small, group(10))):
        assert wants(pool(match(10, LARGE), idle=idle), SETTINGS) == (Want(IMAGE.name, LARGE, 3, 10),)


def test_jobs_share_a_vm_when_they_fit() -> None:
    assert wants(pool(match(10, LARGE)), SETTINGS) == (Want(IMAGE.name, LARGE, 3, 10),)


def test_different_jobs_share_the_last_vm() -> None:
    idle = (group(2), group(2, autocluster=2))
    assert wants(pool(match(2, LARGE), match(2, LARGE, 2), idle=idle), SETTINGS) == (Want(IMAGE.name, LARGE, 1, 4),)


def test_memory_bounds_how_many_jobs_share_a_vm() -> None:
    assert [jobs_per_vm(LARGE, group(cpus=1, memory_mb=mb)) for mb in (0, 1024, 1500, 2048, 9000)] == [4, 4, 2, 2, 1]
    assert jobs_per_vm(LARGE, None) == 1


def test_the_same_jobs_matched_with_two_sizes_in_turn_are_counted_once_where_they_matched_last() -> None:
    given_twice = pool(match(10, SMALL, ago=60), match(8, LARGE, ago=1))
    assert wants(given_twice, SETTINGS) == (Want(IMAGE.name, SMALL, 2, 2), Want(IMAGE.name, LARGE, 2, 8))


MATCHES = st.lists(
    st.builds(
        match,
        st.integers(0, 30),
        st.sampled_from([SMALL, LARGE]),
        st.integers(1, 3),
        st.floats(0, 300),
        st.sampled_from([IMAGE.name, OTHER.name]),
    ),
    max_size=8,
)
IDLE = st.lists(
    st.builds(group, st.integers(0, 40), st.integers(0, 8), st.integers(0, 9000), st.integers(1, 3)),
    unique_by=lambda g: g.autocluster,
).map(tuple)


def jobs(pool: PoolSnapshot) -> int:
    wanted = wants(pool, SETTINGS)
    assert wanted is not None
    return sum(want.jobs for want in wanted)


@given(MATCHES, IDLE)
def test_never_more_vms_than_jobs_nor_more_jobs_than_wait(matches: list[Match], idle: tuple[JobGroup, ...]) -> None:
    seen = pool(*matches, idle=idle)
    wanted = wants(seen, SETTINGS) or ()
    assert all(1 <= want.vms <= want.jobs for want in wanted)
    assert jobs(seen) <= sum(g.idle for g in idle)
    assert len({(want.image, want.size) for want in wanted}) == len(wanted)


@given(MATCHES, IDLE, st.integers(1, 3), st.integers(1, 9))
def test_more_waiting_jobs_never_lower_the_demand(
    matches: list[Match], idle: tuple[JobGroup, ...], which: int, more: int
) -> None:
    grown = tuple(msgspec.structs.replace(g, idle=g.idle + more * (g.autocluster == which)) for g in idle)
    assert jobs(pool(*matches, idle=grown)) >= jobs(pool(*matches, idle=idle))


@given(MATCHES, IDLE, MATCHES)
def test_a_further_match_never_lowers_the_demand(
    matches: list[Match], idle: tuple[JobGroup, ...], more: list[Match]
) -> None:
    for seen in (idle, None):
        assert jobs(pool(*matches, *more, idle=seen)) >= jobs(pool(*matches, idle=seen))


@given(MATCHES, IDLE, st.randoms())
def test_the_order_of_matches_does_not_matter(matches: list[Match], idle: tuple[JobGroup, ...], random: object) -> None:
    mixed = list(matches)
    random.shuffle(mixed)
    assert wants(pool(*matches, idle=idle), SETTINGS) == wants(pool(*mixed, idle=idle), SETTINGS)


# -- offers -------------------------------------------------------------------------------------------------------


def offered(*desktops: Desktop, outcomes: tuple[Outcome, ...] = (), memory_bytes: int = GIB, at=NOW) -> set[OfflineAd]:
    snapshot = Snapshot(desktops, (), (facts(memory_bytes=memory_bytes),), (), outcomes)
    return set(offers(snapshot, SETTINGS, Health(outcomes, SETTINGS), at))


AD_SMALL, AD_LARGE = OfflineAd(IMAGE.name, SMALL, 4 * GIB), OfflineAd(IMAGE.name, LARGE, 4 * GIB)


def test_what_an_idle_desktop_could_start_is_offered() -> None:
    assert offered(desktop("d")) == {AD_SMALL, AD_LARGE}


def test_what_no_desktop_could_start_is_not_offered() -> None:
    assert offered() == set()
    assert offered(desktop("d", refusals=("owner-active",))) == set()
    assert offered(desktop("d", silent_seconds=121)) == set()
    assert offered(desktop("d", vms=0)) == set()
    assert offered(desktop("d", disk_bytes=0)) == set()
    assert offered(desktop("d", cpus=0)) == set()


def test_only_sizes_that_fit_somewhere_are_offered() -> None:
    assert offered(desktop("d", memory_bytes=2 * GIB), desktop("e", cpus=2)) == {AD_SMALL}


def test_an_image_that_needs_more_memory_is_not_offered_in_the_small_size() -> None:
    assert offered(desktop("d"), memory_bytes=2 * GIB) == {AD_LARGE}


def test_an_image_that_backs_off_is_withdrawn_until_its_probe_is_due() -> None:
    failed = (outcome(IMAGE.name, "x", 10), outcome(IMAGE.name, "y", 10))
    assert offered(desktop("d"), outcomes=failed) == set()
    assert offered(desktop("d", silent_seconds=-110), outcomes=failed, at=after(110)) == {AD_SMALL, AD_LARGE}


def test_an_image_that_failed_on_one_desktop_alone_is_offered_for_the_others() -> None:
    failed = (outcome(IMAGE.name, "x", 10),)
    assert offered(desktop("x"), outcomes=failed) == set()
    assert offered(desktop("x"), desktop("d"), outcomes=failed) == {AD_SMALL, AD_LARGE}


def test_a_desktop_that_backs_off_offers_nothing() -> None:
    failed = (outcome(IMAGE.name, "x", 10, ok=True), outcome(IMAGE.name, "d", 5))
    assert offered(desktop("d"), outcomes=failed) == set()
    assert not could_start(desktop("d"), facts(), SMALL, SETTINGS, Health(failed, SETTINGS), NOW)


DESKTOPS = st.lists(
    st.builds(
        desktop,
        st.uuids().map(str),
        refusals=st.sampled_from([(), (), ("owner-active",)]),
        silent_seconds=st.floats(0, 240),
        vms=st.integers(0, 3),
        cpus=st.integers(0, 8),
        memory_bytes=st.integers(0, 8).map(lambda n: n * GIB),
    ),
    max_size=5,
)


@given(DESKTOPS, DESKTOPS)
def test_a_further_desktop_never_withdraws_an_offer(desktops: list[Desktop], more: list[Desktop]) -> None:
    assert offered(*desktops) <= offered(*desktops, *more)


@given(DESKTOPS)
def test_every_offer_can_be_kept_by_a_desktop(desktops: list[Desktop]) -> None:
    health = Health((), SETTINGS)
    for ad in offered(*desktops):
        assert any(could_start(d, facts(), ad.size, SETTINGS, health, NOW) for d in desktops)


def test_a_job_is_covered_by_an_offer_of_its_image_that_is_large_enough() -> None:
    def asks(image: str, cpus: int, memory_mb: int, disk_kib: int = 0) -> bool:
        return covered([AD_LARGE], Job("1.0", "ada", 1, image, cpus, memory_mb, "true", disk_kib=disk_kib))

    assert asks(IMAGE.name, 4, 4096, AD_LARGE.disk_bytes // 1024)
    assert not asks(IMAGE.name, 5, 1)
    assert not asks(IMAGE.name, 1, 4097)
    assert not asks(IMAGE.name, 1, 1, AD_LARGE.disk_bytes // 1024 + 1)
    assert not asks(OTHER.name, 1, 1)


def test_an_offer_says_what_the_images_trial_boot_said() -> None:
    says = (Attribute("OpSysAndVer", '"Debian13"'),)
    known = msgspec.structs.replace(facts(), free_bytes=GIB, says=says)
    assert ad_of(known, SMALL) == OfflineAd(known.ref.name, SMALL, GIB, says)
    assert ad_of(facts(), SMALL) == OfflineAd(facts().ref.name, SMALL, facts().disk_bytes)


def test_of_a_schedd_that_flocks_here_no_more_matches_count_than_jobs_wait_there() -> None:
    abroad = tuple(
        msgspec.structs.replace(match(count, autocluster=number), schedd="away")
        for number, count in enumerate((20, 5), start=1)
    )
    seen = pool(match(3), *abroad, idle=(group(3),))
    seen = msgspec.structs.replace(seen, foreign=(Foreign("away", 22),))
    assert wants(seen, SETTINGS) == (Want(IMAGE.name, SMALL, 25, 25),)
    nothing = msgspec.structs.replace(seen, foreign=(Foreign("away", 0),))
    assert wants(nothing, SETTINGS) == (Want(IMAGE.name, SMALL, 3, 3),)


def test_matches_stay_fresh_for_as_long_as_they_are_demand() -> None:
    seen = (match(ago=1), match(ago=180), match(ago=181))
    assert fresh(seen, NOW, SETTINGS) == seen[:2]
    assert fresh(seen, NOW + timedelta(seconds=180), SETTINGS) == ()
