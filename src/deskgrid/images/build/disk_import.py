"""Make an image of any disk with cloud-init: checked, then turned into a raw disk in an image's folder.

Rules:
- A disk may come from anywhere, and who may write to its folder may change it at any moment. So it is opened once and
  copied first, with its sum, to where nobody else writes; everything after that sees the copy.
- A disk is one file: one that leans on another (backing file, external data, extents), or is encrypted or damaged, is
  refused before any of QEMU's programs sees it (some versions open what a header names while they only look at it);
  those are told that there is no other file, whatever it says. A form is known by its mark, never by trial.
- They run without privileges, limited in memory and time while they only look, with an environment of ours. They get
  open files, not names.
- It boots by BIOS (one that only UEFI could boot is refused) and gets its first data from cloud-init (nocloud.py); what
  packages are in it is not known.
- The same file gives the same image.

Source: qemu-img(1), its JSON; QEMU's docs/interop/qcow2.

Sources: VMware, Virtual Disk Format 5.0; VirtualBox's VDICore.h; Microsoft's VHD and VHDX.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
from pathlib import Path
from typing import IO, Any

import msgspec

from deskgrid.host.system.account import become, service_account
from deskgrid.host.system.files import create_plain, give, make_folder, open_plain, take_back
from deskgrid.host.system.process import Finished, run
from deskgrid.host.system.programs import ENVIRONMENT, program
from deskgrid.host.trees.debstrap import Progress, quiet
from deskgrid.images.build import nocloud
from deskgrid.images.build.build import Built, alone, images_folder, publish
from deskgrid.images.contract import ImageError
from deskgrid.images.format import manifest
from deskgrid.images.format.manifest import FileFacts, Imported, Manifest
from deskgrid.model.values.names import BadName
from deskgrid.model.values.names import name as valid_name
from deskgrid.model.values.outside import read_json

FORMS = ("qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc")
LEAST_BYTES, MOST_BYTES = 16 << 20, 2 << 40
_LEAST_MEMORY, _MOST_MEMORY = 256 << 20, 1 << 40
_HEADER_MEMORY, _HEADER_SECONDS = 1 << 30, 30
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,99}\Z")
_WITH_BACKING = ("qcow2", "vmdk")
_COPY = ".disk"
_PART_BYTES, _HOLE_BYTES = 4 << 20, 64 << 10
_ELSEWHERE = ("backing-filename", "full-backing-filename", "data-file", "extents", "parent-cid")


def import_disk(
    disk: Path,
    name: str,
    memory_bytes: int,
    packages: tuple[str, ...] = (),
    cache: Path | None = None,
    progress: Progress = quiet,
) -> Built:
    """Make an image of a disk, or find the one that was made from it before.

    Args:
        disk: a file in one of FORMS. name: the image's. memory_bytes: least memory of a machine.
        packages: installed by cloud-init at each start, for a disk that lacks them.
        progress: called with the part that is done (0 to 1) and a sentence.

    Raises: ImageError, in one sentence what is wrong and what to do.
    """
    _check_words(name, memory_bytes, packages)
    images = images_folder(cache)
    try:
        make_folder(images)
        with _opened(disk) as file, alone(images / f".{name}.lock", progress):
            form, fault = form_of(file.fileno())
            if fault:
                raise ImageError(f"disk {disk}: {fault}")
            progress(0.02, "taking the sum of the disk")
            imported = Imported(form, manifest.measure_open(file), packages)
            content = Manifest(
                name=name,
                memory_bytes=memory_bytes,
                disk_bytes=0,
                cmdline="",
                disk=FileFacts(0, "0" * 64),
                kernel=None,
                initrd=None,
                packages=(),
                recipe=None,
                inputs=_inputs(imported, memory_bytes),
                imported=imported,
            )
            built = _found(content, images) or _import(disk, file, content, images, progress)
    except OSError as error:
        raise ImageError(f"image {name}: {error.filename or images}: {error.strerror or error}") from error
    progress(1.0, f"image {name} is ready")
    return built


def inspect_disk(disk: Path) -> tuple[str, int]:
    """Return form and size of a disk that may be imported. Raises: ImageError with what is wrong."""
    with _opened(disk) as file:
        return _inspect(disk, file)


def _opened(disk: Path) -> IO[bytes]:
    try:
        return open_plain(disk)
    except FileNotFoundError:
        raise ImageError(f"disk {disk}: there is no such file; expected a disk in a form such as qcow2") from None
    except OSError as error:
        raise ImageError(f"disk {disk}: {error.strerror}; expected a file that may be read") from None


def _inspect(disk: Path, file: IO[bytes]) -> tuple[str, int]:
    """Look at an open disk; `disk` is what people call it. Raises: ImageError, OSError."""
    form, fault = form_of(file.fileno())
    if fault:
        raise ImageError(f"disk {disk}: {fault}")
    told = _look(form, file)
    if not told.ok:
        said = " ".join(told.stderr.split())[-300:] or f"qemu-img ended with {told.code}"
        raise ImageError(f"disk {disk}: {said}; expected one of {', '.join(FORMS)}")
    try:
        facts = read_json(told.stdout, type=dict[str, Any])
        size_bytes = int(facts["virtual-size"])
        fault = fault_of(facts, os.fstat(file.fileno()).st_size)
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise ImageError(f"disk {disk}: qemu-img said what we don't understand ({error})") from None
    if fault:
        raise ImageError(f"disk {disk}: {fault}")
    return form, size_bytes


def _look(form: str, file: IO[bytes]) -> Finished:
    limits = [f"--as={_HEADER_MEMORY}", f"--cpu={_HEADER_SECONDS}", "--"]
    prlimit = program("prlimit")
    limited = [prlimit, *limits] if prlimit else []
    argv = [*become(service_account()), *limited, _qemu_img(), "info", "--output=json", spoken_of(form, file)]
    return run(argv, timeout_seconds=2 * _HEADER_SECONDS, env=ENVIRONMENT, pass_fds=(file.fileno(),))


def spoken_of(form: str, file: IO[bytes]) -> str:
    """How QEMU's programs open a disk: by an open file, as this form, and with nothing behind it."""
    node: dict[str, Any] = {"driver": form, "file": {"driver": "file", "filename": f"/dev/fd/{file.fileno()}"}}
    if form in _WITH_BACKING:
        node["backing"] = None
    return "json:" + json.dumps(node)


