"""When a VM has ended, its ads are invalidated at once: they leave the collector, so that its job is idle in a second.

Rules:
- In the background, one VM at a time in one of a few threads; a failure is tried again, later each time.
- After the ads have expired by themselves there is nothing left to do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from deskgrid.model.values.backoff import Backoff

log = logging.getLogger(__name__)

RETRY, TRIES = Backoff(0.5, 30.0), 36


class AdInvalidation:
    """Takes ads of ended VMs away until it is done or moot.

    invalidate: takes one VM's ads away, raising whatever kept it from that. done: called when it has.
    """

    def __init__(
        self,
        invalidate: Callable[[str], Awaitable[None]],
        done: Callable[[str], None],
        retry: Backoff = RETRY,
    ) -> None:
        self._invalidate, self._done, self._retry = invalidate, done, retry
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, vm_ids: Iterable[str]) -> None:
        """Begin with these; those that are under way stay so."""
        for vm_id in vm_ids:
            if vm_id not in self._tasks:
                self._tasks[vm_id] = asyncio.get_running_loop().create_task(self._until_done(vm_id))

    def __contains__(self, vm_id: str) -> bool:
        return vm_id in self._tasks

    async def close(self) -> None:
        """Stop trying; what is left is taken up at the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_done(self, vm_id: str) -> None:
        told = False
        try:
            for tried in range(1, TRIES + 1):
                try:
                    await self._invalidate(vm_id)
                except Exception as error:  # whatever it is, it is tried again
                    if not told:
                        log.warning("vm %s: its ads can't be taken away yet, tried again: %s", vm_id, error)
                        told = True
                    await asyncio.sleep(self._retry.seconds(tried))
                else:
                    self._done(vm_id)
                    return
            log.warning("vm %s: its ads could not be taken away; they expire by themselves", vm_id)
        finally:
            del self._tasks[vm_id]
