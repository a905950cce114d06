"""What the sources say together."""

from hypothesis import given
from hypothesis import strategies as some

from deskgrid.presence.sessions import Kind, Logins, Session
from deskgrid.presence.terminals import Quiet
from deskgrid.presence.weigh import BUSY_SECONDS, Hands, weigh

NOBODY = Logins((), known=True, sources=("logind: 0 sessions",))
HEARD = Hands("5 input devices", 300.0, complete=True)
PARTLY = Hands("2 input devices", 300.0, complete=False)


def logged_in(*sessions: Session) -> Logins:
    return Logins(sessions, known=True)


def session(kind: Kind, terminal: str = "", uid: int = 1000) -> Session:
    return Session("logind", "1", kind, terminal, uid, remote=False)


def test_idle_time_is_the_least_over_all_sources() -> None:
    reading = weigh(NOBODY, (Quiet("tty1", 0, 900.0), Quiet("pts/0", 1000, 40.0)), (HEARD,))
    assert (reading.logged_in, reading.idle_seconds) == (False, 40.0)
    assert reading.sources == ("pts/0 40 s (1 more)", "5 input devices 300 s", "logind: 0 sessions")
    assert reading.faults == ()


def test_a_quiet_terminal_does_not_make_a_graphical_session_idle() -> None:
    reading = weigh(logged_in(session(Kind.SEAT)), (Quiet("tty2", 1000, 5000.0),), ())
    assert (reading.logged_in, reading.idle_seconds) == (True, None)
    assert "group input" in reading.faults[0]


def test_a_graphical_session_is_idle_as_long_as_all_of_keyboard_and_mouse_are() -> None:
    who = logged_in(session(Kind.SEAT))
    assert weigh(who, (), (HEARD,)).idle_seconds == 300.0
    assert weigh(who, (), (PARTLY,)).idle_seconds is None
    assert weigh(who, (), (PARTLY, Hands("interrupts", 200.0, complete=True))).idle_seconds == 200.0


def test_a_session_on_a_terminal_needs_that_terminal() -> None:
    terminals = (Quiet("pts/3", 1001, 70.0),)
    assert weigh(logged_in(session(Kind.TERMINAL, "pts/3")), terminals, ()).idle_seconds == 70.0
    assert weigh(logged_in(session(Kind.TERMINAL, "pts/4")), terminals, ()).idle_seconds is None


def test_a_session_that_does_not_name_its_terminal_has_one_of_its_account() -> None:
    terminals = (Quiet("pts/3", 1001, 70.0), Quiet("tty1", 1002, 90.0))
    assert weigh(logged_in(session(Kind.TERMINAL, uid=1001)), terminals, ()).idle_seconds == 70.0
    assert weigh(logged_in(session(Kind.TERMINAL, uid=1002)), terminals, ()).idle_seconds is None


def test_a_remote_desktop_is_never_known_to_be_idle() -> None:
    reading = weigh(logged_in(session(Kind.OTHER)), (), (HEARD,))
    assert reading.idle_seconds is None
    assert "remote desktop" in reading.faults[0]


def test_busy_is_said_even_when_something_else_is_unknown() -> None:
    busy = Hands("2 input devices", 0.3, complete=False)
    assert weigh(logged_in(session(Kind.OTHER)), (), (busy,)).idle_seconds == 0.3


def test_without_any_source_nothing_is_known() -> None:
    reading = weigh(Logins((), known=False, faults=("logins: none",)), (), ())
    assert (reading.logged_in, reading.idle_seconds) == (None, None)
    assert reading.faults[0] == "logins: none"
    assert "no terminal and no input device" in reading.faults[1]


seconds = some.floats(0, 1e6)
sessions = some.builds(
    Session,
    some.just("x"),
    some.text(),
    some.sampled_from(Kind),
    some.sampled_from(["", "pts/1"]),
    some.none(),
    some.booleans(),
)
terminals = some.lists(some.builds(Quiet, some.sampled_from(["tty1", "pts/1"]), some.integers(0, 2), seconds))
hands = some.lists(some.builds(Hands, some.just("h"), some.none() | seconds, some.booleans()))


@given(some.lists(sessions).map(tuple), some.booleans(), terminals, hands)
def test_no_source_is_ever_overruled_towards_idle(
    who: tuple[Session, ...], known: bool, quiet: list[Quiet], heard: list[Hands]
) -> None:
    reading = weigh(Logins(who, known), quiet, heard)
    said = [one.idle_seconds for one in quiet] + [one.idle_seconds for one in heard if one.idle_seconds is not None]
    if reading.idle_seconds is None:
        assert reading.faults
        assert not said or min(said) >= BUSY_SECONDS
    else:
        assert reading.idle_seconds == min(said)
    if who:
        assert reading.logged_in is True
    if any(one.kind is Kind.OTHER for one in who) and reading.idle_seconds is not None:
        assert reading.idle_seconds < BUSY_SECONDS