def fault_of(facts: dict[str, Any], file_bytes: int) -> str:
    """Return why a disk may not be imported, by what qemu-img says; "" when it may."""
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


def _import(disk: Path, source: IO[bytes], content: Manifest, images: Path, progress: Progress) -> Built:
    """Copy and convert in a work folder, take the sum and rename. The caller holds the lock."""
    assert content.imported is not None
    work = images / f".{content.name}.work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        make_folder(work, 0o700, new=True)
        copy, raw = work / _COPY, work / manifest.DISK
        progress(0.05, "copying the disk")
        with create_plain(copy) as file:
            if _copied(source, file) != content.imported.source:
                raise ImageError(f"disk {disk}: it was changed while it was read; import it when nobody writes to it")
            give(file, service_account(), 0o400)
        with copy.open("rb") as file:
            form, size_bytes = _inspect(disk, file)
            if form == "raw":
                copy.rename(raw)
            else:
                _raw(disk, form, file, raw, size_bytes, progress)
                copy.unlink()
        take_back(raw)
        os.truncate(raw, size_bytes)
        with raw.open("rb") as file:
            if fault := boot_fault(file.read(512)):
                raise ImageError(f"disk {disk}: {fault}")
        progress(0.9, "taking the sum of the image")
        measured = manifest.measure(raw)
        nocloud.write_seed(work, content)
        seed = manifest.measure(work / manifest.SEED)
        whole = msgspec.structs.replace(content, disk=measured, disk_bytes=measured.size_bytes, seed=seed)
        return publish(whole, work, images)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _found(content: Manifest, images: Path) -> Built | None:
    from deskgrid.images.build.listing import listed

    for one in listed(images):
        same = one.manifest is not None and (one.manifest.name, one.manifest.inputs) == (content.name, content.inputs)
        if same and not one.fault:
            assert one.manifest is not None
            return Built(one.ref, one.folder, one.manifest, fresh=False)
    return None


