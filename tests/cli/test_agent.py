"""What a desktop's agent refuses to do, as the process that it is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deskgrid.cli.output import Exit
from deskgrid.host.system.account import become, service_account
from deskgrid.host.system.files import own_folder
from deskgrid.model.wish import Ask
from deskgrid.session.client import NoAgent, ask, places
from deskgrid.wire.local import AskResume, AskStatus, Granted, Now
from tests.waiting import eventually

from .conftest import Command, Office, agent_toml

pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the unprivileged account's."""
    made = Path(tempfile.mkdtemp(prefix="dgcli-"))
    own_folder(made, service_account(), 0o755)
    yield made
    shutil.rmtree(made)


def as_account(*argv: object, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    words = [*become(service_account()), sys.executable, "-m", "deskgrid", *map(str, argv)]
    return subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=60, cwd="/", check=False)


def enrolled(folder: Path, office: Office) -> Path:
    """An agent's settings, and a desktop that is a member."""
    settings = agent_toml(folder, office.url, f"desk-{os.getpid()}-{time.monotonic_ns()}")
    made = office.operator.make_token(3600, 1)
    ended = as_account("agent", "enrol", "--settings", settings, stdin=f"{made.token}@{made.ca_fingerprint}\n")
    assert ended.returncode == 0, ended.stderr
    return settings


