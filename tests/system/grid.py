"""A small grid on real parts, for tests: the demo's stage with what tests need to break it and to look at it."""

import json
import os
import select
import shutil
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "hypervisor"))

from tiny_guest import CMDLINE, DISK_BYTES, tiny_guest

from deskgrid.core.fleet.lease import LeaseRecord
from deskgrid.demo.stage import Stage, Table
from deskgrid.images.format import manifest
from tests.images.built import sealed

IDLE, RUNNING, DONE = "1", "2", "4"
HANG_SECONDS = 420.0
"""No wait in these tests is for a duration: after so long something hangs."""
MIB = 1 << 20


class Grid:
    """A stage, and hands to break what is on it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.agents: set[str] = set()

    # -- what runs --------------------------------------------------------------------------------------------

    def start_coordinator(self, more: Table | None = None) -> None:
        self.stage.start_coordinator(more)

    def start_desktop(self, name: str, more: Table | None = None) -> None:
        """A new member, its owner away."""
        self.stage.enrol(name, more)
        self.start_agent(name)

    def start_agent(self, name: str) -> None:
        self.stage.start_agent(name)
        self.agents.add(name)

    def kill(self, name: str) -> None:
        """SIGKILL for the coordinator or an agent."""
        process = self.stage.cast.processes.pop(name)
        self.agents.discard(name)
        process.kill()
        process.wait()

    def pid(self, name: str) -> int:
        """Process id of the coordinator or an agent."""
        return self.stage.cast.processes[name].pid

    def stop_all(self) -> None:
        """End agents and coordinator politely."""
        processes = self.stage.cast.processes
        for name in (*sorted(self.agents), "coordinator"):
            if name in processes:
                processes[name].terminate()
                processes.pop(name).wait(HANG_SECONDS)
        self.agents.clear()

    def log(self, name: str) -> str:
        """What a process has logged."""
        return (self.stage.cast.folder / f"{name}.log").read_text(errors="replace")

    # -- jobs -------------------------------------------------------------------------------------------------

    def condor(self, *argv: str, stdin: str = "") -> str:
        done = self.stage.pool.command(argv, cwd=self.stage.pool.jobs, timeout_seconds=60, stdin=stdin.encode())
        assert done.ok, done.stderr
        return done.stdout

    def submit(self, image: str, *lines: str, count: int = 1) -> str:
        """Jobs that name an image; the first one's id."""
        base = ["executable = /bin/sleep", "arguments = 1000", "transfer_executable = false", "request_memory = 128"]
        base += ["should_transfer_files = yes", "request_disk = 10MB", "request_cpus = 1", f'+vm_name = "{image}"']
        return self.condor(
            "condor_submit", "-terse", "-", stdin="\n".join([*base, *lines, f"queue {count}", ""])
        ).split()[0]

    def job(self, job_id: str, attribute: str = "JobStatus") -> str:
        """An attribute of a job, from the queue or the history; "" when the schedd does not answer."""
        for argv in (["condor_q", job_id], ["condor_history", job_id, "-limit", "1"]):
            done = self.stage.pool.command([*argv, "-af", attribute], timeout_seconds=60)
            if done.ok and done.stdout.strip():
                return done.stdout.split()[0]
        return ""

    def slots(self) -> list[tuple[str, str]]:
        """VM id and job of each slot of ours in the collector."""
        ours = ["-constraint", "deskgrid_vm_id =!= undefined && Offline =!= True"]
        told = self.condor("condor_status", *ours, "-af", "deskgrid_vm_id", "JobId")
        return [(vm, job) for vm, job in (line.split()[:2] for line in told.splitlines() if line)]

    def remove_jobs(self) -> None:
        """Remove what is in the queue, if there is anything."""
        self.stage.pool.command(["condor_rm", "-all"], timeout_seconds=60)

    # -- machines ---------------------------------------------------------------------------------------------

    def leases(self, image: str = "") -> list[LeaseRecord]:
        """All leases, of one image or of all, oldest first."""
        found = self.stage.client.leases(limit=10_000)
        return sorted(
            (r for r in found if image in ("", r.lease.image.name)), key=lambda r: (r.lease.granted_at, r.lease.vm_id)
        )

    def live(self, image: str) -> list[LeaseRecord]:
        """The leases of an image that live."""
        return [record for record in self.leases(image) if record.ended_at is None]

    def state(self, vm_id: str) -> str:
        """A living VM's state as its desktop told it; "" when it does not live."""
        return next((vm.state for vm in self.stage.client.vms() if vm.vm_id == vm_id), "")

    def lease(self, vm_id: str) -> LeaseRecord:
        return next(record for record in self.leases() if record.lease.vm_id == vm_id)

    def events(self, vm_id: str) -> list[str]:
        """What the story of a VM tells, in order."""
        return [line.event for line in self.stage.client.story(vm_id)]

    def sentences(self, vm_id: str) -> str:
        """What `deskgrid story` prints."""
        told = json.loads(self.stage.ask("story", vm_id, "--json"))
        return "\n".join(f"{line['source']} {line['state']}: {line['sentence']}" for line in told)

    def why(self, what: str, name: str) -> str:
        """What `deskgrid why` prints."""
        return self.stage.ask("why", what, name)

    def reason_of_job(self, job_id: str) -> str:
        """The name of what `why` says first of a job; for polling, which must leave the CPU to guests."""
        time.sleep(1)
        return self.stage.client.why_job(job_id).reason.name

    def reason_of_desktop(self, name: str) -> str:
        """The name of what `why` says first of a desktop."""
        return self.stage.client.why_desktop(name).reason.name

    def vm_folders(self, desktop: str) -> list[Path]:
        """What a desktop's state folder holds of VMs."""
        return list((self.stage.cast.folder / desktop / "vms").iterdir())


