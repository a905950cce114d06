"""What only real HTCondor can show: transforms, tokens, kills, silent peers, NAT."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest

from deskgrid.host.doctor.facts import Level
from deskgrid.host.system.account import service_account
from deskgrid.host.system.files import own_folder, write_atomic
from deskgrid.host.trees import trees
from deskgrid.host.trees.entry import enter, run_in
from deskgrid.model.lease import Size
from deskgrid.model.pool import OfflineAd
from deskgrid.pool.config import PoolSettings, _lease, dropins
from deskgrid.pool.contract import PoolError, PoolRefused, PoolUnreachable
from deskgrid.pool.doctor import ask, examine
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.pool.embedded.pool import EmbeddedError, EmbeddedPool, free_port
from deskgrid.pool.tools.driver import CondorPool
from deskgrid.pool.tools.identities import identity
from deskgrid.pool.tools.reach import Reach, run_tool
from tests import condor, waiting
from tests.pool.execute_node import ExecuteNode, NodeIdentity

pytestmark = pytest.mark.real
MIB = 1 << 20
IMAGE_A = OfflineAd("img-a", Size(1, 512 * MIB), 4096 * MIB, condor.SAYS)
both_versions = pytest.mark.parametrize("tree", condor.BOTH, indirect=True)
QUICK = HeadSettings(cycle_seconds=2)
eventually = partial(waiting.eventually, step_seconds=0.2)  # each look is a program of HTCondor's


@pytest.fixture
def tree(request: pytest.FixtureRequest) -> trees.Tree:
    return condor.tree(getattr(request, "param", condor.STABLE))


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="dgcondor-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def embedded(tree: trees.Tree, folder: Path) -> Iterator[EmbeddedPool]:
    with EmbeddedPool.start(tree, folder / "pool", QUICK) as pool:
        yield pool


def driver(embedded: EmbeddedPool, timeout_seconds: float = 5) -> CondorPool:
    return CondorPool(embedded.reach(timeout_seconds), settle_seconds=5)


def submit(embedded: EmbeddedPool, *lines: str) -> str:
    base = ["executable = /bin/sleep", "arguments = 1000", "transfer_executable = false", "request_memory = 64"]
    base += ["should_transfer_files = yes", "request_disk = 10MB"]
    text = "\n".join([*base, *lines, "queue", ""])
    said = embedded.command(["condor_submit", "-terse", "-"], embedded.jobs, stdin=text.encode())
    assert said.ok, said.stdout + said.stderr
    return said.stdout.split()[0]


def value(embedded: EmbeddedPool, job_id: str, expression: str) -> str:
    """An attribute as it is written, or an expression in brackets, evaluated."""
    how = "-af" if expression.startswith("(") else "-af:r"
    return embedded.command(["condor_q", job_id, how, expression]).stdout.strip()


def counts(pool: CondorPool) -> dict[str, int]:
    return {match.image: match.count for match in pool.snapshot().matches or ()}


def status(pool: CondorPool, job_id: str) -> int | None:
    job = pool.job(job_id)
    return job.status if job else None


def with_token(embedded: EmbeddedPool, folder: Path, token: str) -> Reach:
    """How somebody with nothing but this token reaches the pool."""
    account = service_account()
    own_folder(folder, account, 0o700)
    write_atomic(folder / "token", token.encode() + b"\n", 0o600, account)
    return msgspec.structs.replace(embedded.reach(5), tokens=str(folder), keys=str(folder))


def ad(my_type: str, name: str, *lines: str) -> str:
    return "\n".join([f'MyType = "{my_type}"', f'Name = "{name}"', f'Machine = "{name}"', *lines, ""])


# The drop-ins


@both_versions
def test_the_dropins_are_read_by_htcondor_as_they_are_meant(tree: trees.Tree, folder: Path) -> None:
    account = service_account()
    own_folder(folder / "config.d", account)
    for file in dropins(PoolSettings(trust_domain="campus.example", key="grid", lease_seconds=90)):
        write_atomic(folder / "config.d" / file.path, file.text.encode(), owner=account)
    write_atomic(folder / "condor_config", f"LOCAL_CONFIG_DIR = {folder}/config.d\n".encode(), owner=account)
    env = {"CONDOR_CONFIG": str(folder / "condor_config")}

    def setting(name: str) -> str:
        said = run_in(tree, ["condor_config_val", name], 10, [folder], env)
        assert said.ok, said.stderr
        return said.stdout.strip()

    names = ["DeskgridLease", "DeskgridImage", "DeskgridImageAgain", "DeskgridImageOnly"]
    assert setting("JOB_TRANSFORM_NAMES").split() == names
    assert "RemoteOwner" in setting("NEGOTIATOR_PRE_JOB_RANK"), "HTCondor's own rank is kept"
    assert setting("NEGOTIATOR_PRE_JOB_RANK").endswith("(1.0e15 * (Offline =?= True))")
    assert setting("TRUST_DOMAIN") == "campus.example"
    assert "deskgrid-vm.*@campus.example" in setting("ALLOW_ADVERTISE_STARTD")
    assert setting("HOUSEKEEPER_INTERVAL") == "30"


@both_versions
def test_the_transform_adds_the_image_and_bounds_the_lease(embedded: EmbeddedPool) -> None:
    plain = submit(embedded, '+vm_name = "img-a"')
    assert value(embedded, plain, "Requirements").endswith("&& (TARGET.vm_name == MY.vm_name)")
    assert value(embedded, plain, "(int(JobLeaseDuration))") == "900", "as its schedd sees it"
    short = submit(embedded, '+vm_name = "img-a"', "job_lease_duration = 60")
    assert value(embedded, short, "(int(JobLeaseDuration))") == "900"
    without = submit(embedded)
    assert "vm_name" not in value(embedded, without, "Requirements")
    assert value(embedded, without, "(int(JobLeaseDuration))") == "900"
    seen = ask(embedded.reach())
    assert seen is not None and seen.versions.keys() == {"collector", "negotiator"}
    assert examine(seen)[0].level is Level.OK
    no_text = submit(embedded, "+vm_name = 5")
    assert "vm_name" not in value(embedded, no_text, "Requirements")
    pool = driver(embedded)
    unquoted = pool.job(submit(embedded, "+vm_name = demo"))
    assert unquoted is not None and (unquoted.vm_name, unquoted.named_by_text) == ("demo", False)
    expression = pool.job(submit(embedded, '+vm_name = strcat("img-", "a")'))
    assert expression is not None and expression.named_by_text


ADDED = "TARGET.vm_name == MY.vm_name"
OWN = "DeskgridSubmittedRequirements"
FURTHER = "DeskgridFurtherRequirements"


@both_versions
def test_the_transform_may_be_applied_any_number_of_times_to_whatever_a_job_says(embedded: EmbeddedPool) -> None:
    """HTCondor applies it to a factory and again to each job that comes of it; and a job may write any attribute."""
    pool = driver(embedded)
    pool.advertise([IMAGE_A])
    said = {
        "a factory": ["max_materialize = 2"],
        "an idle factory": ["max_idle = 1"],
        "a checkpoint": ["checkpoint_exit_code = 85", "transfer_checkpoint_files = state"],
        "it writes our attribute": [f"+{OWN} = false"],
        "it asks for our attribute": [f"requirements = MY.{OWN} =!= false"],
        "as if it were done": [f"+{OWN} = true", f"requirements = (MY.{OWN}) && ({ADDED})"],
        "done, and added to": [f"+{OWN} = true", f"requirements = ((MY.{OWN}) && ({ADDED})) && TARGET.Cpus > 0"],
        "done twice, and added to": [f"+{FURTHER} = true", f"requirements = ((MY.{FURTHER}) && ({ADDED})) && true"],
        "around it": [f"requirements = true || MY.{OWN} || MY.{FURTHER}"],
    }
    jobs = {what: submit(embedded, '+vm_name = "img-a"', *lines).partition(".")[0] for what, lines in said.items()}
    elsewhere = {what: submit(embedded, '+vm_name = "img-z"', *lines) for what, lines in said.items()}

    def groups() -> set[int]:
        return {match.autocluster for match in pool.snapshot().matches or ()}

    def clusters_matched() -> set[str]:
        told = embedded.command(["condor_q", "-af", "ClusterId", "AutoClusterId", "vm_name"]).stdout.splitlines()
        return {line.split()[0] for line in told if line.split()[1].isdigit() and int(line.split()[1]) in groups()}

    eventually(lambda: clusters_matched() >= set(jobs.values()), seconds=60)
    assert not clusters_matched() & {job.partition(".")[0] for job in elsewhere.values()}


@both_versions
def test_jobs_that_run_on_the_submit_server_are_left_alone(embedded: EmbeddedPool) -> None:
    for universe in ("scheduler", "local"):
        job_id = submit(embedded, f"universe = {universe}", '+vm_name = "img-a"')
        eventually(lambda job_id=job_id: status(driver(embedded), job_id) == 2)
        assert "vm_name" not in value(embedded, job_id, "Requirements")
    job = driver(embedded).job(job_id)
    assert job is not None and job.universe == 12
    waiting_here = submit(embedded, "universe = local", '+vm_name = "img-a"', "hold = true")
    assert embedded.command(["condor_release", waiting_here]).ok
    assert driver(embedded).snapshot().idle == ()


@both_versions
def test_of_a_long_name_only_its_beginning_is_read(embedded: EmbeddedPool) -> None:
    submit(embedded, f'+vm_name = "{"y" * 50_000}"')
    submit(embedded, '+vm_name = "img a \\"b\\""')
    eventually(lambda: len(driver(embedded).snapshot().idle or ()) == 2)
    seen = driver(embedded).snapshot().idle
    assert seen is not None and {group.vm_name for group in seen} == {'"' + "y" * 199, 'img a "b"'}


def test_requirements_of_a_job_can_neither_get_around_the_image_nor_read_the_configuration(
    embedded: EmbeddedPool,
) -> None:
    pool = driver(embedded)
    pool.advertise([IMAGE_A])
    lines = ('+vm_name = "img-b"', 'requirements = true || TARGET.vm_name == "img-a" || true')
    around = submit(embedded, *lines)
    curious = submit(
        embedded, '+vm_name = "img-a"', 'requirements = TARGET.Foo =!= "$(DOLLAR)(SEC_PASSWORD_DIRECTORY)"'
    )
    eventually(lambda: counts(pool) == {"img-a": 1})
    assert status(pool, around) == 1
    job = pool.job(curious)
    assert job is not None and "passwords.d" not in job.requirements and "$(SEC_PASSWORD" in job.requirements


def test_a_slot_that_runs_wins_over_a_machine_that_could_be_started(embedded: EmbeddedPool, folder: Path) -> None:
    pool = driver(embedded)
    pool.advertise([OfflineAd("img-a", Size(1, 128 * MIB), 4096 * MIB)])
    member = NodeIdentity("vm-1", "img-a", "desk-1", pool.mint_token("vm-1", 600), cpus=4)
    with ExecuteNode.start(embedded.tree, folder / "node", member, embedded.collector):
        eventually(lambda: bool(pool.snapshot().machines))
        job_id = submit(embedded, '+vm_name = "img-a"')
        eventually(lambda: status(pool, job_id) == 2)
        assert pool.snapshot().matches == ()


# Beside what a pool has

TEMPLATES = {
    "as Debian brings it": "use security:recommended_v9_0",
    "get_htcondor": "use security:get_htcondor_idtokens",
    "by user": "use security:user_based\nALLOW_DAEMON = $(ALLOW_DAEMON) condor@camp.test",
    "by host": "use security:host_based",
    "strong": "use security:strong\nALLOW_DAEMON = condor@camp.test\nALLOW_READ = *",
    "by hand": "ALLOW_ADVERTISE_STARTD = condor@camp.test\nALLOW_ADVERTISE_MASTER = condor@camp.test\nALLOW_READ = *",
    "as 8.8 was": "LEGACY_ALLOW_SEMANTICS = True\nALLOW_WRITE = condor@camp.test\nALLOW_READ = *",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_pools_own_machine_and_a_vm_join_beside_each_other_with_each_of_htcondors_security_templates(
    tree: trees.Tree, folder: Path, template: str
) -> None:
    """A stranger's collector with our drop-ins: `condor@camp.test` is a machine of its own, with a token of its key."""
    account, port = tree.account, free_port()
    for name in ("", "log", "lock", "spool", "config.d", "keys", "own", "vm", "tokens"):
        own_folder(folder / name, account, 0o755 if name != "keys" else 0o700)
    for key in ("POOL", "deskgrid"):
        write_atomic(folder / "keys" / key, key.encode() * 16, 0o600, account)
    stock = f"""RELEASE_DIR = /usr\nSBIN = /usr/sbin\nLOCAL_DIR = {folder}\nLOG = {folder}/log\nLOCK = {folder}/lock
RUN = {folder}/lock\nSPOOL = {folder}/spool\nCONDOR_HOST = 127.0.0.1\nCOLLECTOR_HOST = 127.0.0.1:{port}
NETWORK_INTERFACE = 127.0.0.1\nUSE_SHARED_PORT = False\nENABLE_IPV6 = False\nDAEMON_LIST = COLLECTOR
SEC_PASSWORD_DIRECTORY = {folder}/keys\nSEC_TOKEN_POOL_SIGNING_KEY_FILE = {folder}/keys/POOL
SEC_TOKEN_SYSTEM_DIRECTORY = {folder}/tokens\nSEC_TOKEN_DIRECTORY = {folder}/tokens
{template}\nTRUST_DOMAIN = camp.test\nUID_DOMAIN = camp.test\nFS_LOCAL_DIR = {folder}/nowhere
LOCAL_CONFIG_DIR = {folder}/config.d\n"""
    write_atomic(folder / "condor_config", stock.encode(), owner=account)
    config = {"CONDOR_CONFIG": str(folder / "condor_config")}

    def token(who: str, key: str, into: str) -> None:
        argv = ["condor_token_create", "-identity", who, "-key", key, "-token", into]
        argv += [word for scope in ("READ", "ADVERTISE_STARTD", "ADVERTISE_MASTER") for word in ("-authz", scope)]
        made = run_in(tree, argv, 20, [folder], {**config, "_CONDOR_SEC_TOKEN_DIRECTORY": str(folder / into)})
        assert made.ok, made.stderr

    def joins(who: str, tokens: str) -> bool:
        reach = Reach(str(tree.root), str(folder / "condor_config"), account, str(folder / tokens), timeout_seconds=5)
        own = [f'deskgrid_vm_id = "{who}"'] if tokens == "vm" else []
        text = ad("Machine", f"slot1@{who}", 'MyAddress = "<127.0.0.1:2>"', *own)
        with suppress(PoolError):
            run_tool(reach, ["condor_advertise", "UPDATE_STARTD_AD", "-"], 10, text)
            return f"slot1@{who}" in run_tool(reach, ["condor_status", "-af", "Name"], 10)
        return False

    token("condor@camp.test", "POOL", "own")
    token(identity("vm-1", int(time.time()) + 600, "camp.test"), "deskgrid", "vm")

    def collector(with_dropins: bool) -> "subprocess.Popen[bytes]":
        for file in dropins(PoolSettings(trust_domain="camp.test")) if with_dropins else ():
            write_atomic(folder / "config.d" / file.path, file.text.encode(), owner=account)
        argv = enter(tree, ["condor_collector", "-f", "-p", str(port)], [folder], config)
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    for with_dropins in (False, True):
        process = collector(with_dropins)
        try:
            eventually(lambda: joins("condor", "own"), seconds=20)
            assert joins("vm-1", "vm") == (with_dropins or "host_based" in template), "there, hosts are asked only"
        finally:
            process.terminate()
            process.wait()


