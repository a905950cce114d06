"""Where deskgrid keeps what can be made again, and where it looks for settings when none are named."""

import os
from pathlib import Path

SYSTEM = Path("/etc/deskgrid")


def cache_folder() -> Path:
    """Return the cache: /var/cache/deskgrid for root, else $XDG_CACHE_HOME/deskgrid or ~/.cache/deskgrid."""
    if os.geteuid() == 0:
        return Path("/var/cache/deskgrid")
    return _own("XDG_CACHE_HOME", ".cache")


def config_folder() -> Path:
    """Return the account's settings: $XDG_CONFIG_HOME/deskgrid or ~/.config/deskgrid; for root the system's.

    Root never takes settings from where a person's HOME points to.
    """
    return SYSTEM if os.geteuid() == 0 else _own("XDG_CONFIG_HOME", ".config")


def settings_file(name: str) -> Path:
    """Return the settings that are meant when none are named: the account's own, or if it has none the system's."""
    own = config_folder() / name
    return own if own.exists() else SYSTEM / name


def _own(variable: str, below_home: str) -> Path:
    base = os.environ.get(variable, "")
    root = Path(base) if base.startswith("/") else Path.home() / below_home
    return root / "deskgrid"
