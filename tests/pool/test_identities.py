"""What a VM's token can do to others, and for how long, on real HTCondor; and what it could do without our settings."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest

from deskgrid.host.system.account import service_account
from deskgrid.host.system.files import own_folder, write_atomic
from deskgrid.model.lease import Size
from deskgrid.model.pool import OfflineAd
from deskgrid.pool.contract import PoolError
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.pool.embedded.pool import EmbeddedPool
from deskgrid.pool.tools.driver import CondorPool
from deskgrid.pool.tools.ended import EndedVms
from deskgrid.pool.tools.reach import Reach, run_tool
from tests import condor, waiting
from tests.pool.execute_node import ExecuteNode, NodeIdentity

pytestmark = pytest.mark.real
IMAGE_A = OfflineAd("img-a", Size(1, 512 << 20), 4096 << 20)
eventually = partial(waiting.eventually, step_seconds=0.2)
OFFLINE = "deskgrid_offline =?= true"
OFFLINE_NAME = "deskgrid-offline-img-a-1x512"


@pytest.fixture(scope="module", params=condor.BOTH)
def embedded(request: pytest.FixtureRequest) -> Iterator[EmbeddedPool]:
    folder = Path(tempfile.mkdtemp(prefix="dgident-", dir="/tmp"))
    folder.chmod(0o755)
    with EmbeddedPool.start(condor.tree(request.param), folder / "pool", HeadSettings(cycle_seconds=2)) as pool:
        yield pool
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pool(embedded: EmbeddedPool) -> CondorPool:
    return CondorPool(embedded.reach(10), settle_seconds=5)


def holder(embedded: EmbeddedPool, token: str) -> Reach:
    """How somebody with nothing but this token reaches the pool."""
    folder, account = Path(tempfile.mkdtemp(dir=embedded.folders.run.parent)), service_account()
    own_folder(folder, account, 0o700)
    write_atomic(folder / "token", token.encode() + b"\n", 0o600, account)
    return msgspec.structs.replace(embedded.reach(10), tokens=str(folder), keys=str(folder))


def says(who: Reach, command: str, *lines: str) -> None:
    with suppress(PoolError):  # the collector does not say whether it takes an ad
        run_tool(who, ["condor_advertise", command, "-"], 10, "\n".join([*lines, ""]))


def machine(name: str, vm_id: str, *lines: str) -> tuple[str, ...]:
    """Of two lines for one attribute the later one counts."""
    head = ('MyType = "Machine"', f'Name = "{name}"', 'Machine = "m"', 'MyAddress = "<127.0.0.1:9>"')
    return (*head, f'deskgrid_vm_id = "{vm_id}"', *lines)


def names(embedded: EmbeddedPool, question: str) -> list[str]:
    said = embedded.command(["condor_status", "-any", "-constraint", question, "-af", "Name"])
    assert said.ok, said.stderr
    return sorted(said.stdout.split())


OWN = "slot1@vm-thief"
TWOFOLD = (
    f'ifThenElse(random(2) == 0, "{{}}", "{OWN}")',
    # written, it is what it evaluates to between quotation marks, half of the time
    f'"{OWN}." =!= "x" && random(2) == 0 ? substr(unparse(Name), 1, size(unparse(Name)) - 2) : "{{}}"',
)
"""Names that are now one thing and now another: the VM's own while they are weighed, another's when they are filed."""


def attack(embedded: EmbeddedPool, thief: Reach, victim: str) -> None:
    """All that a VM may try with ads of others."""
    says(thief, "UPDATE_STARTD_AD", *machine(f"slot1@{victim}", victim, "Forged = true"))
    says(thief, "UPDATE_STARTD_AD", *machine(f"slot1@{victim}", "vm-thief", "Forged = true"))
    says(thief, "UPDATE_STARTD_AD", *machine("slot1@vm-thief", victim, "Forged = true"))
    says(thief, "UPDATE_STARTD_AD", *machine(f"slot1@{victim}.deskgrid.internal", "vm-thief", "Forged = true"))
    marks = ("Offline = true", "deskgrid_offline = true", "Forged = true")
    says(thief, "UPDATE_STARTD_AD", *machine(OFFLINE_NAME, "vm-thief", *marks))
    says(thief, "UPDATE_MASTER_AD", 'MyType = "DaemonMaster"', f'Name = "{victim}"', "Forged = true")
    for question in (OFFLINE, f'deskgrid_vm_id == "{victim}"', "true"):
        says(thief, "INVALIDATE_STARTD_ADS", 'MyType = "Query"', 'TargetType = "Machine"', f"Requirements = {question}")
    says(
        thief, "INVALIDATE_STARTD_ADS", 'MyType = "Query"', 'TargetType = "Machine"',
        f'Name = "slot1@{victim}"', 'MyAddress = "<127.0.0.1:9>"', "Requirements = true",
    )  # fmt: skip
    time.sleep(0.5)


def disguise(thief: Reach, victim: str) -> None:
    """A VM's ads that are filed as another's, half of the time."""
    for form in TWOFOLD:
        for one, address in ((f"slot1@{victim}", "<127.0.0.1:9>"), (OFFLINE_NAME, "<127.0.0.1:1>")):
            lines = (f"Name = {form.format(one)}", f'MyAddress = "{address}"', "Forged = true")
            for _ in range(12):
                says(thief, "UPDATE_STARTD_AD", *machine(OWN, "vm-thief", *lines))
    time.sleep(0.5)


def test_a_vm_touches_nobodys_ads_but_its_own(embedded: EmbeddedPool, pool: CondorPool) -> None:
    pool.advertise([IMAGE_A])
    victim, thief = (holder(embedded, pool.mint_token(vm_id, 600)) for vm_id in ("vm-victim", "vm-thief"))
    says(victim, "UPDATE_STARTD_AD", *machine("slot1@vm-victim", "vm-victim", "Mine = true"))
    says(thief, "UPDATE_STARTD_AD", *machine("slot1_1@vm-thief", "vm-thief", "DaemonStartTime = 10000000000000000"))
    eventually(lambda: names(embedded, "isString(deskgrid_vm_id)") == ["slot1@vm-victim", "slot1_1@vm-thief"])
    attack(embedded, thief, "vm-victim")
    disguise(thief, "vm-victim")
    assert names(embedded, "Forged =?= true") == []
    assert names(embedded, "Mine =?= true") == ["slot1@vm-victim"]
    own = "slot1@vm-victim.deskgrid.internal"  # as the guest names its slots
    says(victim, "UPDATE_STARTD_AD", *machine(own, "vm-victim", "WithDomain = true"))
    eventually(lambda: names(embedded, "WithDomain =?= true") == [own])
    seen = pool.snapshot()
    assert seen.matches is not None and not seen.faults
    assert {one.vm_id for one in seen.machines or ()} == {"vm-thief", "vm-victim"}, "an odd number harms nobody"


POSES = {
    "a schedd": ('MyType = "Scheduler"', 'MyAddress = "<127.0.0.1:8>"'),
    "a negotiator": ('MyType = "Negotiator"', 'CondorVersion = "$CondorVersion: 24.1.1 2024-01-01 $"'),
    "a collector": ('MyType = "Collector"', "StatsLastUpdateTime = 2000000000", "StatsLifetime = 1"),
    "a submitter": ('MyType = "Submitter"', 'ScheddName = "x"', "IdleJobs = 5"),
    "a schedd by an expression": ('MyType = ifThenElse(true, "Scheduler", "Machine")',),
}
LASTING = {
    "a lifetime": "ClassAdLifetime = 100000000",
    "a lifetime that is an expression": "ClassAdLifetime = 100 * 1000000",
    "a time to come": "LastHeardFrom = 2000000000",
    "much text": f'JobId = "{"x" * 2000}"',
    "a long expression": f"JobId = strcat({', '.join(['1'] * 500)})",
    "an offline ad now and then": "Offline = random(2) == 0",
}


def test_a_vm_passes_itself_off_as_no_other_daemon(embedded: EmbeddedPool, pool: CondorPool) -> None:
    pool.advertise([IMAGE_A])
    thief = holder(embedded, pool.mint_token("vm-thief", 600))
    for command in ("UPDATE_STARTD_AD", "UPDATE_MASTER_AD"):
        for lines in POSES.values():
            says(thief, command, *machine("vm-thief", "vm-thief", *lines, "Posing = true"))
    says(thief, "UPDATE_MASTER_AD", *machine("vm-thief", "vm-thief", 'MyType = "DaemonMaster"', "Honest = true"))
    eventually(lambda: names(embedded, "Honest =?= true") == ["vm-thief"])
    assert names(embedded, "Posing =?= true") == []
    seen = pool.snapshot()
    assert seen.idle is not None and not seen.faults


def test_no_ad_of_a_vm_lasts_or_is_large_and_what_is_there_can_be_taken_away(
    embedded: EmbeddedPool, pool: CondorPool
) -> None:
    loud = holder(embedded, pool.mint_token("vm-loud", 600))
    for line in LASTING.values():
        for command in ("UPDATE_STARTD_AD", "MERGE_STARTD_AD"):
            says(loud, command, *machine("slot1@vm-loud", "vm-loud", line, "Odd = true"))
    says(loud, "UPDATE_STARTD_AD", *machine("slot1_1000@vm-loud", "vm-loud", "Odd = true"))
    honest = (
        "ClassAdLifetime = 180",
        'JobId = "12.0"',
        'vm_name = "img-a"',
        f'MyAddress = "<127.0.0.1:9?{"x" * 600}>"',
    )
    says(loud, "UPDATE_STARTD_AD", *machine("slot1_12@vm-loud", "vm-loud", *honest))
    eventually(lambda: names(embedded, 'deskgrid_vm_id =?= "vm-loud"') == ["slot1_12@vm-loud"])
    for line in LASTING.values():
        says(loud, "MERGE_STARTD_AD", *machine("slot1_12@vm-loud", "vm-loud", line, "Odd = true"))
    time.sleep(0.5)
    assert names(embedded, "Odd =?= true") == []
    pool.forget_vm("vm-loud", token_dies=False)
    assert names(embedded, 'deskgrid_vm_id =?= "vm-loud"') == []


def test_a_vm_has_no_more_ads_than_names(embedded: EmbeddedPool, pool: CondorPool) -> None:
    loud = holder(embedded, pool.mint_token("vm-many", 600))
    for number in range(3):
        address = f'MyAddress = "<127.0.0.{number + 2}:{number + 1}?alias=a{number}>"'
        says(loud, "UPDATE_STARTD_AD", *machine("slot1@vm-many", "vm-many", address))
        for name in (
            f"slot1@vm-many.{number}",
            f"slot1@vm-many@{number}",
            f"slot2_{number}@vm-many",
            f"slot1_1{number:03}@vm-many",
        ):
            says(loud, "UPDATE_STARTD_AD", *machine(name, "vm-many"))
    long = ", ".join(['"0123456789"'] * 2500)
    says(loud, "UPDATE_STARTD_AD", *machine("slot1_1@vm-many", "vm-many", f"ChildName = {{{long}}}"))
    says(
        loud,
        "UPDATE_STARTD_AD",
        *machine("slot1@vm-many@vm-many.deskgrid.internal", "vm-many", f"ChildName = {{{long}}}"),
    )
    both = ["slot1@vm-many", "slot1@vm-many@vm-many.deskgrid.internal"]
    eventually(lambda: names(embedded, 'deskgrid_vm_id =?= "vm-many"') == both)


def test_without_our_settings_it_would_touch_them_all(embedded: EmbeddedPool, pool: CondorPool) -> None:
    """The control."""
    pool.advertise([IMAGE_A])
    victim, thief = (holder(embedded, pool.mint_token(vm_id, 600)) for vm_id in ("vm-victim", "vm-thief"))
    off = embedded.folders.dropins / "99-control.conf"
    write_atomic(off, b"COLLECTOR_REQUIREMENTS = true\nIGNORE_INVALIDATE = False\n", owner=embedded.tree.account)
    try:
        assert embedded.command(["condor_reconfig", "-daemon", "collector"]).ok
        says(victim, "UPDATE_STARTD_AD", *machine("slot1@vm-victim", "vm-victim", "Mine = true"))
        says(thief, "UPDATE_STARTD_AD", *machine("slot1@vm-victim", "vm-victim", "Forged = true"))
        eventually(lambda: names(embedded, "Forged =?= true") == ["slot1@vm-victim"])
        attack(embedded, thief, "vm-victim")
        assert names(embedded, OFFLINE) == [] and names(embedded, "Mine =?= true") == []
        assert pool.snapshot().matches is None
        pool.advertise([IMAGE_A])
        says(victim, "UPDATE_STARTD_AD", *machine("slot1@vm-victim", "vm-victim", "Mine = true"))
        eventually(lambda: names(embedded, "Mine =?= true") == ["slot1@vm-victim"])
        disguise(thief, "vm-victim")
        assert names(embedded, OFFLINE) == [] and names(embedded, "Mine =?= true") == []
    finally:
        off.unlink()
        assert embedded.command(["condor_reconfig", "-daemon", "collector"]).ok


def test_the_token_of_a_vm_that_has_ended_is_dead_at_once(embedded: EmbeddedPool, pool: CondorPool) -> None:
    token = pool.mint_token("vm-ended", 86_400)
    often = NodeIdentity("vm-ended", "img-a", "desk-1", token, extra=("UPDATE_INTERVAL = 1",))
    folder = embedded.folders.run.parent / "ended"

    def joined() -> bool:
        return names(embedded, 'deskgrid_vm_id =?= "vm-ended"') != []

    with ExecuteNode.start(embedded.tree, folder, often, embedded.collector):
        eventually(joined)
        pool.forget_vm("vm-ended")
        assert not joined()
        time.sleep(4)  # it goes on to say so each second, over a connection that stands
        assert not joined()
    with ExecuteNode.start(embedded.tree, folder, often, embedded.collector):
        time.sleep(8)
        assert not joined(), "nor over a new one"
    other = holder(embedded, pool.mint_token("vm-other", 600))
    says(other, "UPDATE_STARTD_AD", *machine("slot1@vm-other", "vm-other"))
    eventually(lambda: names(embedded, 'deskgrid_vm_id =?= "vm-other"') == ["slot1@vm-other"])


def test_a_vm_that_was_named_just_before_its_namer_died_is_dead_too(embedded: EmbeddedPool, pool: CondorPool) -> None:
    late = holder(embedded, pool.mint_token("vm-late", 600))
    pool.forget_vm("vm-another")
    time.sleep(1)
    assert EndedVms(Path(embedded.reach(10).ended)).add("vm-late")
    says(late, "UPDATE_STARTD_AD", *machine("slot1@vm-late", "vm-late"))
    eventually(lambda: names(embedded, 'deskgrid_vm_id =?= "vm-late"') != [])
    CondorPool(embedded.reach(10), settle_seconds=5).forget_vm("vm-late")
    says(late, "UPDATE_STARTD_AD", *machine("slot1@vm-late", "vm-late"))
    eventually(lambda: names(embedded, 'deskgrid_vm_id =?= "vm-late"') == [])
    time.sleep(0.5)
    assert names(embedded, 'deskgrid_vm_id =?= "vm-late"') == []


def test_a_vm_speaks_as_long_as_its_token_is_renewed(embedded: EmbeddedPool, pool: CondorPool) -> None:
    """The collector ends a session with its token; a startd tries its new one when its own time for it is over too."""
    often = ("UPDATE_INTERVAL = 1", "SEC_DEFAULT_SESSION_DURATION = 5")
    member = NodeIdentity("vm-new", "img-a", "desk-1", pool.mint_token("vm-new", 15), extra=often)
    folder = embedded.folders.run.parent / "renewed"

    def ends_and_heard() -> tuple[int, int]:
        question = ["condor_status", "-any", "-constraint", 'deskgrid_vm_id =?= "vm-new" && MyType == "Machine"']
        said = embedded.command([*question, "-af", "AuthenticatedIdentity", "LastHeardFrom"]).stdout.split()
        return (int(said[0].split(".")[1]), int(said[1])) if said else (0, 0)

    def renew(node: ExecuteNode, seconds: int) -> None:
        token = pool.mint_token("vm-new", seconds).encode()
        write_atomic(folder / "etc/tokens.d/pool", token, 0o600, embedded.tree.account)
        for process in node.processes():
            os.kill(process.pid, signal.SIGHUP)

    with ExecuteNode.start(embedded.tree, folder, member, embedded.collector) as node:
        eventually(lambda: ends_and_heard()[0] > 0)
        first = ends_and_heard()[0]
        renew(node, 40)
        eventually(lambda: ends_and_heard()[0] > first + 15)
        end = ends_and_heard()[0]
        eventually(lambda: ends_and_heard()[1] > first + 2)
        time.sleep(max(0.0, end + 4 - time.time()))
        assert ends_and_heard()[1] <= end + 1, "it still speaks, over the connection that it had"
