"""Where the coordinator's images come from: the contract, and a catalogue that only pretends, for simulated fleets.

A catalogue MUST
- do all that takes time in `look`, which is called in a thread, one call after the other; the rest is at once;
- return None from `look` when nothing has changed; a listing else, also when something is wrong with it;
- raise Unreadable, and nothing else, when it can't list anything now; what it listed before goes on until its `until`;
- never show a project's key but in what `key` returns.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol

from deskgrid.core.fleet.catalogue import CatalogueEntry, Listing
from deskgrid.model.image import ImageFacts
from deskgrid.model.values.names import Digest


class Unreadable(Exception):
    """Nothing can be listed now. The message says why and what to do. revoked: what may not go on all the same."""

    def __init__(self, problems: Iterable[str], revoked: Mapping[Digest, str] | None = None) -> None:
        self.problems, self.revoked = tuple(problems), dict(revoked or {})
        super().__init__("; ".join(self.problems))


class Catalogue(Protocol):
    """Lists images. See the module for what it must do."""

    def look(self, now: datetime) -> Listing | None:
        """What is listed now; None: the same as before. Takes seconds. Raises: Unreadable."""

    def key(self, project: str) -> str | None:
        """A project's key, 64 hexadecimal digits. SECRET. None: there is none."""


class FixedCatalogue:
    """Images that nobody signed and that no desktop can open: for fleets that are simulated, and for none at all."""

    def __init__(self, *facts: ImageFacts, problems: Iterable[str] = ()) -> None:
        self._problems = tuple(problems)
        self.offer(*facts)

    def offer(self, *facts: ImageFacts) -> None:
        """Offer these and no others, from the next look on."""
        self._listing: Listing | None = Listing(
            tuple(
                CatalogueEntry(
                    one.ref,
                    one.project,
                    one.version,
                    latest=True,
                    memory_bytes=one.memory_bytes,
                    disk_bytes=one.disk_bytes,
                    free_bytes=one.free_bytes,
                    says=one.says,
                )
                for one in facts
            ),
            frozenset(one.project for one in facts),
            problems=self._problems,
        )

    def look(self, now: datetime) -> Listing | None:
        """See `Catalogue`."""
        listing, self._listing = self._listing, None
        return listing

    def key(self, project: str) -> str | None:
        """See `Catalogue`."""
        return None