# Tokens


def test_a_vms_token_advertises_a_startd_and_nothing_else(embedded: EmbeddedPool, folder: Path) -> None:
    pool = driver(embedded)
    vm = with_token(embedded, folder / "vm", pool.mint_token("vm-1", 600))

    def advertises(command: str, my_type: str) -> bool:
        name = "slot1@vm-1" if my_type == "Machine" else "vm-1"
        lines = ('deskgrid_vm_id = "vm-1"', 'MyAddress = "<127.0.0.1:2>"', 'ScheddIpAddr = "<127.0.0.1:2>"')
        text = ad(my_type, name, *lines)
        with suppress(PoolError):
            run_tool(vm, ["condor_advertise", command, "-"], 10, text)
        seen = embedded.command(["condor_status", "-any", "-constraint", f'Name == "{name}"', "-af", "Name"])
        return name in seen.stdout

    assert advertises("UPDATE_STARTD_AD", "Machine")
    assert not advertises("UPDATE_SCHEDD_AD", "Scheduler")
    assert not advertises("UPDATE_NEGOTIATOR_AD", "Negotiator")
    assert not advertises("UPDATE_SUBMITTOR_AD", "Submitter")
    assert not advertises("UPDATE_COLLECTOR_AD", "Collector")
    assert run_tool(vm, ["condor_status", "-schedd", "-af", "Name"], 10).strip(), "it may read"


