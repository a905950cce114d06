"""Does an accelerator run guests? A tiny guest of our own is booted on it, as VMs are started, for a few seconds.

Rules:
- An accelerator works if the guest comes to its end. Opening a device, or running the firmware, proves nothing.
- One that needs much longer than software emulation does emulates too, and is worse: it does not count.
- QEMU gets the machine and the processor that VMs get, runs as the account that runs VMs, and is ended when its time is
  over. All are tried at once.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from deskgrid.host.doctor.guest import EXIT_CODE, EXIT_PORT, STEPS, disk
from deskgrid.host.system import sandbox
from deskgrid.host.system.account import become, service_account
from deskgrid.host.system.process import Finished, run
from deskgrid.host.system.programs import program
from deskgrid.model.inventory import Trial, Verdict

TRIAL_SECONDS = 8.0
SLOW_MILLISECONDS, SLOW_FACTOR = 2000, 3
EMULATION = "tcg"
MACHINE = "pc,usb=off,vmport=off,dump-guest-core=off,mem-merge=off"
CPU = {"kvm": "host", "hvf": "host", EMULATION: "max"}
_WORDS_CHARS = 200


def arguments(qemu: str, accelerator: str, disk_file: Path) -> list[str]:
    """QEMU's argument list for one trial."""
    node = {"driver": "file", "filename": str(disk_file), "read-only": True, "node-name": "file"}
    return [
        *(qemu, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *sandbox.words(),
        *("-machine", MACHINE, "-accel", accelerator, *(("-cpu", CPU[accelerator]) if accelerator in CPU else ())),
        *("-m", "size=16M", "-serial", "stdio", "-boot", "menu=off"),
        *("-blockdev", msgspec.json.encode(node).decode()),
        *("-blockdev", '{"driver": "raw", "file": "file", "read-only": true, "node-name": "disk"}'),
        *("-device", "virtio-blk-pci,drive=disk,bootindex=1"),
        *("-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1"),
    ]


class Run(msgspec.Struct, frozen=True):
    """How one trial went."""

    accelerator: str
    finished: Finished
    milliseconds: int


def judge(runs: Sequence[Run]) -> tuple[Trial, ...]:
    """What the trials prove."""
    emulated = next((one.milliseconds for one in runs if one.accelerator == EMULATION and _came_through(one)), None)
    return tuple(_judged(one, emulated) for one in runs)


def _came_through(one: Run) -> bool:
    return one.finished.code == EXIT_CODE and STEPS.decode() in one.finished.stdout


def _judged(one: Run, emulated: int | None) -> Trial:
    name, ms = one.accelerator, one.milliseconds
    if _came_through(one):
        if name != EMULATION and emulated is not None and ms > max(SLOW_MILLISECONDS, SLOW_FACTOR * emulated):
            sentence = f"the guest ran, but took {ms} ms, and {emulated} ms under software emulation"
            return Trial(name, Verdict.SLOW, ms, sentence)
        return Trial(name, Verdict.WORKS, ms, f"a guest ran on it in {ms} ms")
    if one.finished.timed_out:
        step = max((1 + STEPS.find(letter) for letter in STEPS if chr(letter) in one.finished.stdout), default=0)
        far = ("its firmware did not end", "it hangs in long mode", "its timer never rang", "it does not end")[step]
        return Trial(name, Verdict.HANGS, ms, f"the guest did not come through in {ms} ms: {far}")
    words = " ".join(one.finished.stderr.split())[-_WORDS_CHARS:] or f"QEMU ended with code {one.finished.code}"
    return Trial(name, Verdict.FAILS, ms, words)


def try_all(
    accelerators: Sequence[str], qemu: str = "qemu-system-x86_64", seconds: float = TRIAL_SECONDS
) -> tuple[Trial, ...]:
    """Try these accelerators, all at once.

    Args:
        seconds: for each.
    """
    if not accelerators:
        return ()
    handle, name = tempfile.mkstemp(prefix="deskgrid-trial-")
    file = Path(name)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(disk())
        file.chmod(0o644)
        with ThreadPoolExecutor(len(accelerators)) as threads:
            return judge(list(threads.map(lambda one: _one(qemu, one, file, seconds), accelerators)))
    finally:
        file.unlink()


def _one(qemu: str, accelerator: str, file: Path, seconds: float) -> Run:
    began = time.monotonic()
    argv = [*become(service_account()), *arguments(program(qemu) or qemu, accelerator, file)]
    finished = run(argv, seconds, cwd=Path("/"))
    return Run(accelerator, finished, int((time.monotonic() - began) * 1000))
