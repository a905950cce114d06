"""`deskgrid policy`: what is shown, tried and drawn; and the manual's examples, each run as it stands."""

import json
import re
from datetime import date
from pathlib import Path

import pytest

from deskgrid.cli.desktop.policy import letter_of, value_text
from deskgrid.cli.output import Exit
from deskgrid.core.desktop.cases import Expect, Given
from deskgrid.core.policy.layers import LAYERS
from deskgrid.core.policy.week import Slot
from deskgrid.model.policy import ROWS
from tools.drawings.manual import policy_page

from .conftest import Command, agent_toml

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/policy.md").read_text(encoding="utf-8")
TOML = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
JSON = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
CALENDAR = (
    "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//x//x//EN\r\nBEGIN:VEVENT\r\nUID:1\r\n"
    "DTSTART;VALUE=DATE:20261224\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy folder with a grid's and a group's layer, the group's in part looser."""
    made = tmp_path / "policy"
    made.mkdir()
    _write(made / "grid.toml", 'zone = "Europe/Berlin"\nclosed = ["Mon-Fri 07:00-17:00"]\nidle_seconds = 300\n')
    _write(made / "group.toml", 'idle_seconds = 30\ndays_closed = [2026-03-25]\nmemory_reserve_bytes = "4GiB"\n')
    return made


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


# -- show ---------------------------------------------------------------------------------------------------------


def test_show_tells_every_setting_with_the_layer_that_set_it_by_chapter(deskgrid: Command, folder: Path) -> None:
    said = deskgrid("policy", "show", "--folder", folder)
    assert said.code == Exit.DONE
    assert all(row.name in said.out for row in ROWS)
    lines = {words[0]: words[1:] for words in map(str.split, said.out.splitlines()) if words}
    assert lines["idle_seconds"] == ["300", "s", "grid"]
    assert lines["memory_reserve_bytes"] == ["4", "GiB", "group"]
    assert lines["idle_seconds_nobody"] == ["300", "s", "built-in"]
    assert lines["power"] == []
    assert "ignored, since it would loosen what an earlier layer says: idle_seconds" in said.out


def test_show_why_tells_files_meanings_and_what_is_ignored(deskgrid: Command, folder: Path) -> None:
    said = deskgrid("policy", "show", "--folder", folder, "--why")
    assert f"group: {folder}/group.toml" in said.out
    assert f"ignored: idle_seconds = 30 s of {folder}/group.toml. The group's layer may only tighten" in said.out
    assert "time without a sign of an owner before a paused VM goes on" in said.out


def test_show_for_programs_has_settings_layers_and_what_is_ignored(deskgrid: Command, folder: Path) -> None:
    shown = deskgrid("policy", "show", "--folder", folder, "--json").json()
    assert shown["policy"]["idle_seconds"] == 300
    assert {"name": "closed", "value": ["Mon-Fri 07:00-17:00"], "layers": ["grid"]} in shown["settings"]
    assert [one["name"] for one in shown["ignored"]] == ["idle_seconds"]


def test_the_agents_settings_are_the_desktops_layer(deskgrid: Command, folder: Path, tmp_path: Path) -> None:
    settings = agent_toml(tmp_path)
    settings.write_text(settings.read_text() + "[policy]\nmax_vms = 1\n")
    settings.chmod(0o644)
    shown = deskgrid("policy", "show", "--folder", folder, "--settings", settings, "--json").json()
    assert {"name": "max_vms", "value": 1, "layers": ["desktop"]} in shown["settings"]


def test_a_layer_with_faults_is_told_with_all_of_them_and_the_answer_is_no(deskgrid: Command, folder: Path) -> None:
    _write(folder / "desktop.toml", "max_vms = 900\nidle_secs = 3\n")
    said = deskgrid("policy", "show", "--folder", folder)
    assert said.code == Exit.NO
    assert f"{folder}/desktop.toml: max_vms: got 900" in said.err
    assert "idle_secs: unknown, did you mean 'idle_seconds'?" in said.err


def test_a_folder_that_is_not_there_is_one_sentence(deskgrid: Command, tmp_path: Path) -> None:
    said = deskgrid("policy", "show", "--folder", tmp_path / "none")
    assert said.code == Exit.WRONG and "no such folder" in said.sentence


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("cpu_share", 0.29, "29 %"),
        ("max_vms", 4, "4"),
        ("vm_disk_bytes", 1 << 20, "1 MiB"),
        ("on_battery", False, "no"),
        ("zone", "", "the desktop's own"),
        ("closed", (), "none"),
        ("days_off", (date(2026, 12, 24), date(2026, 12, 25)), "2026-12-24, 2026-12-25"),
        ("battery_min_percent", 30.0, "30 %"),
    ],
)
def test_values_are_for_people(name: str, value: object, text: str) -> None:
    assert value_text(name, value) == text