def test_root_is_refused(deskgrid: Command, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can try")
    said = deskgrid("agent", "run", "--settings", agent_toml(tmp_path))
    assert said.code == Exit.REFUSED
    assert said.sentence == "user: got root, expected an account without privileges; the agent never runs as root"
    assert not (tmp_path / "state").exists()


def test_a_desktop_that_is_not_enrolled_is_told_what_to_do(folder: Path) -> None:
    ended = as_account("agent", "run", "--settings", agent_toml(folder))
    assert ended.returncode == Exit.REFUSED
    assert ended.stderr == (
        f"deskgrid: {folder}/state/credential: missing, so this desktop is not enrolled; run `deskgrid agent enrol`\n"
    )


def test_a_state_folder_that_cannot_be_made_is_one_sentence(folder: Path) -> None:
    settings = agent_toml(folder)
    settings.write_text(settings.read_text().replace(f"{folder}/state", "/proc/deskgrid"))
    ended = as_account("agent", "run", "--settings", settings)
    assert ended.returncode == Exit.REFUSED
    assert ended.stderr.startswith("deskgrid: state folder /proc/deskgrid: ")
    assert ended.stderr.count("\n") == 1


def test_a_desktop_without_the_coordinators_certificate_is_told_to_enrol_again(folder: Path, office: Office) -> None:
    settings = enrolled(folder, office)
    (folder / "state/coordinator-ca.pem").unlink()
    ended = as_account("agent", "run", "--settings", settings)
    assert ended.returncode == Exit.REFUSED
    assert "coordinator-ca.pem: missing" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_second_agent_on_one_state_folder_is_refused_and_the_first_goes_on(folder: Path, office: Office) -> None:
    settings = enrolled(folder, office)
    words = [*become(service_account()), sys.executable, "-m", "deskgrid", "agent", "run", "--settings", str(settings)]
    first = subprocess.Popen(words, cwd="/")
    try:
        eventually((folder / "state/status.json").exists)
        second = as_account("agent", "run", "--settings", settings)
        assert second.returncode == Exit.REFUSED
        assert second.stderr == (
            f"deskgrid: {folder}/state: another agent runs with this state folder; there can be only one\n"
        )
        assert first.poll() is None
        told = json.loads(as_account("status", "--settings", settings, "--json").stdout)
        assert told["running"] and told["status"]["pid"] == first.pid
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 0


@pytest.mark.parametrize("text", ["", "no at sign", "tok@short", f"{'x' * 20}@{'0' * 64}extra"])
def test_what_is_no_enrolment_text_is_refused_without_asking_anybody(
    deskgrid: Command, tmp_path: Path, text: str
) -> None:
    (tmp_path / "text").write_text(text)
    said = deskgrid("agent", "enrol", "--settings", agent_toml(tmp_path), "--text-file", tmp_path / "text")
    assert said.code == Exit.REFUSED
    assert said.sentence.endswith("expected <token>@<fingerprint>; ask the operator for one")


def test_a_missing_enrolment_file_is_one_sentence(deskgrid: Command, tmp_path: Path) -> None:
    said = deskgrid("agent", "enrol", "--settings", agent_toml(tmp_path), "--text-file", tmp_path / "none")
    assert said.code == Exit.WRONG
    assert "No such file or directory" in said.sentence


def test_a_coordinator_with_another_fingerprint_is_not_trusted(
    deskgrid: Command, office: Office, tmp_path: Path
) -> None:
    made = office.operator.make_token(3600, 1)
    (tmp_path / "text").write_text(f"{made.token}@{'0' * 64}")
    said = deskgrid("agent", "enrol", "--settings", agent_toml(tmp_path, office.url), "--text-file", tmp_path / "text")
    assert said.code == Exit.REFUSED
    assert "somebody may be in between" in said.sentence
    assert made.token not in said.err
    assert not (tmp_path / "state").exists()


def test_a_token_that_is_used_up_or_made_up_enrols_nobody(deskgrid: Command, office: Office, tmp_path: Path) -> None:
    made = office.operator.make_token(3600, 1)
    text = f"{made.token}@{made.ca_fingerprint}"
    name = f"desk-{time.monotonic_ns()}"
    settings = agent_toml(tmp_path, office.url, name)
    (tmp_path / "text").write_text(text)
    assert deskgrid("agent", "enrol", "--settings", settings, "--text-file", tmp_path / "text").code == 0
    (tmp_path / "other").mkdir()
    other = agent_toml(tmp_path / "other", office.url, f"{name}-b")
    for token in (text, f"made.up-token@{made.ca_fingerprint}"):
        (tmp_path / "text").write_text(token)
        said = deskgrid("agent", "enrol", "--settings", other, "--text-file", tmp_path / "text")
        assert said.code == Exit.REFUSED
        assert "refused: " in said.sentence
        assert not (tmp_path / "other/state/credential").exists()


DAMAGE = (
    b"",
    b"null",
    b"\xff\xfe\0\x1b[2J" * 100,
    b"[" * 200_000,
    b'{"months":{"2026-12":{"x":{"vm_seconds":1e308,"vms":' + b"9" * 400 + b'}}},"days":{"2026-12-01":1e308},'
    b'"layers":{"grid":{"idle_seconds":1e999,"days_closed":["9999-12-31"]}}}',
    b'[{"uid":1,"wish":{"ask":"pause","by":"\\u001b[2J","at":"0001-01-01T00:00:00+14:00",'
    b'"until":"9999-12-31T23:59:59-23:59"}}]',
)
FILES = ("wish.json", "usage.json", "leases.json", "policy-last-good.json", "status.json", "owner.toml")


def test_whatever_its_files_hold_the_agent_lives_and_answers(folder: Path, office: Office) -> None:
    """Each file with each damage, in as many lives of one agent."""
    settings = enrolled(folder, office)
    state = folder / "state"
    words = [*become(service_account()), sys.executable, "-P", "-m", "deskgrid.agent", str(settings)]
    for turn in range(len(DAMAGE)):
        for place, name in enumerate(FILES):
            (state / name).write_bytes(DAMAGE[(turn + place) % len(DAMAGE)])
            give(state / name)
        agent = subprocess.Popen(words, cwd="/", stderr=subprocess.PIPE, text=True)
        try:
            eventually(partial(answers, state, agent))
            told = ask(places(None, state), AskStatus())
            assert isinstance(told, Now) and told.status.pid == agent.pid
            paused = told.status.wish is not None and told.status.wish.ask is Ask.PAUSE
            assert paused, "what a file of wishes cannot say counts as a pause"
            assert isinstance(ask(places(None, state), AskResume()), Granted)
        finally:
            agent.send_signal(signal.SIGTERM)
            _, said = agent.communicate(timeout=60)
        assert agent.returncode == 0, said
        assert "Traceback" not in said and "\x1b" not in said


def give(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, service_account().uid, service_account().gid)


def answers(state: Path, agent: "subprocess.Popen[str]") -> bool:
    """Whether it answers, or has ended."""
    if agent.poll() is not None:
        return True
    try:
        told = ask(places(None, state), AskStatus())
    except NoAgent:
        return False
    return isinstance(told, Now) and told.status.pid == agent.pid
