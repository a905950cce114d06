"""What the accounts of this computer and its agent say to each other over the local socket.

JSON lines, at most 4 KiB from an account to the agent. The rules:
- Each question gets one answer, in order; `Tell` gets none.
- Who asks is known from the kernel (SO_PEERCRED), never from the message.
- A line that is not understood gets `Denial`, and the connection ends.
"""

import msgspec

from deskgrid.agent.owner.status import Status
from deskgrid.model.presence import SessionReading
from deskgrid.model.values.moment import Moment, check_moments
from deskgrid.model.values.numbers import Count
from deskgrid.model.values.outside import JsonReader
from deskgrid.model.values.text import printable
from deskgrid.model.wish import Ask, Wish

LINE_BYTES = 4096
ANSWER_BYTES = 1 << 20
SOURCE_CHARS, WATCHING_CHARS, WATCHING_COUNT = 40, 80, 8
IDLE_SECONDS_MAX = 366 * 86400.0


class AskStatus(msgspec.Struct, frozen=True, tag="status"):
    """What runs here, why or why not, and what may I do?"""


class AskPause(msgspec.Struct, frozen=True, tag="pause"):
    """Nothing shall run, until a time or (None) until it is taken back."""

    until: Moment | None = None

    def __post_init__(self) -> None:
        check_moments(self.until)


class AskFinish(msgspec.Struct, frozen=True, tag="finish"):
    """Nothing new shall start, until a time or (None) until it is taken back."""

    until: Moment | None = None

    def __post_init__(self) -> None:
        check_moments(self.until)


class AskResume(msgspec.Struct, frozen=True, tag="resume"):
    """Take back what I have asked."""


class Tell(msgspec.Struct, frozen=True, tag="tell"):
    """What a helper sees of its session."""

    reading: SessionReading


class Rights(msgspec.Struct, frozen=True):
    """What the account that asks may do, beside making the grid stop.

    account: its name. may_resume: it can take back what stands; why_not: the sentence if it can't.
    """

    account: str
    may_resume: bool
    why_not: str = ""


class Now(msgspec.Struct, frozen=True, tag="status"):
    """The answer to AskStatus."""

    status: Status
    rights: Rights


class Granted(msgspec.Struct, frozen=True, tag="done"):
    """It is done. ask: what was asked. wish: what the grid obeys now; None: nothing. vms: virtual machines here."""

    ask: Ask
    wish: Wish | None
    vms: Count


class Denial(msgspec.Struct, frozen=True, tag="refused"):
    """It is not done. sentence: why, and what to do."""

    sentence: str


Question = AskStatus | AskPause | AskFinish | AskResume | Tell
Answer = Now | Granted | Denial

_QUESTION = JsonReader(Question)
_ANSWER = JsonReader(Answer)


def encode(message: Question | Answer) -> bytes:
    """One line, with its newline."""
    return msgspec.json.encode(message) + b"\n"


def decode_question(line: bytes) -> Question | None:
    """What an account said, made harmless; None for anything that is no question."""
    try:
        question: Question = _QUESTION.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return Tell(sane(question.reading)) if isinstance(question, Tell) else question


def decode_answer(line: bytes) -> Answer:
    """What the agent said. Raises: ValueError: it is no answer."""
    answer: Answer = _ANSWER.decode(line)
    return answer


def sane(reading: SessionReading) -> SessionReading:
    """A reading whose values lie where they can: a helper may say anything. Less than no time ago is now."""
    idle = reading.idle_seconds
    return SessionReading(
        printable(reading.source, SOURCE_CHARS),
        None if idle is None else min(max(idle, 0.0), IDLE_SECONDS_MAX),
        reading.locked,
        reading.full_screen,
        tuple(printable(one, WATCHING_CHARS) for one in reading.watching[:WATCHING_COUNT]),
    )
