"""Accounts of this computer talk to the agent: each can make it stop, none can make it start, none can hold it up."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from deskgrid.agent.owner.server import DEFAULT, LocalServer
from deskgrid.agent.owner.socket import LocalError, SocketLimits, listening_place
from deskgrid.agent.owner.wishes import WishBook
from deskgrid.host.system.account import become, service_account
from deskgrid.model.desktop import Availability, Room
from deskgrid.model.presence import SessionReading
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Ask, Wish
from deskgrid.session.client import ask
from deskgrid.wire.lines import encode
from deskgrid.wire.local import (
    Answer,
    AskDump,
    AskFinish,
    AskPause,
    AskResume,
    AskStatus,
    Denial,
    Dumped,
    Granted,
    Now,
    Question,
    Status,
    Tell,
    decode_answer,
)
from tests.waiting import eventually

pytestmark = pytest.mark.slow

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
STATUS = Status("desk-1", 1, AT, Availability(False, (Reason("owner-active", "In use."),)), Room(0, 0, 0, 0), (), ())
AGENT_UID = 61998
QUICK = SocketLimits(silence_seconds=2.0, told_seconds=2.5)


class Ear:
    """A server, and what it has told its agent."""

    def __init__(
        self, folder: Path, limits: SocketLimits = DEFAULT, now: datetime | None = None, start: bool = True
    ) -> None:
        self.wishes: list[Wish] = []
        self.told: list[tuple[int, SessionReading | None]] = []
        self.clock = [now or datetime.now(UTC)]
        self.status = STATUS
        self.path = folder / "run" / "agent.sock"
        self.book = WishBook(folder / "wish.json", AGENT_UID, self.clock[0])
        self.server = LocalServer(
            self.path,
            self.book,
            lambda: self.status,
            self.wishes.append,
            lambda key, reading: self.told.append((key, reading)),
            lambda: folder / "dump.json",
            wall=lambda: self.clock[0],
            limits=limits,
        )
        if start:
            self.server.start()

    def ask(self, question: Question) -> Answer:
        with Peer(self.path) as peer:
            return peer.ask(question)


class Peer:
    """One connection of an account."""

    def __init__(self, path: Path) -> None:
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.link.connect(str(path))  # without a timeout it waits for its turn
        self.link.settimeout(30)
        self.file = self.link.makefile("rb")

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.link.close()

    def send(self, data: bytes) -> None:
        self.link.sendall(data)

    def hear(self) -> Answer | None:
        """The next answer; None when the connection has ended."""
        try:
            line = self.file.readline()
        except ConnectionResetError:
            return None
        return decode_answer(line) if line else None

    def ask(self, question: Question) -> Answer:
        self.send(encode(question))
        answer = self.hear()
        assert answer is not None
        return answer


@pytest.fixture
def ears(tmp_path: Path) -> Iterator[Callable[..., Ear]]:
    """Makes servers in one state folder; ends them."""
    made: list[Ear] = []

    def make(**more: object) -> Ear:
        made.append(Ear(tmp_path, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for ear in made:
        ear.server.close()


@pytest.fixture
def ear(ears: Callable[..., Ear]) -> Ear:
    return ears()


# -- what is answered -------------------------------------------------------------------------------------------------


def test_whoever_asks_gets_the_status_and_their_rights(ear: Ear) -> None:
    answer = ear.ask(AskStatus())
    assert isinstance(answer, Now)
    assert answer.status == STATUS
    assert answer.rights.may_resume


def test_every_account_reaches_the_socket(ear: Ear) -> None:
    assert ear.path.stat().st_mode & 0o777 == 0o666
    assert ear.path.parent.stat().st_mode & 0o777 == 0o755


def test_several_questions_on_one_connection_are_answered_in_order(ear: Ear) -> None:
    with Peer(ear.path) as peer:
        peer.send(encode(AskPause()) + encode(AskStatus()) + encode(AskResume()) + encode(AskStatus()))
        heard = [peer.hear() for _ in range(4)]
    assert [type(one) for one in heard] == [Granted, Now, Granted, Now]


def test_a_pause_and_its_end_reach_the_agent(ear: Ear) -> None:
    answer = ear.ask(AskPause())
    assert isinstance(answer, Granted)
    assert answer.ask is Ask.PAUSE
    assert answer.wish == ear.wishes[-1]
    assert ear.wishes[-1].ask is Ask.PAUSE
    assert ear.ask(AskResume()) == Granted(Ask.RESUME, None, 0)
    assert [wish.ask for wish in ear.wishes] == [Ask.PAUSE, Ask.RESUME]


def test_the_same_wish_twice_is_told_once(ear: Ear) -> None:
    for _ in range(2):
        ear.ask(AskFinish())
    assert [wish.ask for wish in ear.wishes] == [Ask.FINISH]


def test_a_time_that_has_passed_is_refused(ear: Ear) -> None:
    answer = ear.ask(AskPause(ear.clock[0] - timedelta(minutes=1)))
    assert isinstance(answer, Denial)
    assert "expected a time to come" in answer.sentence
    assert ear.wishes == []


def test_a_wish_ends_by_itself_and_the_agent_is_told(ears: Callable[..., Ear]) -> None:
    ear = ears()
    ear.ask(AskPause(ear.clock[0] + timedelta(seconds=1)))
    ear.clock[0] += timedelta(seconds=2)
    eventually(lambda: [wish.ask for wish in ear.wishes] == [Ask.PAUSE, Ask.RESUME])


# -- who may what -----------------------------------------------------------------------------------------------------

SPEAKER = """
import socket, sys
link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
link.connect(sys.argv[1])
link.settimeout(30)
file = link.makefile("rb")
for line in sys.argv[2:]:
    link.sendall(line.encode() + b"\\n")
    print(file.readline().decode().strip(), flush=True)
