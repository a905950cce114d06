"""Where a VM lives: its folder, locked and listening, and its overlay; made before anything else is loaded.

Rules:
- The folder is only for its owner, and locked for the keeper's life: a folder that can be locked has no keeper and
  nothing in it that anybody needs; the kernel has ended its QEMU with the keeper and freed its overlay.
- The overlay is written by a child, while this process loads what it needs, and so that the library for it never takes
  this process's memory.
"""

import os
import secrets
import shutil
import socket
from pathlib import Path

import msgspec

from deskgrid.host.system.locks import Locked, hold_folder
from deskgrid.hypervisor.machine import overlay
from deskgrid.hypervisor.machine.arguments import VmHardware
from deskgrid.model.desktop import Fault
from deskgrid.wire.keeper import DISK_SOCKET_NAME, SOCKET_NAME, SOCKET_PATH_BYTES, Task


def has_keeper(folder: Path) -> bool:
    """Whether a living keeper holds this folder."""
    try:
        os.close(hold_folder(folder))
    except Locked:
        return True
    except OSError:
        return False
    return False


def sweep(folder: Path) -> bool:
    """Delete a folder without a keeper. Returns: whether there is no keeper (any more)."""
    if has_keeper(folder):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def folders(home: Path) -> list[Path]:
    """All VMs' folders, by name."""
    try:
        return sorted(path for path in home.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


class CannotKeep(Exception):
    """The VM can't be started. fault: whose."""

    def __init__(self, sentence: str, fault: Fault = Fault.DESKTOP) -> None:
        super().__init__(sentence)
        self.fault = fault


class VmFolder(msgspec.Struct):
    """The VM's folder, locked, with its socket; the overlay is open and has no name."""

    folder: Path
    lock: int
    listener: socket.socket
    overlay: int = -1
    passphrase: bytes = b""


def take(task: Task) -> VmFolder:
    """Make the VM's folder, lock it for life, listen in it. Raises: CannotKeep."""
    address = os.fsencode(task.folder / SOCKET_NAME)
    if len(address) > SOCKET_PATH_BYTES:
        raise CannotKeep(
            f"socket {task.folder / SOCKET_NAME}: got a path of {len(address)} bytes, expected at most "
            f"{SOCKET_PATH_BYTES}; choose a shorter state directory"
        )
    try:
        task.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = hold_folder(task.folder)
        (task.folder / SOCKET_NAME).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen(4)
    except Locked as error:
        raise CannotKeep(f"folder {task.folder}: another keeper has it; this is a fault of deskgrid") from error
    except OSError as error:
        raise CannotKeep(f"folder {task.folder}: got {error.strerror}, expected to write there; see to it") from error
    return VmFolder(task.folder, lock, listener)


def machine_of(task: Task) -> VmHardware:
    """What shall run, once its files can be read. Raises: CannotKeep."""
    spec = task.spec
    image = spec.image.without_secret()
    overlay_bytes = spec.overlay_bytes // 512 * 512
    if image.served is not None:
        path, length = task.folder / DISK_SOCKET_NAME, image.served.size_bytes
        return VmHardware(spec.vm_id, spec.size, image, path, length, overlay_bytes)
    if image.disk is None:
        raise CannotKeep(f"image {image.ref.name}: got neither a disk nor a program that serves one; fetch it again")
    _, _, length = [_size_of(path) for path in (image.kernel, image.initrd, image.disk)]
    direct = goes_direct(image.disk, os.O_RDONLY)
    return VmHardware(spec.vm_id, spec.size, image, image.disk, length, overlay_bytes, base_direct=direct)


def _size_of(path: Path | None) -> int:
    """The length of an image's file that can be read. Raises: CannotKeep."""
    if path is None:
        return 0
    try:
        with path.open("rb", buffering=0) as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        fault = Fault.IMAGE if isinstance(error, FileNotFoundError) else Fault.DESKTOP
        sentence = f"image file {path}: got {error.strerror}, expected to read it; fetch the image again"
        raise CannotKeep(sentence, fault) from error


def goes_direct(path: Path | str, flags: int) -> bool:
    """By trial: can this file be used around the host's cache?"""
    try:
        os.close(os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def begin_overlay(place: VmFolder, machine: VmHardware) -> tuple[int, int]:
    """Have a child write the overlay. Returns: what `finish_overlay` needs. Raises: CannotKeep."""
    try:
        place.passphrase = secrets.token_hex(32).encode()
        place.overlay = overlay.create(place.folder)
    except (OSError, overlay.OverlayError) as error:
        raise CannotKeep(str(error)) from error
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        words = b"overlay: its maker ended by itself"
        try:
            overlay.fill(place.overlay, place.folder, machine.disk_bytes, machine.overlay_bytes, place.passphrase)
            words = b""
        except overlay.OverlayError as error:
            words = str(error).encode()
        finally:
            os.write(writer, words)
            os._exit(0)
    os.close(writer)
    return child, reader


def finish_overlay(child: tuple[int, int]) -> None:
    """Wait for the child. Raises: CannotKeep, with its words."""
    pid, reader = child
    words = b""
    while more := os.read(reader, 4096):
        words += more
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if words or status:
        raise CannotKeep(words.decode() or f"overlay: its maker ended with status {status}")