# -- test ---------------------------------------------------------------------------------------------------------


def cases(folder: Path, *given: object) -> Path:
    path = folder.parent / "cases.json"
    path.write_text(json.dumps(given))
    return path


GOOD = {"name": "at noon nothing", "given": {"logged_in": True}, "expect": {"refusal": "working-hours"}}
OTHER = {"name": "at noon all", "given": {"logged_in": True}, "expect": {"may_start": True, "refusals": []}}


def test_cases_that_hold_pass(deskgrid: Command, folder: Path) -> None:
    said = deskgrid("policy", "test", cases(folder, GOOD), "--folder", folder)
    assert (said.code, said.out.splitlines()) == (Exit.DONE, ["pass  at noon nothing", "1 case, all as expected"])


def test_a_case_that_is_decided_otherwise_is_told_with_the_difference(deskgrid: Command, folder: Path) -> None:
    file = cases(folder, GOOD, OTHER)
    said = deskgrid("policy", "test", file, "--folder", folder)
    assert said.code == Exit.NO
    assert "FAIL  at noon all" in said.out
    assert '      refusals: expected [], got ["working-hours"]' in said.out
    tried = deskgrid("policy", "test", file, "--folder", folder, "--json").json()
    assert [(one["name"], one["passed"]) for one in tried] == [("at noon nothing", True), ("at noon all", False)]


def test_a_file_may_hold_one_case(deskgrid: Command, folder: Path) -> None:
    path = folder.parent / "one.json"
    path.write_text(json.dumps(GOOD))
    assert deskgrid("policy", "test", path, "--folder", folder).code == Exit.DONE


def test_all_faults_of_a_case_file_are_named_at_once(deskgrid: Command, folder: Path) -> None:
    file = cases(
        folder,
        {"given": {"logged_on": True}, "expect": {"may_start": 3}},
        {"name": "policy", "given": {"policy": {"idle_secs": 3, "max_vms": -1}}, "expect": {"may_start": True}},
        {"name": "time", "given": {"at": "noon"}, "expect": {"may_start": True}},
        {"name": "zone", "given": {"zone": "Mars/Olympus"}, "expect": {"may_start": True}},
        {"name": "nothing"},
        "a text",
    )
    said = deskgrid("policy", "test", file, "--folder", folder)
    assert said.code == Exit.WRONG
    for fault in (
        "case 1 (without a name): name: missing",
        "case 1 (without a name): given.logged_on: unknown, did you mean 'logged_in'?",
        "case 1 (without a name): expect.may_start: got 3",
        "case 2 (policy): given.policy.idle_secs: unknown",
        "case 2 (policy): given.policy.max_vms: got -1",
        "case 3 (time): given: ",
        "case 4 (zone): given: given.zone: got 'Mars/Olympus'",
        "case 5 (nothing): expect: got nothing",
        "case 6: got 'a text', expected a table",
    ):
        assert fault in said.err, fault


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_file_without_cases_is_wrong_input(deskgrid: Command, folder: Path, text: str) -> None:
    path = folder.parent / "cases.json"
    path.write_text(text)
    assert deskgrid("policy", "test", path, "--folder", folder).code == Exit.WRONG


