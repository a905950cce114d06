"""Wrong input and things that are not there: one sentence with what to do, and the documented exit code."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deskgrid.cli.output import Exit
from deskgrid.coordinator.settings import CoordinatorSettings, GuestSettings

from .conftest import Command, Office, agent_toml

pytestmark = pytest.mark.slow

HOSTILE = ["../../etc/passwd", "$(reboot)", "a b", "a;b", '"', "a\nb", "\x1b[31mred", "[red]x[/red]", "ü", "x" * 65]


def python_m_deskgrid(*argv: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deskgrid", *map(str, argv)], capture_output=True, text=True, timeout=60, check=False
    )


# -- settings -------------------------------------------------------------------------------------------------


def test_a_missing_settings_file_is_named_with_what_is_expected(deskgrid: Command, tmp_path: Path) -> None:
    for argv in (["coordinator", "status"], ["agent", "run"], ["status"], ["desktop", "list"]):
        said = deskgrid(*argv, "--settings", tmp_path / "none.toml")
        assert said.code == Exit.WRONG
        assert said.sentence == f"{tmp_path}/none.toml: cannot be read: No such file or directory; expected a TOML file"


def test_all_faults_of_the_coordinators_settings_are_named_at_once(deskgrid: Command, tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text('port = 99999\ncycle_secnds = 3\nhost = 7\n[guest]\ncollector = "nowhere"\n[plan]\nramp = "many"\n')
    said = deskgrid("coordinator", "run", "--settings", file)
    assert said.code == Exit.WRONG
    assert "Traceback" not in said.err
    for fault in ("port", "cycle_secnds: unknown, did you mean 'cycle_seconds'?", "host", "guest", "plan.ramp"):
        assert f"{file}: {fault}" in said.err
    assert len(said.err.strip().splitlines()) == 5


def test_all_faults_of_an_agents_settings_are_named_at_once(deskgrid: Command, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        'coordinator = "http://insecure"\ndesktop = "../desk"\nstate = "/x"\nimage = "/y"\npresence = "guess"\n'
        '[policy]\nidle_seconds = -1\nmemory_reserve_bytes = "2 parsecs"\nclosed = ["25:00-26:00"]\n'
    )
    said = deskgrid("agent", "run", "--settings", file)
    assert said.code == Exit.WRONG
    for key in ("coordinator", "desktop", "image", "presence", "policy.idle_seconds"):
        assert f"{file}: {key}: " in said.err
    assert f"{file}: policy.memory_reserve_bytes: got '2 parsecs'" in said.err
    assert f"{file}: policy.closed[0]: " in said.err


def test_all_faults_of_a_recipe_are_named_at_once_and_nothing_is_built(deskgrid: Command, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        'name = "a/b"\nsuite = "trixie"\npackages = ["gcc; reboot"]\nscripts = ["../x"]\ndisk_bytes = "1"\n'
    )
    said = deskgrid("image", "build", file)
    assert said.code == Exit.WRONG
    for key in ("name", "packages[0]", "scripts[0]", "disk_bytes"):
        assert f"{file}: {key}: " in said.err


@pytest.mark.parametrize("text", ["port = ", "\x00", '"' * 100])
def test_a_file_that_is_no_toml_is_one_sentence(deskgrid: Command, tmp_path: Path, text: str) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(text)
    said = deskgrid("coordinator", "status", "--settings", file)
    assert said.code == Exit.WRONG
    assert "not valid TOML" in said.sentence


# -- who is asked ---------------------------------------------------------------------------------------------


def test_without_a_coordinator_every_question_says_where_it_was_looked_for(deskgrid: Command, office: Office) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        file = office.state.parent / "nobody.toml"
        file.write_text(f'port = {taken.getsockname()[1]}\nstate_dir = "{office.state}"\n')
        for argv in (
            ["coordinator", "status"],
            ["coordinator", "token"],
            ["images"],
            ["desktop", "list"],
            ["vm", "list"],
            ["vm", "end", "vm-1"],
            ["why", "job", "1.0"],
            ["why", "desktop", "desk-1"],
            ["story", "vm-1"],
        ):
            said = deskgrid(*argv, "--settings", file)
            assert said.code == Exit.UNREACHABLE
            assert f"coordinator https://localhost:{taken.getsockname()[1]}: no answer" in said.sentence
            assert "is it running?" in said.sentence


def test_a_coordinator_that_was_never_started_here_is_one_sentence(deskgrid: Command, tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(f'state_dir = "{tmp_path}/state"\n')
    said = deskgrid("vm", "list", "--settings", file)
    assert said.code == Exit.UNREACHABLE
    assert "has the coordinator been started there" in said.sentence


def test_an_unknown_desktop_vm_job_or_image_is_exit_code_5(deskgrid: Command, office: Office) -> None:
    for argv, sentence in (
        (["desktop", "show", "desk-9"], "No desktop named desk-9 is enrolled."),
        (["desktop", "revoke", "desk-9"], "No desktop named desk-9 is enrolled."),
        (["vm", "show", "vm-9"], "No virtual machine vm-9 is known; see `deskgrid vm list`."),
        (["vm", "end", "vm-9"], "No virtual machine vm-9 is here now."),
        (["story", "vm-9"], "No virtual machine vm-9 was ever ordered here."),
        (["why", "job", "9.0"], "HTCondor knows no job 9.0; it may have left the queue."),
    ):
        said = deskgrid(*argv, "--settings", office.settings)
        assert (said.code, said.sentence) == (Exit.ABSENT, sentence)


def test_why_of_a_desktop_that_is_not_enrolled_is_an_answer(deskgrid: Command, office: Office) -> None:
    said = deskgrid("why", "desktop", "desk-9", "--settings", office.settings)
    assert said.code == 0
    assert "No desktop named desk-9 is enrolled; enrol it with a token of the operator. [not-enrolled]" in said.out


def test_the_answers_for_programs_are_json(deskgrid: Command, office: Office) -> None:
    for argv in (
        ["coordinator", "status"],
        ["images"],
        ["desktop", "list"],
        ["vm", "list"],
        ["why", "desktop", "desk-9"],
    ):
        said = deskgrid(*argv, "--json", "--settings", office.settings)
        assert (said.code, said.err) == (0, "")
        assert isinstance(said.json(), dict | list)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_refused_before_anybody_is_asked(deskgrid: Command, office: Office, name: str) -> None:
    for argv in (
        ["desktop", "show", name],
        ["desktop", "revoke", name],
        ["vm", "show", name],
        ["vm", "end", name],
        ["story", name],
        ["why", "desktop", name],
        ["why", "job", name],
    ):
        said = deskgrid(*argv, "--settings", office.settings)
        assert said.code == Exit.WRONG
        assert ", expected " in said.sentence
        assert "\x1b" not in said.out + said.err


def test_a_second_coordinator_on_one_state_folder_is_refused(deskgrid: Command, office: Office) -> None:
    said = deskgrid("coordinator", "run", "--settings", office.settings)
    assert said.code == Exit.REFUSED
    assert f"state folder {office.state}: another coordinator uses it" in said.sentence


def test_a_state_folder_that_cannot_be_made_is_one_sentence(deskgrid: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = tmp_path / "coordinator.toml"
    settings.write_text(f'state_dir = "{tmp_path}/file/state"\n')
    said = deskgrid("coordinator", "run", "--settings", settings)
    assert said.code == Exit.REFUSED
    assert f"state folder {tmp_path}/file/state: Not a directory" in said.sentence


def test_a_port_that_is_taken_is_one_sentence(deskgrid: Command, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = tmp_path / "coordinator.toml"
        settings.write_text(f'port = {port}\nstate_dir = "{tmp_path}/state"\n')
        said = deskgrid("coordinator", "run", "--settings", settings)
    assert said.code == Exit.REFUSED
    assert f"port {port}: Address already in use" in said.sentence


# -- the rest -------------------------------------------------------------------------------------------------


def test_a_folder_without_images_is_an_empty_list(deskgrid: Command, tmp_path: Path) -> None:
    said = deskgrid("image", "list", "--images", tmp_path / "none", "--json")
    assert (said.code, said.json()) == (0, [])


def test_without_an_embedded_pool_its_commands_say_how_to_start_one(deskgrid: Command, tmp_path: Path) -> None:
    for argv in (["status"], ["stop"], ["tool", "condor_q"]):
        said = deskgrid("pool", *argv[:1], "--run", tmp_path, *argv[1:])
        assert said.code == Exit.ABSENT
        assert said.sentence == f"no embedded pool runs in {tmp_path}; start one with `deskgrid pool start`"


def test_the_defaults_are_valid_settings() -> None:
    assert CoordinatorSettings().guest == GuestSettings()


def test_the_program_itself_exits_with_the_code_and_prints_no_traceback(tmp_path: Path) -> None:
    ended = python_m_deskgrid("status", "--settings", agent_toml(tmp_path))
    assert ended.returncode == Exit.UNREACHABLE
    assert ended.stdout == ""
    assert ended.stderr.startswith("deskgrid: no agent runs on this computer")
    assert ended.stderr.count("\n") == 1


def test_a_reader_who_goes_away_is_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    argv = [sys.executable, "-m", "deskgrid", "pool", "configure", "--dry-run"]
    with subprocess.Popen(argv, stdout=writer, stderr=subprocess.PIPE, text=True) as process:
        os.close(writer)
        os.close(reader)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        process.wait(30)


def test_doctor_answers_for_programs_and_its_exit_code_is_its_worst_finding(deskgrid: Command) -> None:
    began = time.monotonic()
    said = deskgrid("doctor", "--json")
    findings = said.json()
    assert isinstance(findings, list)
    assert findings
    assert {"name", "level", "sentence"} <= set(findings[0])
    bad = [finding for finding in findings if finding["level"] == "bad"]
    assert said.code == (Exit.NO if bad else Exit.DONE)
    for finding in bad:
        assert finding["sentence"], finding
    assert time.monotonic() - began < 60


# -- whatever is named ----------------------------------------------------------------------------------------

NAMED = ["missing", "folder", "binary", "utf16", "loop", "/dev/null", "", "x\0y", "\x1b[2J", "a" * 5000]
COMMANDS = [
    "policy test {}",
    "policy show --folder {}",
    "policy simulate --from {} --folder folder",
    "policy simulate --logged-in {} --folder folder",
    "image build {}",
    "image inspect {}",
    "image diff {} {}",
    "image list --images {}",
    "image init n --folder {}",
    "desktop show {} --settings there",
    "desktop list --settings {}",
    "why job {} --settings there",
    "why desktop {} --settings there",
    "story {} --settings there",
    "agent enrol --settings agent --text-file {}",
    "agent enrol --settings {}",
    "status --settings {}",
    "pause {} --settings agent",
    "page --settings {} --port 99999",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_is_named_the_answer_is_an_exit_code_and_never_a_traceback(
    deskgrid: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "utf16").write_bytes("a = 1".encode("utf-16"))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "there").write_text('state_dir = "nowhere"\nport = 1\n')
    (tmp_path / "agent").write_text('coordinator = "https://localhost:1"\ndesktop = "d"\nstate = "folder"\n')
    for name in NAMED:
        said = deskgrid(*(name if word == "{}" else word for word in command.split()))
        assert isinstance(said.code, int), name
        assert said.code == Exit.DONE or said.err.strip(), f"{command}, {name!r}: no word"
        assert "Traceback" not in said.err and "\x1b" not in said.err + said.out


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31", "2026-02-30", "soon"])
def test_a_week_that_no_calendar_has_is_one_sentence(deskgrid: Command, tmp_path: Path, day: str) -> None:
    assert deskgrid("policy", "simulate", "--folder", tmp_path, "--from", day).code == Exit.WRONG


@pytest.mark.parametrize(("token", "certificate"), [(b"\xff\xff", b""), (b"x" * 43, b"junk"), (b"", b"")])
def test_a_damaged_state_folder_of_the_coordinator_is_one_sentence(
    deskgrid: Command, tmp_path: Path, token: bytes, certificate: bytes
) -> None:
    (tmp_path / "operator.token").write_bytes(token)
    (tmp_path / "ca.pem").write_bytes(certificate)
    (tmp_path / "coordinator.toml").write_text(f'state_dir = "{tmp_path}"\nport = 1\n')
    said = deskgrid("desktop", "list", "--settings", tmp_path / "coordinator.toml")
    assert said.code == Exit.UNREACHABLE and said.sentence
