"""What a store holds, in SQLite: images, packs, and which blobs of each pack are there.

Rules:
- The index is a memory, not the truth: it can be made anew from the packs, which say themselves what they hold. A
  damaged one is thrown away and rebuilt.
- Write-ahead log and synchronous=NORMAL: after a power cut the index is whole, and may lack its last seconds. That
  costs fetching again, or finding out by its sum that a blob never reached the disk; FULL would wait for the disk at
  every batch.
- Several processes may use it; each waits for the others at most 30 s.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from deskgrid.images.contract import ImageError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS image (
  digest TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, used_at REAL NOT NULL,
  bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pack (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, held_bytes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS uses (
  image TEXT NOT NULL REFERENCES image ON DELETE CASCADE, pack INTEGER NOT NULL REFERENCES pack,
  PRIMARY KEY (image, pack)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS uses_of_pack ON uses (pack);
CREATE TABLE IF NOT EXISTS held (
  pack INTEGER NOT NULL REFERENCES pack ON DELETE CASCADE, blob INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY (pack, blob)
) WITHOUT ROWID;
"""
VERSION = 1


class IndexDamaged(ImageError):
    """The index can't be used; make it anew."""


class HeldImage(msgspec.Struct, frozen=True):
    """An image that a store knows. used_at: seconds since 1970. bytes: of all its blobs, held or not."""

    digest: str
    project: str
    name: str
    version: str
    used_at: float
    bytes: int


class Index:
    """An open index; for one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open or make it. Raises: IndexDamaged; ImageError when it is of a newer version."""
        try:
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA cache_size = -1024")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise ImageError(f"store index {path}: got version {version}, expected {VERSION}; update deskgrid")
            if version != VERSION:  # nothing is written to one that is as it should be: the disk may be full
                self._db.executescript(_SCHEMA)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            said = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.OperationalError as error:
            if "disk is full" in str(error) or "disk I/O" in str(error):
                raise ImageError(f"store index {path}: {error}; make room on this disk, or see to it") from None
            if "locked" in str(error) or "unable to open" in str(error) or "readonly" in str(error):
                raise ImageError(f"store index {path}: {error}; see who uses it, and to its rights") from None
            raise IndexDamaged(f"store index {path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise IndexDamaged(f"store index {path}: {error}") from None
        if said != "ok":
            raise IndexDamaged(f"store index {path}: {said}")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def add_image(self, image: HeldImage, packs: Sequence[str]) -> None:
        """Note an image and its packs; again is no harm."""
        with self._writing():
            # What was used in the future was used under a clock that was wrong.
            self._db.execute("UPDATE image SET used_at = ?1 WHERE used_at > ?1", (image.used_at,))
            self._db.execute(
                "INSERT INTO image VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET used_at = excluded.used_at",
                (image.digest, image.project, image.name, image.version, image.used_at, image.bytes),
            )
            self._db.executemany("INSERT OR IGNORE INTO pack (name) VALUES (?)", ((pack,) for pack in packs))
            self._db.executemany(
                "INSERT OR IGNORE INTO uses SELECT ?, id FROM pack WHERE name = ?", ((image.digest, p) for p in packs)
            )

    def touch(self, digest: str, used_at: float) -> None:
        """Note that an image is used."""
        self._db.execute("UPDATE image SET used_at = ? WHERE digest = ?", (used_at, digest))

    def images(self) -> list[HeldImage]:
        """All images, the least recently used first."""
        return [HeldImage(*row) for row in self._db.execute("SELECT * FROM image ORDER BY used_at, digest")]

    def packs(self) -> dict[str, int]:
        """All packs, with the bytes that are held of each."""
        return dict(self._db.execute("SELECT name, held_bytes FROM pack"))

    def packs_of(self, digest: str) -> dict[str, int]:
        """The packs of an image, with the bytes that are held of each (whichever image uses them)."""
        rows = self._db.execute("SELECT name, held_bytes FROM pack JOIN uses ON pack = id WHERE image = ?", (digest,))
        return dict(rows)

    def forget_image(self, digest: str) -> list[str]:
        """Drop an image, and the packs that no other uses, both or neither. Returns: those packs."""
        with self._writing():
            self._db.execute("DELETE FROM image WHERE digest = ?", (digest,))
            return self._drop_unused()

    def forget_unused(self) -> list[str]:
        """Drop the packs that no image uses. Returns: their names."""
        with self._writing():
            return self._drop_unused()

    def held(self, pack: str) -> set[int]:
        """Which blobs of a pack are there."""
        rows = self._db.execute("SELECT blob FROM held JOIN pack ON pack = id WHERE name = ?", (pack,))
        return {blob for (blob,) in rows}

    def hold(self, pack: str, blobs: Iterable[tuple[int, int]]) -> None:
        """Note blobs, as (number, bytes); those of a pack that was dropped meanwhile are not noted."""
        with self._writing():
            self._db.executemany(
                "INSERT OR IGNORE INTO held SELECT id, ?, ? FROM pack WHERE name = ?",
                ((blob, length, pack) for blob, length in blobs),
            )
            self._count(pack)

    def drop(self, pack: str, blobs: Iterable[int]) -> None:
        """Note that blobs are gone."""
        with self._writing():
            self._db.executemany(
                "DELETE FROM held WHERE blob = ? AND pack = (SELECT id FROM pack WHERE name = ?)",
                ((blob, pack) for blob in blobs),
            )
            self._count(pack)

    def used_bytes(self) -> int:
        """How much is held."""
        return int(self._db.execute("SELECT coalesce(sum(held_bytes), 0) FROM pack").fetchone()[0])

    def _drop_unused(self) -> list[str]:
        rows = self._db.execute("DELETE FROM pack WHERE id NOT IN (SELECT pack FROM uses) RETURNING name").fetchall()
        return [name for (name,) in rows]

    def _count(self, pack: str) -> None:
        self._db.execute(
            "UPDATE pack SET held_bytes = (SELECT coalesce(sum(bytes), 0) FROM held WHERE pack = id) WHERE name = ?",
            (pack,),
        )

    def _writing(self) -> "_Writing":
        return _Writing(self._db)


class _Writing:
    """One transaction. Raises: ImageError when it can't be written; then nothing is."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise _unwritten(error) from None

    def __exit__(self, kind: object, error: BaseException | None, *rest: object) -> None:
        if error is None:
            try:
                self._db.execute("COMMIT")
                return
            except sqlite3.OperationalError as full:
                error = full
        with suppress(sqlite3.OperationalError):  # SQLite may have done so itself
            self._db.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError):
            raise _unwritten(error) from None


def _unwritten(error: sqlite3.OperationalError) -> ImageError:
    return ImageError(f"store index: {error}; make room on this disk, or see to it")
