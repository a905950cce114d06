"""The throw-away disk of one VM: an empty qcow2, encrypted by LUKS with a key that dies with the VM.

Rules:
- What a job writes goes here and nowhere else; on the desktop's disk it is never in the clear. The master key is random
  and is forgotten at once; the passphrase that opens it is random, and is kept only by the keeper and QEMU.
- The file is deleted as soon as it is open (`create`): whoever is killed, nothing stays behind.
- It cannot grow over `limit_bytes`: QEMU knows it (see `qemu_args`), and the file is made that long, empty.

Why not `qemu-img create`: QEMU measures how fast it can hash before it writes a LUKS header, 2.3 s of CPU each time,
also with `iter-time=10`. This takes 60 ms. The hashing protects weak passphrases; ours is 256 random bits.

Sources: QEMU's docs/interop/qcow2.rst (header, refcounts, "Full disk encryption header"); LUKS On-Disk Format
Specification 1.2.3 (partition header, anti-forensic splitter); both are read back by qemu-img in the tests.
"""

import hashlib
import os
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

Randomness = Callable[[int], bytes]

CLUSTER_BYTES = 65536
SECTOR_BYTES = 512
_KEY_BYTES = 64  # AES-256 in XTS mode: two keys of 256 bits
_SALT_BYTES = 32
_DIGEST_BYTES = 20
_STRIPES = 4000
_SLOTS = 8
_SLOT_SECTORS = 504  # 64 × 4000 bytes, rounded up to whole pages of 4096 bytes
_FIRST_SLOT_SECTOR = 8
_LUKS_SECTORS = _FIRST_SLOT_SECTOR + _SLOTS * _SLOT_SECTORS
_ITERATIONS = 1000
_SLOT_ON, _SLOT_OFF = 0x00AC71F3, 0x0000DEAD
_QCOW2_CRYPTO = 0x0537BE77
_ENTRY_BYTES = 8
_CLUSTERS_PER_BLOCK = CLUSTER_BYTES * 8 // 16
_L1_COVERS_BYTES = CLUSTER_BYTES // _ENTRY_BYTES * CLUSTER_BYTES


class OverlayError(Exception):
    """The overlay could not be made; the message says where and what to do."""


