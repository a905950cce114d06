"""The policy of this desktop, from its layers' files; what was good stays in force while a file is not.

Rules:
- Layers come from a folder (grid.toml, group.toml, desktop.toml), from the `[policy]` table of agent.toml (the
  desktop's layer where there is no desktop.toml), and from the owner's file in the agent's state folder.
- A file that is wrong, half-written, empty or unreadable leaves the last good content of its layer in force, over
  restarts too, and the fault is reported. A desktop that never had a good one starts nothing.
- A file that was deleted is gone, but only when it has been gone for a while: some programs delete before they write.
- A changed file is taken when it has stood still between two looks. Looking costs a stat for each file.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec

from deskgrid.agent.policy.days_file import DaysFile
from deskgrid.agent.policy.stamps import MISSING, Stamp, stamp
from deskgrid.core.policy.layers import Effective, Layer, combine
from deskgrid.host.system.files import decoded, write_atomic
from deskgrid.host.system.toml import BadSettings, convert
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason
from deskgrid.model.values.help import Help
from deskgrid.model.values.outside import read_json, read_toml

POLICY_FOLDER = Path("/etc/deskgrid/policy")
GONE_SECONDS = 10.0
MAX_BYTES = 1 << 20
CALENDARS = {"days_off_file": "days_off", "days_closed_file": "days_closed"}
"""Settings that name a calendar, and the setting that its days are added to."""


def zone_fault(name: str) -> None:
    """Raises: ValueError: there is no such time zone here."""
    if name:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError(f'got {name!r}, expected an IANA name such as "Europe/Berlin"') from None


Zone = Annotated[str, msgspec.Meta(extra={"check": zone_fault})]
"""The name of a time zone; empty: the computer's own."""


class PolicyTable(Policy, frozen=True, forbid_unknown_fields=True):
    """What a layer's file may set: the policy's settings, and calendars."""

    zone: Annotated[Zone, Help("IANA name of the calendar's time zone; empty: the desktop's own")] = ""
    days_off_file: Annotated[
        str, Help("path of an iCalendar file, from the layer's folder; its days are added to days_off or days_closed")
    ] = ""
    days_closed_file: Annotated[
        str, Help("path of an iCalendar file, from the layer's folder; its days are added to days_off or days_closed")
    ] = ""


class Kept(msgspec.Struct, frozen=True):
    """policy-last-good.json. layers: by file, the values as they were written. days: by file and setting."""

    layers: dict[str, dict[str, Any]] = {}
    days: dict[str, tuple[date, ...]] = {}


class _LayerFile:
    """One layer's file. good: the values in force; None: there are none. unknown: it never had a good content."""

    def __init__(self, key: str, layer: str, path: Path, table: str, kept: Mapping[str, Any] | None) -> None:
        self.key, self.layer, self.path, self._table = key, layer, path, table
        self.good: dict[str, Any] | None = None
        self.fault = ""
        self._seen: tuple[Stamp | None, float] = (None, 0.0)
        self._taken: Stamp | None = None
        if kept is not None:
            self.good = _checked(kept, str(path))

    @property
    def source(self) -> str:
        return f"{self.path} [{self._table}]" if self._table else str(self.path)

    @property
    def unknown(self) -> bool:
        return bool(self.fault) and self.good is None

    def look(self, now: float, first: bool) -> bool:
        """Take what has changed and stands still. Returns: whether something is in force now that was not."""
        there = stamp(self.path)
        if there != self._seen[0]:
            self._seen = there, now
            if not first:
                return False
        gone = there == MISSING and self.good is not None
        if there == self._taken or (gone and now - self._seen[1] < GONE_SECONDS):
            return False
        self._taken = there
        before = self.good, self.fault
        self._take(there)
        return (self.good, self.fault) != before

    def _take(self, there: Stamp) -> None:
        self.fault = ""
        if there == MISSING:
            self.good = None
            return
        try:
            table = self._read()
            self.good = None if table is None else _checked(table, self.source)
        except BadSettings as error:
            self.fault = str(error)
        except OSError as error:
            self.fault = f"{self.path}: cannot be read: {error.strerror}"

    def _read(self) -> Mapping[str, Any] | None:
        with self.path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_BYTES + 1)
        faults = []
        if os.name == "posix" and mode & stat.S_IWOTH:
            faults.append("everybody may write it; expected a file that only its administrator may write (chmod o-w)")
        if len(content) > MAX_BYTES:
            faults.append(f"got more than {MAX_BYTES >> 20} MiB, expected a few lines of TOML")
        if not content.strip():
            faults.append("empty; delete the file, or write a comment in it, if it is to set nothing")
        if faults:
            raise BadSettings(str(self.path), faults)
        try:
            whole = read_toml(decoded(content))
        except ValueError as error:  # TOMLDecodeError too
            raise BadSettings(str(self.path), [f"not valid TOML: {error}"]) from None
        if not self._table:
            return whole
        table = whole.get(self._table)
        return table if isinstance(table, dict) else None