def test_a_vms_token_neither_administers_nor_touches_jobs(embedded: EmbeddedPool, folder: Path) -> None:
    pool = driver(embedded)
    job_id = submit(embedded, '+vm_name = "img-a"')
    vm = with_token(embedded, folder / "vm", pool.mint_token("vm-1", 600))
    (schedd,) = embedded.command(["condor_status", "-schedd", "-af", "Name"]).stdout.split()
    for argv in (
        ["condor_rm", "-name", schedd, job_id],
        ["condor_qedit", "-name", schedd, job_id, "JobPrio", "1"],
        ["condor_userprio", "-setfactor", "deskgrid@deskgrid", "10"],
    ):
        with pytest.raises(PoolError):
            run_tool(vm, argv, 10)
    assert status(pool, job_id) == 1
    before = embedded.daemon_pids()
    own = {"PATH": os.environ["PATH"]}
    for command in ("condor_off", "condor_restart"):
        environment = {**own, "_CONDOR_SEC_TOKEN_DIRECTORY": vm.tokens}
        environment["_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS"] = "IDTOKENS"
        config = {"CONDOR_CONFIG": str(embedded.folders.config)}
        run_in(embedded.tree, [command, "-all"], 20, [embedded.folders.run, folder], {**config, **environment})
    time.sleep(2)
    assert embedded.daemon_pids() == before