"""


def open_ways(ear: Ear) -> None:
    """Let other accounts reach the socket."""
    for folder in ear.path.parents:
        if folder.stat().st_mode & 0o005 != 0o005 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o005)


def as_other(ear: Ear, uid: int, *questions: Question) -> list[Answer]:
    """What another account is answered."""
    if os.geteuid() != 0:
        pytest.skip("only root can speak as somebody else")
    open_ways(ear)
    lines = [encode(question).decode().strip() for question in questions]
    program = [sys.executable, "-I", "-c", SPEAKER]
    ended = subprocess.run(
        [*become(msgspec.structs.replace(service_account(), uid=uid)), *program, str(ear.path), *lines],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd="/",
    )
    return [decode_answer(line.encode()) for line in ended.stdout.splitlines()]


def test_a_wish_of_another_account_cannot_be_taken_back_by_a_third(ear: Ear) -> None:
    as_other(ear, 61001, AskPause())
    refused, status = as_other(ear, 61002, AskResume(), AskStatus())
    assert refused == Denial(
        "It was uid 61001 who asked the grid to stop. Only that account or an administrator can take it back."
    )
    assert isinstance(status, Now)
    assert not status.rights.may_resume
    assert status.rights.why_not == refused.sentence
    assert [wish.ask for wish in ear.wishes] == [Ask.PAUSE]


def test_the_account_that_said_it_takes_it_back(ear: Ear) -> None:
    assert isinstance(as_other(ear, 61001, AskPause(), AskResume())[1], Granted)
    assert [wish.ask for wish in ear.wishes] == [Ask.PAUSE, Ask.RESUME]


def test_nobody_shortens_somebody_elses_pause_by_asking_for_a_shorter_one_or_for_less(ear: Ear) -> None:
    as_other(ear, 61001, AskPause())
    as_other(ear, 61002, AskPause(ear.clock[0] + timedelta(seconds=5)))
    (done,) = as_other(ear, 61003, AskFinish())
    assert isinstance(done, Granted)
    assert done.wish is not None and (done.wish.by, done.wish.ask) == ("uid 61001", Ask.PAUSE)
    ear.clock[0] += timedelta(seconds=10)
    as_other(ear, 61003, AskResume())
    assert [(wish.ask, wish.by) for wish in ear.wishes] == [(Ask.PAUSE, "uid 61001")]


def test_a_finish_holds_on_when_the_pause_of_another_account_ends(ear: Ear) -> None:
    as_other(ear, 61001, AskFinish())
    as_other(ear, 61002, AskPause(ear.clock[0] + timedelta(seconds=1)))
    ear.clock[0] += timedelta(seconds=2)
    eventually(lambda: len(ear.wishes) == 3)
    assert [(wish.ask, wish.by) for wish in ear.wishes] == [
        (Ask.FINISH, "uid 61001"),
        (Ask.PAUSE, "uid 61002"),
        (Ask.FINISH, "uid 61001"),
    ]


def test_root_and_the_agents_own_account_take_everything_back(ear: Ear) -> None:
    as_other(ear, 61001, AskPause())
    assert ear.ask(AskResume()) == Granted(Ask.RESUME, None, 0)
    as_other(ear, 61001, AskPause())
    assert as_other(ear, AGENT_UID, AskResume()) == [Granted(Ask.RESUME, None, 0)]


def test_only_root_and_the_agents_own_account_get_a_dump(ear: Ear) -> None:
    (refused,) = as_other(ear, 61001, AskDump())
    assert isinstance(refused, Denial) and "only root" in refused.sentence
    for uid in (0, AGENT_UID):
        (dumped,) = as_other(ear, uid, AskDump())
        assert dumped == Dumped(str(ear.path.parents[1] / "dump.json"))


def test_an_account_cannot_take_all_places(ears: Callable[..., Ear]) -> None:
    ear = ears(limits=SocketLimits(connections_per_account=1))
    if os.geteuid() == 0:
        with Peer(ear.path), Peer(ear.path) as second:  # root may
            assert isinstance(second.ask(AskStatus()), Now)
        return
    with Peer(ear.path) as first, Peer(ear.path) as second:
        assert isinstance(second.hear(), Denial)
        assert isinstance(first.ask(AskStatus()), Now)


# -- what lasts -------------------------------------------------------------------------------------------------------


def test_a_wish_survives_the_agent(ears: Callable[..., Ear]) -> None:
    first = ears()
    first.ask(AskPause())
    first.server.close()
    second = ears()
    assert second.wishes == [first.wishes[0]]
    assert isinstance(second.ask(AskResume()), Granted)
    second.server.close()
    assert ears().wishes == []


def test_a_wish_that_ended_while_the_agent_was_away_is_over(ears: Callable[..., Ear]) -> None:
    first = ears(now=AT)
    first.ask(AskPause(AT + timedelta(hours=1)))
    first.server.close()
    assert ears(now=AT + timedelta(hours=2)).wishes == []


@pytest.mark.parametrize("content", [b"", b"{", b'[{"uid":1}]', b"\xff\xfe", b"[" * 100000, b'[{"uid":1,"wish":7}]'])
def test_a_damaged_file_of_wishes_counts_as_paused_and_says_so(
    ears: Callable[..., Ear], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "wish.json").write_bytes(content)
    ear = ears()
    assert [wish.ask for wish in ear.wishes] == [Ask.PAUSE]
    assert "so the grid stays paused" in ear.book.fault
    assert "wish.json" in ear.book.fault
    assert isinstance(as_other(ear, 61001, AskResume())[0], Denial) if os.geteuid() == 0 else True
    ear.ask(AskResume()) if os.geteuid() == 0 else None


def test_a_wish_that_cannot_be_written_holds_all_the_same(ears: Callable[..., Ear], tmp_path: Path) -> None:
    ear = ears()
    (tmp_path / "wish.json").mkdir()
    assert isinstance(ear.ask(AskPause()), Granted)
    assert ear.wishes[-1].ask is Ask.PAUSE
    assert "holds until the agent restarts" in ear.book.fault


# -- helpers ----------------------------------------------------------------------------------------------------------


def test_a_helpers_word_lasts_as_long_as_its_connection(ear: Ear) -> None:
    reading = SessionReading("mutter", 12.0, full_screen=True, watching=("Totem: a film",))
    with Peer(ear.path) as peer:
        peer.send(encode(Tell(reading)))
        eventually(lambda: ear.told)
        assert isinstance(peer.ask(AskStatus()), Now)
    eventually(lambda: len(ear.told) == 2)
    assert [said for _, said in ear.told] == [reading, None]
    assert ear.told[0][0] == ear.told[1][0]


def test_a_helper_that_falls_silent_is_forgotten(ears: Callable[..., Ear]) -> None:
    ear = ears(limits=QUICK)
    with Peer(ear.path) as peer:
        peer.send(encode(Tell(SessionReading("x11", 5.0))))
        assert peer.hear() is None
        eventually(lambda: len(ear.told) == 2)
    assert ear.told[1][1] is None


@pytest.mark.parametrize(("idle", "believed"), [(-5.0, 0.0), (1e300, 366 * 86400.0), (0, 0.0), (3, 3.0)])
def test_an_absurd_idle_time_is_made_a_possible_one(ear: Ear, idle: float, believed: float) -> None:
    with Peer(ear.path) as peer:
        peer.send(json.dumps({"type": "tell", "reading": {"source": "x11", "idle_seconds": idle}}).encode() + b"\n")
        eventually(lambda: ear.told)
    assert ear.told[0][1] == SessionReading("x11", believed)


def test_long_and_unprintable_words_of_a_helper_are_cut(ear: Ear) -> None:
    with Peer(ear.path) as peer:
        peer.send(encode(Tell(SessionReading("x" * 900, 1.0, watching=("a\x1b[2J\nb",) * 100))))
        eventually(lambda: ear.told)
    said = ear.told[0][1]
    assert said is not None
    assert said.source == "x" * 40
    assert said.watching == ("a [2J b",) * 8


# -- peers that misbehave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"\n",
        b"{}\n",
        b'{"type":"start"}\n',
        b'{"type":"tell","reading":{"source":"x","idle_seconds":NaN}}\n',
        b'{"type":"tell","reading":{"source":"x","idle_seconds":1e999}}\n',
        b'{"type":"tell","reading":{"source":"x","idle_seconds":"7"}}\n',
        b'{"type":"pause","until":"2026-11-22T12:00:00"}\n',
        b"[" * 4000 + b"\n",
        b"\xff" * 40 + b"\n",
        b"x" * 5000,
        b'{"type":"status"' + b" " * 5000 + b"}\n",
    ],
)
def test_what_is_no_question_is_told_so_and_let_go(ear: Ear, line: bytes) -> None:
    with Peer(ear.path) as peer:
        peer.send(line)
        assert isinstance(peer.hear(), Denial)
        assert peer.hear() is None
    assert isinstance(ear.ask(AskStatus()), Now)
    assert ear.told == [] and ear.wishes == []


def test_half_a_line_and_silence_are_let_go(ears: Callable[..., Ear]) -> None:
    ear = ears(limits=QUICK)
    with Peer(ear.path) as silent, Peer(ear.path) as half:
        half.send(b'{"type":"sta')
        assert silent.hear() is None
        assert half.hear() is None
    assert isinstance(ear.ask(AskStatus()), Now)


def test_a_line_in_many_pieces_is_one_question(ear: Ear) -> None:
    with Peer(ear.path) as peer:
        for byte in encode(AskStatus()):
            peer.send(bytes([byte]))
        assert isinstance(peer.hear(), Now)


def test_a_peer_that_never_reads_holds_nobody_up_and_is_let_go(ears: Callable[..., Ear]) -> None:
    ear = ears(limits=SocketLimits(silence_seconds=3.0, burst=1e6))
    ear.status = msgspec.structs.replace(STATUS, sources=("x" * 200_000,))
    with Peer(ear.path) as deaf:
        deaf.link.setblocking(False)
        deaf.send(encode(AskStatus()) * 20)
        assert isinstance(ear.ask(AskPause()), Granted)
        eventually(lambda: _ended(deaf.link))


def _ended(link: socket.socket) -> bool:
    try:
        link.send(encode(AskStatus()))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


def test_of_too_many_connections_the_last_are_told_and_the_first_are_served(ears: Callable[..., Ear]) -> None:
    ear = ears(limits=SocketLimits(connections=32, connections_per_account=32))
    peers = [Peer(ear.path) for _ in range(32)]
    try:
        assert isinstance(peers[-1].ask(AskStatus()), Now)
        with Peer(ear.path) as one_more:
            assert isinstance(one_more.hear(), Denial)
            assert one_more.hear() is None
        assert isinstance(peers[0].ask(AskStatus()), Now)
        peers.pop().__exit__()
        eventually(lambda: isinstance(_answer(ear), Now))
    finally:
        for peer in peers:
            peer.__exit__()


def _answer(ear: Ear) -> Answer | None:
    with Peer(ear.path) as peer:
        try:
            peer.send(encode(AskStatus()))
        except OSError:
            return None
        return peer.hear()


def test_a_flood_is_answered_slowly_then_let_go_and_others_get_their_turn(ears: Callable[..., Ear]) -> None:
    ear = ears(limits=SocketLimits(lines=80, burst=20.0, pace_seconds=0.02))
    with Peer(ear.path) as flood, Peer(ear.path) as owner:
        begun = time.monotonic()
        flood.send(encode(AskStatus()) * 2000)
        assert isinstance(owner.ask(AskPause()), Granted)
        assert time.monotonic() - begun < 10
        answers = []
        while (answer := flood.hear()) is not None:
            answers.append(answer)
        took = time.monotonic() - begun
    assert isinstance(answers[-1], Denial)
    assert 80 <= len(answers) <= 82 + 5 * took
    assert took >= (len(answers) - 20) * 0.02 * 0.5
    assert isinstance(ear.ask(AskStatus()), Now)


def test_who_says_one_thing_and_goes_is_heard_but_a_flood_ends_with_its_sender(ears: Callable[..., Ear]) -> None:
    ear = ears(limits=SocketLimits(lines=10_000, burst=10.0))
    with Peer(ear.path) as hasty:
        hasty.send(encode(AskPause()))
    eventually(lambda: ear.wishes)
    with Peer(ear.path) as flood:
        flood.send(encode(Tell(SessionReading("x11", 1.0))) * 2000)
    eventually(lambda: ear.told and ear.told[-1][1] is None)
    assert len(ear.told) < 500


FLOOD = """
import socket, sys, threading
def connects():
    while True:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(sys.argv[1])
        except OSError:
            pass
        link.close()
