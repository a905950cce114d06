"""What comes in from outside is bounded by its type: odd numbers and times are refused there, or harm nothing later."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

import msgspec
import msgspec.inspect as kinds
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")  # the coordinator does not run on Windows

from deskgrid.agent.owner.usage import Book, add, gift
from deskgrid.agent.owner.wishes import AccountWish, decide, strongest
from deskgrid.agent.policy.files import PolicyTable
from deskgrid.coordinator.db.changes import Changes
from deskgrid.coordinator.images.signed import ManifestFacts
from deskgrid.coordinator.state.fleet import Fleet
from deskgrid.core.desktop.advance import advance
from deskgrid.core.desktop.cases import Given, facts_of
from deskgrid.core.desktop.inputs import Ordered, Ruled, Sensed, Ticked, Wished
from deskgrid.core.desktop.state import next_due, reports
from deskgrid.core.desktop.vm import adopt
from deskgrid.core.fleet.demand import offers, wants
from deskgrid.core.fleet.health import Health
from deskgrid.core.fleet.plan import plan
from deskgrid.model.desktop import Availability, Room, Transition, VmReport, VmState
from deskgrid.model.instance import InstanceData
from deskgrid.model.inventory import Inventory, Trial, Verdict
from deskgrid.model.lease import Lease, Size
from deskgrid.model.plan import PlanSettings, Snapshot
from deskgrid.model.policy import Policy
from deskgrid.model.pool import OfflineAd, PoolSnapshot
from deskgrid.model.reason import Reason
from deskgrid.model.values.moment import FIRST, LAST, moment_of
from deskgrid.model.wish import Ask, Wish
from deskgrid.pool.tools.offline import MARK, matches, offline_ad
from deskgrid.pool.tools.reading import idle_groups, job_of, machines
from deskgrid.wire import disk, guest, messages, neighbour
from deskgrid.wire.local import Granted, Now, Question, Usage
from tests.core.values import ALL_DAY, AWAY, GIB, IMAGE, NOW, ROOMY, SMALL, desk, facts, lease

MESSAGES = (
    *(messages.Report, messages.Answer, messages.Enrol, messages.Enrolled, messages.Problem),
    *(disk.DiskCommand, disk.DiskMessage, disk.DiskServer, neighbour.NeighbourTask, neighbour.NeighbourCount),
    *get_args(guest.FromGuest),
    *get_args(guest.ToGuest),
    *(kind for kind in get_args(Question)),
    *(Granted, AccountWish, Lease, Wish, Book, PolicyTable, Policy, PlanSettings, Inventory, ManifestFacts, Given),
)
LENIENT = {
    "Transition.at": "set right where it is recorded (coordinator/db/changes.py)",
    "SessionReading.idle_seconds": "made a possible one where it comes in (wire/local.py)",
}
ODD_NUMBERS = (-1, -(1 << 70), 1 << 31, 1 << 63, 10**30, 10**300, -1e300, 1e300, 0, 0.5)
ODD_TIMES = (
    "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00Z",
    "2900-01-01T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "9999-12-31T23:59:59Z",
    "2026-03-03T20:00:00",
)
REASON = Reason("why", "Because.", until=NOW)
VM = VmReport("vm-1", IMAGE, SMALL, VmState.RUNNING, NOW, REASON, "kvm")
REPORT = messages.Report(
    incarnation="first",
    sequence=3,
    sent_at=NOW,
    availability=Availability(False, (REASON,), 12.5, True),
    room=Room(4, 8 * GIB, 50 * GIB, 2),
    cpus=8,
    memory_bytes=16 * GIB,
    wait_seconds=25.0,
    images=(IMAGE,),
    vms=(VM,),
    ended=(msgspec.structs.replace(VM, vm_id="vm-2", state=VmState.ENDED),),
    story=(Transition("vm-1", NOW, "running", "alive", "It lives."),),
    inventory=Inventory(cpus=8, memory_bytes=16 * GIB, disk_free_gib=50, trials=(Trial("kvm", Verdict.WORKS, 900),)),
    neighbour_port=7000,
)
ANSWER = messages.Answer(
    to=3,
    now=NOW,
    orders=(
        messages.Order(lease("vm-1")),
        messages.Order(lease("vm-9"), InstanceData("vm-9", "its-sl6", "desk-1", "c:1", "a.b.c", "t", 1, 1024)),
    ),
    next_report_seconds=10.0,
    acknowledged=("vm-2",),
    story_count=1,
)


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every number and time of a message, with the way to it."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, key))
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield path, ODD_NUMBERS
    elif isinstance(tree, str) and tree[:4].isdigit() and "T" in tree:
        yield path, ODD_TIMES


def with_odd(message: Any, draw: st.DataObject) -> Any:
    """The message as it comes in with one to three odd values in it; None: it was refused."""
    tree = msgspec.json.decode(msgspec.json.encode(message))
    for path, odd in draw.draw(st.lists(st.sampled_from(list(leaves(tree))), min_size=1, max_size=3)):
        at = tree
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = draw.draw(st.sampled_from(odd))
    try:
        return msgspec.json.decode(msgspec.json.encode(tree), type=type(message))
    except msgspec.DecodeError:
        return None


def unbounded(kind: kinds.Type, where: str, seen: set[type]) -> Iterator[str]:
    """Fields of a message whose numbers have no bounds."""
    if isinstance(kind, kinds.IntType | kinds.FloatType):
        if (kind.ge is None and kind.gt is None) or (kind.le is None and kind.lt is None):
            yield where
    elif isinstance(kind, kinds.StructType) and kind.cls not in seen:
        seen.add(kind.cls)
        for field in kind.fields:
            yield from unbounded(field.type, f"{kind.cls.__name__}.{field.name}", seen)
    elif isinstance(kind, kinds.UnionType):
        for one in kind.types:
            yield from unbounded(one, where, seen)
    elif isinstance(kind, kinds.DictType):
        yield from unbounded(kind.value_type, where, seen)
    elif isinstance(kind, kinds.VarTupleType | kinds.ListType | kinds.FrozenSetType):
        yield from unbounded(kind.item_type, where, seen)


@pytest.mark.parametrize("message", [*MESSAGES, Now], ids=lambda kind: kind.__name__)
def test_every_number_of_a_message_has_bounds(message: type) -> None:
    found = set(unbounded(kinds.type_info(message), message.__name__, set())) - LENIENT.keys()
    assert not found, f"{sorted(found)}: give them a type of model/values/numbers.py"


@pytest.mark.parametrize("odd", [one for one in ODD_TIMES if one[:4] not in ("1970", "2900")])
@pytest.mark.parametrize("message", [REPORT, ANSWER, AccountWish(1, Wish(Ask.PAUSE, "ada", NOW, NOW))])
def test_a_message_with_a_time_that_can_not_be_is_refused_wherever_it_stands(message: Any, odd: str) -> None:
    tree = msgspec.json.decode(msgspec.json.encode(message))
    for path in [path for path, kind in leaves(tree) if kind is ODD_TIMES and "story" not in path]:
        changed = msgspec.json.decode(msgspec.json.encode(tree))
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = odd
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(msgspec.json.encode(changed), type=type(message))


@given(st.data())
def test_a_report_with_odd_values_is_refused_or_does_no_harm(data: st.DataObject) -> None:
    report = with_odd(REPORT, data)
    if report is None:
        return
    fleet, changes = Fleet(), Changes(lambda vm_ids: None)
    fleet.take("desk-1", report, b"{}", NOW)
    known = fleet.get("desk-1")
    assert known is not None
    changes.retell("desk-1", report.story, known.skew_seconds, NOW)
    settings = PlanSettings()
    snapshot = Snapshot(fleet.desktops(), (), (facts(),), ())
    plan(snapshot, settings, NOW)
    offers(snapshot, settings, Health((), settings), NOW)


@given(st.data())
def test_an_answer_with_odd_values_is_refused_or_does_no_harm(data: st.DataObject) -> None:
    answer = with_odd(ANSWER, data)
    if answer is None:
        return
    here = desk(ALL_DAY, vms=(adopt(lease("vm-1"), paused=False, alive=True, accelerator="kvm", grace_seconds=60.0,
                                    since=NOW, now=NOW),))  # fmt: skip
    leases = tuple(order.lease for order in answer.orders)
    after, _ = advance(here, (Ordered(answer.to, answer.now, leases, answer.acknowledged, answer.story_count),), NOW)
    _ = next_due(after), reports(after), NOW + timedelta(seconds=answer.next_report_seconds)
    later = NOW + timedelta(days=40)
    advance(after, (Ticked(),), later)
    assert all(vm.lease.until <= later for vm in after.vms.values()), "no lease is for ever"


@given(st.sampled_from(ODD_TIMES), st.sampled_from(ODD_TIMES), st.sampled_from(list(Ask)))
def test_a_wish_with_odd_times_is_refused_or_does_no_harm(at: str, until: str, ask: Ask) -> None:
    text = msgspec.json.encode({"uid": 1, "wish": {"ask": ask, "by": "ada", "at": at, "until": until}})
    try:
        said = msgspec.json.decode(text, type=AccountWish)
    except msgspec.DecodeError:
        return
    standing = decide((said,), 2, Wish(Ask.FINISH, "bob", NOW), 0, NOW)
    strongest(standing, NOW)
    for zone in (UTC, AWAY_WEST, AWAY_EAST):
        local = NOW.astimezone(zone)
        after, _ = advance(desk(), (Wished(said.wish),), NOW)
        advance(after, (Sensed(AWAY, ROOMY, local),), NOW)


AWAY_WEST = datetime.fromisoformat("2026-01-01T00:00:00-23:59").tzinfo
AWAY_EAST = datetime.fromisoformat("2026-01-01T00:00:00+23:59").tzinfo
ODD = st.one_of(
    st.sampled_from(ODD_NUMBERS),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(("\\/Expr(1)\\/", "٣", "²", "9" * 5000, "a\u2028b", "\ud800", "\x85")),
    st.none(),
    st.booleans(),
    st.just([[[]]]),
)


@given(st.data())
def test_an_ad_with_odd_values_is_unknown_and_the_others_are_not(data: st.DataObject) -> None:
    slot = {"MyType": "Machine", "deskgrid_vm_id": "vm-1", "DaemonStartTime": 1000, "JobId": "1.0", "vm_name": "a"}
    match = {"Scheduler": "<a>", "AutoclusterID": 1, "RequestCount": 2}
    ad = {MARK: True, "vm_name": "a", "Name": "deskgrid-offline-a-1x1024", "MachineLastMatchTime": 1000}
    name = st.sampled_from([*slot])
    odd_slot = slot | {data.draw(name): data.draw(ODD)}
    odd_ad = ad | {data.draw(st.sampled_from([*ad])): data.draw(ODD)}
    odd_ad["OfflineMatches"] = [match | {data.draw(st.sampled_from([*match])): data.draw(ODD)}, match]
    found = machines([odd_slot, slot | {"deskgrid_vm_id": "vm-2"}])
    assert "vm-2" in [machine.vm_id for machine in found]
    good = ad | {"OfflineMatches": [match]}
    seen = matches([odd_ad, good], {})
    assert any(one.count >= 2 for one in seen)
    wants(PoolSnapshot(NOW, seen, (), found), PlanSettings(match_seconds=1e9))
    offline_ad(OfflineAd("a", Size(1, GIB), GIB), 900, odd_ad)


@given(ODD, ODD, ODD)
def test_a_job_with_odd_values_is_one_job(cluster: object, when: object, number: object) -> None:
    job_of({"ClusterId": cluster, "LastMatchTime": when, "NumShadowStarts": number, "JobStatus": number}, "s", "")
    row = " ".join(str(part).replace(" ", "").replace("\n", "") or "x" for part in (cluster, when, number))
    groups = idle_groups("s", f'{row} "a"\n1 1 128 "b"\n')
    assert {group.vm_name for group in groups} == {"a", "b"}
    settings = PlanSettings(match_seconds=1e9)
    wants(PoolSnapshot(NOW, (), groups, ()), settings)


@given(st.sampled_from([*ODD_NUMBERS, None]))
def test_a_number_is_a_time_only_within_our_days(seconds: Any) -> None:
    found = moment_of(int(seconds) if seconds is not None else None)
    assert found is None or FIRST <= found <= LAST


@pytest.mark.parametrize("size", [Size(0, 0), Size(-1, GIB), Size(1, -GIB), Size(1 << 40, GIB), Size(1, 1 << 80)])
def test_a_lease_of_an_odd_size_is_refused_and_makes_no_room(size: Size) -> None:
    huge = Size(64, 4096 * GIB)
    answer = Ordered(1, NOW, (lease("vm-0", size=size), lease("vm-1", size=huge)))
    after, acts = advance(desk(ALL_DAY), (answer,), NOW)
    assert not acts
    assert [vm.reason.name for vm in after.ended] == ["odd-size", "no-room"]


@pytest.mark.parametrize("year", [1, 9999])
def test_a_policy_with_a_day_at_an_end_of_the_calendar_is_refused(year: int) -> None:
    with pytest.raises(ValueError, match="expected a year from 1970"):
        Policy(days_closed=(date(year, 12, 31),))


def test_odd_settings_of_a_policy_are_refused_or_do_no_harm() -> None:
    makers: dict[str, Callable[[float], Policy]] = {
        row: lambda value, row=row: msgspec.convert({row: value}, Policy)  # type: ignore[misc]
        for row in Policy.__struct_fields__
    }
    for make in makers.values():
        for value in (*ODD_NUMBERS, float("nan"), float("inf")):
            try:
                policy = make(value)
            except msgspec.ValidationError:
                continue
            after, _ = advance(desk(), (Ruled(policy),), NOW)
            advance(after, (Ordered(1, NOW, (lease(),)),), NOW)


@pytest.mark.parametrize("at", ["0001-01-01T00:00", "9999-12-31T23:59"])
def test_a_case_of_a_policy_at_an_end_of_the_calendar_is_a_sentence(at: str) -> None:
    with pytest.raises(ValueError, match="expected 1970"):
        facts_of(Given(at=at), UTC)


def test_a_book_of_usage_with_odd_values_begins_anew() -> None:
    for text in (b'{"days":{"9999-99":1}}', b'{"days":{"2026-01-01":-1}}', b'{"days":{"2026-01-01":1e300}}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=Book)
    assert gift(add(Book(), NOW, "a", Usage(vms=1)), NOW).total().vms == 1
