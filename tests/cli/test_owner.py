"""What an owner asks on a terminal: answered in sentences, without administrator rights, with or without an agent."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deskgrid.agent.owner.status import write_status
from deskgrid.cli.output import Exit
from deskgrid.model.desktop import VmState
from deskgrid.model.wish import Ask, Wish
from tests.session.desktop import NOW, Ear, ear, status, vm

from .conftest import Command, agent_toml


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return agent_toml(tmp_path)


@pytest.fixture
def agent(settings: Path) -> Iterator[Ear]:
    """An agent's ear where the settings say that it is."""
    with ear(settings.parent / "state") as made:
        yield made


def test_status_says_what_runs_why_not_and_what_was_given(deskgrid: Command, settings: Path, agent: Ear) -> None:
    said = deskgrid("status", "--settings", settings)
    assert said.code == 0
    assert said.out.startswith("lab-217-04: Nothing runs here now. Somebody used this computer 4 s ago;")
    assert "That should end at " in said.out
    assert "1 more reason: `deskgrid status --why`" in said.out
    assert "This month it gave 160 hours to 47 virtual machines" in said.out
    assert "working-hours" not in said.out


def test_status_shows_each_machine_for_whom_and_since_when(deskgrid: Command, settings: Path, agent: Ear) -> None:
    agent.status = status(vm(), vm(VmState.PAUSED, "vm-2"), cpu={"vm-1": 1.93})
    out = deskgrid("status", "--settings", settings).out
    assert re.search(
        r"its-sl6-lscsoft-20120415 +running +.+ 2 +1\.9 +4\.0 GiB +HTCondor jobs that asked for its-sl6", out
    )
    assert re.search(r"its-sl6-lscsoft-20120415 +standing still", out)


def test_status_why_shows_all_reasons_readings_and_ends(deskgrid: Command, settings: Path, agent: Ear) -> None:
    for option in ("--why", "--all"):
        out = deskgrid("status", option, "--settings", settings).out
        assert "owner-active" in out and "working-hours" in out
        assert "idle 4.2 s of 600 s (tty1 4 s)" in out
        assert "you, as seen by: seat 4 s, utmp: 1 session" in out


def test_a_dump_is_printed_or_kept_where_it_is_wanted(
    deskgrid: Command, settings: Path, agent: Ear, tmp_path: Path
) -> None:
    absent = deskgrid("agent", "dump", "--settings", settings)
    assert absent.code == Exit.REFUSED and "dump.json" in absent.err
    (settings.parent / "state" / "dump.json").write_text('{"before":{},"turns":[]}')
    assert json.loads(deskgrid("agent", "dump", "--settings", settings).out) == {"before": {}, "turns": []}
    kept = tmp_path / "kept.json"
    assert deskgrid("agent", "dump", "--settings", settings, "--output", kept).code == 0
    assert json.loads(kept.read_text()) == {"before": {}, "turns": []} and kept.stat().st_mode & 0o777 == 0o600


def test_without_an_agent_there_is_nothing_to_dump(deskgrid: Command, settings: Path) -> None:
    said = deskgrid("agent", "dump", "--settings", settings)
    assert said.code == Exit.ABSENT and "no agent runs" in said.err


def test_status_tells_what_is_wrong_here(deskgrid: Command, settings: Path, agent: Ear) -> None:
    agent.status = status(faults=("policy.toml: max_vms: got 'x'",), link_fault="connection refused")
    out = deskgrid("status", "--settings", settings).out
    assert "wrong: policy.toml: max_vms: got 'x'" in out
    assert "the grid cannot be reached: connection refused" in out


def test_status_for_programs(deskgrid: Command, settings: Path, agent: Ear) -> None:
    told = deskgrid("status", "--json", "--settings", settings).json()
    assert isinstance(told, dict)
    assert told["running"] is True
    assert told["status"]["desktop"] == "lab-217-04"
    assert told["status"]["availability"]["refusals"][0]["name"] == "owner-active"
    assert told["rights"]["may_resume"] is True


def test_pause_finish_and_resume_say_what_will_happen(deskgrid: Command, settings: Path, agent: Ear) -> None:
    agent.status = status(vm())
    said = deskgrid("pause", "2h30m", "--settings", settings)
    assert (said.code, said.err) == (0, "")
    assert re.match(r"Paused until .*\d\d:\d\d; 1 virtual machine leaves now\.\n\Z", said.out)
    wish = agent.wishes[-1]
    assert wish.ask is Ask.PAUSE and wish.until is not None
    assert abs(wish.until - datetime.now(UTC) - timedelta(hours=2.5)) < timedelta(minutes=2)
    assert "Paused until" in deskgrid("status", "--settings", settings).out
    said = deskgrid("finish", "--settings", settings)
    assert said.out == "Nothing new starts until you say `deskgrid resume`; 1 virtual machine may end its work.\n"
    said = deskgrid("resume", "--settings", settings)
    assert said.out == "Resumed: virtual machines may run here again when the computer is not in use.\n"
    assert [wish.ask for wish in agent.wishes] == [Ask.PAUSE, Ask.FINISH, Ask.RESUME]


