"""A build's work folder: what stays of a build that was interrupted or failed, and for how long.

Rules:
- Only a whole root tree stays, with the key that says what it was made from; everything else is removed.
- It stays for six hours: after that the archive may have newer packages.
- What stays belongs to whoever builds, not to the account that makes the disk: nobody else can put a tree there. A
  folder that was not taken back, after a kill, is removed.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from deskgrid.host.system.files import write_atomic

TREE = "tree.tar"
_KEY = "tree.key"
KEPT_SECONDS = 6 * 3600


def tree_is_whole(work: Path, key: str) -> None:
    """Say that the tree in the folder is whole, and what it was made from."""
    write_atomic(work / _KEY, key.encode())


def clean(work: Path, key: str = "") -> bool:
    """Remove the folder; but when it holds a whole, fresh tree of this key, only what lies beside that.

    Returns: whether the tree is there.
    """
    with suppress(OSError):
        fresh = 0 <= time.time() - (work / _KEY).stat().st_mtime < KEPT_SECONDS
        ours = not hasattr(os, "geteuid") or work.stat().st_uid == os.geteuid()
        if key and ours and fresh and (work / _KEY).read_text() == key and (work / TREE).is_file():
            for path in work.iterdir():
                if path.name not in (TREE, _KEY):
                    path.unlink()
            return True
    shutil.rmtree(work, ignore_errors=True)
    return False


def leave(work: Path, key: str) -> None:
    """A build ends without an image: take the folder back and clean it."""
    with suppress(OSError):
        if hasattr(os, "geteuid"):
            os.chown(work, os.geteuid(), -1)
        work.chmod(0o700)
    clean(work, key)


def finish(work: Path) -> None:
    """The tree is no longer needed."""
    (work / TREE).unlink()
    (work / _KEY).unlink()
