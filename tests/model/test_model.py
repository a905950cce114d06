"""The nouns check what comes from outside, and say what they got."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.model.instance import InstanceData
from deskgrid.model.lease import Lease
from deskgrid.model.policy import Policy
from deskgrid.model.values.names import BadName, Name, name

GOOD = ["a", "7", "its-sl6-lscsoft-20120415", "A.b_c-d", "x" * 64]
BAD = ["", " a", "a b", "-a", ".hidden", "_x", "a/b", "a\n", "a\0", 'a"', "ä", "x" * 65, "../a"]


@pytest.mark.parametrize("text", GOOD)
def test_a_good_name_passes_unchanged(text: str) -> None:
    assert name("image name", text) == text
    assert msgspec.convert(text, Name) == text


@pytest.mark.parametrize("text", BAD)
def test_a_bad_name_is_refused_with_what_was_got_and_what_is_expected(text: str) -> None:
    with pytest.raises(BadName, match=r"image name: got .* expected at most 64 letters"):
        name("image name", text)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Name)


@given(st.text())
def test_the_check_and_the_type_of_a_name_agree(text: str) -> None:
    def passes(check: object) -> bool:
        try:
            check()
        except (BadName, msgspec.ValidationError):
            return False
        return True

    assert passes(lambda: name("name", text)) == passes(lambda: msgspec.convert(text, Name))


def test_instance_data_never_shows_its_token() -> None:
    data = InstanceData("vm-1", "its-sl6", "desk-1", "head:9618", "s3cret", "grid", 1, 1024)
    assert "s3cret" not in repr(data) and "s3cret" not in str(data) and "s3cret" not in f"{[data]}"
    assert "vm-1" in repr(data)


LEASE = {
    "vm_id": "vm-1",
    "desktop": "desk-1",
    "image": {"name": "its-sl6", "digest": "a" * 64},
    "size": {"cpus": 1, "memory_bytes": 1 << 30},
    "granted_at": "2026-03-03T20:00:00Z",
    "until": "2026-03-03T20:05:00Z",
    "reason": {"name": "demand", "sentence": "A job waits."},
}


def test_a_lease_comes_back_as_it_was_written() -> None:
    lease = msgspec.convert(LEASE, Lease, strict=False)
    assert lease.until == datetime(2026, 3, 3, 20, 5, tzinfo=UTC)
    assert msgspec.json.decode(msgspec.json.encode(lease), type=Lease) == lease


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("until", "2026-03-03T20:05:00", "timezone"),
        ("until", "tomorrow", "datetime"),
        ("vm_id", "../etc/passwd", "vm_id"),
        ("image", {"name": "its-sl6", "digest": "A" * 64}, "digest"),
        ("size", {"cpus": "many", "memory_bytes": 1}, "cpus"),
        ("reason", None, "reason"),
    ],
)
def test_a_lease_with_something_wrong_in_it_is_refused_with_the_place(
    field: str, value: object, complaint: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.json.decode(msgspec.json.encode({**LEASE, field: value}), type=Lease)


def test_fields_of_a_lease_that_a_newer_coordinator_adds_are_let_pass() -> None:
    assert msgspec.json.decode(msgspec.json.encode({**LEASE, "colour": "blue"}), type=Lease).vm_id == "vm-1"


@pytest.mark.parametrize(
    "wrong",
    [
        {"closed": ["07:00-17:00Z"]},
        {"closed": ["25:00-26:00"]},
        {"closed": ["07:00-07:00"]},
        {"closed_nobody": ["Mon 24:00-07:00"]},
        {"idle_seconds": -1},
        {"grace_seconds": 8 * 86400},
        {"vm_disk_bytes": 0},
        {"max_vms": 65},
        {"cpu_share": 1.5},
        {"idle_secs": 5},
    ],
)
def test_a_policy_with_something_wrong_in_it_is_refused_with_the_place(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
        msgspec.json.decode(msgspec.json.encode(wrong), type=Policy)
