"""Reports a second of the coordinator on one core, beside updates a second of HTCondor's collector on the same core.

Rules:
- What is measured has one core to itself; what drives it has another one.
- Coordinator: the real service over HTTPS; 64 desktops at rest, each with a connection that stays open and one report
  under way, each report answered with what the desktop should run. Its pool is in memory, since HTCondor is asked
  between reports, not for them.
- Collector: the real daemon of a real pool, its connections authenticated by token and encrypted, as the coordinator's
  are; real slot ads, sent one update at a time over connections that stay open, as daemons do; never answered.
- What each costs is also told by its own CPU time, which no other load on the machine can spoil.
"""

import subprocess
import sys

import msgspec

from bench import coordinator_alone, report_load
from bench.figure import Figure, Load, measured
from bench.ground import Ground
from bench.machine import CannotMeasure, two_cores
from bench.report_load import Result, Task
from bench.updates import Rate, collector_rate
from deskgrid.agent.enrol import enrol
from deskgrid.agent.settings import credential_file
from deskgrid.pool.embedded.pool import EmbeddedError

NAMES = ("coordinator_reports_per_s", "coordinator_reports_per_cpu_s")
DESKTOPS = 64


def run(ground: Ground, load: Load, seconds: float = 10.0, times: int = 3, updates: int = 8000) -> list[Figure]:
    """Measure. Raises: CannotMeasure."""
    served, driver = two_cores()
    task = _start(ground, served, seconds)
    results = []
    for number in range(times):
        ground.say(f"reports of {DESKTOPS} desktops, {number + 1} of {times}")
        results.append(_drive(task, driver))
    ground.end_program(coordinator_alone)
    try:
        peer = collector_rate(ground, served, driver, updates)
    except (CannotMeasure, EmbeddedError) as error:
        peer = Rate(None, None, f"not measured: {error}")
    note = (
        f"{DESKTOPS} desktops, {results[-1].bytes} bytes each over TLS; the load used "
        f"{100 * results[-1].own_cpu_seconds / results[-1].seconds:.0f} % of its core. Peer: {peer.note}"
    )
    return _figures(results, peer, note, load)


def _figures(results: list[Result], peer: Rate, note: str, load: Load) -> list[Figure]:
    by_wall = [result.answers / result.seconds for result in results]
    by_cpu = [result.answers / result.cpu_seconds for result in results]
    return [
        measured(NAMES[0], by_wall, peer_value=peer.per_second, note=note, load=load),
        measured(NAMES[1], by_cpu, peer_value=peer.per_cpu_second, note="by its own CPU time", load=load),
    ]


def _start(ground: Ground, core: int, seconds: float) -> Task:
    """Start the coordinator on one core and enrol all desktops."""

    settings, state, port = ground.settings_of_coordinator()
    pid = ground.start_program(coordinator_alone, str(settings), str(ground.cast.folder / "wanted"), core=core)
    client = ground.client(state, port)
    made = client.make_token(3600, DESKTOPS)
    who = []
    for number in range(DESKTOPS):
        name, folder = f"desk-{number}", ground.cast.make_folder(f"desk-{number}")
        enrol(f"https://localhost:{port}", name, f"{made.token}@{made.ca_fingerprint}", folder)
        who.append((name, credential_file(folder).read_text().strip()))
    client.close()
    return Task(port, str(state / "ca.pem"), pid, tuple(who), seconds=seconds)


def _drive(task: Task, core: int) -> Result:

    done = subprocess.run(
        ["taskset", "--cpu-list", str(core), sys.executable, "-m", report_load.__name__],
        input=msgspec.json.encode(task),
        capture_output=True,
        timeout=task.warm_seconds + task.seconds + 60,
        check=False,
    )
    if done.returncode:
        raise CannotMeasure(f"load of reports: {done.stderr.decode(errors='replace').strip()[-300:]}")
    result = msgspec.json.decode(done.stdout, type=Result)
    if result.failures:
        raise CannotMeasure(f"load of reports: {result.failures[0]}")
    return result
