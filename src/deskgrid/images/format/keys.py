"""From a project's key to each chunk's: who has the key reads, who has not learns nothing but lengths.

    name   = BLAKE3, keyed, of the plain chunk              32 bytes   knows equal chunks of one project
    key    = BLAKE3, keyed, of the name                     32 bytes   one key for each content
    nonce  = BLAKE3, keyed, of the compressed chunk         12 bytes
    blob   = name ‖ nonce ‖ AES-256-GCM(key, nonce, compressed; bound to the name)
    sum    = BLAKE3 of the blob                             32 bytes   what packs and stores know it by

Rules:
- Three keys are derived from the project's, one for each purpose; the project's own is used for nothing else.
- The same content gives the same blob, so it is stored once in a project; in another project nothing about it is the
  same, and without the key a guessed content can't be confirmed.
- A key and nonce meet only one message: the key belongs to the content, the nonce to the compressed bytes. Another
  version of the compressor makes other bytes of the same content, and so another nonce under the same key.
- Whoever has a project's key can make a blob that decrypts. So a reader takes only blobs whose sum the signed manifest
  commits to; the tag alone proves nothing between holders of the key. And what was opened must have its own name: a
  blob that says one content and holds another is nobody's, whoever signed for it.
- A frame says its length before it is unpacked; one that says another length than the manifest is not unpacked.

Sources: BLAKE3 specification, section 6.2 (key derivation, keyed mode); RFC 5116; NIST SP 800-38D, section 8.2.
"""

import os
from pathlib import Path
from typing import Protocol

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from deskgrid.host.system.files import write_new
from deskgrid.images.contract import ImageError

KEY_BYTES = NAME_BYTES = SUM_BYTES = 32
_NONCE_BYTES, _TAG_BYTES = 12, 16
OVERHEAD_BYTES = NAME_BYTES + _NONCE_BYTES + _TAG_BYTES
_LEVEL = 3
_BOUND = b"deskgrid chunk 1 "
_CONTEXTS = ("deskgrid 2026 chunk name", "deskgrid 2026 chunk key", "deskgrid 2026 chunk nonce")


class Damaged(ImageError):
    """Bytes are not what they must be: they were damaged or swapped on their way, and are to be fetched again."""


class KeyMemory(Protocol):
    """Where derived keys lie: returns a view that keeps the bytes (locked memory, for a process that serves)."""

    def __call__(self, content: bytes, /) -> memoryview:
        """Keep the bytes and return where they are."""


def _plain_room(content: bytes) -> memoryview:
    return memoryview(content)


class ProjectKey:
    """A project's key, ready to name, seal and open chunks. Not for two threads at once."""

    def __init__(self, secret: bytes | bytearray | memoryview, room: KeyMemory = _plain_room) -> None:
        """Derive what is needed. secret: 32 random bytes. Raises: ImageError."""
        if len(secret) != KEY_BYTES:
            raise ImageError(f"project key: got {len(secret)} bytes, expected {KEY_BYTES}; make a new one")
        self.key_id = blake3(secret, derive_key_context="deskgrid 2026 project key id").hexdigest(16)
        self._name, self._key, self._nonce = (
            room(blake3(secret, derive_key_context=context).digest()) for context in _CONTEXTS
        )
        self._pack = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False, write_dict_id=False)
        self._unpack = zstandard.ZstdDecompressor()

    def name(self, plain: bytes | memoryview) -> bytes:
        """Return by what this project knows this content."""
        return blake3(plain, key=self._name).digest()

    def seal(self, plain: bytes | memoryview, name: bytes) -> bytes:
        """Return the blob of a chunk. name: as returned by `name`."""
        packed = self._pack.compress(plain)
        nonce = blake3(packed, key=self._nonce).digest(_NONCE_BYTES)
        return name + nonce + self._cipher(name).encrypt(nonce, packed, _BOUND + name)

    def open(self, blob: bytes, raw_bytes: int) -> bytes:
        """Return the plain chunk of a blob whose sum was checked.

        Args:
            raw_bytes: how long the manifest says that it is.

        Raises:
            Damaged: another key's, not this chunk, or not what its name says.
        """
        name, nonce = blob[:NAME_BYTES], blob[NAME_BYTES : NAME_BYTES + _NONCE_BYTES]
        try:
            packed = self._cipher(name).decrypt(nonce, memoryview(blob)[NAME_BYTES + _NONCE_BYTES :], _BOUND + name)
            said = zstandard.frame_content_size(packed)
            if said != raw_bytes:
                raise Damaged(f"chunk: got a frame of {said} bytes, expected {raw_bytes}; the manifest is not its own")
            plain = self._unpack.decompress(packed)
        except (InvalidTag, ValueError):
            raise Damaged("chunk: it does not open; it needs another project's key, or was published wrongly") from None
        except zstandard.ZstdError as error:
            raise Damaged(f"chunk: it does not unpack ({error}); it was published wrongly") from None
        if len(plain) != raw_bytes:
            raise Damaged(f"chunk: got {len(plain)} bytes, expected {raw_bytes}; it was published wrongly")
        if self.name(plain) != name:
            raise Damaged("chunk: it is not what its name says; somebody who has the project's key made it")
        return plain

    def _cipher(self, name: bytes) -> AESGCM:
        return AESGCM(blake3(name, key=self._key).digest())


def sum_of(blob: bytes | memoryview) -> bytes:
    """Return by what packs, manifests and stores know a blob; needs no key."""
    return blake3(blob).digest()


def read_key(path: Path) -> bytes:
    """Read a project's key from a file that only its owner may read: 64 hexadecimal digits. Raises: ImageError."""
    try:
        with path.open("rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(256)
    except OSError as error:
        raise ImageError(f"project key {path}: {error.strerror}; `--new-key` makes one") from None
    if mode & 0o077:
        raise ImageError(f"project key {path}: got mode {mode & 0o777:o}, expected 600; chmod it")
    try:
        secret = bytes.fromhex(text.decode().strip())
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise ImageError(f"project key {path}: expected {2 * KEY_BYTES} hexadecimal digits; make it anew")
    return secret


def make_key(path: Path) -> bytes:
    """Write a new random project key that only the caller may read. Raises: ImageError when the file is there."""
    secret = os.urandom(KEY_BYTES)
    try:
        write_new(path, secret.hex().encode() + b"\n", 0o600)
    except OSError as error:
        raise ImageError(f"project key {path}: {error.strerror}; choose another name for a new one") from None
    return secret
