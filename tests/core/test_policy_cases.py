"""Policy: each case is a sentence in `cases/policy-*.json`, facts in, decision out; see `deskgrid.core.desktop.cases`.

They are tried on the default policy without spacing and offset, which have cases of their own.
"""

from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from deskgrid.core.desktop.cases import Case, Given, decided, differences, facts_of, policy_of
from deskgrid.core.policy.availability import availability, may_go_on
from deskgrid.core.policy.refusals import BY_NAME, REFUSALS, Effect
from deskgrid.model.policy import Policy

from .values import ROOMY

CASES = Path(__file__).parent / "cases"
TRIED = Policy(start_spacing_seconds=0.0, start_offset_seconds=0.0)


def _read() -> list[tuple[str, Case]]:
    paths = sorted(CASES.glob("policy-*.json"))
    return [(path.stem[7:], case) for path in paths for case in msgspec.json.decode(path.read_bytes(), type=list[Case])]


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{file}: {case.name}") for file, case in _read()])
def test_policy_decides(case: Case) -> None:
    zone = ZoneInfo(case.given.zone or "UTC")
    assert differences(case, TRIED, zone) == ()
    facts = facts_of(case.given, zone)
    order = [refusal.name for refusal in REFUSALS]
    refusals = availability(policy_of(case.given, TRIED), facts).refusals
    for refusal in refusals:
        assert refusal.sentence.endswith(".") and (refusal.until is None or refusal.until.tzinfo is UTC)
    names = [refusal.name for refusal in refusals if refusal not in facts.faults]
    assert names == sorted(names, key=order.index)
    stops = may_go_on(policy_of(case.given, TRIED), facts)
    assert stops is None or BY_NAME[stops.name].effect is Effect.STOP


def test_every_refusal_has_a_case() -> None:
    said = set()
    for _, case in _read():
        got = decided(case.given, TRIED, ZoneInfo(case.given.zone or "UTC"))
        said |= {*got["refusals"], got["gives_back"]}
    assert {refusal.name for refusal in REFUSALS} <= said


def test_a_case_that_expects_something_else_is_told_what_was_decided() -> None:
    text = '{"name": "n", "given": {"logged_in": true}, "expect": {"refusal": null, "may_start": true, "spared": 0}}'
    found = differences(msgspec.json.decode(text, type=Case), TRIED, UTC)
    assert [(one.key, one.expected, one.got) for one in found] == [
        ("may_start", True, False),
        ("refusal", None, "working-hours"),
    ]


@pytest.mark.parametrize("wrong", [{"policy": {"idle_secs": 3}}, {"policy": {"max_vms": -1}}, {"at": "yesterday"}])
def test_a_case_with_something_wrong_in_it_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"idle_secs|max_vms|isoformat"):
        decided(msgspec.convert(wrong, Given), TRIED, UTC)


def test_a_machine_like_the_one_that_cases_assume_is_the_ordinary_one() -> None:
    assert facts_of(Given(), UTC).machine == msgspec.structs.replace(ROOMY, up_seconds=86400.0)
