"""What desktops last reported: soft state, rebuilt from their next reports after a restart.

Rules:
- The newest report of a desktop counts: by its sequence within one start of its agent (its incarnation).
- An older or repeated report changes nothing; it is answered with what is ordered now.
- A new incarnation supersedes the one before; a report of a superseded one is refused, since two agents that share
  one desktop would end each other's VMs.
- Times are the coordinator's; a desktop's own clock is only measured, so that it may be an hour wrong. A report that
  was long on its way makes that clock look late: of the last reports, the one that came fastest is believed.
- Unknown fields of a report are kept, for those who look; of reasons so much as a person reads.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from deskgrid.model.desktop import Desktop
from deskgrid.model.reason import Reason
from deskgrid.model.values.outside import read_json
from deskgrid.wire.messages import Report

SKEW_SECONDS = 60.0
_SUPERSEDED = 32
_SKEWS = 16
_LEVELS = 16
_REFUSALS = 64
_NAME, _TEXT = 64, 500


class AnotherAgent(Exception):
    """A report of an agent that was superseded by another one on the same desktop."""


class LastReport:
    """One desktop's last report. skew_seconds: its clock minus ours. raw: the report as it came."""

    __slots__ = ("_skews", "name", "raw", "received_at", "report", "skew_seconds", "superseded")

    def __init__(
        self,
        name: str,
        report: Report,
        raw: bytes,
        received_at: datetime,
        superseded: tuple[str, ...],
        before: "LastReport | None" = None,
    ) -> None:
        self.name = name
        self.report = _short(report)
        self.raw = raw
        self.received_at = received_at
        skew = (report.sent_at - received_at).total_seconds()
        near = before is not None and skew > before.skew_seconds - SKEW_SECONDS  # else it was set to another time
        self._skews: tuple[float, ...] = (*(before._skews if before is not None and near else ()), skew)[-_SKEWS:]
        self.skew_seconds: float = max(self._skews)
        self.superseded = superseded

    def shift(self, by: timedelta) -> None:
        """Our clock was set by so much."""
        self.received_at += by
        self._skews = tuple(skew - by.total_seconds() for skew in self._skews)
        self.skew_seconds -= by.total_seconds()

    def desktop(self) -> Desktop:
        """This desktop in a snapshot."""
        report = self.report
        return Desktop(
            self.name,
            self.received_at,
            report.availability,
            report.room,
            report.images,
            report.vms,
            report.cpus,
            report.memory_bytes,
        )

    def warnings(self) -> tuple[Reason, ...]:
        """What is odd about this desktop, though nothing breaks."""
        if abs(self.skew_seconds) <= SKEW_SECONDS:
            return ()
        direction = "ahead of" if self.skew_seconds > 0 else "behind"
        return (
            Reason(
                "clock-wrong",
                f"The clock of {self.name} is {abs(self.skew_seconds):.0f} s {direction} the coordinator's; "
                "virtual machines run all the same, but set it right.",
                f"{self.skew_seconds:+.0f} s, at most {SKEW_SECONDS:.0f} s expected",
            ),
        )

    def unknown_fields(self) -> dict[str, Any]:
        """Fields of the report that this version does not know."""
        try:
            return {key: _shallow(value) for key, value in _unknown(read_json(self.raw), Report).items()}
        except msgspec.DecodeError as error:
            return {"unreadable": str(error)}


class Fleet:
    """The last report of every desktop."""

    def __init__(self) -> None:
        self._known: dict[str, LastReport] = {}

    def __iter__(self) -> Iterator[LastReport]:
        return iter(self._known.values())

    def get(self, name: str) -> LastReport | None:
        """What is known of a desktop, or None when it has not reported since the coordinator started."""
        return self._known.get(name)

    def take(self, name: str, report: Report, raw: bytes, now: datetime) -> bool:
        """Take in a report.

        Returns: False when it is older than what is known, or the same again; it has changed nothing then.
        Raises: AnotherAgent when its incarnation was superseded.
        """
        known = self._known.get(name)
        superseded: tuple[str, ...] = ()
        before = None
        if known is not None:
            superseded = known.superseded
            if report.incarnation == known.report.incarnation:
                before = known
                if report.sequence <= known.report.sequence:
                    return False
            elif report.incarnation in superseded:
                raise AnotherAgent(
                    f"Another agent reports as {name}; it started later than the one that sent this. "
                    "Stop one of them, or enrol this computer under a name of its own."
                )
            else:
                superseded = (*superseded, known.report.incarnation)[-_SUPERSEDED:]
        self._known[name] = LastReport(name, report, raw, now, superseded, before)
        return True

    def shift(self, by: timedelta) -> None:
        """Our clock was set by so much."""
        for known in self._known.values():
            known.shift(by)

    def drop(self, name: str) -> None:
        """Forget what a desktop reported."""
        self._known.pop(name, None)

    def desktops(self) -> tuple[Desktop, ...]:
        """The fleet for a snapshot, by name."""
        return tuple(self._known[name].desktop() for name in sorted(self._known))


def _short(report: Report) -> Report:
    """The report with reasons that can be shown beside those of others."""
    said = report.availability.refusals
    if len(said) <= _REFUSALS and all(map(_is_short, (*said, *(vm.reason for vm in report.vms)))):
        return report
    availability = msgspec.structs.replace(report.availability, refusals=tuple(map(_cut, said[:_REFUSALS])))
    vms = tuple(msgspec.structs.replace(vm, reason=_cut(vm.reason)) for vm in report.vms)
    return msgspec.structs.replace(report, availability=availability, vms=vms)


def _is_short(reason: Reason) -> bool:
    return len(reason.name) <= _NAME and len(reason.sentence) <= _TEXT and len(reason.reading) <= _TEXT


def _cut(reason: Reason) -> Reason:
    return Reason(reason.name[:_NAME], reason.sentence[:_TEXT], reason.reading[:_TEXT], reason.until)


def _unknown(raw: Any, kind: Any) -> dict[str, Any]:
    """The keys of `raw` that are no field of `kind`; of nested tables, theirs."""
    fields: Mapping[str, Any] = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    for key, value in raw.items():
        field = fields.get(key)
        if field is None:
            found[key] = value
        elif _is_table(field.type, value) and (inner := _unknown(value, field.type)):
            found[key] = inner
    return found


def _shallow(value: Any, levels: int = _LEVELS) -> Any:
    """What is nested deeper is left out: to be shown it must be written again."""
    if isinstance(value, dict):
        return {key: _shallow(one, levels - 1) for key, one in value.items()} if levels else "…"
    if isinstance(value, list):
        return [_shallow(one, levels - 1) for one in value] if levels else "…"
    return value


def _is_table(kind: Any, value: Any) -> bool:
    return isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct)
