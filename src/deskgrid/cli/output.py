"""How commands answer: a table for people, `--json` for programs, one sentence for an error.

Nothing reaches the terminal, or what it is redirected to, but text: whatever is printed goes through `PlainConsole`
(`model/values/text.py` says what becomes of the rest). No text is read as Rich's markup.

Exit codes: 0 done; 1 the answer is no (a check found something, a demo did not finish); 2 wrong use or wrong input;
3 something that is needed cannot be reached; 4 refused; 5 no such thing; 130 interrupted.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from deskgrid.model.reason import Reason
from deskgrid.model.values.text import plain, plain_json


class PlainConsole(Console):
    """A console that writes Rich's own styles and movements, and of all else only what is text."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """Rich calls it for all that it writes (rich/console.py)."""
        fit = (one if one.control else Segment(plain(one.text, lines=True), one.style) for one in buffer)
        return super()._render_buffer(fit)


console = PlainConsole(highlight=False)
if not console.is_terminal:
    console = PlainConsole(highlight=False, width=200)  # into a pipe or file: nothing is cut short
errors = PlainConsole(stderr=True, highlight=False)


class Exit(IntEnum):
    """What a command's exit code says."""

    DONE = 0
    NO = 1
    WRONG = 2
    UNREACHABLE = 3
    REFUSED = 4
    ABSENT = 5
    INTERRUPTED = 130


class CommandFailed(Exception):
    """A command ends with this code and this sentence."""

    def __init__(self, code: Exit, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


def show(value: object, as_json: bool, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print `value` as JSON, or `rows` as a table."""
    if as_json:
        show_json(value)
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(plain(_text(cell))) for cell in row))
    console.print(table)


def show_json(value: object) -> None:
    """Print a value as indented JSON, unwrapped and unstyled."""
    show_text(plain_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def show_text(text: str) -> None:
    """Print a text as it is, unwrapped and unstyled."""
    console.out(text, highlight=False)


def tell(text: str, **style: Any) -> None:
    """Print a line for people; markup in `text` is printed as it is."""
    console.print(Text(plain(text, lines=True)), **{"soft_wrap": True, **style})


def complain(text: str) -> None:
    """Print an error's sentence."""
    errors.print(Text(plain(f"deskgrid: {text}", lines=True)), soft_wrap=True)


def sentence(reason: Reason) -> str:
    """A reason for people: the sentence, with its reading and its name."""
    reading = f" ({reason.reading})" if reason.reading else ""
    return f"{reason.sentence}{reading} [{reason.name}]"


def progress() -> Progress:
    """A progress bar for long work; plain lines where the output is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        transient=False,
    )


def ago(when: datetime | None) -> str:
    """How long ago, for people."""
    if when is None:
        return "never"
    seconds = max(0, int((datetime.now(UTC) - when).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def _text(cell: object) -> str:
    if isinstance(cell, datetime):
        return cell.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return "" if cell is None else str(cell)