def test_pause_alone_holds_until_resume(deskgrid: Command, settings: Path, agent: Ear) -> None:
    said = deskgrid("pause", "--settings", settings)
    assert said.out == "Paused until you say `deskgrid resume`; no virtual machine is here.\n"


@pytest.mark.parametrize("command", ["pause", "finish"])
def test_a_bad_duration_is_told_with_examples(deskgrid: Command, settings: Path, agent: Ear, command: str) -> None:
    said = deskgrid(command, "soon", "--settings", settings)
    assert said.code == Exit.WRONG
    assert said.sentence == "how long: got 'soon', expected 30m, 1h, 2h30m, 1d, 18:00, today, or forever"
    assert agent.wishes == []


@pytest.mark.parametrize("command", ["status", "pause", "resume", "finish"])
def test_without_an_agent_the_sentence_says_so(deskgrid: Command, settings: Path, command: str) -> None:
    said = deskgrid(command, "--settings", settings)
    assert said.code == Exit.UNREACHABLE
    state = settings.parent / "state"
    assert said.sentence.startswith(f"no agent runs on this computer (nobody listens at {state}/agent.sock, /run/")
    assert "systemctl start" in said.sentence


def test_a_socket_whose_agent_is_dead_is_no_agent(deskgrid: Command, settings: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(settings.parent / "state/agent.sock"))
    assert deskgrid("pause", "--settings", settings).code == Exit.UNREACHABLE


def test_what_the_last_agent_left_is_shown_with_its_age(deskgrid: Command, settings: Path) -> None:
    write_status(settings.parent / "state/status.json", status(vm(), at=datetime.now(UTC) - timedelta(hours=3)))
    said = deskgrid("status", "--settings", settings)
    assert said.code == Exit.UNREACHABLE
    assert said.out.startswith("lab-217-04, as it was 3 h ago:\n")
    assert "its-sl6-lscsoft-20120415" in said.out
    assert said.sentence.startswith("no agent runs on this computer")
    told = deskgrid("status", "--json", "--settings", settings)
    assert told.code == Exit.UNREACHABLE
    assert isinstance(told.json(), dict)
    assert told.json()["running"] is False  # type: ignore[index]


def test_a_wish_of_somebody_else_is_refused_with_a_sentence(deskgrid: Command, settings: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may take everything back; tests/agent/test_local.py speaks as others")
    (settings.parent / "state/wish.json").write_text("damaged")
    with ear(settings.parent / "state"):
        assert deskgrid("resume", "--settings", settings).code == Exit.REFUSED


def test_missing_settings_are_told_when_they_were_named(deskgrid: Command, tmp_path: Path) -> None:
    said = deskgrid("status", "--settings", tmp_path / "none.toml")
    assert said.code == Exit.WRONG
    assert "none.toml" in said.sentence


def test_the_page_is_served_until_it_is_interrupted(settings: Path, agent: Ear) -> None:
    words = [sys.executable, "-m", "deskgrid", "page", "--settings", str(settings)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/\?key=\S+", line)
        assert url is not None, line
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert browser.open(url[0], timeout=30).status == 200
        text = browser.open(url[0].split("?")[0], timeout=30).read().decode()
        assert "Nothing runs here now." in text
        assert url[0].split("=")[1] not in Path(f"/proc/{server.pid}/cmdline").read_text()
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == Exit.INTERRUPTED


def test_a_port_that_is_taken_is_one_sentence(deskgrid: Command, settings: Path, agent: Ear) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = deskgrid("page", "--port", taken.getsockname()[1], "--settings", settings)
    assert said.code == Exit.NO
    assert "choose another with --port" in said.sentence


def test_times_of_old_statuses_are_told_as_dates(deskgrid: Command, settings: Path) -> None:
    write_status(settings.parent / "state/status.json", status(vm(), at=NOW - timedelta(days=400)))
    assert "d ago:" in deskgrid("status", "--settings", settings).out


def test_a_wish_that_stands_is_in_the_status(deskgrid: Command, settings: Path) -> None:
    left = status(wish=Wish(Ask.PAUSE, "bob", NOW, None), at=datetime.now(UTC))
    write_status(settings.parent / "state/status.json", left)
    out = deskgrid("status", "--settings", settings).out
    assert "Paused until it is taken back with `deskgrid resume`, as bob asked." in out
