"""Updates a second that HTCondor's collector takes on one core, sent as daemons send them.

Rules:
- HTCondor's own client sends them: `condor_advertise -tcp -multiple` sends each ad as an update command of its own on
  a connection that stays open, as daemons do, after one authentication by IDTOKEN, encrypted.
- Several senders at once, each with its own connection and its own machine; each ad is a startd's real one.
- A sender reads all its ads before it sends the first. So the time counts that the collector is at work: from a
  twentieth of its CPU time until the last twentieth.
- Updates are not answered: afterwards the collector is asked how many it has counted; all must have arrived.
- The senders may be slower than the collector. Then the rate by the clock is theirs, and `note` says how much of its
  core the collector used; the rate by its CPU time is its own in any case.
"""

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from bench.ground import Ground
from bench.machine import CannotMeasure, cpu_seconds, pin
from bench.rest import slot_ad, start_node, start_pool
from bench.stillness import Sample
from deskgrid.host.system.account import become
from deskgrid.host.trees.entry import direct
from deskgrid.pool.embedded.pool import EmbeddedPool
from deskgrid.pool.tools.reach import Reach

SENDERS = 4
_STILL_SECONDS, _STEP_SECONDS, _IDLING_NS = 0.3, 0.02, 500_000
_EDGE = 0.05


_HOW = f"{SENDERS} senders, each a TCP connection that stays open, authenticated by IDTOKEN and encrypted"


class Rate(msgspec.Struct, frozen=True):
    """What came of it; None: nothing. note: what exactly was measured, or why not."""

    per_second: float | None
    per_cpu_second: float | None
    note: str


def collector_rate(ground: Ground, served: int, driver: int, each: int) -> Rate:
    """Measure, with the collector on core `served`, the senders on `driver`. each: updates. Raises: CannotMeasure."""
    ground.say("starting a pool for the collector's updates")
    pool = start_pool(ground)
    node = start_node(ground, pool)
    ad = slot_ad(pool).strip() + "\n"
    node.leave()
    collector = psutil.Process(pool.daemon_pids()["condor_collector"])
    pin(collector.pid, served)
    rates = []
    for text in (ad, small_ad(ad)):
        ground.say(f"{SENDERS * each} updates of the collector, {len(text)} bytes each")
        seen = _send(ground, pool, collector.pid, text, each, driver)
        rates.append(rate(seen, SENDERS * each, text))
    _check(pool, 2 * SENDERS * each)
    whole, small = rates
    return msgspec.structs.replace(whole, note=f"{_HOW}; {whole.note}; {small.note}")


def rate(seen: Sequence[Sample], updates: int, ad: str) -> Rate:
    """The rate while the collector was at work. Raises: CannotMeasure.

    Args:
        seen: its CPU time, from before the first update until after the last. ad: what was sent.
    """
    used = seen[-1].ran - seen[0].ran
    began = next(each.at for each in seen if each.ran - seen[0].ran >= _EDGE * used)
    ended = next(each.at for each in seen if each.ran - seen[0].ran >= (1 - _EDGE) * used)
    if used <= 0 or ended <= began:
        raise CannotMeasure("updates of the collector: it took no time that could be measured")
    seconds, cpu = (ended - began) / (1 - 2 * _EDGE), used / 1e9
    note = (
        f"with ads of {len(ad.splitlines())} attributes, {len(ad)} bytes: {updates / seconds:,.0f}/s, "
        f"{updates / cpu:,.0f} per CPU second; it used {100 * cpu / seconds:.0f} % of its core"
    )
    return Rate(updates / seconds, updates / cpu, note)


def small_ad(ad: str) -> str:
    """The same ad, as small as one of our reports: what the collector must have to take it, and little more."""
    wanted = ("MyType", "Name", "Machine", "MyAddress", "State", "Activity", "Cpus", "Memory", "Disk", "OpSys", "Arch")
    return "".join(f"{line}\n" for line in ad.splitlines() if line.partition(" = ")[0] in wanted)


def machine_ad(ad: str, number: int) -> str:
    """The same ad, of another machine."""
    text = ad
    for name, value in (("Name", f"slot1@bench-{number}"), ("Machine", f"bench-{number}")):
        text, count = re.subn(rf'(?m)^{name} = ".*"$', f'{name} = "{value}"', text)
        if count != 1:
            raise CannotMeasure(f"slot ad: got {count} attributes {name}, expected one")
    return text


def _send(ground: Ground, pool: EmbeddedPool, collector: int, ad: str, each: int, core: int) -> list[Sample]:
    """Send all. each: times that each sender sends the ad. Returns: the collector's CPU time meanwhile."""
    folder = ground.cast.make_folder("updates", 0o755)
    files = [
        ground.cast.write(folder / f"{number}", f"{machine_ad(ad, number)}\n" * each, 0o644)
        for number in range(SENDERS)
    ]
    senders = [_sender(ground, pool.reach(), file, core) for file in files]
    try:
        seen = _watch(collector, senders)
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()
        for file in files:
            file.unlink()
    if any(sender.returncode for sender in senders):
        raise CannotMeasure("updates of the collector: condor_advertise failed; see `deskgrid doctor`")
    return seen


def _watch(collector: int, senders: "Sequence[subprocess.Popen[bytes]]") -> list[Sample]:
    """Read the collector's CPU time until all is sent and it has come to rest."""
    seen = [_sample(collector)]
    resting_since = seen[0].at
    while resting_since + _STILL_SECONDS > seen[-1].at:
        if seen[-1].at > seen[0].at + 120:
            raise CannotMeasure("updates of the collector: not all sent after 120 s")
        time.sleep(_STEP_SECONDS)
        seen.append(_sample(collector))
        if seen[-1].ran - seen[-2].ran > _IDLING_NS or any(sender.poll() is None for sender in senders):
            resting_since = seen[-1].at
    return seen


def _sample(pid: int) -> Sample:
    return Sample(time.monotonic(), round(cpu_seconds([pid]) * 1e9))


def _sender(ground: Ground, reach: Reach, file: Path, core: int) -> "subprocess.Popen[bytes]":
    pinned = ["taskset", "--cpu-list", str(core), *become(ground.cast.account)]
    words = ["-tcp", "-multiple", "UPDATE_STARTD_AD", str(file)]
    return subprocess.Popen(
        [*pinned, *direct(ground.tree.root, "usr/sbin/condor_advertise", words)],
        env={
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(ground.cast.folder),
            "CONDOR_CONFIG": reach.config,
            "_CONDOR_SEC_TOKEN_DIRECTORY": reach.tokens,
            "_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS": "IDTOKENS",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _check(pool: EmbeddedPool, expected: int) -> None:
    """Every update must have arrived, as the collector itself counts them for each ad."""
    question = ["condor_status", "-any", "-constraint", 'regexp("^slot1@bench-[0-9]+$", Name)', "-af", "UpdatesTotal"]
    told = pool.command(question).stdout.split()
    arrived = sum(int(word) for word in told if word.isdigit())
    if arrived < 0.99 * expected:
        raise CannotMeasure(f"updates of the collector: it counted {arrived}, expected {expected}")