def test_a_vms_token_ends_with_its_lifetime(embedded: EmbeddedPool, folder: Path) -> None:
    vm = with_token(embedded, folder / "vm", driver(embedded).mint_token("vm-1", 1))
    time.sleep(3)
    with pytest.raises(PoolRefused):
        run_tool(vm, ["condor_status", "-schedd", "-af", "Name"], 10)


def test_without_a_token_nothing_is_said(embedded: EmbeddedPool, folder: Path) -> None:
    stranger = with_token(embedded, folder / "stranger", "not-a-token")
    seen = CondorPool(stranger).snapshot()
    assert (seen.matches, seen.idle, seen.machines) == (None, None, None)
    with pytest.raises(PoolRefused):
        CondorPool(stranger).advertise([IMAGE_A])


def test_a_token_is_not_made_with_a_key_that_is_not_there(embedded: EmbeddedPool) -> None:
    reach = msgspec.structs.replace(embedded.reach(), key="nosuchkey")
    with pytest.raises(PoolRefused, match="key"):
        CondorPool(reach).mint_token("vm-1", 60)


def test_an_offline_ad_that_a_vm_forges_is_no_demand(embedded: EmbeddedPool, folder: Path) -> None:
    pool = driver(embedded)
    pool.advertise([IMAGE_A])
    vm = with_token(embedded, folder / "vm", pool.mint_token("vm-1", 600))
    lines = ["Offline = true", "deskgrid_offline = true", 'vm_name = "img-z"', 'MyAddress = "<127.0.0.1:9>"']
    lines += ["MachineLastMatchTime = 1795340904", "OfflineMatches = { [ RequestCount = 900; AutoclusterID = 1;"]
    lines[-1] += ' Scheduler = "<127.0.0.1:1>" ] }'
    forged = ad("Machine", "deskgrid-offline-img-z-1x512", *lines)
    with suppress(PoolError):  # the collector may only close the connection
        run_tool(vm, ["condor_advertise", "UPDATE_STARTD_AD", "-"], 10, forged)
    time.sleep(1)
    assert "img-z" not in embedded.command(["condor_status", "-af", "vm_name"]).stdout
    seen = pool.snapshot()
    assert (seen.matches, seen.faults) == ((), ())


