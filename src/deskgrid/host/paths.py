"""Where deskgrid keeps what can be made again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache: /var/cache/deskgrid for root, else $XDG_CACHE_HOME/deskgrid or ~/.cache/deskgrid."""
    if os.geteuid() == 0:
        return Path("/var/cache/deskgrid")
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "deskgrid"
