"""Make an image of any disk with cloud-init: checked, then turned into a raw disk in an image's folder.

Rules, told first
- A disk is one file: one that leans on another (backing file, external data, extents), or is encrypted or damaged, is
  refused before anything of it is read.
- What reads its header is limited in memory and time: a disk may come from anywhere.
- It boots by BIOS (one that only UEFI could boot is refused) and gets its first data from cloud-init (nocloud.py); what
  packages are in it is not known.
- The same file gives the same image.

Source: qemu-img(1), its JSON; QEMU's docs/interop/qcow2.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from deskgrid.host.account import service_account
from deskgrid.host.debstrap import Progress, quiet
from deskgrid.host.files import own_folder
from deskgrid.host.process import run
from deskgrid.images import manifest, nocloud
from deskgrid.images.build import Built, alone, images_folder, publish
from deskgrid.images.contract import ImageError
from deskgrid.images.manifest import FileFacts, Imported, Manifest
from deskgrid.model.names import BadName
from deskgrid.model.names import name as valid_name

FORMS = ("qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc")
LEAST_BYTES, MOST_BYTES = 16 << 20, 2 << 40
_LEAST_MEMORY, _MOST_MEMORY = 256 << 20, 1 << 40
_HEADER_MEMORY, _HEADER_SECONDS = 1 << 30, 30
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,99}\Z")
_ELSEWHERE = ("backing-filename", "full-backing-filename", "data-file", "extents", "parent-cid")


def import_disk(
    disk: Path,
    name: str,
    memory_bytes: int,
    packages: tuple[str, ...] = (),
    cache: Path | None = None,
    progress: Progress = quiet,
) -> Built:
    """Make an image of a disk, or find the one that was made of it before.

    Args:
        disk: a file in one of FORMS. name: the image's. memory_bytes: least memory of a machine.
        packages: installed by cloud-init at each start, for a disk that lacks them.
        progress: called with the part that is done (0 to 1) and a sentence.

    Raises: ImageError, in one sentence what is wrong and what to do.
    """
    _check_words(name, memory_bytes, packages)
    images = images_folder(cache)
    try:
        images.mkdir(parents=True, exist_ok=True)
        form, size_bytes = inspect_disk(disk)
        with alone(images / f".{name}.lock", progress):
            progress(0.02, "taking the sum of the disk")
            imported = Imported(form, manifest.measure(disk), packages)
            built = _import(
                disk,
                Manifest(
                    name=name,
                    memory_bytes=memory_bytes,
                    disk_bytes=size_bytes,
                    cmdline="",
                    disk=FileFacts(size_bytes, "0" * 64),
                    kernel=None,
                    initrd=None,
                    packages=(),
                    recipe=None,
                    inputs=_inputs(imported, memory_bytes),
                    imported=imported,
                ),
                images,
                progress,
            )
    except OSError as error:
        raise ImageError(f"image {name}: {error.filename or images}: {error.strerror or error}") from error
    progress(1.0, f"image {name} is ready")
    return built


def inspect_disk(disk: Path) -> tuple[str, int]:
    """Return form and size of a disk that may be imported. Raises: ImageError with what is wrong."""
    if not disk.is_file():
        raise ImageError(f"disk {disk}: there is no such file; expected a disk in a form such as qcow2")
    qemu_img = _qemu_img()
    limits = [f"--as={_HEADER_MEMORY}", f"--cpu={_HEADER_SECONDS}", "--"]
    limited = ["prlimit", *limits] if shutil.which("prlimit") else []
    argv = [*limited, qemu_img, "info", "--output=json", f"file:{disk.absolute()}"]
    told = run(argv, timeout_seconds=2 * _HEADER_SECONDS)
    if not told.ok:
        said = " ".join(told.stderr.split())[-300:] or f"qemu-img ended with {told.code}"
        raise ImageError(f"disk {disk}: {said}; expected one of {', '.join(FORMS)}")
    try:
        facts = msgspec.json.decode(told.stdout, type=dict[str, Any])
        form, size_bytes = str(facts["format"]), int(facts["virtual-size"])
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise ImageError(f"disk {disk}: qemu-img said what we don't understand ({error})") from None
    if fault := fault_of(facts, disk.stat().st_size):
        raise ImageError(f"disk {disk}: {fault}")
    return form, size_bytes


def fault_of(facts: dict[str, Any], file_bytes: int) -> str:
    """Return why a disk may not be imported, by what qemu-img says of it; "" when it may."""
    form, size_bytes = facts["format"], facts["virtual-size"]
    if form not in FORMS:
        return f"got the form {form}, expected one of {', '.join(FORMS)}"
    about = facts.get("format-specific", {}).get("data", {}) or {}
    for key in _ELSEWHERE[:3]:
        if other := facts.get(key) or about.get(key):
            return f"got one that leans on another file ({other!r:.100}), expected a whole one; see qemu-img convert"
    if any(_foreign(extent, facts) for extent in about.get("extents", ())):
        return "got one in several files, expected a single one; join it with qemu-img convert"
    if facts.get("encrypted") or about.get("encrypt"):
        return "got an encrypted one, expected one that can be read; decrypt it with qemu-img convert"
    if about.get("corrupt"):
        return "it is marked as damaged; see qemu-img check"
    if not LEAST_BYTES <= size_bytes <= MOST_BYTES:
        return f"got a size of {size_bytes} bytes, expected {LEAST_BYTES >> 20} MiB to {MOST_BYTES >> 40} TiB"
    if form == "raw" and size_bytes != file_bytes + -file_bytes % 512:
        return f"got a raw disk of {size_bytes} in a file of {file_bytes} bytes"
    return ""


def boot_fault(first_sector: bytes) -> str:
    """Return why a disk can't boot by BIOS, by its first sector; "" when it may."""
    if first_sector[510:512] != b"\x55\xaa":
        return "it has no boot record, expected a disk that boots by BIOS"
    if not any(first_sector[:440]):
        return "there is no boot loader in its first sector, expected a disk that boots by BIOS, not by UEFI alone"
    return ""


