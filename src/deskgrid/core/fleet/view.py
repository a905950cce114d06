"""What the last cycle saw and decided: what `why` answers from, and what the next cycle goes on with. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from deskgrid.core.fleet.giving import PassedOver
from deskgrid.model.plan import Plan, PlanSettings, Snapshot
from deskgrid.model.pool import OfflineAd, PoolSnapshot
from deskgrid.model.reason import Reason


class View(msgspec.Struct, frozen=True):
    """What the last cycle saw and decided; before the first one, nothing.

    ads: what HTCondor was told could be started. ads_since, idle_since: for how long an ad has been there, a group of
    jobs has been idle (by `JobGroup.key`). negotiation_seconds: within this time HTCondor has surely negotiated.
    absent: names of images that are known and not on offer, with why. passed: groups of jobs that machines came for in
    vain, by the same key.
    """

    at: datetime
    settings: PlanSettings
    pool: PoolSnapshot | None = None
    snapshot: Snapshot | None = None
    plan: Plan | None = None
    ads: tuple[OfflineAd, ...] = ()
    negotiation_seconds: float = 90.0
    faults: tuple[str, ...] = ()
    ads_since: Mapping[OfflineAd, datetime] = msgspec.field(default_factory=dict)
    idle_since: Mapping[str, datetime] = msgspec.field(default_factory=dict)
    absent: Mapping[str, Reason] = msgspec.field(default_factory=dict)
    passed: Mapping[str, PassedOver] = msgspec.field(default_factory=dict)

    def shifted(self, by: timedelta) -> "View":
        """The clock was set by so much: what is there since a time is there for as long as before."""
        return msgspec.structs.replace(
            self,
            at=self.at + by,
            ads_since={ad: at + by for ad, at in self.ads_since.items()},
            idle_since={key: at + by for key, at in self.idle_since.items()},
        )


def with_waiting(before: View, after: View) -> View:
    """Carry over since when ads and idle groups have been there."""
    idle = after.pool.idle if after.pool is not None else None
    if idle is None:
        idle_since = before.idle_since
    else:
        idle_since = {group.key: before.idle_since.get(group.key, after.at) for group in idle}
    ads_since = {ad: before.ads_since.get(ad, after.at) for ad in after.ads}
    return msgspec.structs.replace(after, ads_since=ads_since, idle_since=idle_since)
