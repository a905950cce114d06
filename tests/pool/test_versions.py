"""Versions of HTCondor: which can't be used, and which bound a user's matches."""

import pytest

from deskgrid.pool.tools.versions import limits_matches, unfit, version


def written(short: str) -> str:
    return f"$CondorVersion: {short} 2026-07-12 BuildID: 900000 PackageID: {short}-1 $"


@pytest.mark.parametrize("short", ["23.9.0", "23.9.6", "24.0.4", "24.0.17", "24.4.0", "24.12.4", "25.0.1", "25.14.1"])
def test_a_good_version_is_taken(short: str) -> None:
    assert unfit("negotiator", written(short)) is None


@pytest.mark.parametrize("short", ["23.10.1", "23.10.29", "24.0.1", "24.0.3", "24.1.1", "24.2.2", "24.3.0"])
def test_a_version_that_crashes_at_an_offline_match_is_refused_by_name(short: str) -> None:
    sentence = unfit("negotiator", written(short))
    assert sentence is not None
    assert sentence.startswith(f"negotiator: got HTCondor {short}") and "HTCONDOR-2819" in sentence


@pytest.mark.parametrize("short", ["9.0.17", "23.0.12", "23.8.1"])
def test_an_older_version_than_was_ever_tried_is_refused(short: str) -> None:
    assert "expected 23.9 or later" in (unfit("collector", written(short)) or "")


@pytest.mark.parametrize("text", [None, "", "24.0.1", "$CondorVersion: $", "$CondorVersion: 99999.0.1 $"])
def test_what_is_no_version_is_held_against_nobody(text: str | None) -> None:
    assert version(text) is None and unfit("negotiator", text) is None and not limits_matches(text)


def test_a_user_is_offered_a_bounded_number_of_matches_from_25_11_on() -> None:
    assert [limits_matches(written(short)) for short in ("23.9.6", "25.10.1")] == [False, False]
    assert [limits_matches(written(short)) for short in ("25.11.0", "25.14.1")] == [True, True]
