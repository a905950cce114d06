"""Policy cases: facts in, decision out, named by a sentence. What an administrator writes, and what our own tests read.

Rules:
- `given` says what differs from an idle desktop at noon, with nobody logged in, 8 processors, 16 GiB of memory (14 of
  them available) and 100 GiB of free disk, on mains power and a wired network, up for a day.
- `given.policy` holds settings that differ from the policy that is tried.
- `expect` holds exactly what is to be compared; what it does not name may be anything.
"""

import re
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import msgspec

from deskgrid.core.desktop.room import room
from deskgrid.core.desktop.vm import Vm
from deskgrid.core.policy.availability import availability, standing
from deskgrid.core.policy.facts import Facts, Waits
from deskgrid.model.desktop import VmState
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Lease, Size
from deskgrid.model.policy import GIB, Machine, Policy, Share
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason
from deskgrid.model.values.moment import Moment, check_moments
from deskgrid.model.values.numbers import Cpus, Span
from deskgrid.model.wish import Ask, Wish

Gib = Annotated[float, msgspec.Meta(ge=0, le=1 << 20)]
T = TypeVar("T", bound=msgspec.Struct)
Fold = Annotated[int, msgspec.Meta(ge=0, le=1)]


class Here(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A VM that is here."""

    state: VmState
    cpus: Cpus = 1
    memory_gib: Gib = 1


class _Beside(msgspec.Struct, frozen=True):
    """What a case may give beside a reading of presence and one of the machine.

    at: the wall clock, ISO without zone. fold: 1 in the second pass of an hour that comes twice. zone: IANA name;
    empty: the policy's, and where that has none, UTC. asked, asked_until: a wish. loaded: others' load counts as too
    high. clear_seconds, started_seconds, offset_fraction: what pacing remembers.
    """

    policy: dict[str, Any] = {}
    at: str = "2026-03-03T12:00:00"
    zone: str = ""
    fold: Fold = 0
    asked: Ask | None = None
    asked_until: Moment | None = None
    faults: tuple[Reason, ...] = ()
    loaded: bool = False
    clear_seconds: Span | None = None
    started_seconds: Span | None = None
    offset_fraction: Share = 0.0
    vms: tuple[Here, ...] = ()


_IDLE = Reading(False, 86400.0)
_ORDINARY = Machine(8, 16 * GIB, 14 * GIB, 100 * GIB, up_seconds=86400.0)
_SIZE = "_bytes"


def _key(of: msgspec.Struct, name: str) -> str:
    """What a case calls a field: sizes are in GiB, and what a reading could not read is its own."""
    return "presence_faults" if (type(of), name) == (Reading, "faults") else re.sub(f"{_SIZE}$", "_gib", name)


def _fields(of: msgspec.Struct) -> list[tuple[str, Any, Any]]:
    """A case's keys for a struct, with their types and defaults."""
    found = []
    for field in msgspec.structs.fields(of):
        size, value = field.name.endswith(_SIZE), getattr(of, field.name)
        found.append((_key(of, field.name), Gib if size else field.type, value / GIB if size else value))
    return found


if TYPE_CHECKING:
    Given: TypeAlias = Any
else:
    Given = msgspec.defstruct(
        "Given", [*_fields(_Beside()), *_fields(_IDLE), *_fields(_ORDINARY)], frozen=True, forbid_unknown_fields=True
    )
    """Facts: what differs from an idle desktop, all in one table."""


def _given(given: Given, usual: T) -> T:
    """A struct with the fields that a case gives."""
    values = {}
    for field in msgspec.structs.fields(usual):
        value = getattr(given, _key(usual, field.name))
        values[field.name] = int(value * GIB) if field.name.endswith(_SIZE) else value
    return msgspec.structs.replace(usual, **values)


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is decided.

    may_start: whether a VM may start. refusals: the names of all that refuses it, in order; refusal, sentence,
    reading, until: of the first. may_go_on: whether VMs that are here may run on; stopped_by: the name of what stops
    them. spared: how many may all the same. cpus: for all VMs together. gives_back: why a VM must end at once.
    room_*: for further VMs.
    """

    may_start: bool | msgspec.UnsetType = msgspec.UNSET
    refusals: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    refusal: str | msgspec.UnsetType | None = msgspec.UNSET
    sentence: str | msgspec.UnsetType = msgspec.UNSET
    reading: str | msgspec.UnsetType = msgspec.UNSET
    until: Moment | msgspec.UnsetType | None = msgspec.UNSET
    may_go_on: bool | msgspec.UnsetType = msgspec.UNSET
    stopped_by: str | msgspec.UnsetType | None = msgspec.UNSET
    spared: int | msgspec.UnsetType = msgspec.UNSET
    cpus: int | msgspec.UnsetType = msgspec.UNSET
    gives_back: str | msgspec.UnsetType | None = msgspec.UNSET
    room_cpus: int | msgspec.UnsetType = msgspec.UNSET
    room_memory_gib: float | msgspec.UnsetType = msgspec.UNSET
    room_disk_gib: float | msgspec.UnsetType = msgspec.UNSET
    room_vms: int | msgspec.UnsetType = msgspec.UNSET


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sentence, what is given, and what is expected."""

    name: str
    given: Given = msgspec.field(default_factory=lambda: Given())
    expect: Expect = Expect()


class Deviation(msgspec.Struct, frozen=True):
    """Something was decided otherwise than expected."""

    key: str
    expected: object
    got: object


def facts_of(given: Given, zone: tzinfo) -> Facts:
    """The facts that a case gives. zone: `given.zone`, looked up. Raises: ValueError: `at` is no time."""
    local = datetime.fromisoformat(given.at).replace(tzinfo=zone, fold=given.fold)
    check_moments(local)
    wish = None if given.asked is None else Wish(given.asked, "owner", local, given.asked_until)
    waits = Waits(given.clear_seconds, given.started_seconds, given.loaded, given.offset_fraction)
    return Facts(_given(given, _IDLE), _given(given, _ORDINARY), local, given.faults, wish, waits)


def policy_of(given: Given, tried: Policy) -> Policy:
    """The policy that is tried, with what a case sets otherwise. Raises: ValueError: a setting is wrong."""
    return msgspec.convert({**msgspec.to_builtins(tried), **given.policy}, Policy)


def decided(given: Given, tried: Policy, zone: tzinfo) -> dict[str, object]:
    """All that is decided on a case's facts, by the keys of `Expect`. Raises: ValueError: the case is wrong."""
    policy, facts = policy_of(given, tried), facts_of(given, zone)
    answer, stands = availability(policy, facts), standing(policy, facts)
    first = answer.refusals[0] if answer.refusals else None
    left = room(policy, facts.machine, [_vm(number, here, facts.local) for number, here in enumerate(given.vms)])
    return {
        "may_start": answer.available,
        "refusals": tuple(refusal.name for refusal in answer.refusals),
        "refusal": first and first.name,
        "sentence": first.sentence if first else "",
        "reading": first.reading if first else "",
        "until": first and first.until,
        "may_go_on": stands.refusal is None,
        "stopped_by": stands.refusal and stands.refusal.name,
        "spared": stands.spared,
        "cpus": stands.cpus,
        "gives_back": stands.gives_back and stands.gives_back.name,
        "room_cpus": left.cpus,
        "room_memory_gib": left.memory_bytes / GIB,
        "room_disk_gib": left.disk_bytes / GIB,
        "room_vms": left.vms,
    }


def differences(case: Case, tried: Policy, zone: tzinfo) -> tuple[Deviation, ...]:
    """What is decided otherwise than a case expects. Raises: ValueError: the case is wrong."""
    got = decided(case.given, tried, zone)
    expected = ((key, getattr(case.expect, key)) for key in case.expect.__struct_fields__)
    return tuple(
        Deviation(key, value, got[key]) for key, value in expected if value is not msgspec.UNSET and value != got[key]
    )


def _vm(number: int, here: Here, now: datetime) -> Vm:
    size = Size(here.cpus, int(here.memory_gib * GIB))
    reason = Reason("case", "A case says that it is here.")
    lease = Lease(f"vm-{number}", "desktop", ImageRef("image", "0" * 64), size, now, now, reason)
    return Vm(lease, here.state, now, reason, None)
