"""Who is logged in, as logind and utmp say it.

Rules:
- logind's state files (/run/systemd/sessions/*) are what libsystemd's sd_session_* functions read; they tell of
  sessions without D-Bus too. What logind says over D-Bus (`logind`) is taken first: it also knows which sessions are
  locked. Debian 13 and later have no utmp.
- A person's session counts, local or remote, whatever its state, except one that is closing and not in the foreground
  of a seat: some stay "closing" for ever after a logout, but who sits before one is there. Greeters (the login screen),
  background sessions (cron) and user managers don't count. A class that we don't know counts.
- All sources are read; any saying "somebody" is enough. "Nobody" needs at least one source, and no fault.
- What a session's idleness can be learned from is its kind: its terminal, the hands at the seat, or nothing. utmp
  writes a graphical session as "tty2" too; where logind isn't there to tell, a console therefore counts as the seat.
"""

import platform
import re
import struct
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from deskgrid.model.values.text import counted

_NOT_A_PERSON = ("greeter", "background", "manager", "none")
_GRAPHICAL = ("x11", "wayland", "mir")
_TERMINAL = re.compile(r"(tty[1-9]\d*|pts/\d+)\Z")
_ID = re.compile(r"[A-Za-z0-9]+\Z")
_USER_PROCESS = 7  # utmp(5), ut_type
# struct utmp, glibc: type, pid, line[32], id[4], user[32], host[256]; the rest differs in width, not in use
_UTMP = struct.Struct("hi32s4s32s256s")
_UTMP_BYTES = 400 if platform.machine() == "aarch64" else 384


class SessionKind(StrEnum):
    """From what a session's idleness can be learned."""

    TERMINAL = "terminal"  # its terminal's access time
    SEAT = "seat"  # keyboard and mouse of this computer
    OTHER = "other"  # nothing: remote desktops, sessions without a terminal


class Session(msgspec.Struct, frozen=True, order=True):
    """One person's session. terminal: "tty2", "pts/3" or "". uid: None where the source doesn't tell.

    active: it is in the foreground of its seat. graphical: it has a screen of its own. locked: None: unknown.
    """

    source: str
    id: str
    kind: SessionKind
    terminal: str
    uid: int | None
    remote: bool
    active: bool = False
    graphical: bool = False
    locked: bool | None = None


class Logins(msgspec.Struct, frozen=True):
    """All sessions. known: at least one source was there. faults: what could not be read."""

    sessions: tuple[Session, ...]
    known: bool
    sources: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def anybody(self) -> bool | None:
        """Whether somebody is logged in; None: unknown."""
        if self.sessions:
            return True
        return None if self.faults or not self.known else False


def read_logins(run: Path, dev: Path, told: tuple[Session, ...] | None = None) -> Logins:
    """Read all sources. Never raises for what it finds.

    Args:
        run: /run. dev: /dev, to recognise utmp entries that outlived their terminal.
        told: the sessions that logind has named over D-Bus; None: it has not.
    """
    logind, logind_faults, logind_known = _logind(run / "systemd/sessions")
    if told is not None:
        named = {session.id for session in told}
        logind, logind_known = (*told, *(one for one in logind if one.id not in named)), True
    utmp, utmp_faults, utmp_known = _utmp(run / "utmp", dev)
    if not logind_known:
        utmp = tuple(_at_seat(session) for session in utmp)
    elif any(session.kind is SessionKind.SEAT for session in logind):
        utmp = tuple(session for session in utmp if session.kind is not SessionKind.SEAT)  # the same, less exactly
    sources = []
    if logind_known:
        sources.append(_count("logind", logind))
    if utmp_known:
        sources.append(_count("utmp", utmp))
    faults = [*logind_faults, *utmp_faults]
    if not logind_known and not utmp_known and not faults:
        faults.append(
            f"logins: got neither {run}/systemd/sessions nor {run}/utmp, expected one; "
            "install and start systemd-logind (package libpam-systemd)"
        )
    return Logins((*logind, *utmp), logind_known or utmp_known, tuple(sources), tuple(faults))


def _at_seat(session: Session) -> Session:
    if not session.terminal.startswith("tty"):
        return session
    return msgspec.structs.replace(session, kind=SessionKind.SEAT, terminal="")


