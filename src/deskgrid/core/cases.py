"""Policy cases: facts in, decision out, named by a sentence. What an administrator writes, and what our own tests read.

Rules, told first:
- `given` says what differs from an idle desktop at noon, with nobody logged in, 8 processors, 16 GiB of memory (14 of
  them available) and 100 GiB of free disk, on mains power and a wired network, up for a day.
- `given.policy` holds settings that differ from the policy that is tried.
- `expect` holds exactly what is to be compared; what it does not name may be anything.
"""

from datetime import datetime, tzinfo
from typing import Annotated, Any

import msgspec

from deskgrid.core import limits
from deskgrid.core.facts import Facts, Waits
from deskgrid.core.policy import availability, standing
from deskgrid.core.vm import Vm
from deskgrid.model.desktop import VmState
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Lease, Size
from deskgrid.model.moment import Moment, check_moments
from deskgrid.model.numbers import Cpus, Span
from deskgrid.model.policy import GIB, Machine, Percent, Policy, Share
from deskgrid.model.presence import Ending, Reading
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Ask, Wish

Gib = Annotated[float, msgspec.Meta(ge=0, le=1 << 20)]
Fold = Annotated[int, msgspec.Meta(ge=0, le=1)]


class Here(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A VM that is here."""

    state: VmState
    cpus: Cpus = 1
    memory_gib: Gib = 1


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts. at: the wall clock, ISO without zone. fold: 1 in the second pass of an hour that comes twice.

    zone: IANA name; empty: the policy's, and where that has none, UTC. asked, asked_until: a wish. loaded: others'
    load counts as too high. clear_seconds, started_seconds, offset_fraction: what pacing remembers. The others: as in a
    reading of presence or of the machine.
    """

    policy: dict[str, Any] = {}
    at: str = "2026-03-03T12:00:00"
    zone: str = ""
    fold: Fold = 0
    asked: Ask | None = None
    asked_until: Moment | None = None
    faults: tuple[Reason, ...] = ()
    logged_in: bool | None = False
    idle_seconds: Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)] | None = 86400.0
    sources: tuple[str, ...] = ()
    presence_faults: tuple[str, ...] = ()
    locked: bool | None = None
    remote: bool | None = False
    watching: tuple[str, ...] = ()
    full_screen: bool | None = False
    lid_closed: bool = False
    ending: Ending | None = None
    cpus: Cpus = 8
    memory_gib: Gib = 16
    memory_available_gib: Gib = 14
    memory_pressure: Percent | None = None
    disk_free_gib: Gib = 100
    others_cpu: Share | None = None
    on_battery: bool | None = False
    battery_percent: Percent | None = None
    metered: bool | None = False
    wireless: bool | None = False
    programs: tuple[str, ...] = ()
    up_seconds: Span | None = 86400.0
    loaded: bool = False
    clear_seconds: Span | None = None
    started_seconds: Span | None = None
    offset_fraction: Share = 0.0
    vms: tuple[Here, ...] = ()


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is decided.

    may_start: whether a VM may start. refusals: the names of all that refuses it, in order; refusal, sentence,
    reading, until: of the first. may_go_on: whether VMs that are here may run on; stopped_by: the name of what stops
    them. spared: so many may in spite of it. cpus: for all VMs together. gives_back: why a VM must end at once.
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
    given: Given = Given()
    expect: Expect = Expect()


class Difference(msgspec.Struct, frozen=True):
    """Something was decided otherwise than expected."""

    key: str
    expected: object
    got: object


def facts_of(given: Given, zone: tzinfo) -> Facts:
    """The facts that a case gives. zone: `given.zone`, looked up. Raises: ValueError: `at` is no time."""
    local = datetime.fromisoformat(given.at).replace(tzinfo=zone, fold=given.fold)
    check_moments(local)
    memory, available, disk = (
        int(size * GIB) for size in (given.memory_gib, given.memory_available_gib, given.disk_free_gib)
    )
    reading = Reading(
        given.logged_in,
        given.idle_seconds,
        given.sources,
        given.presence_faults,
        given.locked,
        given.remote,
        given.watching,
        given.full_screen,
        given.lid_closed,
        given.ending,
    )
    machine = Machine(
        given.cpus,
        memory,
        available,
        disk,
        given.memory_pressure,
        given.others_cpu,
        given.on_battery,
        given.battery_percent,
        given.metered,
        given.wireless,
        given.programs,
        given.up_seconds,
    )
    wish = None if given.asked is None else Wish(given.asked, "owner", local, given.asked_until)
    waits = Waits(given.clear_seconds, given.started_seconds, given.loaded, given.offset_fraction)
    return Facts(reading, machine, local, given.faults, wish, waits)


def policy_of(given: Given, tried: Policy) -> Policy:
    """The policy that is tried, with what a case sets otherwise. Raises: ValueError: a setting is wrong."""
    return msgspec.convert({**msgspec.to_builtins(tried), **given.policy}, Policy)


def decided(given: Given, tried: Policy, zone: tzinfo) -> dict[str, object]:
    """All that is decided on a case's facts, by the keys of `Expect`. Raises: ValueError: the case is wrong."""
    policy, facts = policy_of(given, tried), facts_of(given, zone)
    answer, stands = availability(policy, facts), standing(policy, facts)
    first = answer.refusals[0] if answer.refusals else None
    left = limits.room(policy, facts.machine, [_vm(number, here, facts.local) for number, here in enumerate(given.vms)])
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
        "gives_back": stands.gives_back and stands.gives_back.reason.name,
        "room_cpus": left.cpus,
        "room_memory_gib": left.memory_bytes / GIB,
        "room_disk_gib": left.disk_bytes / GIB,
        "room_vms": left.vms,
    }


def differences(case: Case, tried: Policy, zone: tzinfo) -> tuple[Difference, ...]:
    """What is decided otherwise than a case expects. Raises: ValueError: the case is wrong."""
    got = decided(case.given, tried, zone)
    expected = ((key, getattr(case.expect, key)) for key in case.expect.__struct_fields__)
    return tuple(
        Difference(key, value, got[key]) for key, value in expected if value is not msgspec.UNSET and value != got[key]
    )


def _vm(number: int, here: Here, now: datetime) -> Vm:
    size = Size(here.cpus, int(here.memory_gib * GIB))
    reason = Reason("case", "A case says that it is here.")
    lease = Lease(f"vm-{number}", "desktop", ImageRef("image", "0" * 64), size, now, now, reason)
    return Vm(lease, here.state, now, reason, None)
