"""The days of an iCalendar file, kept current by a short child process that nobody waits for.

Rules:
- `look` never blocks: it starts the child when the file has changed (or after a week), and takes its answer later.
- A file that cannot be read or understood, or that went away, leaves the last good days in force.
- What failed for want of time or of a process, and not by the file, is tried again.
"""

import json
import subprocess
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import IO

from deskgrid.agent.policy.calendar_days import DAYS
from deskgrid.agent.policy.stamps import MISSING, Stamp, stamp
from deskgrid.host.system.programs import KEPT, environment, python

CHILD_SECONDS = 120.0
AGAIN_SECONDS = 600.0
RENEW_DAYS = 7


class DaysFile:
    """One calendar.

    Args:
        touching: see `calendar_events`. days: the last good ones, or None: it was never read.
        zone: IANA name of the zone that days go by; empty: the computer's own.
    """

    def __init__(self, path: Path, *, touching: bool, days: tuple[date, ...] | None, zone: str = "") -> None:
        self.path, self.touching, self.days, self.zone = path, touching, days, zone
        self._again_at: float | None = None
        self.fault = ""
        self._taken: Stamp | None = None
        self._ran_on: date | None = None
        self._child: tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes], float] | None = None

    @property
    def pending(self) -> bool:
        """A child is reading."""
        return self._child is not None

    def look(self, now: float, today: date) -> bool:
        """Do what is due. now: a steady clock in seconds. Returns: whether days or fault are others now."""
        before = self.days, self.fault
        if self._child is not None:
            self._take(now)
        elif (there := stamp(self.path)) != self._taken or self._stale(today) or self._due_again(now):
            self._taken, self._ran_on, self._again_at = there, today, None
            if there == MISSING:
                self.fault = f"{self.path}: missing"
            else:
                self._start(now, today)
        return (self.days, self.fault) != before

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child[0].kill()
            self._end()

    def _stale(self, today: date) -> bool:
        return self._ran_on is None or not timedelta(0) <= today - self._ran_on < timedelta(days=RENEW_DAYS)

    def _due_again(self, now: float) -> bool:
        return self._again_at is not None and self._again_at <= now

    def _start(self, now: float, today: date) -> None:
        begin = (today - timedelta(days=1)).isoformat()
        words = [str(self.path), "closed" if self.touching else "off", begin, str(DAYS), self.zone]
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        try:
            child = subprocess.Popen(
                python("deskgrid.agent.policy.calendar_days", words),
                env=environment(*KEPT),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError as error:
            out.close()
            err.close()
            self.fault = f"{self.path}: cannot be read: {error.strerror}"
            self._again_at = now + AGAIN_SECONDS
            return
        self._child = child, out, err, now + CHILD_SECONDS

    def _take(self, now: float) -> None:
        assert self._child is not None
        child, out, err, until = self._child
        if child.poll() is None:
            if now < until:
                return
            child.kill()
            self._again_at = now + AGAIN_SECONDS
            self.fault = f"{self.path}: not read within {CHILD_SECONDS:.0f} s"
        elif child.returncode == 0:
            out.seek(0)
            self.days, self.fault = tuple(date.fromisoformat(text) for text in json.load(out)), ""
        else:
            err.seek(0)
            said = err.read(500).decode(errors="replace").strip() or f"the reader ended with {child.returncode}"
            if child.returncode < 0:  # somebody ended it
                self._again_at = now + AGAIN_SECONDS
            self.fault = f"{self.path}: cannot be read: {said}"
        self._end()

    def _end(self) -> None:
        assert self._child is not None
        child, out, err, _ = self._child
        child.wait()
        out.close()
        err.close()
        self._child = None