# -- simulate -----------------------------------------------------------------------------------------------------


def test_a_week_is_drawn_day_by_day_with_letters_and_its_sum(deskgrid: Command, folder: Path) -> None:
    said = deskgrid(
        "policy", "simulate", "--week", "--folder", folder, "--logged-in", "Mon-Fri 08:30-17:30", "--from", "2026-03-23"
    )
    lines = said.out.splitlines()
    assert lines[1] == "Mon 23 Mar  " + 17 * "#" + 17 * "w" + 14 * "#" + "  15.5 h"
    assert lines[3].endswith("  0 h") and set(lines[3][12:60]) == {"d", "w"}
    assert lines[7] == "Sun 29 Mar  ####  " + 42 * "#" + "  23 h", "the clocks skip two to three"
    assert "w  working hours, somebody logged in" in lines
    assert lines[-1] == "109 of 167 hours, from 2026-03-23 to 2026-03-29"


def test_a_week_for_programs_has_every_half_hour(deskgrid: Command, folder: Path) -> None:
    drawn = deskgrid("policy", "simulate", "--folder", folder, "--from", "2026-10-19", "--json").json()
    assert drawn["hours"] == 169 and len(drawn["days"]) == 7
    assert drawn["days"][6]["slots"][4] == {"minutes": 60, "given": 60, "refusal": ""}, "two o'clock comes twice"


@pytest.mark.parametrize("wrong", [("--from", "soon"), ("--logged-in", "9 to 5")])
def test_a_wrong_day_or_wrong_hours_are_one_sentence(deskgrid: Command, folder: Path, wrong: tuple[str, str]) -> None:
    said = deskgrid("policy", "simulate", "--folder", folder, *wrong)
    assert said.code == Exit.WRONG and wrong[1] in said.sentence


def test_half_an_hour_has_a_letter() -> None:
    slots = [Slot(), Slot(30, 30), Slot(30, 10, "day-closed"), Slot(30, 0, "closed-hours"), Slot(30, 0, "other")]
    assert [letter_of(slot) for slot in slots] == [" ", "#", "+", "c", "-"]


# -- the manual ---------------------------------------------------------------------------------------------------


def test_the_page_of_the_policy_is_current() -> None:
    assert policy_page(PAGE) == PAGE, "run `make docs`"


@pytest.mark.parametrize("example", TOML, ids=[text.splitlines()[0] for text in TOML])
def test_every_example_of_a_layer_is_good(deskgrid: Command, tmp_path: Path, example: str) -> None:
    _write(tmp_path / "grid.toml", example)
    for name in re.findall(r'"(\S+\.ics)"', example):
        _write(tmp_path / name, CALENDAR)
    shown = deskgrid("policy", "show", "--folder", tmp_path, "--json")
    assert (shown.code, shown.json()["ignored"], shown.json()["faults"]) == (Exit.DONE, [], [])


@pytest.mark.parametrize("example", JSON, ids=str)
@pytest.mark.parametrize("layer", TOML, ids=[text.splitlines()[0] for text in TOML])
def test_every_example_of_cases_passes_on_the_examples_of_layers(
    deskgrid: Command, tmp_path: Path, example: str, layer: str
) -> None:
    _write(tmp_path / "grid.toml", re.sub(r".*\.ics.*\n", "", layer))
    (tmp_path / "cases.json").write_text(example)
    said = deskgrid("policy", "test", tmp_path / "cases.json", "--folder", tmp_path)
    assert said.code == Exit.DONE, said.out


def test_the_manual_names_every_layer_and_every_key_of_a_case() -> None:
    for name in (*LAYERS, *Given.__struct_fields__, *Expect.__struct_fields__):
        assert re.search(rf"\b{name}\b", PAGE), name
