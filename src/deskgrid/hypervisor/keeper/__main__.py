"""The keeper of one VM: `python -m deskgrid.hypervisor.keeper`, started by the driver in a session of its own.

Rules:
- It is the parent of QEMU and of what serves its disk; both die with it. An agent may die; a VM without anyone who
  listens to the owner may not live: 4 s after the last `Heartbeat` it ends the VM (after 3 s it asks a running guest to
  leave, so that its jobs are not stranded).
- Whatever ends the VM, it ends once and wholly: QEMU killed and waited for, overlay and folder gone, then `Exited`.
- What the guest says moves nothing but the guest's own VM.
- Its task, with the secrets in it, comes over its standard input and stays in its memory, which nobody can dump.
"""

import os
import shutil
import socket
import sys

import msgspec

from deskgrid.core.events import StartFailed
from deskgrid.hypervisor.confine.cores import here
from deskgrid.hypervisor.confine.spawn import ProcessLimits, harden
from deskgrid.hypervisor.keeper.disk import abandon, begin
from deskgrid.hypervisor.keeper.place import CannotKeep, begin_overlay, finish_overlay, goes_direct, machine_of, take
from deskgrid.wire.keeper import LINE_BYTES, TASK, Exited, Task
from deskgrid.wire.lines import encode

_TASK_SECONDS = 10.0


def main() -> None:
    """Keep one VM until it is gone."""
    harden()
    driver = socket.socket(fileno=os.dup(0))
    task, rest = _read_task(driver)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    place = begun = None
    try:
        place = take(task)
        machine = machine_of(task)
        if task.spec.image.served is not None:
            begun = begin(
                task.spec.image.served, place.folder, ProcessLimits(here(task.cpus), task.idle_class, task.group)
            )
            spec = msgspec.structs.replace(task.spec, image=machine.image)  # what opens it is the server's alone now
            task = msgspec.structs.replace(task, spec=spec)
        child = begin_overlay(place, machine)
        direct = goes_direct(f"/proc/self/fd/{place.overlay}", os.O_RDWR)
        machine = msgspec.structs.replace(machine, overlay_direct=direct)
        # Loaded while the child works.
        from deskgrid.hypervisor.keeper.life import live

        finish_overlay(child)
    except CannotKeep as error:
        if begun is not None:
            abandon(begun)
        if place is not None:
            shutil.rmtree(place.folder, ignore_errors=True)
        driver.sendall(encode(Exited(StartFailed(error.fault, str(error)))))
        os._exit(0)
    live(task, machine, place, begun, driver, rest)


def _read_task(driver: socket.socket) -> tuple[Task, bytes]:
    driver.settimeout(_TASK_SECONDS)
    data = b""
    while b"\n" not in data:
        more = driver.recv(65536)
        if not more or len(data) > LINE_BYTES:
            sys.exit("keeper: got no task on standard input, expected one line of JSON; the driver starts keepers")
        data += more
    line, rest = data.split(b"\n", 1)
    return TASK.decode(line), rest


if __name__ == "__main__":
    main()
