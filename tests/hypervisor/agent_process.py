"""A small agent in a process of its own, to be killed: starts one VM, tends it, prints what happens.

Arguments: state directory, VM id, words for the kernel's command line. Stops tending on SIGUSR1 with an announcement.
"""

import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from rigs import spec_of
from tiny_guest import TinyGuest

from deskgrid.core.events import Happened
from deskgrid.hypervisor.qemu.driver import QemuHypervisor


def main() -> None:
    """Run until killed."""
    home, vm_id, words, files = Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
    upgrade = threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: upgrade.set())
    driver = QemuHypervisor(home, say, accelerators=("tcg",), idle_class=False)
    guest = TinyGuest(files / "vmlinuz", files / "initrd", files / "disk.raw")
    driver.start(spec_of(vm_id, "obedient", guest, words))
    while not upgrade.is_set():
        driver.heartbeat()
        time.sleep(0.5)
    driver.hand_over(10.0)
    driver.close()


def say(happened: Happened) -> None:
    """One line for each event."""
    print(type(happened.event).__name__, getattr(happened.event, "sentence", ""), flush=True)


if __name__ == "__main__":
    main()
