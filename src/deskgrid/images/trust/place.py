"""Where a desktop's trust lives. Imports nothing heavy: an agent at rest may have it."""

from pathlib import Path

import msgspec


class Place(msgspec.Struct, frozen=True):
    """Where a desktop keeps its metadata, the root that was shipped, and where the repository is.

    repository: a URL, or a folder. seconds: for one file. certificates: file of CAs for https.
    """

    folder: Path
    bootstrap: Path
    repository: str
    seconds: float = 20.0
    certificates: Path | None = None
