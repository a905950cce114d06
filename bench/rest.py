"""Agents at rest beside HTCondor's own execute daemons at rest, on the same machine in the same minute.

Rules:
- All is real and as installed: the coordinator with its default settings over HTTPS, a real pool behind it, agents with
  the built-in policy, but for what a bench machine may lack. One agent's owner is away (a file says so): it is
  available and its reports are held open. The other watches this computer's real owner with the Linux driver.
- The daemons are those of an ordinary execute node that has nothing to do: condor_master and what it starts, with
  HTCondor's own defaults for what decides their footprint (shared port, process tracker, update interval).
- Resident memory is the sum of what each process has resident; CPU is what all their threads used; a wake-up is a
  voluntary context switch of any of their threads, as /proc/PID/task/*/status counts them.
"""

import statistics
import time
from pathlib import Path

import msgspec
import psutil

from bench.figure import Figure, Load, measured
from bench.ground import Ground
from bench.machine import CannotMeasure, cpu_seconds, switches
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.pool.embedded.pool import EmbeddedPool, free_port
from deskgrid.pool.tools.driver import CondorPool
from deskgrid.presence.fake import set_presence
from tests.pool.execute_node import ExecuteNode, NodeIdentity

NAMES = (
    "agent_rss_mb",
    "agent_cpu_percent",
    "agent_wakeups_per_s",
    "agent_linux_rss_mb",
    "agent_linux_cpu_percent",
    "agent_linux_wakeups_per_s",
)
_STEP_SECONDS = 5.0
_MB = 1e6
_POLICY = """[policy]
closed = []
on_battery = true
battery_min_percent = 0
metered = true
full_screen = true
boot_delay_seconds = 0
start_offset_seconds = 0
others_cpu_max = 1
memory_pressure_max = 100
"""
"""So that the agent is available on any machine that this is run on, by day too; all else as built in."""


class Use(msgspec.Struct, frozen=True):
    """What some processes used. rss_mb: at each look. cpu_percent: of one core. wakeups: a second, all together."""

    rss_mb: tuple[float, ...]
    unique_mb: float
    cpu_percent: float
    wakeups: float
    names: tuple[str, ...]


def start_node(ground: Ground, pool: EmbeddedPool) -> ExecuteNode:
    """An execute node of this pool, with HTCondor's own defaults where ours would make it smaller."""
    defaults = (
        "USE_SHARED_PORT = True",
        f"SHARED_PORT_PORT = {free_port()}",
        f"DAEMON_SOCKET_DIR = {ground.cast.folder}/sock",
        "SEC_USE_FAMILY_SESSION = True",
        "USE_PROCD = True",
        "UPDATE_INTERVAL = 300",
    )
    ground.cast.make_folder("sock")
    token = CondorPool(pool.reach()).mint_token("bench-node", 3600)
    member = NodeIdentity("bench-node", "none", "bench", token, extra=defaults)
    folder = ground.cast.make_folder("node", 0o755)
    node = ExecuteNode.start(ground.tree, folder, member, pool.collector)
    ground.cast.at_end(node.leave)
    ground.until("the execute daemons to join", 60, lambda: "bench-node" in slot_ad(pool), 0.5)
    return node


def slot_ad(pool: EmbeddedPool) -> str:
    """The node's whole ad as the collector has it; nothing while it is not there."""
    question = 'deskgrid_vm_id == "bench-node" && MyType == "Machine"'
    return pool.command(["condor_status", "-any", "-long", "-constraint", question]).stdout


def start_pool(ground: Ground) -> EmbeddedPool:
    """A real pool that has nothing to do."""
    pool = EmbeddedPool.start(ground.tree, ground.cast.make_folder("pool", 0o755), HeadSettings(cycle_seconds=60))
    ground.cast.at_end(pool.stop)
    return pool


