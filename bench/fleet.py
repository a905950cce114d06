"""Desktops whose owners a benchmark plays: a real coordinator with a pool in memory, real agents, real QEMU.

Rules:
- The coordinator's jobs wait for ever, each for one of our guests; so a desktop that is free is told to start one.
- The owner's return is the write to the file that drives presence: from there everything is the agent's own way,
  inotify, the loop, the decision, the keeper, QEMU's monitor.
- What came of it is seen from outside, never told by us: the scheduler's count of the virtual processors' time, the
  end of the QEMU process (a pidfd), the memory that the system calls available.
"""

import os
import random
import select
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from bench import coordinator_alone
from bench.ground import Ground
from bench.guest import MIB, Kind, make_image
from bench.machine import CannotMeasure, qemu_of, sample, threads_named
from bench.stillness import grew, stopped_at
from deskgrid.coordinator.client import OperatorClient
from deskgrid.host.system.files import write_atomic
from deskgrid.presence.fake import set_presence

BOOT_SECONDS = 400.0
STILL_SECONDS = 0.5
STEP_SECONDS = 0.001
BUSY_SHARE = 0.3
POLICY = """sense_seconds_at_rest = 1
hold_seconds = 2
[policy]
idle_seconds = 0.5
idle_seconds_nobody = 0.5
resume_seconds = 0.5
grace_seconds = {grace}
memory_reserve_bytes = "256MiB"
memory_short_bytes = "128MiB"
disk_floor_bytes = "64MiB"
vm_disk_bytes = "{disk}MiB"
max_vms = 1
cpu_share = 1
on_battery = true
battery_min_percent = 0
metered = true
full_screen = true
boot_delay_seconds = 0
start_spacing_seconds = 0
start_offset_seconds = 0
others_cpu_max = 1
memory_pressure_max = 100
"""


class Fleet:
    """A coordinator, and the guests that its jobs wait for; desktops are added by `start_desktop`."""

    def __init__(self, ground: Ground, *kinds: Kind) -> None:
        self.ground, self.kinds = ground, kinds
        images = ground.cast.make_folder("images", 0o755)
        ground.vouch(*(make_image(ground.demo, images, kind) for kind in kinds))
        self._wanted = ground.cast.folder / "wanted"
        sizes = ", ".join(f"{{ cpus = {one.cpus}, memory_bytes = {one.memory_mib * MIB} }}" for one in kinds)
        plan = f"[plan]\nbackoff_seconds = 1\nsizes = [{sizes}]"
        settings, state, self.port = ground.settings_of_coordinator(
            cycle_seconds="0.3", plan=plan, images=ground.signed
        )
        ground.start_program(coordinator_alone, str(settings), str(self._wanted))
        self.client: OperatorClient = ground.client(state, self.port)
        self._desktops: dict[str, int] = {}

    def want(self, kind: Kind) -> None:
        """Jobs wait for this image only."""
        write_atomic(self._wanted, kind.name.encode(), 0o644)

    def start_desktop(self, name: str, grace_seconds: float, disk_mib: int = 128) -> int:
        """A desktop whose owner is here. Returns: its agent's process id."""
        self.ground.cast.make_folder(f"owner-of-{name}", 0o755)
        self.owner(name, "present")
        policy = POLICY.format(grace=grace_seconds, disk=disk_mib)
        return self.ground.start_agent(self.client, self.port, name, f"file:{self._file(name)}", policy)

    def owner(self, desktop: str, word: str) -> float:
        """The owner comes or leaves. Returns: when, by the steady clock."""
        at = time.monotonic()
        set_presence(self._file(desktop), word)
        return at

    def _file(self, desktop: str) -> Path:
        return self.ground.cast.folder / f"owner-of-{desktop}" / "now"

    def machine(self, desktop: str, event: str) -> tuple[str, psutil.Process]:
        """Wait until this has happened to a machine of this desktop ("joined", …). Returns: its id, its QEMU."""
        found: list[tuple[str, psutil.Process]] = []

        def up() -> bool:
            for vm in self.client.vms():
                if vm.desktop == desktop and any(line.event == event for line in self.client.story(vm.vm_id)):
                    process = qemu_of(vm.vm_id)
                    found.extend([(vm.vm_id, process)] if process else [])
            return bool(found)

        try:
            self.ground.until(f"a machine on {desktop} that has {event}", BOOT_SECONDS, up)
        except CannotMeasure as error:
            reason = self.client.why_desktop(desktop).reason
            raise CannotMeasure(f"{error}: {reason.sentence} ({reason.reading})") from None
        return found[0]

    def busy_machine(self, desktop: str) -> psutil.Process:
        """Wait until a machine of this desktop is up and busy. Returns: its QEMU."""
        _, qemu = self.machine(desktop, "joined")
        self.await_busy(qemu)
        return qemu

    def await_busy(self, qemu: psutil.Process) -> None:
        """Wait until it computes: what stands still for want of a processor can't be seen to be stopped."""
        self.ground.until(
            f"a guest to get {100 * BUSY_SHARE:.0f} % of a core, since others keep this machine busy",
            60,
            lambda: busy(qemu.pid),
            0.0,
        )

    def pause(self, desktop: str, pid: int) -> float:
        """The owner returns. Returns: seconds until the virtual processors stood still."""
        threads = threads_named(pid, "CPU ")
        back = self.owner(desktop, "present")
        seen = [sample(threads)]
        while (at := stopped_at(seen, STILL_SECONDS)) is None:
            if seen[-1].at > back + 10:
                raise CannotMeasure("processors of a paused machine: they ran on for 10 s after the owner's return")
            time.sleep(STEP_SECONDS)
            now = sample(threads)
            if len(seen) > 1 and seen[-1].ran == seen[-2].ran == now.ran:
                seen[-1] = now
            else:
                seen.append(now)
        return at - back


def many(ground: Ground, what: str, count: int, seconds: float, once: Callable[[], float]) -> list[float]:
    """Do it so many times; fewer when the time is over, since a busy machine is slow."""
    began = time.monotonic()
    found: list[float] = []
    while len(found) < count:
        if found and time.monotonic() - began > seconds:
            ground.say(f"no time for more than {len(found)} of {count}")
            break
        ground.say(f"{what} {len(found) + 1} of {count}")
        found.append(once())
    return found


def a_while() -> None:
    """So that nothing falls into step."""
    time.sleep(random.uniform(0.1, 0.6))


def await_ends(pids: Sequence[int], begin: Callable[[], float], what: str) -> float:
    """Begin, and wait until these processes have ended. begin: returns when, by the steady clock.

    Returns: how long after the beginning nothing of them was left, their memory neither.
    """
    handles = [os.pidfd_open(pid) for pid in pids]
    try:
        began = begin()
        for handle in handles:
            if not select.select([handle], [], [], 20)[0]:
                raise CannotMeasure(f"{what}: it still ran 20 s later")
        return time.monotonic() - began
    finally:
        for handle in handles:
            os.close(handle)


def busy(pid: int) -> bool:
    """Whether its virtual processors use a good part of a core; takes a tenth of a second."""
    threads = threads_named(pid, "CPU ")
    before = sample(threads)
    time.sleep(0.1)
    return grew([before, sample(threads)], BUSY_SHARE)
