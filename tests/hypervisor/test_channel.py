"""Whatever a guest writes is harmless: by values and by Hypothesis."""

from hypothesis import given
from hypothesis import strategies as st

from deskgrid.core.events import GuestLeft, Joined
from deskgrid.hypervisor.keeper.channel import TAIL_BYTES, WORDS_CHARS, Console
from deskgrid.model.instance import InstanceData
from deskgrid.wire import guest
from deskgrid.wire.lines import Lines

INSTANCE = InstanceData("vm-1", "img", "desk", "host:9618", "tökén", "td", 1, 512)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_do_not_depend_on_how_the_bytes_come(pieces: list[bytes]) -> None:
    lines = Lines(limit=1000)
    came = [line for piece in pieces for line in lines.feed(piece)]
    assert came == b"".join(pieces).split(b"\n")[:-1]


def test_a_line_that_is_too_long_comes_empty_and_the_next_one_counts() -> None:
    lines = Lines(limit=10)
    assert lines.feed(b"x" * 11) == [b""]
    assert lines.feed(b"x" * 1000) == []
    assert lines.feed(b"tail\nnext\n") == [b"next"]
    assert lines.feed(b"12345678901\nok\n") == [b"", b"ok"]


@given(st.binary())
def test_no_bytes_from_a_guest_raise(line: bytes) -> None:
    message = guest.decode_from_guest(line)
    assert message is None or isinstance(message, guest.FromGuest)


def test_hostile_lines_are_no_messages() -> None:
    for line in (
        b"[" * 60000,
        b'{"type":"hello","x":' + b"[" * 60000,
        b'{"type":"dance"}',
        b'{"type":"left","cause":"because"}',
        b'{"type":"left"}',
        b"\xff\xfe",
        b"",
        b"null",
    ):
        assert guest.decode_from_guest(line) is None


def test_a_guest_s_sentence_is_cut_to_what_can_be_printed() -> None:
    line = b'{"type":"left","cause":"failed","sentence":"\\u001b[31mred\\r\\n\\u0000 caf\\u00e9 ' + b"x" * 5000 + b'"}'
    message = guest.decode_from_guest(line)
    assert isinstance(message, GuestLeft)
    assert message.sentence.startswith("[31mred café xxx")
    assert len(message.sentence) <= guest.SENTENCE_CHARS


def test_messages_survive_the_way_and_are_ascii() -> None:
    for message in (guest.Join(INSTANCE), guest.Leave()):
        line = guest.encode(message)
        assert line.isascii()
        assert line.count(b"\n") == 1
        assert guest.decode_to_guest(line) == message
    for said in (guest.Hello(), Joined(), GuestLeft("unused", "no job came")):
        assert guest.decode_from_guest(guest.encode(said)) == said


def test_unknown_fields_are_ignored() -> None:
    assert guest.decode_from_guest(b'{"type":"hello","version":7}') == guest.Hello()


@given(st.lists(st.binary(max_size=50000), max_size=6))
def test_a_console_s_last_words_are_bounded_and_printable(pieces: list[bytes]) -> None:
    console = Console()
    for piece in pieces:
        console.feed(piece)
    words = console.last_words()
    assert len(words) <= WORDS_CHARS
    assert words.isprintable()
    assert len(console._tail) <= TAIL_BYTES


def test_a_panic_is_seen_even_if_it_comes_in_pieces() -> None:
    console = Console()
    console.feed(b"[ 1.0] booting\n[ 2.0] Kernel panic - not syn")
    assert not console.panicked
    console.feed(b"cing: no init found\n[ 2.1] ---[ end Kernel panic - not syncing ]---\n")
    assert console.panicked
    assert console.last_words().startswith("Kernel panic - not syncing: no init found")


def test_last_words_are_the_last_lines() -> None:
    console = Console()
    console.feed(b"first\r\n\r\n\x1b[0msecond\r\n")
    assert console.last_words() == "first / [0msecond"


def test_a_secret_that_the_guest_prints_is_not_repeated() -> None:
    console = Console()
    console.feed(b"my token is abc123\n")
    assert console.last_words("abc123") == "my token is <secret>"
