"""Updates a second that HTCondor's collector takes on one core, sent as daemons send them.

Rules, told first:
- HTCondor's own client sends them: `condor_advertise -tcp -multiple` sends each ad as an update command of its own on
  a connection that stays open, as daemons do, after one authentication by IDTOKEN, encrypted.
- Several senders at once, each with its own connection and its own machine; each ad is a startd's real one.
- Starting a sender and authenticating it is not what is asked for: the same senders with one ad each are measured, too,
  and taken off.
- Updates are not answered. So the end is when the collector's CPU time stands still, and afterwards it is asked how
  many updates it has counted: all must have arrived.
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
from deskgrid.host.account import become
from deskgrid.host.entry import direct
from deskgrid.pool.embedded import EmbeddedPool
from deskgrid.pool.reach import Reach

SENDERS = 8
UPDATES_EACH = 5000
_STILL_SECONDS, _STEP_SECONDS, _IDLING_SECONDS = 0.3, 0.02, 0.001


_HOW = f"{SENDERS} senders, each a TCP connection that stays open, authenticated by IDTOKEN and encrypted"


class Rate(msgspec.Struct, frozen=True):
    """What came of it; None: nothing. note: what exactly was measured, or why not."""

    per_second: float | None
    per_cpu_second: float | None
    note: str


class Cost(msgspec.Struct, frozen=True):
    """What a number of updates took: by the clock, and of the collector's CPU."""

    seconds: float
    cpu_seconds: float


def collector_rate(ground: Ground, served: int, driver: int) -> Rate:
    """Measure, with the collector on core `served` and the senders on `driver`. Raises: CannotMeasure."""
    ground.say("starting a pool for the collector's updates")
    pool = start_pool(ground)
    node = start_node(ground, pool)
    ad = slot_ad(pool).strip() + "\n"
    node.leave()
    collector = psutil.Process(pool.daemon_pids()["condor_collector"])
    pin(collector.pid, served)

    def cost(text: str, each: int) -> Cost:
        files = _files(ground, text, each)
        try:
            return _send(ground, pool, collector, files, driver)
        finally:
            for file in files:
                file.unlink()

    few = cost(ad, 1)
    ground.say(f"{SENDERS * UPDATES_EACH} updates of the collector")
    whole = rate(few, cost(ad, UPDATES_EACH), SENDERS * (UPDATES_EACH - 1), ad)
    _check(pool, SENDERS * (1 + UPDATES_EACH))
    small = small_ad(ad)
    ground.say(f"{SENDERS * UPDATES_EACH} small updates of the collector")
    other = rate(few, cost(small, UPDATES_EACH), SENDERS * (UPDATES_EACH - 1), small)
    return msgspec.structs.replace(whole, note=f"{_HOW}; {whole.note}; against that {other.note}")


def rate(few: Cost, many: Cost, more_updates: int, ad: str) -> Rate:
    """The rate, with the senders' start taken off. Raises: CannotMeasure."""
    seconds, cpu = many.seconds - few.seconds, many.cpu_seconds - few.cpu_seconds
    if seconds <= 0 or cpu <= 0:
        raise CannotMeasure("updates of the collector: sending many took no longer than sending few")
    note = (
        f"with ads of {len(ad.splitlines())} attributes, {len(ad)} bytes: {more_updates / seconds:,.0f}/s, "
        f"{more_updates / cpu:,.0f} per CPU second, {100 * cpu / seconds:.0f} % of its core used"
    )
    return Rate(more_updates / seconds, more_updates / cpu, note)


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


def _files(ground: Ground, ad: str, count: int) -> list[Path]:
    folder = ground.cast.make_folder(f"updates-{count}", 0o755)
    return [
        ground.cast.write(folder / f"{number}", f"{machine_ad(ad, number)}\n" * count, 0o644)
        for number in range(SENDERS)
    ]


def _send(ground: Ground, pool: EmbeddedPool, collector: psutil.Process, files: Sequence[Path], core: int) -> Cost:
    reach = pool.reach()
    cpu, began = cpu_seconds([collector.pid]), time.monotonic()
    senders = [_sender(ground, reach, file, core) for file in files]
    try:
        end = began + 120
        while any(sender.poll() is None for sender in senders):
            if time.monotonic() > end:
                raise CannotMeasure("updates of the collector: not all sent after 120 s")
            time.sleep(_STEP_SECONDS)
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()
    if any(sender.returncode for sender in senders):
        raise CannotMeasure("updates of the collector: condor_advertise failed; see `deskgrid doctor`")
    ended = _still(collector)
    return Cost(ended - began, cpu_seconds([collector.pid]) - cpu)


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


def _still(process: psutil.Process) -> float:
    """Wait until a process uses no CPU. Returns: since when."""
    last, since = cpu_seconds([process.pid]), time.monotonic()
    while time.monotonic() - since < _STILL_SECONDS:
        time.sleep(_STEP_SECONDS)
        now = cpu_seconds([process.pid])
        if now > last + _IDLING_SECONDS:
            last, since = now, time.monotonic()
    return since


def _check(pool: EmbeddedPool, expected: int) -> None:
    """Every update must have arrived, as the collector itself counts them for each ad."""
    question = ["condor_status", "-any", "-constraint", 'regexp("^slot1@bench-[0-9]+$", Name)', "-af", "UpdatesTotal"]
    told = pool.command(question).stdout.split()
    arrived = sum(int(word) for word in told if word.isdigit())
    if arrived < 0.99 * expected:
        raise CannotMeasure(f"updates of the collector: it counted {arrived}, expected {expected}")
