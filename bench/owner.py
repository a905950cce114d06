"""The owner's return, many times: a real agent, a real coordinator, real QEMU with a busy guest.

Rules, told first:
- The owner's return is the write to the file that drives presence; from there everything is the agent's own way:
  inotify, the loop, the decision, the keeper, QEMU's monitor.
- What came of it is seen from outside, not told by us: the scheduler's count of the virtual processors' time, and the
  end of the QEMU process (a pidfd, so that nothing of it is left, its memory neither).
- Pauses are taken on one machine that stays paused until the owner leaves again; ends need a new machine each.
"""

import os
import random
import select
import time
from pathlib import Path

import psutil

from bench import coordinator_alone
from bench.figure import Figure, Load, measured
from bench.ground import Ground
from bench.guest import MEMORY_BYTES, OBEDIENT, STUBBORN, make_images
from bench.machine import CannotMeasure, qemu_of, sample, threads_named
from bench.stillness import grew, stopped_at
from deskgrid.coordinator.client import OperatorClient
from deskgrid.images.store import facts_of
from deskgrid.presence.fake import set_presence

NAMES = (
    "owner_to_pause_repeated_ms",
    "owner_to_gone_repeated_ms",
    "owner_to_gone_stubborn_ms",
)
_BOOT_SECONDS = 120.0
_ENDS_SECONDS = 240.0
_STILL_SECONDS = 0.5
_STEP_SECONDS = 0.001
_BUSY_SHARE = 0.3
_POLICY = """sense_seconds_at_rest = 1
hold_seconds = 2
[policy]
idle_seconds = 0.5
idle_seconds_nobody = 0.5
resume_seconds = 0.5
grace_seconds = {grace}
memory_reserve_bytes = "256MiB"
memory_short_bytes = "128MiB"
disk_floor_bytes = "64MiB"
vm_disk_bytes = "128MiB"
max_vms = 1
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


class Bench:
    """A coordinator whose jobs wait for ever, and two desktops: one that pauses, one that ends."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.images = ground.cast.make_folder("images", 0o755)
        self.folders = make_images(ground.demo, self.images)
        size = f"[plan]\nsizes = [{{ cpus = 1, memory_bytes = {MEMORY_BYTES} }}]"
        settings, state, self.port = ground.settings_of_coordinator(cycle_seconds="0.3", plan=size)
        ground.start_program(coordinator_alone, str(settings), OBEDIENT, STUBBORN)
        self.client: OperatorClient = ground.client(state, self.port)

    def offer(self, name: str) -> None:
        """Only this image is to be had."""
        for facts in self.client.images():
            self.client.withdraw_image(facts.ref.name)
        self.client.offer_image(facts_of(self.folders[name]))

    def start_desktop(self, name: str, grace_seconds: float) -> None:
        """A desktop whose owner is here."""
        self.ground.cast.make_folder(f"owner-of-{name}", 0o755)
        self.owner(name, "present")
        policy = _POLICY.format(grace=grace_seconds)
        self.ground.start_agent(self.client, self.port, name, self.images, f"file:{self._file(name)}", policy)

    def owner(self, desktop: str, word: str) -> float:
        """The owner comes or leaves. Returns: when, by the steady clock."""
        at = time.monotonic()
        set_presence(self._file(desktop), word)
        return at

    def _file(self, desktop: str) -> Path:
        return self.ground.cast.folder / f"owner-of-{desktop}" / "now"

    def busy_machine(self, desktop: str) -> psutil.Process:
        """Wait until a machine of this desktop is up and busy. Returns: its QEMU."""
        found: list[psutil.Process] = []

        def up() -> bool:
            for vm in self.client.vms():
                if vm.desktop == desktop and any(line.event == "joined" for line in self.client.story(vm.vm_id)):
                    process = qemu_of(vm.vm_id)
                    found.extend([process] if process else [])
            return bool(found)

        self.ground.until(f"a busy machine on {desktop}", _BOOT_SECONDS, up)
        self.await_busy(found[0])
        return found[0]

    def await_busy(self, qemu: psutil.Process) -> None:
        """Wait until it computes: what stands still for want of a processor can't be seen to be stopped."""
        self.ground.until(
            f"a guest to get {100 * _BUSY_SHARE:.0f} % of a core, since others keep this machine busy",
            60,
            lambda: _busy(qemu.pid),
            0.0,
        )


