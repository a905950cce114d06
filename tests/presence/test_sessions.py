"""Who is logged in, from state files of logind and from utmp."""

import os
import struct
from pathlib import Path

import pytest

from deskgrid.presence.linux.sessions import Session, SessionKind, parse_logind, parse_utmp, read_logins

# as logind of Debian 12 and 13 writes them
HEAD = "# This is private data. Do not parse.\n"
WAYLAND = (
    "UID=1000\nUSER=alice\nACTIVE=1\nIS_DISPLAY=1\nSTATE=active\nREMOTE=0\nLEADER_FD_SAVED=1\nTYPE=wayland\n"
    "ORIGINAL_TYPE=wayland\nCLASS=user\nSCOPE=session-2.scope\nSEAT=seat0\nTTY=tty2\nTTY_VALIDITY=from-pam\n"
    "SERVICE=gdm-password\nDESKTOP=gnome\nVTNR=2\nLEADER=1234\nAUDIT=2\n"
)
SSH = (
    "UID=1001\nUSER=bob\nACTIVE=1\nIS_DISPLAY=0\nSTATE=active\nREMOTE=1\nTYPE=tty\nCLASS=user\n"
    'SCOPE=session-7.scope\nREMOTE_HOST=192.0.2.7\nSERVICE=sshd\nLEADER=77\nTTY="pts/3"\n'
)
CONSOLE = (
    "UID=0\nUSER=root\nACTIVE=1\nSTATE=active\nREMOTE=0\nTYPE=tty\nCLASS=user\nSEAT=seat0\nTTY=/dev/tty3\nVTNR=3\n"
)


def with_line(text: str, **changes: str) -> str:
    lines = [line for line in text.splitlines() if line.split("=")[0] not in changes]
    return "\n".join([*lines, *(f"{key}={value}" for key, value in changes.items())])


def test_a_graphical_session_at_the_seat_is_known_by_its_keyboard_and_not_by_its_terminal() -> None:
    assert parse_logind("2", HEAD + WAYLAND) == Session(
        "logind", "2", SessionKind.SEAT, "", 1000, False, active=True, graphical=True
    )


def test_a_line_of_a_state_file_ends_where_the_system_ends_it() -> None:
    """What a person may choose stands in it too."""
    assert parse_logind("7", HEAD + SSH + "DESKTOP=x\x85CLASS=background\u2028STATE=closing\n") == parse_logind(
        "7", SSH
    )


def test_a_login_over_ssh_is_known_by_its_terminal() -> None:
    assert parse_logind("7", HEAD + SSH) == Session("logind", "7", SessionKind.TERMINAL, "pts/3", 1001, True, True)


def test_a_login_over_ssh_that_does_not_name_its_terminal_has_one_of_its_account() -> None:
    session = parse_logind("7", with_line(SSH, TTY=""))
    assert session is not None
    assert (session.kind, session.terminal, session.uid) == (SessionKind.TERMINAL, "", 1001)


def test_a_console_is_known_by_its_terminal() -> None:
    session = parse_logind("c1", CONSOLE)
    assert session is not None
    assert (session.kind, session.terminal, session.remote) == (SessionKind.TERMINAL, "tty3", False)


def test_nothing_can_be_learned_from_a_remote_desktop() -> None:
    session = parse_logind("9", with_line(WAYLAND, REMOTE="1", SEAT="", TYPE="x11"))
    assert session is not None
    assert (session.kind, session.remote) == (SessionKind.OTHER, True)


@pytest.mark.parametrize(
    "who",
    [
        {"CLASS": "greeter"},
        {"CLASS": "background"},
        {"CLASS": "background-light"},
        {"CLASS": "manager"},
        {"CLASS": "manager-early"},
        {"CLASS": "none"},
        {"STATE": "closing", "ACTIVE": "0"},
        {"STATE": "closing", "SEAT": "", "REMOTE": "1"},
    ],
)
def test_what_is_no_present_person_does_not_count(who: dict[str, str]) -> None:
    assert parse_logind("1", with_line(WAYLAND, **who)) is None


@pytest.mark.parametrize("who", ["user", "user-early", "user-light", "lock-screen", "", "invented-later"])
def test_any_other_class_counts(who: str) -> None:
    assert parse_logind("1", with_line(WAYLAND, CLASS=who)) is not None


@pytest.mark.parametrize("text", ["", "\n\n", "nonsense", "=\n==\nUID=", "UID=abc\nTTY=../../etc/passwd\n"])
def test_a_file_that_says_nothing_is_somebody_of_whom_nothing_is_known(text: str) -> None:
    session = parse_logind("1", text)
    assert session is not None
    assert (session.kind, session.terminal, session.uid) == (SessionKind.OTHER, "", None)