for _ in range(int(sys.argv[2])):
    threading.Thread(target=connects, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def flood_of(ear: Ear, uid: int, program: str, *words: str) -> Iterator[None]:
    """Another account runs a program against the socket, which says a line when it has begun."""
    if os.geteuid() != 0:
        pytest.skip("only root can speak as somebody else")
    open_ways(ear)
    argv = [*become(msgspec.structs.replace(service_account(), uid=uid)), sys.executable, "-I", "-c", program]
    pipe = subprocess.PIPE
    flood = subprocess.Popen([*argv, str(ear.path), *words], stdin=pipe, stdout=pipe, cwd="/")
    try:
        assert flood.stdout is not None and flood.stdout.readline()
        yield
    finally:
        flood.kill()
        flood.communicate()


def test_another_account_that_connects_without_end_keeps_nobody_out(ear: Ear) -> None:
    with flood_of(ear, 61001, FLOOD, "300"):
        time.sleep(1.0)
        for question, kind in ((AskStatus(), Now), (AskPause(), Granted), (AskResume(), Granted)):
            assert isinstance(ask((ear.path,), question), kind)


CHATTER = """
import socket, sys, time
links = []
for _ in range(8):
    link = socket.socket(socket.AF_UNIX)
    link.connect(sys.argv[1])
    link.setblocking(False)
    links.append(link)
print("ready", flush=True)
while True:
    for link in links:
        try:
            link.send(b'{"type":"status"}\\n' * 50)
            link.recv(1 << 20)
        except OSError:
            pass
    time.sleep(0.001)
"""


def test_another_account_that_asks_without_end_is_paced_alone(ears: Callable[..., Ear]) -> None:
    ear = ears(limits=SocketLimits(lines=10**6, burst=5.0, pace_seconds=3.0))
    with flood_of(ear, 61001, CHATTER):
        time.sleep(0.5)  # it owes minutes of patience by now; in one queue for all, so would everybody
        assert isinstance(ask((ear.path,), AskStatus()), Now)


def test_where_all_places_are_taken_an_account_that_has_none_gets_one(ears: Callable[..., Ear]) -> None:
    ear = ears(limits=SocketLimits(connections=4))
    with ExitStack() as open_ones:
        holding = [open_ones.enter_context(Peer(ear.path)) for _ in range(4)]
        assert all(isinstance(peer.ask(AskStatus()), Now) for peer in holding)
        assert isinstance(as_other(ear, 61001, AskStatus())[0], Now)
        assert isinstance(holding[-1].ask(AskStatus()), Now)
        assert holding[0].hear() is None


# -- the socket's file ------------------------------------------------------------------------------------------------


def test_a_file_that_a_dead_agent_left_is_replaced(ears: Callable[..., Ear], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "run/agent.sock"))
    assert isinstance(ears().ask(AskStatus()), Now)


