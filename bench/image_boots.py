"""Boots: from the store beside a plain file, and on a desktop that has nothing of the image yet, until the first job.

Rules:
- Beside each other: the same QEMU, kernel and guest; only where the disk's blocks come from differs. Until the guest's
  member has started HTCondor's daemons.
- The first job: a real pool, coordinator, agent and guest; the desktop's only source of packs is behind the slow link.
  From the desktop's order to the job's state "running". Kernel and initial RAM disk are fetched like the disk.
- Download, then boot: the whole image as zstd over the same link, then the same start with all that it reads there.
"""

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from bench.ground import Ground
from bench.link import Web
from bench.machine import CannotMeasure
from deskgrid.core.events import Joined
from deskgrid.demo.signers import SignersFolders
from deskgrid.demo.stage import CYCLE_SECONDS, LEASE_SECONDS, Stage
from deskgrid.images.publish.publish import Publication
from deskgrid.images.publish.trial_boot import WORTHLESS, qemu_args
from deskgrid.pool.config import PoolSettings
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.wire.guest import Hello, Join, decode_from_guest, encode

_MOST_SECONDS = 240.0
_DESKTOP = "desk-1"
_RUNNING, _DONE = "2", "4"
"""JobStatus in HTCondor."""


def seconds_to_joined(qemu: str, source: Publication, base: str) -> float:
    """Boot, and return the seconds from QEMU's start until HTCondor's daemons start. base: the -drive's file."""
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryDirectory(prefix="deskgrid-bench-") as folder, ours:
        argv = qemu_args(qemu, source, Path(folder), theirs.fileno())
        at = next(number for number, word in enumerate(argv) if word.startswith("if=none,id=disk"))
        argv[at] = f"if=none,id=disk,snapshot=on,{base}"
        began = time.monotonic()
        machine = subprocess.Popen(
            argv, pass_fds=[theirs.fileno()], env=os.environ | {"TMPDIR": folder}, start_new_session=True
        )
        theirs.close()
        try:
            _await_joined(ours, began + _MOST_SECONDS)
            return time.monotonic() - began
        finally:
            with suppress(ProcessLookupError):
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()


def _await_joined(channel: socket.socket, end: float) -> None:
    rest = b""
    while time.monotonic() < end:
        if not select.select([channel], [], [], 0.5)[0]:
            continue
        came = channel.recv(1 << 16)
        if not came:
            break
        *lines, rest = (rest + came).split(b"\n")
        for message in map(decode_from_guest, lines):
            if isinstance(message, Hello):
                channel.sendall(encode(Join(WORTHLESS)))
            elif isinstance(message, Joined):
                return
    raise CannotMeasure("a guest: its daemons did not start in time")


class Start(msgspec.Struct, frozen=True):
    """From a desktop's order to its first job. fetched_bytes: what the web server sent until then, headers included."""

    seconds: float
    fetched_bytes: int


def repository(place: Ground) -> Path:
    """What the web server shall serve as the root."""
    return SignersFolders(place.cast.folder / "signers").repository


class ColdDesktop:
    """A desktop of a real pool. Its image is published and signed; its packs come over the link."""

    def __init__(self, place: Ground, image: Path, name: str) -> None:
        self._place, self._name = place, name
        self._stage = Stage(place.cast, place.tree)
        self._stage.vouch(image)

    def begin(self, web: Web) -> None:
        """Start pool, coordinator and the desktop, whose owner is away."""
        stage = self._stage
        stage.start_pool(HeadSettings(PoolSettings(lease_seconds=LEASE_SECONDS), cycle_seconds=CYCLE_SECONDS))
        stage.start_coordinator({"images": {"sources": [web.url]}})
        stage.enrol(_DESKTOP)
        stage.start_agent(_DESKTOP)
        self._place.until("the desktop to be idle", 60, lambda: stage.client.status().available == 1)

    def first_job(self, web: Web, key: str) -> Start:
        """Submit a job; wait until it runs (or has ended already)."""
        stage, pool = self._stage, self._stage.pool
        for name, text, mode in (
            (f"{key}.sh", "#!/bin/sh\nsleep 2\n", 0o755),
            (f"{key}.sub", self._submit(key), 0o644),
        ):
            path = pool.jobs / name
            path.write_text(text)
            path.chmod(mode)
            if os.geteuid() == 0:
                os.chown(path, stage.cast.account.uid, stage.cast.account.gid)
        before, last = web.sent(), stage.client.status().last_line
        done = pool.command(["condor_submit", "-terse", f"{key}.sub"], cwd=pool.jobs)
        if not done.ok:
            raise CannotMeasure(f"condor_submit: {done.stderr.strip()}")
        job = done.stdout.split()[0]
        found: list[float] = []

        def ordered() -> bool:
            lines = stage.client.events(last, wait_seconds=0.2).lines
            found.extend(line.told_at.timestamp() for line in lines if line.state == "fetching")
            return bool(found)

        self._place.until("the desktop's order", 90, ordered, 0.0)
        self._place.until("the job to run", _MOST_SECONDS, lambda: self._state(job) in (_RUNNING, _DONE), 0.1)
        return Start(time.time() - found[0], web.sent().bytes - before.bytes)

    def clear(self) -> None:
        """The owner comes back, the machine goes, the owner leaves."""
        stage = self._stage
        stage.owner(_DESKTOP, "present")
        self._place.until("the machine to go", 60, lambda: not stage.client.vms())
        stage.owner(_DESKTOP, "away")
        self._place.until("the desktop to be idle", 60, lambda: stage.client.status().available == 1)

    def _state(self, job: str) -> str:
        pool = self._stage.pool
        now = pool.command(["condor_q", job, "-af", "JobStatus"])
        if now.ok and now.stdout.strip():
            return now.stdout.split()[0]
        past = pool.command(["condor_history", job, "-limit", "1", "-af", "JobStatus"])
        return past.stdout.split()[0] if past.ok and past.stdout.strip() else ""

    def _submit(self, key: str) -> str:
        lines = [f"executable = {key}.sh", f"output = {key}.out", f"error = {key}.err", f"log = {key}.log"]
        lines += ["request_cpus = 1", "request_memory = 256MB", "request_disk = 64MB", "should_transfer_files = yes"]
        return "\n".join([*lines, f'+vm_name = "{self._name}"', "queue", ""])
