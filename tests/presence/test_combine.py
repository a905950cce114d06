"""What the sources say together."""

import msgspec
from hypothesis import given
from hypothesis import strategies as some

from deskgrid.presence.helpers import Word
from deskgrid.presence.linux.combine import BUSY_SECONDS, Hands, combine
from deskgrid.presence.linux.sessions import Logins, Session, SessionKind
from deskgrid.presence.linux.terminals import Quiet

NOBODY = Logins((), known=True, sources=("logind: 0 sessions",))
HEARD = Hands("5 input devices", 300.0, complete=True)
PARTLY = Hands("2 input devices", 300.0, complete=False)


def logged_in(*sessions: Session) -> Logins:
    return Logins(sessions, known=True)


def session(kind: SessionKind, terminal: str = "", uid: int = 1000) -> Session:
    return Session("logind", "1", kind, terminal, uid, remote=False)


def test_idle_time_is_the_least_over_all_sources() -> None:
    reading = combine(NOBODY, (Quiet("tty1", 0, 900.0), Quiet("pts/0", 1000, 40.0)), (HEARD,))
    assert (reading.logged_in, reading.idle_seconds) == (False, 40.0)
    assert reading.sources == ("pts/0 40 s (1 more)", "5 input devices 300 s", "logind: 0 sessions")
    assert reading.faults == ()


def test_a_quiet_terminal_does_not_make_a_graphical_session_idle() -> None:
    reading = combine(logged_in(session(SessionKind.SEAT)), (Quiet("tty2", 1000, 5000.0),), ())
    assert (reading.logged_in, reading.idle_seconds) == (True, None)
    assert "group input" in reading.faults[0]


def test_a_graphical_session_is_idle_as_long_as_all_of_keyboard_and_mouse_are() -> None:
    who = logged_in(session(SessionKind.SEAT))
    assert combine(who, (), (HEARD,)).idle_seconds == 300.0
    assert combine(who, (), (PARTLY,)).idle_seconds is None
    assert combine(who, (), (PARTLY, Hands("interrupts", 200.0, complete=True))).idle_seconds == 200.0


def test_a_session_on_a_terminal_needs_that_terminal() -> None:
    terminals = (Quiet("pts/3", 1001, 70.0),)
    assert combine(logged_in(session(SessionKind.TERMINAL, "pts/3")), terminals, ()).idle_seconds == 70.0
    assert combine(logged_in(session(SessionKind.TERMINAL, "pts/4")), terminals, ()).idle_seconds is None


def test_a_session_that_does_not_name_its_terminal_has_one_of_its_account() -> None:
    terminals = (Quiet("pts/3", 1001, 70.0), Quiet("tty1", 1002, 90.0))
    assert combine(logged_in(session(SessionKind.TERMINAL, uid=1001)), terminals, ()).idle_seconds == 70.0
    assert combine(logged_in(session(SessionKind.TERMINAL, uid=1002)), terminals, ()).idle_seconds is None


def test_a_remote_desktop_is_never_known_to_be_idle() -> None:
    reading = combine(logged_in(session(SessionKind.OTHER)), (), (HEARD,))
    assert reading.idle_seconds is None
    assert "remote desktop" in reading.faults[0]


def test_busy_is_said_even_when_something_else_is_unknown() -> None:
    busy = Hands("2 input devices", 0.3, complete=False)
    assert combine(logged_in(session(SessionKind.OTHER)), (), (busy,)).idle_seconds == 0.3


def test_without_any_source_nothing_is_known() -> None:
    reading = combine(Logins((), known=False, faults=("logins: none",)), (), ())
    assert (reading.logged_in, reading.idle_seconds) == (None, None)
    assert reading.faults[0] == "logins: none"
    assert "no terminal and no input device" in reading.faults[1]


def graphical(
    uid: int = 1000, name: str = "1", kind: SessionKind = SessionKind.SEAT, locked: bool | None = None
) -> Session:
    return Session("logind", name, kind, "", uid, remote=kind is SessionKind.OTHER, graphical=True, locked=locked)


def test_a_helper_vouches_for_the_one_graphical_session_of_its_account() -> None:
    word = Word(1000, "mutter", 500.0)
    assert combine(logged_in(graphical()), (), (), words=(word,)).idle_seconds == 500.0
    assert combine(logged_in(graphical(kind=SessionKind.OTHER)), (), (), words=(word,)).idle_seconds == 500.0
    assert combine(logged_in(graphical(1001)), (), (), words=(word,)).idle_seconds is None
    assert combine(logged_in(graphical(), graphical(1001, "2")), (), (), words=(word,)).idle_seconds is None
    assert combine(logged_in(graphical(), graphical(1000, "2")), (), (), words=(word,)).idle_seconds is None
    assert combine(logged_in(session(SessionKind.SEAT)), (), (), words=(word,)).idle_seconds is None
    both = (word, Word(1001, "x11", 300.0))
    assert combine(logged_in(graphical(), graphical(1001, "2")), (), (), words=both).idle_seconds == 300.0


def test_a_helper_that_has_been_silent_for_long_vouches_for_nothing_and_still_says_busy() -> None:
    stale = Word(1000, "mutter", 500.0, fresh=False, full_screen=True, watching=("a film",))
    reading = combine(logged_in(graphical()), (), (HEARD,), words=(stale,))
    assert (reading.idle_seconds, reading.full_screen, reading.watching) == (300.0, True, ("a film",))
    assert "silent since long" in reading.sources[-1]
    assert combine(logged_in(graphical()), (), (), words=(stale,)).idle_seconds is None


