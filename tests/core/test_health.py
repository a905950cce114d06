"""Backing off: what counts against whom, for how long, and what ends it."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from deskgrid.core.fleet.health import Health
from deskgrid.model.desktop import Fault
from deskgrid.model.plan import Outcome, PlanSettings

from .values import NOW, after, outcome

SETTINGS = PlanSettings(backoff_seconds=60.0, backoff_max_seconds=3600.0)


def health(*outcomes: Outcome) -> Health:
    return Health(outcomes, SETTINGS)


def test_without_failures_everything_is_allowed_without_a_probe() -> None:
    for standing in (health().image("a", NOW), health().desktop("d", NOW)):
        assert (standing.allowed, standing.probing, standing.reason) == (True, False, None)


def test_a_failed_image_waits_and_then_is_probed() -> None:
    standing = health(outcome("a", "d1", 90), outcome("a", "d2", 90)).image("a", NOW)
    assert (standing.allowed, standing.probing, standing.retry_at) == (False, True, after(30))
    assert standing.reason is not None
    assert (standing.reason.name, standing.reason.until) == ("image-backoff", after(30))
    assert standing.reason.sentence.startswith("The last 2 starts of image a failed; it is tried again")
    standing = health(outcome("a", "d1", 120), outcome("a", "d2", 120)).image("a", NOW)
    assert (standing.allowed, standing.probing, standing.witnesses) == (True, True, {"d1", "d2"})


def test_each_failure_in_a_row_doubles_the_wait_up_to_the_longest() -> None:
    for failures, seconds in ((2, 120), (3, 240), (7, 3600), (400, 3600)):
        outcomes = [outcome("a", f"d{n}", failures - n) for n in range(failures)]
        standing = health(*outcomes).image("a", NOW)
        assert standing.failures == failures
        assert standing.retry_at == outcomes[-1].at + timedelta(seconds=seconds)


def test_a_join_forgives_everything() -> None:
    forgiven = health(*[outcome("a", "d", 100 - n) for n in range(9)], outcome("a", "d", 1, ok=True))
    assert forgiven.image("a", NOW).failures == 0
    assert forgiven.desktop("d", NOW).failures == 0


def test_outcomes_may_come_in_any_order() -> None:
    assert health(outcome("a", "d", 1, ok=True), outcome("a", "d", 50)).image("a", NOW).failures == 0


def test_an_end_that_is_nobodys_fault_counts_against_nobody() -> None:
    fine = health(*[outcome("a", "d", n, fault=Fault.NONE) for n in range(20)])
    assert fine.image("a", NOW).failures == fine.desktop("d", NOW).failures == 0


def test_a_desktops_own_fault_counts_against_the_desktop_alone() -> None:
    standing = health(outcome("a", "d", 1, fault=Fault.DESKTOP))
    assert (standing.image("a", NOW).failures, standing.desktop("d", NOW).failures) == (0, 1)
    reason = standing.desktop("d", NOW).reason
    assert reason is not None and reason.name == "desktop-backoff"


def test_one_desktop_alone_condemns_no_new_image_and_is_not_condemned_by_it() -> None:
    standing = health(outcome("a", "d1", 2), outcome("a", "d1", 1))
    assert (standing.image("a", NOW).failures, standing.desktop("d1", NOW).failures) == (0, 0)
    assert standing.image_on("a", "d1", NOW).retry_at == after(119)
    assert not standing.image_on("a", "d1", NOW).allowed
    assert standing.image_on("a", "d2", NOW).allowed and standing.image_on("b", "d1", NOW).allowed
    assert standing.desktop("d1", NOW).allowed and standing.desktop("d2", NOW).allowed


def test_a_new_image_that_fails_on_two_desktops_is_held_to_be_broken() -> None:
    standing = health(outcome("a", "d1", 3), outcome("a", "d1", 2), outcome("a", "d2", 1))
    assert (standing.image("a", NOW).failures, standing.desktop("d1", NOW).failures) == (3, 0)
    assert standing.image_on("a", "d1", NOW).allowed


def test_a_desktop_that_alone_fails_an_image_that_joins_elsewhere_is_held_to_be_broken() -> None:
    standing = health(outcome("a", "d2", 9, ok=True), outcome("a", "d1", 2), outcome("a", "d1", 1))
    assert (standing.image("a", NOW).failures, standing.desktop("d1", NOW).failures) == (0, 2)


def test_an_image_that_fails_on_two_desktops_since_it_last_joined_is_held_to_be_broken() -> None:
    standing = health(outcome("a", "d3", 9, ok=True), outcome("a", "d1", 2), outcome("a", "d2", 1))
    assert (standing.image("a", NOW).failures, standing.image("a", NOW).witnesses) == (2, {"d1", "d2"})
    assert standing.desktop("d1", NOW).failures == standing.desktop("d2", NOW).failures == 0


def test_when_an_image_joins_again_its_failures_were_the_desktops() -> None:
    standing = health(outcome("a", "d1", 3), outcome("a", "d2", 2), outcome("a", "d3", 1, ok=True))
    assert standing.image("a", NOW).failures == 0
    assert standing.desktop("d1", NOW).failures == standing.desktop("d2", NOW).failures == 1


def test_another_image_that_joins_on_a_desktop_clears_the_desktop() -> None:
    standing = health(outcome("a", "d", 9, fault=Fault.DESKTOP), outcome("b", "d", 1, ok=True))
    assert standing.desktop("d", NOW).failures == 0


OUTCOMES = st.lists(
    st.builds(
        outcome,
        st.sampled_from("ab"),
        st.sampled_from("xyz"),
        st.integers(0, 10_000).map(float),
        st.booleans(),
        st.sampled_from(Fault),
    ),
    max_size=20,
)


@given(OUTCOMES)
def test_whoever_backs_off_has_a_reason_with_an_end_and_is_let_try_again_then(outcomes: list[Outcome]) -> None:
    judged = Health(outcomes, SETTINGS)
    for ask, name in [(judged.image, n) for n in "ab"] + [(judged.desktop, n) for n in "xyz"]:
        standing = ask(name, NOW)
        assert standing.probing is (standing.reason is not None) is (standing.retry_at is not None)
        if standing.retry_at is not None:
            assert standing.retry_at - NOW <= timedelta(seconds=SETTINGS.backoff_max_seconds)
            assert ask(name, standing.retry_at).allowed


@given(OUTCOMES)
def test_no_failure_is_held_against_both_the_image_and_the_desktop(outcomes: list[Outcome]) -> None:
    judged = Health(outcomes, SETTINGS)
    blamed = sum(judged.image(n, NOW).failures for n in "ab") + sum(judged.desktop(n, NOW).failures for n in "xyz")
    blamed += sum(judged.image_on(image, desktop, NOW).failures for image in "ab" for desktop in "xyz")
    assert blamed <= sum(not o.ok and o.fault is not Fault.NONE for o in outcomes)