def until(what: str, holds: Callable[[], object], seconds: float = HANG_SECONDS, step_seconds: float = 0.5) -> None:
    """Wait until it holds; `seconds` only tells a hang."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(step_seconds)


def qemu_of(vm_id: str) -> psutil.Process | None:
    """The living QEMU of a VM."""
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            if f"guest={vm_id},debug-threads=on" in (process.info["cmdline"] or []):
                return process if process.status() != psutil.STATUS_ZOMBIE else None
    return None


def the_qemu_of(vm_id: str) -> psutil.Process:
    """The living QEMU of a VM that has one."""
    found = qemu_of(vm_id)
    assert found is not None, f"{vm_id} has no QEMU"
    return found


def ended_after_seconds(pid: int, begin: float, at_most_seconds: float = 60.0) -> float:
    """Wait for the end of a process; seconds from `begin` (monotonic) until the kernel told of it."""
    handle = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([handle], [], [], at_most_seconds)
        assert ended, f"process {pid} has not ended in {at_most_seconds} s"
        return time.monotonic() - begin
    finally:
        os.close(handle)


def tiny_images(folder: Path, kinds: dict[str, str]) -> list[Path]:
    """Images of the tiny guest, by name, each with words on its kernel's command line; as `image build` writes them.

    Returns: their folders.
    """
    guest = tiny_guest()
    first: Path | None = None
    made: list[Path] = []
    for name, words in kinds.items():
        work = folder / name / "work"
        work.mkdir(parents=True)
        for file, source in (
            (manifest.DISK, guest.disk),
            (manifest.KERNEL, guest.kernel),
            (manifest.INITRD, guest.initrd),
        ):
            if first is None:
                shutil.copy(source, work / file)
                (work / file).chmod(0o644)
            else:
                os.link(first / file, work / file)
        first = sealed(
            work, name, memory_bytes=256 * MIB, disk_bytes=DISK_BYTES, cmdline=f"{CMDLINE}dg.renew=ignore {words}"
        )
        first.chmod(0o755)
        made.append(first)
    return made


class Bell:
    """Jobs in guests call here each second, and end when they are told to. starts: of each job, as it says itself."""

    def __init__(self) -> None:
        self.beats: Counter[str] = Counter()
        self.starts: dict[str, list[str]] = defaultdict(list)
        self._done: set[str] = set()
        bell = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                job, start = self.path.strip("/").split("/")
                bell.beats[job] += 1
                if start not in bell.starts[job]:
                    bell.starts[job].append(start)
                self.send_response(200)
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(b"end" if job in bell._done else b"work")

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def job_lines(self, folder: Path, name: str) -> list[str]:
        """Write a job that works until it is told to end; what its submit file says."""
        script = folder / f"{name}.sh"
        script.write_text(
            "#!/bin/sh\n"
            "start=$(cat /proc/sys/kernel/random/uuid)\n"
            f'until [ "$(busybox wget -q -T 9 -O - http://10.0.2.2:{self._server.server_port}/{name}/$start)" = end ]\n'
            "do sleep 1; done\n"
            f'echo "{name} was told to end"\n'
        )
        script.chmod(0o755)
        lines = [f"executable = {name}.sh", "transfer_executable = true", "arguments =", f"output = {name}.out"]
        return [*lines, f"error = {name}.err", f"log = {name}.log", "when_to_transfer_output = on_exit"]

    def tell_to_end(self, name: str) -> None:
        self._done.add(name)

    def await_beats(self, name: str, more: int = 2) -> None:
        """Wait until the job has called that many times more."""
        goal = self.beats[name] + more
        until(f"{more} signs of life of {name}", lambda: self.beats[name] >= goal)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