def _copied(source: IO[bytes], target: IO[bytes]) -> FileFacts:
    """Copy all that there is, with holes for zeros; return length and sum of what was copied."""
    total, length = hashlib.sha256(), 0
    source.seek(0)
    while part := source.read(_PART_BYTES):
        total.update(part)
        for begin in range(0, len(part), _HOLE_BYTES):
            block = part[begin : begin + _HOLE_BYTES]
            if block.count(0) != len(block):
                target.seek(length + begin)
                target.write(block)
        length += len(part)
    target.flush()
    target.truncate(length)
    os.fsync(target.fileno())
    return FileFacts(length, total.hexdigest())


def _raw(disk: Path, form: str, source: IO[bytes], raw: Path, size_bytes: int, progress: Progress) -> None:
    """Make the raw disk of another form. `disk` is what people call it. Raises: ImageError, OSError."""
    with create_plain(raw) as target:
        target.truncate(size_bytes)
        give(target, service_account())
        how = ["convert", "-p", "-n", "--target-is-zero", "-O", "raw", "-S", "4k"]
        argv = [*become(service_account()), _qemu_img(), *how, spoken_of(form, source), spoken_of("raw", target)]
        _convert(disk, argv, (source.fileno(), target.fileno()), progress)
        os.fsync(target.fileno())


def _convert(disk: Path, argv: list[str], files: tuple[int, ...], progress: Progress) -> None:
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd="/",
        pass_fds=files,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        rest = b""
        while part := os.read(process.stdout.fileno(), 4096):
            *lines, rest = (rest + part).split(b"\r")
            for line in lines:
                if match := re.search(rb"\(([0-9.]+)/100%\)", line):
                    progress(0.2 + 0.7 * float(match[1]) / 100, "making the raw disk")
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
    found = program("qemu-img")
    if found is None:
        raise ImageError("qemu-img is not installed; run: sudo apt-get install qemu-utils")
    return found


HEAD_BYTES = 4096
_VHD_FOOTER_BYTES = 512
_QCOW2_DATA_FILE = 1 << 2
_VDI_MARK = struct.pack("<I", 0xBEDA107F)
_VMDK_MARKS = (b"KDMV", b"COWD")
_VMDK_TEXT = b"# disk descriptorfile"


def form_of(handle: int) -> tuple[str, str]:
    """Return the form of an open disk, and why it may not be read; "" when it may. Raises: OSError."""
    head = os.pread(handle, HEAD_BYTES, 0)
    size = os.fstat(handle).st_size
    tail = os.pread(handle, _VHD_FOOTER_BYTES, max(0, size - _VHD_FOOTER_BYTES))
    return form(head, tail), leaning(head)


def form(head: bytes, tail: bytes) -> str:
    """Return the form by the first bytes and the last 512."""
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if head.startswith(_VMDK_MARKS) or _VMDK_TEXT in head.lower():
        return "vmdk"
    if head.startswith(b"vhdxfile"):
        return "vhdx"
    if head[64:68] == _VDI_MARK:
        return "vdi"
    return "vpc" if head.startswith(b"conectix") or tail.startswith(b"conectix") else "raw"


def leaning(head: bytes) -> str:
    """Return on what else a disk leans, by its first bytes; "" when it is whole."""
    if head.startswith(b"QFI\xfb") and len(head) >= 104:
        version, backing = struct.unpack_from(">IQ", head, 4)
        features = struct.unpack_from(">Q", head, 72)[0] if version >= 3 else 0
        if backing or features & _QCOW2_DATA_FILE:
            return "got one that leans on another file, expected a whole one; see qemu-img convert"
    text = _VMDK_TEXT in head.lower() and not head.startswith(_VMDK_MARKS)
    flat = head.startswith(b"KDMV") and len(head) >= 20 and struct.unpack_from("<Q", head, 12)[0] == 0
    if text or flat:
        return "got one in several files, expected a single one; join it with qemu-img convert"
    return ""
