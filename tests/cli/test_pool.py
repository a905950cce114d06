"""`deskgrid pool configure`: what it would write, and that it writes over nobody's file."""

from pathlib import Path

from deskgrid.cli.output import Exit
from deskgrid.pool.config import PoolSettings, dropins

from .conftest import Command

FILES = {file.path: file.text for file in dropins(PoolSettings())}


def test_dry_run_shows_every_file_and_writes_none(deskgrid: Command, tmp_path: Path) -> None:
    said = deskgrid("pool", "configure", "--dry-run", "--output", tmp_path)
    assert (said.code, said.err) == (0, "")
    for path, text in FILES.items():
        assert f"# ---- {tmp_path / path}" in said.out
        assert text in said.out
    assert list(tmp_path.iterdir()) == []


def test_for_programs_the_files_come_with_their_reasons(deskgrid: Command, tmp_path: Path) -> None:
    said = deskgrid("pool", "configure", "--dry-run", "--json", "--output", tmp_path)
    shown = said.json()
    assert isinstance(shown, list)
    assert {Path(file["path"]).name: file["text"] for file in shown} == FILES
    assert all(file["why"] for file in shown)
    assert list(tmp_path.iterdir()) == []


def test_it_writes_what_it_showed_and_the_second_time_nothing(deskgrid: Command, tmp_path: Path) -> None:
    first = deskgrid("pool", "configure", "--output", tmp_path)
    assert first.code == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == FILES
    assert "condor_reconfig" in first.out
    assert "Nothing to change." in deskgrid("pool", "configure", "--output", tmp_path).out


def test_a_file_that_is_not_ours_is_left_alone_and_so_are_all_others(deskgrid: Command, tmp_path: Path) -> None:
    path = tmp_path / sorted(FILES)[-1]
    path.write_text("# mine\n")
    said = deskgrid("pool", "configure", "--output", tmp_path)
    assert said.code == Exit.REFUSED
    assert f"{path}: got a file that deskgrid has not written" in said.sentence
    assert [p.read_text() for p in tmp_path.iterdir()] == ["# mine\n"]


def test_all_wrong_settings_are_named_at_once(deskgrid: Command) -> None:
    said = deskgrid("pool", "configure", "--dry-run", "--trust-domain", 'a"b', "--key", "$(X)", "--lease-seconds", "1")
    assert said.code == Exit.WRONG
    for what in ("trust_domain", "key", "lease_seconds"):
        assert f"pool setting {what}: got " in said.sentence


def test_a_folder_that_cannot_be_written_is_one_sentence(deskgrid: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = deskgrid("pool", "configure", "--output", tmp_path / "file/etc")
    assert said.code == Exit.REFUSED
    assert said.sentence.endswith("run as root or choose --output")
