"""How a VM ended, in a sentence for people: pure, but for asking how much room a disk has."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import msgspec

from deskgrid.hypervisor.machine.arguments import MIB, VmHardware

_ROOM_BYTES = 16 * MIB
_REASONS = {
    "guest-shutdown": "the guest powered itself off",
    "guest-reset": "the guest restarted itself",
    "guest-panic": "the guest's kernel gave up",
    "host-signal": "QEMU was told to end by a signal",
}


class End(msgspec.Struct, frozen=True):
    """Why the VM ends. with_console: its console's last words help to understand it."""

    sentence: str
    clean: bool = False
    with_console: bool = False


def exit_words(code: int, shutdown_reason: str, left: bool, error_words: str) -> str:
    """Args: code: QEMU's exit code, or minus a signal's number. shutdown_reason: as QMP's SHUTDOWN said it."""
    if code < 0:
        return f"QEMU was killed by signal {-code} ({signal.Signals(-code).name})"
    if code > 0:
        return f"QEMU ended with code {code}: {error_words or 'it said nothing'}"
    if left and shutdown_reason == "guest-shutdown":
        return "the guest left and powered itself off"
    return _REASONS.get(shutdown_reason, "QEMU ended by itself")


def server_words(code: int, last_words: str) -> str:
    """How what served the disk ended. code: as of `exit_words`. last_words: what it said, or wrote to stderr."""
    how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
    return f"the process that serves its disk {how}" + (f": {last_words}" if code >= 0 and last_words else "")


def disk_words(error: Mapping[str, object], folder: Path, machine: VmHardware) -> str:
    """Args: error: the data of QMP's BLOCK_IO_ERROR. folder: where the overlay is."""
    if error.get("operation") == "read" and machine.image.served is not None:
        return f"disk of {machine.vm_id}: it could not be read ({error.get('reason')}); its jobs run again elsewhere"
    if error.get("operation") == "read":
        return f"disk {machine.disk}: could not be read ({error.get('reason')}); fetch the image again"
    try:
        state = os.statvfs(folder)
        room = state.f_bavail * state.f_frsize
    except OSError:
        room = 0
    if error.get("nospace") and room > _ROOM_BYTES:
        return (
            f"overlay of {machine.vm_id}: the guest wrote more than the {machine.overlay_bytes // MIB} MiB "
            "that it may; give such jobs more disk"
        )
    return (
        f"disk of {folder}: got {error.get('reason')} with {room // MIB} MiB free, expected room for the overlay; "
        "make room on this disk or move the state directory"
    )
