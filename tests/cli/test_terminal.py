"""Nothing but text reaches a terminal or a log, whoever has written what is told."""

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deskgrid.cli import output
from deskgrid.cli.main import run
from deskgrid.cli.output import PlainConsole, complain, progress, show, show_json, show_text, tell
from deskgrid.host.system.logs import FORMAT, PlainFormatter

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b1m\u202eevil\u2066\x7f\r[red]x[/red] :skull: [link=https://x]y[/link]"
SOURCE = Path(output.__file__).parents[1]
OWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
"""What Rich itself says to a terminal: styles and movements."""


class Screen(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen()
    for name in ("console", "errors"):
        monkeypatch.setattr(output, name, PlainConsole(file=made, force_terminal=True, highlight=False, width=300))
    return made


def odd(text: str) -> set[str]:
    return {char for char in text if not char.isprintable() and char != "\n"}


def test_whatever_is_told_is_text_and_no_markup(screen: Screen) -> None:
    tell(EVIL)
    complain(EVIL)
    show(None, False, ["a", "b"], [[EVIL, 1], [EVIL + "\n", None]])
    show_text(EVIL)
    said = screen.getvalue()
    assert not odd(OWN.sub("", said))
    assert "\x1b]" not in said and "\x1b[2J" not in said
    assert said.count("\\x1b]0;owned") == 5
    assert said.count("[red]x[/red] :skull: [link=https://x]y[/link]") == 5


def test_what_goes_on_is_told_as_text(screen: Screen) -> None:
    with progress() as bar:
        bar.add_task(EVIL, total=1.0)
        bar.console.print(EVIL, markup=False)
    said = screen.getvalue()
    assert "\x1b]" not in said and "\u202e" not in said and "owned" in said


def test_json_keeps_its_meaning_and_has_nothing_odd(screen: Screen) -> None:
    show_json({EVIL: [EVIL]})
    said = screen.getvalue()
    assert not odd(said)
    assert json.loads(said) == {EVIL: [EVIL]}


def test_what_was_typed_wrongly_is_told_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["desktop", EVIL]) == 2
    assert not odd(capsys.readouterr().err)


def test_a_log_line_is_one_line_of_text() -> None:
    kept = io.StringIO()
    handler = logging.StreamHandler(kept)
    handler.setFormatter(PlainFormatter(FORMAT))
    log = logging.Logger("deskgrid.test")
    log.addHandler(handler)
    log.warning("%s", EVIL + "\n2026-12-01 12:00:00,000 INFO deskgrid: all is well")
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.exception("it broke")
    first, *rest = kept.getvalue().splitlines()
    assert "all is well" in first and "\\n2026" in first
    assert rest[1].startswith("Traceback") and not odd(kept.getvalue())


def test_what_nobody_caught_is_told_as_text() -> None:
    program = f"""
import logging, threading
from deskgrid.host.system.logs import set_up
set_up(logging.INFO)
def fails():
    raise ValueError({EVIL!r})
thread = threading.Thread(target=fails)
thread.start()
thread.join()
fails()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert ended.stderr.count("\\x1b]0;owned") == 2 and not odd(ended.stderr)


def test_nothing_is_printed_or_logged_past_the_one_place() -> None:
    past = re.compile(
        r"\btyper\.echo\(|(?<![\w.])print\(|\bsys\.std(out|err)\.write\(|(?<!Plain)Console\(|basicConfig\("
    )
    allowed = {"cli/output.py", "host/system/logs.py"}
    found = [
        f"{file.relative_to(SOURCE)}: {line.strip()}"
        for room in (
            "cli",
            "coordinator",
            "agent/run.py",
            "agent/loop.py",
            "host/system/logs.py",
            "session",
            "demo/play.py",
        )
        for file in ([SOURCE / room] if room.endswith(".py") else sorted((SOURCE / room).rglob("*.py")))
        if str(file.relative_to(SOURCE)) not in allowed
        for line in file.read_text().splitlines()
        if past.search(line)
    ]
    assert found == []