def test_no_secret_is_in_the_pools_logs_or_readable_by_others(embedded: EmbeddedPool) -> None:
    token = driver(embedded).mint_token("vm-1", 600)
    driver(embedded).snapshot()
    signature = token.rsplit(".", 1)[1]
    for log in (embedded.folders.run / "log").iterdir():
        assert signature not in log.read_text(errors="replace")
    assert {path.stat().st_mode & 0o777 for path in embedded.folders.keys.iterdir()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in embedded.folders.tokens.iterdir()} == {0o600}


# Faults


def test_a_schedd_that_is_killed_comes_back_with_its_queue(embedded: EmbeddedPool) -> None:
    pool = driver(embedded)
    pool.advertise([IMAGE_A])
    job_id = submit(embedded, '+vm_name = "img-a"')
    eventually(lambda: counts(pool) == {"img-a": 1})
    before = embedded.daemon_pids()["condor_schedd"]
    os.kill(before, signal.SIGKILL)
    seen = pool.snapshot()
    assert seen.idle is None or sum(group.idle for group in seen.idle) == 1
    eventually(lambda: embedded.daemon_pids().get("condor_schedd", before) != before)
    eventually(lambda: bool(pool.snapshot().idle))
    assert status(pool, job_id) == 1
    eventually(
        lambda: {m.schedd for m in pool.snapshot().matches or ()} >= {g.schedd for g in pool.snapshot().idle or ()}
    )


