"""The projects' keys that the coordinator gives out with orders.

Rules, told first
- `<project>.key` in one folder: 64 hexadecimal digits, readable by its owner alone; another one is refused.
- Kept in memory only, read again when a file changes. Never printed, never logged.
"""

from collections.abc import Iterable
from pathlib import Path

from deskgrid.images.contract import ImageError


class ProjectKeys:
    """All that are there."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, tuple[str, str]] = {}

    def files(self) -> list[Path]:
        """What to watch."""
        try:
            return [self._folder, *sorted(self._folder.glob("*.key"))] if self._folder is not None else []
        except OSError:
            return []

    def get(self, project: str) -> str | None:
        """A project's key. SECRET."""
        return self._known[project][0] if project in self._known else None

    def key_id(self, project: str) -> str:
        """What manifests call a project's key."""
        return self._known[project][1]

    def read(self, projects: Iterable[str]) -> dict[str, str]:
        """Read the keys of these projects. Returns: of each project without one, why."""
        from deskgrid.images.chunks.keys import ProjectKey, read_key

        known, lacking = dict[str, tuple[str, str]](), dict[str, str]()
        for project in projects:
            if self._folder is None:
                lacking[project] = f"project {project}: no key, since images.keys is not set; name the folder of keys"
                continue
            try:
                secret = read_key(self._folder / f"{project}.key")
                known[project] = secret.hex(), ProjectKey(secret).key_id
            except ImageError as error:
                lacking[project] = f"project {project}: its images are not on offer: {error}"
        self._known = known
        return lacking