def _count(source: str, sessions: tuple[Session, ...]) -> str:
    remote = sum(session.remote for session in sessions)
    return f"{source}: {counted(len(sessions), 'session')}" + (f", {remote} remote" if remote else "")


def _logind(folder: Path) -> tuple[tuple[Session, ...], list[str], bool]:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return (), [], False
    except OSError as error:
        return (), [f"logind {folder}: got {error.strerror}, expected a folder that everybody may read"], False
    found, faults = [], []
    for name in names:
        if not _ID.match(name):  # N.ref pipes, files being written
            continue
        try:
            with (folder / name).open("rb") as file:
                session = parse_logind(name, file.read(16384).decode(errors="replace"))
        except FileNotFoundError:  # ended since we listed the folder
            continue
        except OSError as error:
            faults.append(f"logind session {name}: got {error.strerror}, expected a readable file")
            continue
        if session is not None:
            found.append(session)
    return tuple(found), faults, True


def parse_logind(name: str, text: str) -> Session | None:
    """Return the session that a state file of logind describes; None when it isn't a present person's.

    Keys: systemd's logind-session.c, session_save; classes and types: sd-login.h and org.freedesktop.login1(5).
    """
    return session_of(name, dict(line.split("=", 1) for line in text.split("\n") if "=" in line and line[0] != "#"))


def session_of(name: str, facts: Mapping[str, str]) -> Session | None:
    """Return the session with these facts; None when it isn't a present person's. What isn't told counts as a person's.

    Args:
        facts: by the keys of logind's state files; LOCKED (0 or 1), where that is known.
    """
    if facts.get("CLASS", "").startswith(_NOT_A_PERSON):
        return None
    if facts.get("STATE") == "closing" and not (facts.get("ACTIVE") == "1" and facts.get("SEAT")):
        return None
    remote = facts.get("REMOTE") == "1"
    terminal = facts.get("TTY", "").strip('"').removeprefix("/dev/")
    uid = facts.get("UID", "")
    if facts.get("TYPE") in _GRAPHICAL:
        kind, terminal = (SessionKind.OTHER if remote or not facts.get("SEAT") else SessionKind.SEAT), ""
    elif _TERMINAL.match(terminal):
        kind = SessionKind.TERMINAL
    elif facts.get("TYPE") == "tty":  # sshd opens the session before it makes the terminal
        kind, terminal = SessionKind.TERMINAL, ""
    else:
        kind, terminal = (SessionKind.SEAT if facts.get("SEAT") and not remote else SessionKind.OTHER), ""
    return Session(
        "logind",
        name,
        kind,
        terminal,
        int(uid) if uid.isdecimal() else None,
        remote,
        active=facts.get("ACTIVE") == "1",
        graphical=facts.get("TYPE") in _GRAPHICAL,
        locked={"0": False, "1": True}.get(facts.get("LOCKED", "")),
    )


def _utmp(path: Path, dev: Path) -> tuple[tuple[Session, ...], list[str], bool]:
    try:
        with path.open("rb") as file:
            content = file.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return (), [], False
    except OSError as error:
        return (), [f"utmp {path}: got {error.strerror}, expected a file that everybody may read"], False
    if len(content) % _UTMP_BYTES:
        return (), [f"utmp {path}: got {len(content)} bytes, expected a multiple of {_UTMP_BYTES}"], False
    found = parse_utmp(content)
    return tuple(one for one in found if not one.terminal or (dev / one.terminal).exists()), [], True


def parse_utmp(content: bytes) -> tuple[Session, ...]:
    """Return the sessions in the content of a utmp file (utmp(5))."""
    found = []
    for offset in range(0, len(content) - _UTMP_BYTES + 1, _UTMP_BYTES):
        kind, _, line, _, _, host = _UTMP.unpack_from(content, offset)
        if kind != _USER_PROCESS:
            continue
        where = line.split(b"\0")[0].decode(errors="replace")
        origin = host.split(b"\0")[0].decode(errors="replace")
        local = origin in ("", where) or origin.startswith(":")  # the host of a local session is its display
        if _TERMINAL.match(where):
            found.append(Session("utmp", where, SessionKind.TERMINAL, where, None, not local))
        elif where.startswith(":"):
            found.append(Session("utmp", where, SessionKind.SEAT, "", None, False))
        else:
            found.append(Session("utmp", where, SessionKind.SEAT if local else SessionKind.OTHER, "", None, not local))
    return tuple(found)
