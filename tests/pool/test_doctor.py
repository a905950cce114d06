"""What the doctor says of a pool."""

from pathlib import Path

import pytest

from deskgrid.host.doctor.facts import Level
from deskgrid.pool.config import PoolSettings, _lease
from deskgrid.pool.doctor import PoolFacts, ask, examine, must_be_fit, read, unfit_daemons
from deskgrid.pool.tools.reach import Reach

GOOD = {"collector": "$CondorVersion: 23.9.6 x $", "negotiator": "$CondorVersion: 25.14.1 x $"}
BAD = GOOD | {"negotiator": "$CondorVersion: 24.0.2 x $"}
DYNAMIC = {"GROUP_NAMES": "group_physics, group_bio", "GROUP_QUOTA_DYNAMIC_group_physics": "0.3"}


def levels(seen: PoolFacts) -> dict[str, Level]:
    return {finding.name: finding.level for finding in examine(seen)}


def test_a_good_pool_is_said_to_be_good() -> None:
    assert levels(PoolFacts(GOOD, {})) == {"pool-version": Level.OK}


def test_a_negotiator_that_crashes_is_bad_and_named() -> None:
    (finding,) = examine(PoolFacts(BAD, {}))
    assert finding.level is Level.BAD and "24.0.2" in finding.sentence


def test_a_group_whose_dynamic_quota_never_starts_a_machine_is_named_with_what_to_set() -> None:
    quotas = examine(PoolFacts(GOOD, DYNAMIC))[-1]
    assert (quotas.name, quotas.level) == ("pool-quotas", Level.WARN)
    assert "group_physics" in quotas.sentence and "GROUP_ACCEPT_SURPLUS_group_physics = True" in quotas.mend[0]


@pytest.mark.parametrize(
    "more",
    [
        {"GROUP_ACCEPT_SURPLUS": "True"},
        {"GROUP_ACCEPT_SURPLUS_group_physics": "true"},
        {"GROUP_AUTOREGROUP": "True"},
        {"GROUP_AUTOREGROUP_group_physics": "True"},
    ],
)
def test_a_group_that_takes_surplus_is_well(more: dict[str, str]) -> None:
    assert "pool-quotas" not in levels(PoolFacts(GOOD, DYNAMIC | more))


def test_what_a_group_says_of_surplus_wins_over_what_all_say() -> None:
    more = {"GROUP_ACCEPT_SURPLUS": "True", "Group_Accept_Surplus_group_physics": "False"}
    assert "pool-quotas" in levels(PoolFacts(GOOD, DYNAMIC | more))


@pytest.mark.parametrize(
    ("lease", "said"),
    [
        (f"JOB_DEFAULT_LEASE_DURATION = {_lease(PoolSettings())}", None),
        (f"JOB_DEFAULT_LEASE_DURATION = {_lease(PoolSettings(lease_seconds=780))}", "A lease of 780 s"),
        ("Job_Default_Lease_Duration = 180", "A lease of 180 s"),
        ("JOB_DEFAULT_LEASE_DURATION = 2400", None),
        ("JOB_DEFAULT_LEASE_DURATION =", None),
        ("", None),
    ],
)
def test_a_lease_that_a_pause_may_outlast_is_named(lease: str, said: str | None) -> None:
    found = [finding for finding in examine(read("", lease + "\n")) if finding.name == "pool-lease"]
    assert [said is not None and said in finding.sentence for finding in found] == ([] if said is None else [True])


def test_what_the_tools_print_is_read() -> None:
    daemons = "".join(f"{who.title()} {text}\n" for who, text in BAD.items())
    settings = "# Showing macros\n" + "".join(f"{name} = {value}\n" for name, value in DYNAMIC.items())
    seen = read(daemons, settings)
    assert (seen.versions, seen.settings) == (BAD, DYNAMIC)
    assert [fault.partition(",")[0] for fault in unfit_daemons(seen)] == ["negotiator: got HTCondor 24.0.2"]


def test_where_no_pool_answers_nothing_is_said_and_nothing_refused(tmp_path: Path) -> None:
    nowhere = Reach(tree=str(tmp_path))
    assert ask(nowhere) is None
    must_be_fit(nowhere)


@pytest.mark.parametrize(("seconds", "said"), [(75, "for 390 s"), (5, ""), (None, "")])
def test_a_computer_that_asks_silent_connections_too_seldom_is_named(seconds: int | None, said: str) -> None:
    found = [one for one in examine(PoolFacts({}, {}, probe_seconds=seconds)) if one.name == "pool-keepalive"]
    assert [said in one.sentence and "tcp_keepalive_intvl = 5" in one.mend[0] for one in found] == [True] * bool(said)
