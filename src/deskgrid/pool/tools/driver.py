"""A pool by HTCondor's own command line tools: the driver for an existing pool and for the embedded one.

What makes an answer whole:
- One question to the collector gives offline ads, slots, schedds and the collector's start: one moment, one answer.
- After `advertise` we know which ads the collector must have. If it lacks one, or started anew, it has forgotten:
  matches are unknown, and so are machines until every startd has had the time to report again.
- A schedd that we knew and that is not there any more is missed until it has been gone for long. One of another pool,
  which flocks here, is not asked: its submitters' ads say how many jobs wait there, and so they do for one that is
  missed, refuses, is silent or says what is odd. Only when no other has answered either are idle jobs unknown.
- Each schedd has a share of the time, and those that answered last time are asked first.
- With versions of HTCondor whose negotiator crashes at an offline match nothing is advertised.
Ads are sent only when they are new, changed or old, and carry over what the negotiator wrote into them.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deskgrid.model.pool import Foreign, Job, JobGroup, Match, OfflineAd, PoolSnapshot
from deskgrid.model.values.names import BadName, name
from deskgrid.model.values.text import counted
from deskgrid.pool.contract import Partial, PoolError, PoolRefused, PoolUnreachable
from deskgrid.pool.tools.ads import Ad, quote, read_ads
from deskgrid.pool.tools.ended import EndedVms
from deskgrid.pool.tools.identities import gone_ad, identity
from deskgrid.pool.tools.offline import ad_name, counted_once, lost, matches, offline_ad, remembered
from deskgrid.pool.tools.reach import Reach, RunTool, run_tool
from deskgrid.pool.tools.reading import (
    COLLECTOR_ATTRIBUTES,
    COLLECTOR_QUESTION,
    IDLE_COLUMNS,
    IDLE_QUESTION,
    JOB_ATTRIBUTES,
    JOB_COLUMNS,
    SortedAds,
    idle_groups,
    job_of,
    machines,
    sort_answer,
)
from deskgrid.pool.tools.versions import limits_matches, unfit

AD_LIFETIME_SECONDS = 900
_REFRESH_SECONDS = AD_LIFETIME_SECONDS / 3
_SCHEDD_MEMORY_SECONDS = 900.0
_CLOCK_SLACK_SECONDS = 3
_SILENT_PART = 4
_JOB_ID = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\Z")
_GONE_ATTRIBUTES = "MyType,Name,Machine,MyAddress"
_TOKEN_SCOPES = ("ADVERTISE_STARTD", "ADVERTISE_MASTER", "READ")


class CondorPool:
    """The contract (pool/contract.py) by condor_status, condor_q, condor_advertise and condor_token_create.

    Args:
        reach: where the pool is and who asks.
        settle_seconds: within this time after a start of the collector every startd has reported again.
        run: runs one of HTCondor's tools.
    """

    def __init__(
        self,
        reach: Reach,
        settle_seconds: float = 120.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        run: RunTool = run_tool,
    ) -> None:
        self._reach, self._run = reach, run
        self._settle = timedelta(seconds=settle_seconds)
        self._now = now
        self._lock = threading.Lock()
        self._sent: dict[OfflineAd, float] = {}
        self._seen: list[Match] = []
        self._collector_started: int | None = None
        self._settled_at: datetime | None = None
        self._schedds: dict[str, float] = {}
        self._ended = EndedVms(Path(reach.ended)) if reach.ended else None
        self._unread: set[str] = set()
        self._told = False
        self._abroad: set[str] = set()
        self._silent: set[str] = set()
        self._counted: dict[str, int] = {}

    def advertise(self, ads: Sequence[OfflineAd]) -> None:
        """See Pool.advertise."""
        left = _Time(self._reach.timeout_seconds)
        try:
            wanted = {ad_name(ad): ad for ad in ads}
        except BadName as error:
            raise PoolRefused(str(error)) from None
        with self._lock:
            answer = self._ask_collector(left)
            if ads and (faults := _unfit(answer)):
                raise PoolRefused("; ".join(faults))
            present = {str(ad.get("Name")): ad for ad in answer.offline}
            due = [ad for key, ad in wanted.items() if key not in present or self._is_due(ad)]
            gone = [key for key in present if key not in wanted]
            if due:
                texts = [offline_ad(ad, AD_LIFETIME_SECONDS, present.get(ad_name(ad))) for ad in due]
                self._advertise_file("UPDATE_STARTD_AD", texts, left)
            if gone:
                self._take_away([present[key] for key in gone], left)
            if due or gone:
                self._confirm(wanted, left)
            moment = time.monotonic()
            self._sent = {ad: moment if ad in due else self._sent[ad] for ad in wanted.values()}

    def snapshot(self) -> PoolSnapshot:
        """See Pool.snapshot."""
        left = _Time(self._reach.timeout_seconds)
        at = self._now()
        try:
            answer = self._ask_collector(left)
        except PoolError as error:
            return PoolSnapshot(at, None, None, None, (f"collector: {error}",))
        idle, unasked, schedd_faults = self._idle(answer, left)
        with self._lock:
            faults = list(self._forgotten(answer))
            matched = None if faults else self._matches(answer, at, idle, unasked)
            settling = self._settling(answer, at, restarted=bool(faults))
        found = None if faults or settling else machines(answer.slots)
        return PoolSnapshot(
            at,
            matched,
            idle,
            found,
            (*faults, *settling, *schedd_faults, *_unfit(answer)),
            tuple(Foreign(schedd, count) for schedd, count in sorted(unasked.items())),
            tuple(sorted(name for name in answer.schedds.values() if limits_matches(answer.versions[name]))),
        )

    def mint_token(self, vm_id: str, lifetime_seconds: int) -> str:
        """See Pool.mint_token."""
        _name("VM id", vm_id)
        who = identity(vm_id, int(self._now().timestamp()) + int(lifetime_seconds), self._reach.trust_domain)
        argv = ["condor_token_create", "-identity", who, "-key", self._reach.key]
        argv += [word for scope in _TOKEN_SCOPES for word in ("-authz", scope)]
        argv += ["-lifetime", str(int(lifetime_seconds))]
        token = self._run(self._reach, argv, self._reach.timeout_seconds).strip()
        if token.count(".") != 2 or any(character.isspace() for character in token):
            raise PoolRefused("condor_token_create: it printed no token; is the signing key there and readable?")
        return token

    def forget_vm(self, vm_id: str, token_dies: bool = True) -> None:
        """See Pool.forget_vm."""
        left = _Time(self._reach.timeout_seconds)
        question = f"deskgrid_vm_id =?= {quote(_name('VM id', vm_id))}"
        fault = self._end(vm_id, left) if token_dies else None
        if isinstance(fault, PoolUnreachable):
            raise fault
        argv = ["condor_status", "-any", "-constraint", question, "-json", "-attributes", _GONE_ATTRIBUTES]
        self._take_away(_read(self._run(self._reach, argv, left.seconds())), left)
        if fault is not None:
            raise fault

    def job(self, job_id: str) -> Job | None:
        """See Pool.job; looks into the queues first, then into the histories."""
        if not _JOB_ID.match(job_id):
            raise PoolRefused(f"job id: got {job_id[:40]!r}, expected cluster.proc such as 12.0")
        left = _Time(self._reach.timeout_seconds)
        answer = self._ask_collector(left)
        schedds = sorted(set(answer.schedds.values()) - answer.foreign)
        if not schedds:
            raise Partial("schedds: the collector knows none; has it just been restarted?")
        fault: PoolError | None = None
        asked = [(tool, schedd) for tool in ("condor_q", "condor_history") for schedd in self._in_order(schedds)]
        for number, (tool, schedd) in enumerate(asked):
            try:
                found = self._job_by(tool, schedd, job_id, left.share(len(asked) - number))
            except PoolError as error:  # one that refuses or is silent does not keep the others from answering
                fault = error
                continue
            if found is not None:
                return found
        if fault is not None:
            raise fault
        return None

    def _in_order(self, schedds: Iterable[str]) -> list[str]:
        """Those that answered last time first."""
        return sorted(schedds, key=lambda schedd: (schedd in self._silent, schedd))

    def _job_by(self, tool: str, schedd: str, job_id: str, left: "_Time") -> Job | None:
        base = [tool, "-name", schedd, job_id] + (["-limit", "1"] if tool == "condor_history" else [])
        ads = _read(self._run(self._reach, [*base, "-json", "-attributes", JOB_ATTRIBUTES], left.seconds()))
        if not ads:
            return None
        numbers = self._run(self._reach, [*base, "-af", *JOB_COLUMNS], left.seconds())
        return job_of(ads[0], schedd, numbers)

    def _is_due(self, ad: OfflineAd) -> bool:
        sent = self._sent.get(ad)
        return sent is None or time.monotonic() - sent > _REFRESH_SECONDS

    def _ask_collector(self, left: "_Time") -> SortedAds:
        argv = ["condor_status", "-any", "-constraint", COLLECTOR_QUESTION, "-json", "-attributes"]
        text = self._run(self._reach, [*argv, COLLECTOR_ATTRIBUTES], left.seconds())
        answer = sort_answer(_read(text))
        if answer.collector_started is None:
            raise Partial("condor_status: the collector's own ad is missing; it has just started")
        return answer

    def _confirm(self, wanted: dict[str, OfflineAd], left: "_Time") -> None:
        """Updates are not acknowledged: look whether they have arrived."""
        names: set[str] = set()
        for pause in (0.0, 0.1, 0.3, 1.0):
            time.sleep(min(pause, max(0.0, left.seconds())))
            names = {str(ad.get("Name")) for ad in self._ask_collector(left).offline}
            if names == set(wanted):
                return
        raise Partial(f"offline ads: the collector has {len(names)}, expected {len(wanted)}; it may be restarting")

    def _advertise_file(self, command: str, texts: Sequence[str], left: "_Time") -> None:
        self._run(self._reach, ["condor_advertise", "-multiple", command, "-"], left.seconds(), "\n".join(texts))

    def _take_away(self, ads: Sequence[Ad], left: "_Time") -> None:
        """Write over ads what matches nothing and is over at once; see `identities.py` for why not to invalidate."""
        masters = [ad for ad in ads if ad.get("MyType") == "DaemonMaster"]
        others = [ad for ad in ads if ad.get("MyType") != "DaemonMaster"]
        for command, group in (("UPDATE_STARTD_AD", others), ("UPDATE_MASTER_AD", masters)):
            if texts := [text for ad in group if (text := gone_ad(ad)) is not None]:
                self._advertise_file(command, texts, left)

    def _end(self, vm_id: str, left: "_Time") -> PoolError | None:
        """Let the collector take no ad of this VM any more, if it has been told where such VMs are named."""
        if self._ended is None:
            return None
        try:
            new = self._ended.add(vm_id)
        except OSError as error:
            return PoolError(f"{self._reach.ended}: VMs that ended can't be named: {error.strerror}")
        if not new and self._told and vm_id not in self._unread:
            return None  # until we told it once, whoever wrote it may have died before he did
        self._unread.add(vm_id)
        try:
            self._run(self._reach, ["condor_reconfig", "-daemon", "collector"], left.seconds())
        except PoolError as error:
            return error
        self._told = True
        self._unread.discard(vm_id)
        return None

    def _forgotten(self, answer: SortedAds) -> tuple[str, ...]:
        """Whether the collector lacks ads that we gave it. The caller holds the lock."""
        missing = lost(answer.offline, [ad_name(ad) for ad in self._sent])
        if not missing:
            return ()
        return (
            f"collector: it has forgotten {counted(len(missing), 'offline ad')} of {len(self._sent)}; it was restarted",
        )

    def _matches(
        self, answer: SortedAds, at: datetime, idle: tuple[JobGroup, ...] | None, unasked: dict[str, int]
    ) -> tuple[Match, ...]:
        """What the negotiator matched, joined with what it said shortly before. The caller holds the lock."""
        found = matches(answer.offline, answer.schedds)
        waiting = None if idle is None else {(group.schedd, group.autocluster) for group in idle}
        if waiting is not None:
            waiting |= {(m.schedd, m.autocluster) for m in self._seen if unasked.get(m.schedd)}
        self._seen = remembered(found, at, self._seen, answer.offline, waiting)
        return counted_once(self._seen)

    def _settling(self, answer: SortedAds, at: datetime, restarted: bool) -> tuple[str, ...]:
        """Whether startds may not have reported again since the collector started. The caller holds the lock.

        restarted: it is known to have been; else its start tells, give or take the slack.
        """
        before, self._collector_started = self._collector_started, answer.collector_started
        started = answer.collector_started
        if before is not None and started is not None and started - before > _CLOCK_SLACK_SECONDS:
            restarted = True
        if restarted:
            self._settled_at = at + self._settle
        if self._settled_at is None or at >= self._settled_at:
            return ()
        return (f"collector: it was restarted; machines are unknown until {self._settled_at:%H:%M:%S} UTC",)

    def _idle(
        self, answer: SortedAds, left: "_Time"
    ) -> tuple[tuple[JobGroup, ...] | None, dict[str, int], tuple[str, ...]]:
        """What waits: as schedds say; of those that are not asked or refuse, as their submitters' ads say; faults."""
        names = set(answer.schedds.values()) - answer.foreign
        with self._lock:
            self._abroad = (self._abroad & names - answer.waiting.keys()) | answer.foreign
            names -= self._abroad
            self._schedds = {name: seen for name, seen in self._schedds.items() if name not in self._abroad}
            moment = time.monotonic()
            self._schedds.update(dict.fromkeys(names, moment))
            for old in [key for key, seen in self._schedds.items() if moment - seen > _SCHEDD_MEMORY_SECONDS]:
                del self._schedds[old]
            missing = sorted(set(self._schedds) - names)
        unasked, faults = {schedd: answer.waiting[schedd] for schedd in answer.foreign}, list[str]()
        known, silent = dict[str, tuple[JobGroup, ...]](), set[str]()
        for number, schedd in enumerate(self._in_order(names)):
            try:
                known[schedd] = self._groups(schedd, left.share(len(names) - number))
            except PoolRefused as error:  # its own affair, as all that follows: what others say stays known
                unasked[schedd] = answer.waiting.get(schedd, 0)
                faults += [f"schedd {schedd}: {error}"] if schedd in answer.waiting else []
            except (PoolError, ValueError) as error:
                silent.add(schedd)
                faults.append(f"schedd {schedd}: {error}")
        faults += [f"schedd {schedd}: the collector does not know it any more" for schedd in missing]
        if not names and not missing and not self._abroad:
            faults.append("schedds: the collector knows none")
        with self._lock:
            self._silent = silent
            self._counted |= {schedd: sum(group.idle for group in groups) for schedd, groups in known.items()}
            self._counted = {schedd: count for schedd, count in self._counted.items() if schedd in self._schedds}
            if not known and (silent or missing or not (names or self._abroad)):
                return None, unasked, tuple(faults)
            for schedd in (*silent, *missing):
                unasked[schedd] = answer.waiting.get(schedd, self._counted.get(schedd, 0))
        return tuple(group for schedd in sorted(known) for group in known[schedd]), unasked, tuple(faults)

    def _groups(self, schedd: str, left: "_Time") -> tuple[JobGroup, ...]:
        """The idle jobs of one schedd. One that was silent gets less time, so that it costs the others little."""
        argv = ["condor_q", "-name", schedd, "-allusers", "-constraint", IDLE_QUESTION, "-af", *IDLE_COLUMNS]
        most = self._reach.timeout_seconds / (_SILENT_PART if schedd in self._silent else 1)
        return idle_groups(schedd, self._run(self._reach, argv, min(left.seconds(), most)))


def _unfit(answer: SortedAds) -> tuple[str, ...]:
    """What makes this pool unusable by the versions of its collector and negotiator."""
    found = (unfit(who, answer.versions.get(who)) for who in ("collector", "negotiator"))
    return tuple(fault for fault in found if fault is not None)


class _Time:
    """What is left of the time of one call."""

    def __init__(self, limit_seconds: float) -> None:
        self._end = time.monotonic() + limit_seconds

    def seconds(self) -> float:
        return self._end - time.monotonic()

    def share(self, parts: int) -> "_Time":
        """One of so many equal parts of what is left."""
        return _Time(self.seconds() / parts)


def _name(what: str, text: str) -> str:
    try:
        return name(what, text)
    except BadName as error:
        raise PoolRefused(str(error)) from None


def _read(text: str) -> list[dict[str, object]]:
    try:
        return read_ads(text)
    except ValueError as error:
        raise Partial(str(error)) from None
