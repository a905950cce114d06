"""The contract that every pool driver keeps; `tests/contracts/test_pool.py` holds the fake and real HTCondor to it.

All calls are synchronous, may take seconds, and are made outside the service's event loop. Each is bounded in time.
"""

from collections.abc import Sequence
from typing import Protocol

from deskgrid.model.pool import Job, OfflineAd, PoolSnapshot


class PoolError(Exception):
    """HTCondor could not be asked or did not do it. The message says what was tried and what to do."""


class PoolUnreachable(PoolError):
    """No answer in time, or the connection failed: HTCondor may be down. Nothing is known."""


class PoolRefused(PoolError):
    """HTCondor answered with no: a token, a permission or a configuration is wrong."""


class Partial(PoolError):
    """An answer came, but not whole: it must not be taken for an empty one."""


class Pool(Protocol):
    """One HTCondor pool.

    A driver MUST
    - tell a failed or partial answer apart from an empty one: `snapshot` gives None for a part that could not be
      read, with a sentence in `faults`; a collector that has just restarted (it does not know our own offline ads,
      although `advertise` succeeded before) counts as partial;
    - return within its time limit, whatever the daemons do;
    - quote every text that came from outside before it meets a ClassAd expression;
    - be idempotent: advertising an ad twice, withdrawing an ad that is not there, forgetting an unknown VM is no error;
    - know a schedd of another pool that flocks here as foreign: it is not asked for its jobs; what a schedd refuses, or
      that it is silent, leaves `idle` known for all others, as long as one of them answers;
    - keep `OfflineMatches` alive over a refresh: demand seen once may not vanish because we refreshed the ad.
    """

    def advertise(self, ads: Sequence[OfflineAd]) -> None:
        """Make the collector's offline ads exactly `ads`: refresh these, invalidate ours that are not among them.

        Raises: PoolError when it is not known to have been done.
        """

    def snapshot(self) -> PoolSnapshot:
        """Read matches, idle jobs that name an image, and our machines. Never raises PoolError: see PoolSnapshot."""

    def mint_token(self, vm_id: str, lifetime_seconds: int) -> str:
        """Return an IDTOKEN of this VM alone: it can advertise this VM's startd and master, and read; nothing else.

        It can be renewed: a later one is as good. It is dead after its lifetime, and once the VM has been forgotten.

        Raises: PoolError.
        """

    def forget_vm(self, vm_id: str, token_dies: bool = True) -> None:
        """Take the Machine, StartDaemon and DaemonMaster ads of this VM out of the collector at once.

        Args:
            token_dies: none of its tokens counts any more, over connections that stand neither. It costs the collector
                a look at its configuration; without it a token lives out its short life.

        Raises: PoolError.
        """

    def job(self, job_id: str) -> Job | None:
        """Describe job "cluster.proc" (asked of all schedds of this pool), or None when no schedd knows it.

        Raises: PoolError.
        """