def test_a_second_agent_at_one_place_is_refused_and_the_first_is_heard(ears: Callable[..., Ear]) -> None:
    first = ears()
    second = ears(start=False)
    with pytest.raises(LocalError, match="another agent listens there"):
        second.server.start()
    assert isinstance(first.ask(AskStatus()), Now)


def test_a_socket_that_somebody_took_away_is_made_again(ear: Ear) -> None:
    ear.server.mend()
    ear.path.unlink()
    ear.server.mend()
    eventually(ear.path.exists)
    eventually(lambda: isinstance(_answer(ear), Now))


def test_the_file_goes_with_the_agent_but_not_that_of_its_successor(ears: Callable[..., Ear]) -> None:
    first = ears()
    first.path.unlink()
    second = ears()
    first.server.close()
    assert isinstance(second.ask(AskStatus()), Now)
    second.server.close()
    assert not second.path.exists()


def test_a_place_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(LocalError, match=r"local socket .*agent\.sock: .*expected a folder"):
        Ear(tmp_path)
    with pytest.raises(LocalError, match="AF_UNIX path too long"):
        Ear(tmp_path / ("x" * 120))


def test_where_an_agent_listens() -> None:
    assert listening_place(Path("/a/b"), Path("/state")) == Path("/a/b")
    assert listening_place(None, Path("/state")).name == "agent.sock"


def test_an_agent_that_fails_to_answer_ends_that_connection_only(ear: Ear) -> None:
    good, ear.status = ear.status, object()  # type: ignore[assignment]
    with Peer(ear.path) as peer:
        peer.send(encode(AskStatus()))
        assert peer.hear() is None
    ear.status = good
    assert isinstance(ear.ask(AskStatus()), Now)


def test_nobody_talks_and_the_thread_sleeps(ear: Ear) -> None:
    ear.ask(AskStatus())
    (thread,) = (one for one in threading.enumerate() if one.name == "local")
    task = Path(f"/proc/self/task/{thread.native_id}")

    def switches() -> int:
        lines = (task / "status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    def sleeps() -> bool:
        before = switches()
        time.sleep(1.5)
        return switches() == before

    eventually(sleeps)