def run(ground: Ground, load: Load, pauses: int = 25, ends: int = 20, stubborn: int = 5) -> list[Figure]:
    """Measure. Raises: CannotMeasure."""
    bench = Bench(ground)
    bench.offer(OBEDIENT)
    bench.start_desktop("desk-pauses", 3600)
    bench.owner("desk-pauses", "away")
    paused = _pauses(bench, pauses)
    bench.owner("desk-pauses", "present")
    bench.start_desktop("desk-ends", 0)
    gone = _ends(bench, ends, OBEDIENT, _ENDS_SECONDS)
    bench.offer(STUBBORN)
    stayed = _ends(bench, stubborn, STUBBORN, _ENDS_SECONDS / 3)
    note = "a 1-CPU guest that computes, 256 MiB of its memory touched"
    return [
        measured(NAMES[0], paused, note=f"{note}; seen in its processor threads' time", load=load),
        measured(NAMES[1], gone, note=f"{note}; it leaves when asked, grace 0", load=load),
        measured(NAMES[2], stayed, note=f"{note}; it never leaves: the two seconds are waited out", load=load),
    ]


def _pauses(bench: Bench, count: int) -> list[float]:
    desktop = "desk-pauses"
    qemu = bench.busy_machine(desktop)
    found = []
    for number in range(count):
        bench.ground.say(f"pause {number + 1} of {count}")
        bench.await_busy(qemu)
        time.sleep(random.uniform(0.1, 0.6))
        found.append(_pause(bench, desktop, qemu.pid) * 1000)
        bench.owner(desktop, "away")
    return found


def _pause(bench: Bench, desktop: str, pid: int) -> float:
    """The owner returns. Returns: seconds until the virtual processors stood still."""
    threads = threads_named(pid, "CPU ")
    back = bench.owner(desktop, "present")
    seen = [sample(threads)]
    while (at := stopped_at(seen, _STILL_SECONDS)) is None:
        if seen[-1].at > back + 10:
            raise CannotMeasure("processors of a paused machine: they ran on for 10 s after the owner's return")
        time.sleep(_STEP_SECONDS)
        now = sample(threads)
        if len(seen) > 1 and seen[-1].ran == seen[-2].ran == now.ran:
            seen[-1] = now
        else:
            seen.append(now)
    return at - back


def _ends(bench: Bench, count: int, image: str, seconds: float) -> list[float]:
    """End so many machines; fewer when the time is over, since a busy machine boots them slowly."""
    desktop, began = "desk-ends", time.monotonic()
    found: list[float] = []
    for number in range(count):
        if found and time.monotonic() - began > seconds:
            bench.ground.say(f"no time for more than {number} of {count}")
            break
        bench.ground.say(f"end {number + 1} of {count}, {image}")
        bench.owner(desktop, "away")
        qemu = bench.busy_machine(desktop)
        handle = os.pidfd_open(qemu.pid)
        try:
            back = bench.owner(desktop, "present")
            if not select.select([handle], [], [], 20)[0]:
                raise CannotMeasure("end of a machine: its QEMU still ran 20 s after the owner's return")
            found.append((time.monotonic() - back) * 1000)
        finally:
            os.close(handle)
    return found


def _busy(pid: int) -> bool:
    """Whether its virtual processors use a good part of a core; takes a tenth of a second."""
    threads = threads_named(pid, "CPU ")
    before = sample(threads)
    time.sleep(0.1)
    return grew([before, sample(threads)], _BUSY_SHARE)