def test_with_nobody_logged_in_a_helper_stands_for_no_other_source() -> None:
    assert combine(NOBODY, (), (), words=(Word(1000, "mutter", 500.0),)).idle_seconds is None


def test_locked_is_every_session_and_what_logind_knows_goes_before_what_a_helper_says() -> None:
    locked, lies = graphical(locked=True), (Word(1000, "x", None, locked=True),)
    assert combine(logged_in(locked), (), ()).locked is True
    assert combine(logged_in(locked, graphical(1001, "2", locked=False)), (), ()).locked is False
    assert combine(logged_in(graphical(locked=False)), (), (), words=lies).locked is False
    assert combine(logged_in(graphical()), (), ()).locked is None
    assert combine(logged_in(graphical()), (), (), words=lies).locked is True
    assert combine(logged_in(graphical(1001)), (), (), words=lies).locked is None
    assert combine(logged_in(locked), (), (), words=(Word(1000, "x", None, locked=False),)).locked is False
    assert combine(NOBODY, (), ()).locked is None


def test_a_login_from_elsewhere_that_only_utmp_knows_is_not_locked() -> None:
    mosh = Session("utmp", "pts/4", SessionKind.TERMINAL, "pts/4", None, remote=True)
    window = Session("utmp", "pts/1", SessionKind.TERMINAL, "pts/1", None, remote=False)
    assert combine(logged_in(graphical(locked=True), window), (), ()).locked is True
    assert combine(logged_in(graphical(locked=True), mosh), (), ()).locked is False


def test_remote_is_known_as_well_as_logins_are() -> None:
    assert combine(NOBODY, (), ()).remote is False
    assert combine(logged_in(graphical(kind=SessionKind.OTHER)), (), ()).remote is True
    assert combine(logged_in(graphical()), (), ()).remote is False
    assert combine(Logins((), known=False), (), ()).remote is None
    assert combine(Logins((graphical(),), known=True, faults=("utmp",)), (), ()).remote is None


seconds = some.floats(0, 1e6)
sessions = some.builds(
    Session,
    some.just("x"),
    some.text(),
    some.sampled_from(SessionKind),
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
    reading = combine(Logins(who, known), quiet, heard)
    said = [one.idle_seconds for one in quiet] + [one.idle_seconds for one in heard if one.idle_seconds is not None]
    if reading.idle_seconds is None:
        assert reading.faults
        assert not said or min(said) >= BUSY_SECONDS
    else:
        assert reading.idle_seconds == min(said)
    if who:
        assert reading.logged_in is True
    if any(one.kind is SessionKind.OTHER for one in who) and reading.idle_seconds is not None:
        assert reading.idle_seconds < BUSY_SECONDS


persons = some.builds(
    Session,
    some.sampled_from(["logind", "utmp"]),
    some.text(),
    some.sampled_from(SessionKind),
    some.sampled_from(["", "pts/1"]),
    some.sampled_from([None, 1000, 1001]),
    some.booleans(),
    some.booleans(),
    some.booleans(),
    some.sampled_from([None, True, False]),
)
words = some.lists(
    some.builds(
        Word,
        some.sampled_from([1000, 1001, 1002]),
        some.just("helper"),
        some.none() | seconds,
        some.booleans(),
        some.sampled_from([None, True, False]),
        some.sampled_from([None, True, False]),
        some.lists(some.text(), max_size=2).map(tuple),
    ),
    min_size=1,
)
several = some.lists(persons, max_size=4).map(tuple)


def _gap(who: tuple[Session, ...], said: list[Word]) -> bool:
    """The two things that an account may vouch for: a graphical session that is its only one."""
    mine = [one.uid for one in who if one.graphical and one.uid is not None]
    return any(word.fresh and mine.count(word.uid) == 1 for word in said)


@given(several, some.booleans(), terminals, hands, words, some.lists(some.text(), max_size=2))
def test_helpers_never_make_a_desktop_count_as_less_used_but_for_their_own_session(
    who: tuple[Session, ...], known: bool, quiet: list[Quiet], heard: list[Hands], said: list[Word], films: list[str]
) -> None:
    logins = Logins(who, known)
    without = combine(logins, quiet, heard, watching=films)
    with_them = combine(logins, quiet, heard, words=said, watching=films)
    assert (with_them.logged_in, with_them.remote) == (without.logged_in, without.remote)
    assert set(with_them.watching) >= set(without.watching)
    if without.idle_seconds is not None:
        assert with_them.idle_seconds is not None
        assert with_them.idle_seconds <= without.idle_seconds
    elif with_them.idle_seconds is not None and with_them.idle_seconds >= BUSY_SECONDS:
        assert _gap(who, said)
    if with_them.locked is True and without.locked is not True:
        assert without.locked is None
        assert _gap(who, said)


@given(several, terminals, hands, words)
def test_busy_is_said_by_whoever_says_it(
    who: tuple[Session, ...], quiet: list[Quiet], heard: list[Hands], said: list[Word]
) -> None:
    busy = msgspec.structs.replace(said[0], idle_seconds=0.0, full_screen=True, watching=("a film",))
    reading = combine(Logins(who, known=True), quiet, heard, words=[*said[1:], busy])
    assert reading.idle_seconds == 0.0
    assert reading.full_screen is True
    assert "a film" in reading.watching