def test_a_peer_that_never_answers_costs_the_time_limit_and_leaves_nothing_running(
    embedded: EmbeddedPool, folder: Path
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        config = folder / "condor_config"
        text = embedded.folders.config.read_text() + f"LOCAL_CONFIG_DIR =\nCOLLECTOR_HOST = 127.0.0.1:{port}\n"
        write_atomic(config, text.encode())
        pool = CondorPool(msgspec.structs.replace(embedded.reach(2), config=str(config)))
        calls: Sequence[Callable[[], object]] = (
            lambda: pool.advertise([IMAGE_A]),
            lambda: pool.forget_vm("vm-1"),
            lambda: pool.job("1.0"),
        )
        for call in calls:
            began = time.monotonic()
            with pytest.raises(PoolUnreachable, match="no answer"):
                call()
            assert time.monotonic() - began < 4
        began = time.monotonic()
        seen = pool.snapshot()
        assert time.monotonic() - began < 4
        assert (seen.matches, seen.idle, seen.machines) == (None, None, None)
        left = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
        assert not [line for line in left if "/condor_status" in line or "/condor_advertise" in line]


def test_a_coordinator_that_starts_anew_keeps_what_was_matched(embedded: EmbeddedPool) -> None:
    first = driver(embedded)
    first.advertise([IMAGE_A])
    job_id = submit(embedded, '+vm_name = "img-a"')
    eventually(lambda: counts(first) == {"img-a": 1})
    os.kill(embedded.daemon_pids()["condor_negotiator"], signal.SIGSTOP)
    second = driver(embedded)
    assert counts(second) == {"img-a": 1}
    second.advertise([IMAGE_A])
    assert counts(second) == {"img-a": 1}, "the refresh carried it over, no negotiator wrote it again"
    os.kill(embedded.daemon_pids()["condor_negotiator"], signal.SIGCONT)
    assert status(second, job_id) == 1


# The embedded pool itself


def test_stopping_leaves_no_process_and_the_queue_survives(tree: trees.Tree, folder: Path) -> None:
    pool = EmbeddedPool.start(tree, folder / "pool", QUICK)
    job_id = submit(pool, '+vm_name = "img-a"')
    pids = pool.daemon_pids()
    assert set(pids) >= {"condor_master", "condor_collector", "condor_negotiator", "condor_schedd"}
    assert all(psutil.Process(pid).uids().real == tree.account.uid for pid in pids.values())
    pool.stop()
    pool.stop()
    assert not [pid for pid in pids.values() if psutil.pid_exists(pid)]
    with EmbeddedPool.start(tree, folder / "pool", QUICK) as again:
        assert status(driver(again), job_id) == 1


def test_a_running_pool_is_found_stopped_by_another_and_not_started_twice(tree: trees.Tree, folder: Path) -> None:
    assert EmbeddedPool.find(tree, folder / "pool") is None
    pool = EmbeddedPool.start(tree, folder / "pool", QUICK)
    try:
        with pytest.raises(EmbeddedError, match="runs already"):
            EmbeddedPool.start(tree, folder / "pool", QUICK)
        other = EmbeddedPool.find(tree, folder / "pool")
        assert other is not None and other.collector == pool.collector
        other.stop()
        assert EmbeddedPool.find(tree, folder / "pool") is None
    finally:
        pool.stop()


def test_a_pool_of_which_every_daemon_was_killed_starts_again(tree: trees.Tree, folder: Path) -> None:
    pool = EmbeddedPool.start(tree, folder / "pool", QUICK)
    for pid in pool.daemon_pids().values():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: pool.master_pid() is None)
    with EmbeddedPool.start(tree, folder / "pool", QUICK) as again:
        assert driver(again).snapshot().faults == ()


