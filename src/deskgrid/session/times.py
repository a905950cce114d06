"""Now, as the wall clock of this computer shows it."""

import os
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo


def local_now() -> datetime:
    """Now, in this computer's time zone, which knows when daylight saving changes."""
    try:
        if "TZ" in os.environ:
            return datetime.now(ZoneInfo(os.environ["TZ"].lstrip(":")))
        with Path("/etc/localtime").open("rb") as file:
            return datetime.now(ZoneInfo.from_file(file))
    except (OSError, ValueError, KeyError):
        return datetime.now().astimezone()
