"""The images on offer, kept current without letting anybody wait.

Rules:
- The catalogue looks in a thread of its own, one look at a time. A look that hangs is not waited for: what was listed
  goes on until the listing's end, and then nothing new starts.
- A catalogue that can't be read takes nothing away before that end; a revocation counts at once.
- A name's owner is recorded before any of its versions is offered.
- What is wrong is logged when it changes.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.recorder import Recorder
from deskgrid.coordinator.images.catalogue import Catalogue, Unreadable
from deskgrid.core.fleet.catalogue import CatalogueEntry, Choice, Listing, choose, gone
from deskgrid.model.image import ImageFacts, ImageGrant, ImageRef
from deskgrid.model.reason import Reason

log = logging.getLogger(__name__)


class Offering:
    """What is on offer. until: for how long that is true without news. revoked: digest and why."""

    def __init__(
        self, catalogue: Catalogue, recorder: Recorder, owners: dict[str, str], sources: tuple[str, ...] = ()
    ) -> None:
        self._catalogue, self._recorder, self._sources = catalogue, recorder, sources
        self._thread = ThreadPoolExecutor(1, "images")
        self._looking: asyncio.Future[Listing | None] | None = None
        self._listing = Listing()
        self._next: Listing | None = None
        self._choice = Choice({}, {}, owners, ())
        self._by_digest: dict[str, CatalogueEntry] = {}
        self._faults: tuple[str, ...] = ()
        self._told: tuple[str, ...] = ()
        self.revoked: dict[str, str] = {}

    @property
    def until(self) -> datetime | None:
        """Until when the listing is true."""
        return self._listing.until

    @property
    def versions(self) -> tuple[CatalogueEntry, ...]:
        """All that is listed."""
        return self._listing.versions

    @property
    def problems(self) -> tuple[str, ...]:
        """What somebody should look at."""
        return tuple(dict.fromkeys((*self._faults, *self._listing.problems, *self._choice.problems)))

    def images(self, now: datetime) -> dict[str, ImageFacts]:
        """What is on offer, by name."""
        if self._expired(now):
            return {}
        return {name: f for name, f in self._choice.offered.items() if f.ref.digest not in self.revoked}

    def absent(self, now: datetime) -> dict[str, Reason]:
        """The names that are known and not on offer, with why."""
        found = dict(self._choice.absent)
        for name, facts in self._choice.offered.items():
            if facts.ref.digest in self.revoked:
                found[name] = Reason("image-revoked", f"It is revoked: {self.revoked[facts.ref.digest]}.")
            elif self._expired(now):
                why = self._faults[0] if self._faults else "nobody has renewed it"
                found[name] = Reason(
                    "images-expired",
                    f"What the repository says was good until {self._listing.until:%F %H:%M} UTC, and {why}",
                )
        return found

    def grant(self, image: ImageRef) -> ImageGrant | Reason | None:
        """What a desktop needs to open an image; a reason why it can't have that now; None: this one only pretends."""
        listed = self._by_digest.get(image.digest)
        if listed is None:
            return Reason("image-unknown", f"The coordinator does not know the image {image.name} of this VM now.")
        if (reason := self.forbids(image, shown=False)) is not None:
            return reason
        if not listed.project:
            return None
        key = self._catalogue.key(listed.project)
        if key is None:
            return Reason("image-keyless", f"The key of project {listed.project} is not here.")
        return ImageGrant(listed.project, listed.version, key, self._sources)

    def forbids(self, image: ImageRef, shown: bool) -> Reason | None:
        """Why a VM of this image may not go on, or, if its desktop has not shown it yet, not begin."""
        why = self.revoked.get(image.digest)
        if why is not None:
            return Reason("image-revoked", f"Its image {image.name} was revoked: {why}.", f"digest {image.digest[:12]}")
        listed = self._by_digest.get(image.digest)
        return None if shown or listed is None else listed.refused

    async def refresh(self, now: datetime, wait_seconds: float) -> None:
        """Look, and take over what is found; when it takes longer than that, the next call goes on waiting.

        Raises: sqlalchemy.exc.SQLAlchemyError when a new name's owner can't be recorded.
        """
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.run_in_executor(self._thread, self._catalogue.look, now)
        done, _ = await asyncio.wait({self._looking}, timeout=wait_seconds)
        if not done:
            self._fault((f"repository of images: it has not been read after {wait_seconds:.0f} s; is its disk there?",))
            return
        looked, self._looking = self._looking, None
        try:
            listing = looked.result()
        except Unreadable as error:
            self.revoked |= error.revoked
            self._fault(error.problems)
            return
        except Exception as error:
            log.exception("images: the look at the repository failed")
            self._fault((f"repository of images: {type(error).__name__}; the coordinator's log says more",))
            return
        self._next = listing or self._next
        if self._next is not None:
            await self._take(self._next, now)
            self._next = None
            self._fault(())

    async def _take(self, listing: Listing, now: datetime) -> None:
        choice = choose(listing, self._choice.owners)
        if choice.owners != self._choice.owners:
            await self._recorder.call(lambda c: queries.save_image_names(c, choice.owners, now))
        before = {digest: one.project for digest, one in self._by_digest.items()}
        self.revoked = gone(before, listing)
        self._by_digest = {one.ref.digest: one for one in listing.versions}
        self._listing, self._choice = listing, choice

    def _fault(self, faults: tuple[str, ...]) -> None:
        self._faults = faults
        problems = self.problems
        if problems != self._told:
            for problem in problems:
                if problem not in self._told:
                    log.warning("images: %s", problem)
            if not problems:
                log.info("images: all is well again")
            self._told = problems

    def _expired(self, now: datetime) -> bool:
        return self._listing.until is not None and self._listing.until <= now

    def close(self) -> None:
        """Look no more; a look that hangs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