def test_daemons_whose_master_was_killed_are_ended_by_the_next_start(tree: trees.Tree, folder: Path) -> None:
    pool = EmbeddedPool.start(tree, folder / "pool", QUICK)
    pids = pool.daemon_pids()
    os.kill(pids["condor_master"], signal.SIGKILL)
    eventually(lambda: pool.master_pid() is None)
    with EmbeddedPool.start(tree, folder / "pool", HeadSettings(port=pool.state.port, cycle_seconds=2)) as again:
        assert driver(again).snapshot().faults == ()
        assert not set(pids.values()) & set(again.daemon_pids().values())


def test_a_port_that_is_taken_is_said_at_once(tree: trees.Tree, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EmbeddedError, match="can't be used"):
            EmbeddedPool.start(tree, folder / "pool", HeadSettings(port=taken.getsockname()[1]))


def test_a_pool_in_a_folder_with_a_very_long_name_works(tree: trees.Tree, folder: Path) -> None:
    deep = folder / ("a" * 60) / ("b" * 60) / "pool"
    with EmbeddedPool.start(tree, deep, QUICK) as pool:
        assert driver(pool).snapshot().faults == ()


# NAT


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("slirp4netns") is None, reason="needs root and slirp4netns")
def test_a_machine_behind_nat_joins_runs_a_job_with_files_and_vacates(embedded: EmbeddedPool, folder: Path) -> None:
    """The network of QEMU's `-netdev user`: the head is 10.0.2.2, and nobody can call the machine."""
    pool = driver(embedded, 10)
    extra = ("NETWORK_INTERFACE = 10.0.2.100", "PRIVATE_NETWORK_NAME = vm", "PRIVATE_NETWORK_INTERFACE =")
    extra += ("CCB_ADDRESS = $(COLLECTOR_HOST)", "NO_DNS = True", "DEFAULT_DOMAIN_NAME = deskgrid.internal")
    extra += ("NETWORK_HOSTNAME = vm-behindnata.deskgrid.internal",)
    member = NodeIdentity("vm-behindnata", "img-a", "desk-1", pool.mint_token("vm-behindnata", 600), extra=extra)
    (embedded.jobs / "in.txt").write_text("what was sent\n")
    script = embedded.jobs / "job.sh"
    script.write_text("#!/bin/sh\ncat in.txt\necho what came back > out.txt\n")
    script.chmod(0o755)
    namespace = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    time.sleep(0.3)
    slirp = subprocess.Popen(
        ["slirp4netns", "--configure", "--mtu=1500", str(namespace.pid), "tap0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(1)
    prefix = ["nsenter", f"--net=/proc/{namespace.pid}/ns/net", "--"]
    node = ExecuteNode.start(embedded.tree, folder / "node", member, embedded.guest_collector, prefix)
    try:
        eventually(lambda: bool(pool.snapshot().machines))
        lines = ['+vm_name = "img-a"', "transfer_input_files = in.txt", "output = said.txt", "executable = job.sh"]
        job_id = submit(embedded, *lines, "transfer_executable = true", "arguments =")
        eventually(lambda: status(pool, job_id) == 4, seconds=60)
        assert (embedded.jobs / "said.txt").read_text() == "what was sent\n"
        assert (embedded.jobs / "out.txt").read_text() == "what came back\n"
        long_job = submit(embedded, '+vm_name = "img-a"')
        eventually(lambda: status(pool, long_job) == 2)
        node.leave()
        eventually(lambda: status(pool, long_job) == 1, seconds=5)
        pool.forget_vm("vm-behindnata")  # its own word takes no ad away
        assert pool.snapshot().machines == ()
    finally:
        node.die()
        slirp.terminate()
        namespace.kill()
        slirp.wait()
        namespace.wait()


RUNS = {
    "TransferSocket": '"<127.0.0.1:1>"',
    "ClaimId": '"c"',
    "RemoteHost": '"slot1_1@vm-abcdefghij.deskgrid.internal"',
    "JobCurrentStartDate": "time() - 60",
}
LEASES = {
    "its inputs have arrived": ({"TransferInFinished": "time() - 59"}, 2),
    "it executes": ({"JobCurrentStartExecutingDate": "time() - 58"}, 2),
    "it executed at an earlier start only": ({"JobCurrentStartExecutingDate": "time() - 90"}, 900),
    "young": ({"JobCurrentStartDate": "time() - 5"}, 2),
    "a starter's copy: from before it began": ({}, 900),
    "a shadow that found it again": ({"TransferInFinished": "time() - 59", "TransferSocket": "undefined"}, 900),
    "a startd's copy": ({"TransferInFinished": "time() - 59", "ClaimId": "undefined"}, 900),
    "elsewhere": ({"TransferInFinished": "time() - 59", "RemoteHost": '"slot1@vm-17.example.edu"'}, 900),
}


@pytest.mark.parametrize("which", condor.BOTH)
@pytest.mark.parametrize("copy", LEASES)
def test_only_the_shadow_that_began_a_job_on_a_machine_of_ours_waits_for_short(copy: str, which: str) -> None:
    more, seconds = LEASES[copy]
    facts = [f"{name} = {said}" for name, said in {**RUNS, **more}.items()]
    said = run_in(condor.tree(which), ["classad_eval", "-quiet", *facts, _lease(PoolSettings())], 30)
    assert said.stdout.strip() == str(seconds), said.stdout + said.stderr
