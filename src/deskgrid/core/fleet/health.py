"""Backing off from what fails: from an image that does not come up anywhere, from a desktop where nothing comes up.

Rules:
- Only a failed start counts. A VM that ended because the owner came back or no job was there is nobody's fault.
- After n failures in a row: wait `backoff_seconds` doubled n-1 times, at most `backoff_max_seconds`.
- After the wait: a probe with exactly one VM. It joins: all is forgiven. It fails: wait twice as long.
- "The image is broken" needs witnesses. Failed on two desktops since its last join: it counts against the image, until
  it joins again. On one alone: against that desktop if the image has joined elsewhere; if it never has, that desktop
  does not get this image, and nobody else is concerned.
- A probe of an image goes to a desktop that has not seen it fail, if there is one: else one bad desktop that
  is always the best candidate would condemn the image for ever. And to one where guests have joined: its word counts.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from deskgrid.model.desktop import Fault
from deskgrid.model.plan import Outcome, PlanSettings
from deskgrid.model.reason import Reason
from deskgrid.model.values.text import counted

_WITNESSES = 2


class StartHealth(msgspec.Struct, frozen=True):
    """How an image or a desktop stands.

    failures: in a row. allowed: may be tried now. retry_at: end of the wait. witnesses: desktops that saw them.
    """

    failures: int
    allowed: bool
    retry_at: datetime | None = None
    reason: Reason | None = None
    witnesses: frozenset[str] = frozenset()

    @property
    def probing(self) -> bool:
        """Whether exactly one VM may try."""
        return self.failures > 0


class Health:
    """The standing of images and desktops, folded from outcomes (oldest first or not: they are sorted).

    good: desktops where a guest has joined and nothing has failed since.
    """

    def __init__(self, outcomes: Iterable[Outcome], settings: PlanSettings) -> None:
        self._settings = settings
        ordered = sorted(outcomes, key=lambda o: o.at)
        joined = {o.image for o in ordered if o.ok}
        failing = _streaks((o.image, o) for o in ordered if o.ok or o.fault is Fault.IMAGE)
        seen = {image: frozenset(o.desktop for o in streak) for image, streak in failing.items()}
        self._images = {image: streak for image, streak in failing.items() if len(seen[image]) >= _WITNESSES}
        self._alone = {
            (image, streak[0].desktop): streak
            for image, streak in failing.items()
            if len(seen[image]) == 1 and image not in joined
        }
        theirs = {id(o) for streak in (*self._images.values(), *self._alone.values()) for o in streak}
        self._desktops = _streaks(
            (o.desktop, o) for o in ordered if o.ok or (o.fault is not Fault.NONE and id(o) not in theirs)
        )

        joined_on = {o.desktop for o in ordered if o.ok}
        self.good = frozenset(name for name in joined_on if not self._desktops.get(name))

    def image(self, name: str, now: datetime) -> StartHealth:
        """How an image stands."""
        return self._standing("image", name, self._images.get(name, ()), now)

    def desktop(self, name: str, now: datetime) -> StartHealth:
        """How a desktop stands."""
        return self._standing("desktop", name, self._desktops.get(name, ()), now)

    def image_on(self, image: str, desktop: str, now: datetime) -> StartHealth:
        """How an image that never joined stands with the one desktop that saw it fail."""
        return self._standing("image", image, self._alone.get((image, desktop), ()), now)

    def of_the_only(self, image: str, desktops: Sequence[str], now: datetime) -> Reason | None:
        """Why an image waits if these are all that could start it: there is one, and it alone saw it fail."""
        standing = self.image_on(image, desktops[0], now) if len(desktops) == 1 else None
        return standing.reason if standing is not None and not standing.allowed else None

    def _standing(self, what: str, name: str, streak: Sequence[Outcome], now: datetime) -> StartHealth:
        if not streak:
            return StartHealth(0, True)
        wait = self._settings.backoff.seconds(len(streak))
        retry_at = streak[-1].at + timedelta(seconds=wait)
        reason = Reason(
            f"{what}-backoff",
            f"The last {counted(len(streak), 'start')} of {what} {name} failed; "
            f"it is tried again, with one virtual machine, at {retry_at:%H:%M:%S} UTC.",
            f"{counted(len(streak), 'failure')} in a row, wait {wait:.0f} s",
            retry_at,
        )
        return StartHealth(len(streak), now >= retry_at, retry_at, reason, frozenset(o.desktop for o in streak))


def _streaks(outcomes: Iterable[tuple[str, Outcome]]) -> dict[str, tuple[Outcome, ...]]:
    """Per name, the failures since the last success."""
    streaks: dict[str, tuple[Outcome, ...]] = {}
    for name, outcome in outcomes:
        streaks[name] = () if outcome.ok else (*streaks.get(name, ()), outcome)
    return streaks