def create(folder: Path) -> int:
    """Make an empty file in `folder` and delete its name.

    Returns:
        the file, open for reading and writing; it is gone when the last holder closes it.

    Raises:
        OverlayError: the folder can't be written.
    """
    try:
        handle = os.open(folder / "overlay", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        (folder / "overlay").unlink()
    except OSError as error:
        raise OverlayError(f"overlay in {folder}: got {error.strerror}, expected to write there; see to it") from error
    return handle


def fill(handle: int, folder: Path, disk_bytes: int, limit_bytes: int, passphrase: bytes) -> None:
    """Make an empty file an overlay.

    Args:
        folder: where it is, for the message. disk_bytes: the size of the disk that the guest sees.
        limit_bytes: the most that the overlay may take of the desktop's disk.
        passphrase: opens it; random and printable.

    Raises:
        OverlayError: the desktop's disk is full, or `limit_bytes` is too small to hold anything.
    """
    parts = layout(disk_bytes, passphrase, os.urandom)
    least = max(offset + len(content) for offset, content in parts) + 16 * CLUSTER_BYTES
    if limit_bytes < least:
        raise OverlayError(
            f"overlay: got a limit of {limit_bytes} bytes, expected at least {least}; give the VM more disk"
        )
    try:
        for offset, content in parts:
            # Reserved first: a file system that allocates late would tell of a full disk only when the guest writes.
            os.posix_fallocate(handle, offset, len(content))
            os.pwrite(handle, content, offset)
        os.ftruncate(handle, limit_bytes)
    except OSError as error:
        raise OverlayError(
            f"overlay in {folder}: got {error.strerror}, expected room for {limit_bytes} bytes; "
            "make room on this disk or move the state directory"
        ) from error


def layout(disk_bytes: int, passphrase: bytes, randomness: Randomness) -> list[tuple[int, bytes]]:
    """The parts of an empty encrypted qcow2 that are not zero, as (offset, content): a pure function."""
    l1_entries = -(-disk_bytes // _L1_COVERS_BYTES)
    l1_clusters = max(1, -(-l1_entries * _ENTRY_BYTES // CLUSTER_BYTES))
    luks_clusters = -(-_LUKS_SECTORS * SECTOR_BYTES // CLUSTER_BYTES)
    table, block, l1 = 1, 2, 3
    crypto = l1 + l1_clusters
    used = crypto + luks_clusters
    if used > _CLUSTERS_PER_BLOCK:
        raise OverlayError(f"overlay: got a disk of {disk_bytes} bytes, expected less; publish a smaller disk")
    header = _qcow2_header(disk_bytes, l1_entries, l1, table, crypto)
    keyslots, material = _luks(passphrase, randomness)
    return [
        (0, header),
        (table * CLUSTER_BYTES, struct.pack(">Q", block * CLUSTER_BYTES).ljust(512, b"\0")),
        (block * CLUSTER_BYTES, struct.pack(">H", 1) * used),
        (crypto * CLUSTER_BYTES, keyslots),
        (crypto * CLUSTER_BYTES + _FIRST_SLOT_SECTOR * SECTOR_BYTES, material),
        ((used - 1) * CLUSTER_BYTES, bytes(CLUSTER_BYTES)),
    ]


def _qcow2_header(disk_bytes: int, l1_entries: int, l1: int, table: int, crypto: int) -> bytes:
    """Version 3, 64 KiB clusters, 16-bit refcounts, encryption method 2 (LUKS), no backing file named."""
    size = -(-disk_bytes // SECTOR_BYTES) * SECTOR_BYTES
    fields = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", 3, 0, 0, 16, size, 2, l1_entries, l1 * CLUSTER_BYTES),
        *(table * CLUSTER_BYTES, 1, 0, 0, 0, 0, 0, 4, 104),
    )
    extension = struct.pack(">IIQQ", _QCOW2_CRYPTO, 16, crypto * CLUSTER_BYTES, _LUKS_SECTORS * SECTOR_BYTES)
    return (fields + extension + bytes(8)).ljust(512, b"\0")


def _luks(passphrase: bytes, randomness: Randomness) -> tuple[bytes, bytes]:
    """A LUKS1 header with one keyslot in use, and that slot's key material."""
    master = randomness(_KEY_BYTES)
    master_salt, slot_salt = randomness(_SALT_BYTES), randomness(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha256", master, master_salt, _ITERATIONS, _DIGEST_BYTES)
    header = struct.pack(
        ">6sH32s32s32sII20s32sI40s",
        *(b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256", _LUKS_SECTORS, _KEY_BYTES),
        *(digest, master_salt, _ITERATIONS, str(uuid.UUID(bytes=randomness(16), version=4)).encode()),
    )
    for slot in range(_SLOTS):
        where = _FIRST_SLOT_SECTOR + slot * _SLOT_SECTORS
        state = (_SLOT_ON, _ITERATIONS, slot_salt) if slot == 0 else (_SLOT_OFF, 0, bytes(_SALT_BYTES))
        header += struct.pack(">II32sII", *state, where, _STRIPES)
    slot_key = hashlib.pbkdf2_hmac("sha256", passphrase, slot_salt, _ITERATIONS, _KEY_BYTES)
    return header.ljust(1024, b"\0"), _encrypt(_split(master, randomness), slot_key)


def _split(key: bytes, randomness: Randomness) -> bytes:
    """The anti-forensic splitter: the key is lost when any of its stripes is."""
    stripes = randomness(_KEY_BYTES * (_STRIPES - 1))
    mixed = bytes(_KEY_BYTES)
    for start in range(0, len(stripes), _KEY_BYTES):
        mixed = _diffuse(_xor(mixed, stripes[start : start + _KEY_BYTES]))
    return stripes + _xor(mixed, key)


def _diffuse(block: bytes) -> bytes:
    first = hashlib.sha256(b"\0\0\0\0" + block[:32]).digest()
    return first + hashlib.sha256(b"\0\0\0\1" + block[32:]).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(one))


def _encrypt(material: bytes, key: bytes) -> bytes:
    """AES-256-XTS by sectors of 512 bytes; the tweak is the sector's number, little-endian ("plain64")."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = algorithms.AES(key)
    sectors = []
    for number in range(len(material) // SECTOR_BYTES):
        writer = Cipher(cipher, modes.XTS(number.to_bytes(16, "little"))).encryptor()
        sectors.append(writer.update(material[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]))
    return b"".join(sectors)
