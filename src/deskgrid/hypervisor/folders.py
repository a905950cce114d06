"""The folders of the VMs on this desktop: which have a keeper, and which were left behind.

The rule: a keeper holds a lock on its VM's folder for life, so a folder that can be locked has no keeper and nothing in
it that anybody needs; the kernel has ended its QEMU with the keeper and freed its overlay.
"""

import fcntl
import os
import shutil
from pathlib import Path


def has_keeper(folder: Path) -> bool:
    """Whether a living keeper holds this folder."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
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