def entry(kind: int, line: str, user: str = "alice", host: str = "") -> bytes:
    """One struct utmp of glibc on this machine (utmp(5))."""
    wide = os.uname().machine == "aarch64"
    tail = struct.pack("hhq2q4i20x" if wide else "hh5i4i20x", 0, 0, *([0] * 7 if wide else [0] * 9))
    head = struct.pack("hi32s4s32s256s", kind, 4711, line.encode(), b"ts/3", user.encode(), host.encode())
    size = 400 if wide else 384
    return (head + tail)[:size].ljust(size, b"\0")


def test_utmp_tells_of_user_processes_only() -> None:
    content = (
        entry(2, "~", "reboot") + entry(6, "tty1", "LOGIN") + entry(7, "pts/3", host="192.0.2.7") + entry(8, "pts/4")
    )
    assert parse_utmp(content) == (Session("utmp", "pts/3", SessionKind.TERMINAL, "pts/3", None, True),)


@pytest.mark.parametrize(
    ("line", "host", "kind", "remote"),
    [
        ("tty2", "", SessionKind.TERMINAL, False),
        ("tty2", "tty2", SessionKind.TERMINAL, False),
        ("pts/1", ":0", SessionKind.TERMINAL, False),
        (":0", ":0", SessionKind.SEAT, False),
        (":1", "", SessionKind.SEAT, False),
        ("dtremote", "far.example:0", SessionKind.OTHER, True),
        ("seat0", "", SessionKind.SEAT, False),
    ],
)
def test_utmp_lines_are_told_apart(line: str, host: str, kind: SessionKind, remote: bool) -> None:
    (session,) = parse_utmp(entry(7, line, host=host))
    assert (session.kind, session.remote) == (kind, remote)


def roots(tmp_path: Path, logind: bool = True, utmp: bytes | None = None) -> tuple[Path, Path]:
    run, dev = tmp_path / "run", tmp_path / "dev"
    (dev / "pts").mkdir(parents=True)
    run.mkdir()
    if logind:
        (run / "systemd/sessions").mkdir(parents=True)
    if utmp is not None:
        (run / "utmp").write_bytes(utmp)
    return run, dev


def test_without_logind_and_utmp_it_is_unknown_who_is_logged_in(tmp_path: Path) -> None:
    logins = read_logins(*roots(tmp_path, logind=False))
    assert logins.anybody is None
    assert "expected one" in logins.faults[0]


def test_one_source_that_is_empty_is_enough_for_nobody(tmp_path: Path) -> None:
    assert read_logins(*roots(tmp_path / "a")).anybody is False
    assert read_logins(*roots(tmp_path / "b", logind=False, utmp=b"")).anybody is False


def test_either_source_is_enough_for_somebody(tmp_path: Path) -> None:
    run, dev = roots(tmp_path, utmp=entry(7, "tty2"))
    (dev / "tty2").write_text("")
    logins = read_logins(run, dev)
    assert logins.anybody is True
    assert logins.sources == ("logind: 0 sessions", "utmp: 1 session")


def test_a_console_in_utmp_counts_as_the_seat_where_logind_can_not_tell_that_it_is_graphical(tmp_path: Path) -> None:
    for logind, kind in ((False, SessionKind.SEAT), (True, SessionKind.TERMINAL)):
        run, dev = roots(tmp_path / str(logind), logind=logind, utmp=entry(7, "tty2"))
        (dev / "tty2").write_text("")
        assert [session.kind for session in read_logins(run, dev).sessions] == [kind]


def test_a_utmp_entry_whose_terminal_is_gone_is_stale(tmp_path: Path) -> None:
    assert read_logins(*roots(tmp_path, utmp=entry(7, "pts/3"))).anybody is False


def test_a_utmp_file_of_another_shape_is_a_fault_and_leaves_nobody_unknown(tmp_path: Path) -> None:
    logins = read_logins(*roots(tmp_path, utmp=b"x" * 100))
    assert logins.anybody is None
    assert "got 100 bytes, expected a multiple of" in logins.faults[0]


def test_pipes_and_files_being_written_beside_the_sessions_are_passed_over(tmp_path: Path) -> None:
    run, dev = roots(tmp_path)
    folder = run / "systemd/sessions"
    os.mkfifo(folder / "7.ref")
    (folder / ".#7abc").write_text(SSH)
    (folder / "7").write_text(HEAD + SSH)
    (folder / "c2").write_text(with_line(WAYLAND, CLASS="greeter"))
    logins = read_logins(run, dev)
    assert [session.id for session in logins.sessions] == ["7"]
    assert logins.sources == ("logind: 1 session, 1 remote",)


def test_a_session_that_can_not_be_read_leaves_nobody_unknown(tmp_path: Path) -> None:
    run, dev = roots(tmp_path)
    (run / "systemd/sessions/5").mkdir()
    logins = read_logins(run, dev)
    assert logins.anybody is None
    assert "logind session 5: got" in logins.faults[0]


def test_a_session_that_is_closing_counts_while_somebody_sits_before_it() -> None:
    closing = parse_logind("8", with_line(WAYLAND, STATE="closing", ACTIVE="1", SEAT="seat0"))
    assert closing is not None and closing.active