def _foreign(extent: dict[str, Any], facts: dict[str, Any]) -> bool:
    said = str(extent.get("filename", ""))
    return said.removeprefix("file:") != str(facts.get("filename", "")).removeprefix("file:")


def _import(disk: Path, content: Manifest, images: Path, progress: Progress) -> Built:
    """Convert in a work folder, take the sum and rename. The caller holds the lock."""
    if found := _found(content, images):
        return found
    work = images / f".{content.name}.work"
    if work.exists():
        shutil.rmtree(work)
    try:
        own_folder(work, service_account())
        assert content.imported is not None
        _convert(disk, content.imported.form, work / manifest.DISK, progress)
        with (work / manifest.DISK).open("rb") as file:
            if fault := boot_fault(file.read(512)):
                raise ImageError(f"disk {disk}: {fault}")
        progress(0.9, "taking the sum of the image")
        measured = manifest.measure(work / manifest.DISK)
        whole = msgspec.structs.replace(content, disk=measured, disk_bytes=measured.size_bytes)
        nocloud.write_seed(work, whole)
        return publish(whole, work, images)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _found(content: Manifest, images: Path) -> Built | None:
    from deskgrid.images.listing import listed

    for one in listed(images):
        same = one.manifest is not None and (one.manifest.name, one.manifest.inputs) == (content.name, content.inputs)
        if same and not one.fault:
            assert one.manifest is not None
            return Built(one.ref, one.folder, one.manifest, fresh=False)
    return None


def _convert(disk: Path, form: str, raw: Path, progress: Progress) -> None:
    argv = [_qemu_img(), "convert", "-p", "-f", form, "-O", "raw", "-S", "4k", f"file:{disk.absolute()}", str(raw)]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        rest = b""
        while part := os.read(process.stdout.fileno(), 4096):
            *lines, rest = (rest + part).split(b"\r")
            for line in lines:
                if match := re.search(rb"\(([0-9.]+)/100%\)", line):
                    progress(0.05 + 0.85 * float(match[1]) / 100, "making the raw disk")
        said = process.stderr.read().decode(errors="replace")
        code = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code != 0:
        shown = " ".join(said.split())[-300:] or f"exit code {code}"
        hint = "; free some space or set another cache" if "No space left" in said else "; see qemu-img check"
        raise ImageError(f"disk {disk}: it can't be converted: {shown}{hint}")


def _check_words(name: str, memory_bytes: int, packages: tuple[str, ...]) -> None:
    try:
        valid_name("image name", name)
    except BadName as error:
        raise ImageError(str(error)) from None
    if not _LEAST_MEMORY <= memory_bytes <= _MOST_MEMORY:
        raise ImageError(
            f"memory: got {memory_bytes} bytes, expected {_LEAST_MEMORY >> 20} MiB to {_MOST_MEMORY >> 40} TiB"
        )
    for package in packages:
        if not _PACKAGE.match(package):
            raise ImageError(f"package to install: got {package!r}, expected a package's name")


def _inputs(imported: Imported, memory_bytes: int) -> str:
    return hashlib.sha256(msgspec.json.encode([manifest.FORMAT, imported, memory_bytes])).hexdigest()


def _qemu_img() -> str:
    found = shutil.which("qemu-img")
    if found is None:
        raise ImageError("qemu-img is not installed; run: sudo apt-get install qemu-utils")
    return found