def _checked(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a table, checked; calendars' paths as they are. Raises: BadSettings."""
    values = convert(table, PolicyTable, where)
    return {key: getattr(values, key) for key in table}


class PolicyFiles:
    """All layers of this desktop.

    Args:
        folder: of grid.toml, group.toml and desktop.toml. state: the agent's own folder. settings: agent.toml, or None.
        keep: whether the last good content is kept in `state`; only the agent does.
        zone: of the days of calendars, where the grid names none. clock: a steady clock in seconds.
        today: the local day.
    """

    def __init__(
        self,
        folder: Path,
        state: Path,
        settings: Path | None = None,
        *,
        keep: bool = True,
        zone: str = "",
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], date] = date.today,
    ) -> None:
        self._clock, self._today, self._keep_it = clock, today, keep
        self._own_zone = zone
        self._kept_path = state / "policy-last-good.json"
        self._kept_fault = ""
        self._kept = self._read_kept()
        files = [
            ("grid", "grid", folder / "grid.toml", ""),
            ("group", "group", folder / "group.toml", ""),
            ("desktop", "desktop", folder / "desktop.toml", ""),
            *([("agent", "desktop", settings, "policy")] if settings is not None else []),
            ("owner", "owner", state / "owner.toml", ""),
        ]
        self._files = [self._file(*words) for words in files]
        self._calendars: dict[str, DaysFile] = {}
        self._effective: Effective | None = None

    def read(self) -> Effective | None:
        """Look for changes; quick, to be called every few seconds. Returns: the policy if it is another, else None."""
        now, first = self._clock(), self._effective is None
        changed = [file.look(now, first) for file in self._files]
        if any(changed) or first:
            self._name_calendars()
        changed += [calendar.look(now, self._today()) for calendar in self._calendars.values()]
        if not (any(changed) or first):
            return None
        self._keep()
        effective = self._combined()
        if effective == self._effective:
            return None
        self._effective = effective
        return effective

    def settled(self, seconds: float = 20.0) -> Effective:
        """Read, and wait for calendars: for commands, not for the agent."""
        end = time.monotonic() + seconds
        effective = self.read() or self._combined()
        while any(calendar.pending for calendar in self._calendars.values()) and time.monotonic() < end:
            time.sleep(0.05)
            effective = self.read() or effective
        return effective

    def refusals(self) -> tuple[Reason, ...]:
        """Why nothing may start here: a layer that is there, but never had a good content."""
        unknown = [file.fault for file in self._in_force() if file.unknown]
        unknown += [
            calendar.fault or f"{calendar.path}: being read"
            for calendar in self._calendars.values()
            if calendar.touching and calendar.days is None
        ]
        if not unknown:
            return ()
        sentence = "What this computer allows cannot be read, so nothing starts on it."
        return (Reason("policy-unreadable", sentence, "; ".join(unknown)),)

    def close(self) -> None:
        """End what is still being read."""
        for calendar in self._calendars.values():
            calendar.close()

    def _file(self, key: str, layer: str, path: Path, table: str) -> _LayerFile:
        kept = self._kept.layers.get(key)
        try:
            return _LayerFile(key, layer, path, table, kept)
        except BadSettings as error:  # of an older or a newer agent
            self._kept_fault = f"{self._kept_path}: {error}"
            return _LayerFile(key, layer, path, table, None)

    def _in_force(self) -> Iterator[_LayerFile]:
        own = any(file.key == "desktop" and (file.good is not None or file.fault) for file in self._files)
        return (file for file in self._files if not (own and file.key == "agent"))

    def _name_calendars(self) -> None:
        """Keep a reader for each calendar that the layers name, and no other."""
        zone = self._zone()
        named = {
            f"{file.key}.{key}": (file.path.parent / path, key)
            for file in self._in_force()
            for key, path in (file.good or {}).items()
            if key in CALENDARS and path
        }
        for name, calendar in list(self._calendars.items()):
            if name not in named or (named[name][0], zone) != (calendar.path, calendar.zone):
                calendar.close()
                del self._calendars[name]
        for name, (path, key) in named.items():
            if name not in self._calendars:
                calendar = DaysFile(path, touching=key == "days_closed_file", days=None, zone=zone)
                calendar.days = self._kept.days.get(_kept_as(name, calendar))
                self._calendars[name] = calendar

    def _zone(self) -> str:
        """The zone that the policy's days go by; only the grid may set it."""
        named = next((str((file.good or {}).get("zone", "")) for file in self._files if file.layer == "grid"), "")
        return named or self._own_zone

    def _combined(self) -> Effective:
        layers, faults = [], []
        for file in self._in_force():
            if file.fault:
                faults.append(file.fault if file.good is None else f"{file.fault}; what was good before stays in force")
            if file.good is not None:
                layers.append(Layer(file.layer, file.source, self._with_days(file)))
        for calendar in self._calendars.values():
            if calendar.fault:
                faults.append(f"{calendar.fault}; the days that were known before stay in force")
        faults += [self._kept_fault] if self._kept_fault else []
        return msgspec.structs.replace(combine(layers), faults=tuple(faults))

    def _with_days(self, file: _LayerFile) -> dict[str, Any]:
        values = {key: value for key, value in (file.good or {}).items() if key not in CALENDARS}
        for key, setting in CALENDARS.items():
            calendar = self._calendars.get(f"{file.key}.{key}")
            if calendar is not None:
                days = (*values.get(setting, ()), *(calendar.days or ()))
                values[setting] = tuple(dict.fromkeys(days))
        return values

    def _read_kept(self) -> Kept:
        try:
            return read_json(self._kept_path.read_bytes(), type=Kept)
        except FileNotFoundError:
            return Kept()
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._kept_fault = f"{self._kept_path}: cannot be read: {error}; it is written anew"
            return Kept()

    def _keep(self) -> None:
        if not self._keep_it:
            return
        layers = {file.key: msgspec.to_builtins(file.good) for file in self._files if file.good is not None}
        days = {
            _kept_as(name, calendar): calendar.days
            for name, calendar in self._calendars.items()
            if calendar.days is not None
        }
        kept = Kept(layers, days)
        if kept == self._kept:
            return
        try:
            write_atomic(self._kept_path, msgspec.json.encode(kept), 0o600)
            self._kept, self._kept_fault = kept, ""
        except OSError as error:
            self._kept_fault = f"{self._kept_path}: cannot be written: {error.strerror}"


def _kept_as(name: str, calendar: DaysFile) -> str:
    """The key of a calendar's days: in another zone they may be others."""
    return f"{name} {calendar.path} {calendar.zone}".rstrip()
