"""Has a file changed? Asked with one stat, so that asking every few seconds costs nothing."""

from pathlib import Path

Stamp = tuple[int, int, int] | str
MISSING, UNREADABLE = "missing", "unreadable"


def stamp(path: Path) -> Stamp:
    """What changes with a file: MISSING only if it is surely not there, UNREADABLE if that cannot be told."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return UNREADABLE if path.is_symlink() else MISSING  # a link to nowhere was not deleted on purpose
    except OSError:
        return UNREADABLE
    return found.st_mtime_ns, found.st_size, found.st_ino
