"""What a guest and its keeper say to each other over the guest's second serial port (ttyS1).

JSON lines, ASCII, at most 64 KiB each. Rules:
- guest: says `hello` every second until it has got `join`; then starts HTCondor's daemons and says `joined`; says
  `left` when its jobs have been vacated, asked or by itself. In a trial (images/publish/trial_boot.py) it says
  `machine` before that.
- keeper: answers each `hello` with `join`; says `leave` when the owner wants the desktop back, perhaps more than once;
  says `renew` when the token has been renewed.
- Each side ignores messages of unknown type and lines that it does not understand; unknown fields are ignored.

A guest is not trusted: `decode_from_guest` never raises, and of each text that it gives stays what can be printed,
cut to a bounded length.
"""

import json

import msgspec

from deskgrid.core.commands import Renew
from deskgrid.core.events import GuestLeft, Joined
from deskgrid.model.instance import InstanceData
from deskgrid.model.values.numbers import AnyFloat, AnyInt
from deskgrid.model.values.outside import JsonReader
from deskgrid.model.values.text import printable

LINE_BYTES = 64 * 1024
SENTENCE_CHARS = 300
TEXT_CHARS = 1000


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The guest's user space is up and waits for its instance data."""


class TrialAd(msgspec.Struct, frozen=True, tag="machine"):
    """In a trial, before `left`: the plain values in its slot's ad, as HTCondor's tool printed them."""

    ad: dict[str, str | AnyInt | AnyFloat | bool]


class Join(msgspec.Struct, frozen=True, tag="join"):
    """The guest's instance data. Holds a SECRET."""

    instance: InstanceData


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """Vacate your jobs fast, then say `left`."""


FromGuest = Hello | Joined | GuestLeft | TrialAd
ToGuest = Join | Leave | Renew

_FROM_GUEST = JsonReader(FromGuest)
_TO_GUEST = JsonReader(ToGuest)


def encode(message: FromGuest | ToGuest) -> bytes:
    """One line of ASCII, with its newline."""
    return json.dumps(msgspec.to_builtins(message), ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def decode_from_guest(line: bytes) -> FromGuest | None:
    """What a guest said; None for anything that is not a known message, whatever it holds."""
    try:
        message: FromGuest = _FROM_GUEST.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if isinstance(message, GuestLeft):
        return GuestLeft(message.cause, printable(message.sentence, SENTENCE_CHARS) or "it gave no reason")
    if isinstance(message, TrialAd):
        said = {printable(name, 128): value for name, value in message.ad.items()}
        return TrialAd({k: printable(v, TEXT_CHARS) if isinstance(v, str) else v for k, v in said.items()})
    return message


def decode_to_guest(line: bytes) -> ToGuest | None:
    """What the keeper said; None for anything that is not a known message."""
    try:
        message: ToGuest = _TO_GUEST.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return message
