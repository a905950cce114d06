"""The one thread that talks to the database, and the rule that nothing is said before it is recorded.

Rules:
- The event loop never waits in a database call; one thread makes them, in order.
- `flush` records all changes that were made before it was called, in one transaction for all who wait.
- What could not be recorded stays, and is tried again; who needed it gets the failure.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import sqlalchemy as sa

from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.changes import Changes
from deskgrid.coordinator.db.database import Database
from deskgrid.coordinator.db.values import COORDINATOR
from deskgrid.core.fleet.lease import LeaseRecord
from deskgrid.wire.operator import StoryLine

T = TypeVar("T")
log = logging.getLogger(__name__)

_RECENT = 2000


class Recorder:
    """Writes what must last."""

    def __init__(self, database: Database, changes: Changes, last_line: int) -> None:
        self._database, self._changes = database, changes
        self.shrinks = database.is_sqlite
        self._thread = ThreadPoolExecutor(1, "database")
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._recent: deque[StoryLine] = deque(maxlen=_RECENT)
        self._last = last_line
        self._first = last_line
        self._news = asyncio.Event()

    async def call(self, ask: Callable[[sa.Connection], T]) -> T:
        """Run `ask` in a transaction on the database's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, ask)

    async def flush(self) -> None:
        """Record all changes made so far. Raises: sqlalchemy.exc.SQLAlchemyError when they could not be."""
        if not self._changes.wait and not self._lock.locked():
            return
        async with self._lock:
            batch = self._changes.take()
            if batch.empty:
                return
            try:
                lines = await self.call(lambda c: _write(c, list(batch.leases.values()), list(batch.lines.values())))
            except BaseException:
                self._changes.put_back(batch)
                raise
            self._changes.recorded(batch)
            self._publish(lines)

    def soon(self) -> None:
        """Record in the background what waits; a failure is met again by the next `flush`."""
        if self._changes.have_lines and not self._tasks:
            task = asyncio.get_running_loop().create_task(self._quietly())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def lines_since(self, number: int, wait_seconds: float, most: int = 500) -> list[StoryLine]:
        """Lines of stories recorded after line `number`; waits for some when there are none yet."""
        if number >= self._last and wait_seconds > 0:
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._news.wait()
            except TimeoutError:
                return []
        if number >= self._first and (not self._recent or self._recent[0].id <= number + 1):
            return [line for line in self._recent if line.id > number][:most]
        return await self.call(lambda c: queries.story_since(c, number, most))

    @property
    def last_line(self) -> int:
        """The number of the newest line."""
        return self._last

    async def close(self) -> None:
        """Record what waits and end the thread."""
        try:
            await self.flush()
        finally:
            self._thread.shutdown(wait=True)

    def wake(self) -> None:
        """Let go all who wait for lines."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _quietly(self) -> None:
        try:
            await self.flush()
        except sa.exc.SQLAlchemyError:
            return  # kept; the cycle records it and says what is wrong

    def _publish(self, lines: list[StoryLine]) -> None:
        for line in lines:
            if line.source == COORDINATOR:
                log.info("vm %s: %s: %s", line.vm_id, line.event, line.sentence)
        if lines:
            self._recent.extend(lines)
            self._last = max(self._last, lines[-1].id)
            self.wake()

    def _transact(self, ask: Callable[[sa.Connection], T]) -> T:
        with self._database.begin() as connection:
            return ask(connection)


def _write(connection: sa.Connection, leases: list[LeaseRecord], lines: list[StoryLine]) -> list[StoryLine]:
    queries.write_leases(connection, leases)
    return queries.write_story(connection, lines)
