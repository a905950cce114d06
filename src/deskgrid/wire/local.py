"""What the accounts of this computer and its agent say to each other over the local socket.

JSON lines, at most 4 KiB from an account to the agent. Rules:
- Each question gets one answer, in order; `Tell` gets none.
- Who asks is known from the kernel (SO_PEERCRED), never from the message.
- A line that is not understood gets `Denial`, and the connection ends.
"""

from functools import reduce

import msgspec

from deskgrid.model.desktop import Availability, Room, VmReport
from deskgrid.model.policy import Policy
from deskgrid.model.presence import SessionReading
from deskgrid.model.reason import Reason
from deskgrid.model.values.moment import Moment, check_moments
from deskgrid.model.values.numbers import Bytes, Count, Cpus, Pid, Total
from deskgrid.model.values.outside import JsonReader
from deskgrid.model.values.text import printable
from deskgrid.model.wish import Ask, Wish

LINE_BYTES = 4096
ANSWER_BYTES = 1 << 20
SOURCE_CHARS, WATCHING_CHARS, WATCHING_COUNT = 40, 80, 8
IDLE_SECONDS_MAX = 366 * 86400.0


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was given. vm_seconds: of running machines. core_seconds: the same times their processors.

    cpu_seconds: what they really used of them, as far as it could be measured. vms: machines that came to run.
    """

    vm_seconds: Total = 0.0
    core_seconds: Total = 0.0
    cpu_seconds: Total = 0.0
    vms: Count = 0
    pauses: Count = 0
    evictions: Count = 0

    def plus(self, more: "Usage") -> "Usage":
        """Both together."""
        names = self.__struct_fields__
        return Usage(*(getattr(self, name) + getattr(more, name) for name in names))


class Gift(msgspec.Struct, frozen=True):
    """What the owner is shown. month: of this month by image. days: (day, vm_seconds) of the last 31, oldest first.

    months: (month, its total), oldest first.
    """

    month: dict[str, Usage]
    days: tuple[tuple[str, Total], ...]
    months: tuple[tuple[str, Usage], ...]

    def total(self) -> Usage:
        """This month, all images."""
        return reduce(Usage.plus, self.month.values(), Usage())


class Status(msgspec.Struct, frozen=True):
    """What runs here and why, or why nothing does.

    at: when this was so. go_on: why running VMs must stop, or None. sources: how the owner is seen; presence_faults:
    what could not be read of them. reached_at: when the coordinator last answered; link_fault: why it does not.
    wish: what accounts of this computer ask of the grid. faults: what is wrong with policy, wish or other files here.
    gift: what this desktop gave. cpus, memory_bytes: the computer's.
    cpu: by VM id, how many processors it uses now, where that is known. policy: what holds here. wall: what holds a
    guest that breaks out of its machine. zone: IANA name of the zone whose wall clock it goes by; empty: the computer's
    own.
    """

    desktop: str
    pid: Pid
    at: Moment
    availability: Availability
    room: Room
    vms: tuple[VmReport, ...]
    sources: tuple[str, ...]
    go_on: Reason | None = None
    reached_at: Moment | None = None
    link_fault: str = ""
    presence_faults: tuple[str, ...] = ()
    wish: Wish | None = None
    faults: tuple[str, ...] = ()
    gift: Gift | None = None
    cpus: Cpus = 0
    memory_bytes: Bytes = 0
    cpu: dict[str, Total] = {}
    policy: Policy | None = None
    wall: Reason | None = None
    zone: str = ""


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


class AskDump(msgspec.Struct, frozen=True, tag="dump"):
    """Write what the agent knows and what came in of late to a file. Not for every account."""


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


class Dumped(msgspec.Struct, frozen=True, tag="dumped"):
    """It is written. path: where; only the agent's account may read it."""

    path: str


class Denial(msgspec.Struct, frozen=True, tag="refused"):
    """It is not done. sentence: why, and what to do."""

    sentence: str


Question = AskStatus | AskPause | AskFinish | AskResume | AskDump | Tell
Answer = Now | Granted | Dumped | Denial

_QUESTION = JsonReader(Question)
_ANSWER = JsonReader(Answer)


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