def run(ground: Ground, load: Load, seconds: float = 300.0, settle_seconds: float = 20.0) -> list[Figure]:
    """Measure. Raises: CannotMeasure."""
    ground.say("starting a pool, a coordinator, two agents and HTCondor's execute daemons")
    pool = start_pool(ground)
    node = start_node(ground, pool)
    file_agent, linux_agent = _agents(ground, pool)
    ground.say(f"all at rest; settling for {settle_seconds:.0f} s, then {seconds:.0f} s are measured")
    time.sleep(settle_seconds)
    groups = {"file": _tree(file_agent), "linux": _tree(linux_agent), "daemons": node.processes()}
    used = _watch(ground, groups, seconds)
    peer = used["daemons"]
    told = f"{', '.join(peer.names)}; not shared with others: {peer.unique_mb:.1f} MB"
    terminals = len([path for path in Path("/dev/pts").iterdir() if path.name.isdigit()])
    what = {
        "file": "its owner is away, its report is held open",
        "linux": f"with the Linux presence driver; {terminals} pseudo terminals are open on this computer",
    }
    figures = []
    for kind, (memory, cpu, wakeups) in (("file", NAMES[:3]), ("linux", NAMES[3:])):
        mine = used[kind]
        note = f"{what[kind]}; not shared with others: {mine.unique_mb:.1f} MB. Peer: {told}"
        figures += [
            measured(memory, mine.rss_mb, peer_value=statistics.median(peer.rss_mb), note=note, load=load),
            measured(cpu, [mine.cpu_percent], peer_value=peer.cpu_percent, note=f"over {seconds:.0f} s", load=load),
            measured(wakeups, [mine.wakeups], peer_value=peer.wakeups, note=f"over {seconds:.0f} s", load=load),
        ]
    return figures


def _agents(ground: Ground, pool: EmbeddedPool) -> tuple[int, int]:
    """Coordinator and agents. Returns: the agents' process ids."""
    reach = msgspec.to_builtins(msgspec.structs.replace(pool.reach(), account=None))
    lines = "\n".join(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in reach.items() if value)
    settings, state, port = ground.settings_of_coordinator(
        guest=f'[guest]\ncollector = "{pool.guest_collector}"\n', pool=f"[pool]\n{lines}\n"
    )
    ground.cast.start("coordinator", "coordinator", "run", "--settings", str(settings))
    client = ground.client(state, port)
    owner = ground.cast.make_folder("owner", 0o755) / "now"
    set_presence(owner, "away")
    file_agent = ground.start_agent(client, port, "desk-file", f"file:{owner}", _POLICY)
    linux_agent = ground.start_agent(client, port, "desk-linux", "linux", _POLICY)
    ground.until("both agents to report", 60, lambda: client.status().reporting == 2)
    ground.until("a report to be held", 90, lambda: client.status().held_reports >= 1)
    return file_agent, linux_agent


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _watch(ground: Ground, groups: dict[str, list[psutil.Process]], seconds: float) -> dict[str, Use]:
    began = time.monotonic()
    before = {name: cpu_seconds(process.pid for process in group) for name, group in groups.items()}
    slept = {name: switches(process.pid for process in group) for name, group in groups.items()}
    memory: dict[str, list[float]] = {name: [] for name in groups}
    while (left := began + seconds - time.monotonic()) > 0:
        ground.cast.watch()
        for name, group in groups.items():
            memory[name].append(sum(process.memory_info().rss for process in group) / _MB)
        ground.say(f"{left:.0f} s to go")
        time.sleep(min(left, _STEP_SECONDS))
    try:
        return {
            name: Use(
                tuple(memory[name]),
                sum(process.memory_full_info().uss for process in group) / _MB,
                100 * (cpu_seconds(process.pid for process in group) - before[name]) / (time.monotonic() - began),
                (switches(process.pid for process in group) - slept[name]) / (time.monotonic() - began),
                tuple(process.name() for process in group),
            )
            for name, group in groups.items()
        }
    except (OSError, psutil.NoSuchProcess) as error:
        raise CannotMeasure(f"processes at rest: {error} ended meanwhile") from None
