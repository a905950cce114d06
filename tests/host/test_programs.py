"""What our processes load, and from where, does not depend on who started them."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import deskgrid
from deskgrid.host.system.process import run
from deskgrid.host.system.programs import FOLDERS, KEPT, environment, program, python, search_path

pytestmark = pytest.mark.slow

SOURCES = Path(deskgrid.__file__).parent
OWN_SESSION = {"session/__main__.py", "cli/desktop/owner.py"}
"""These start what a person's own session starts: a browser needs all of it."""
_EVIL = "import pathlib; pathlib.Path({mark!r}).write_text('loaded')\n"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Python code that marks when it is loaded, where whoever starts us may point to. Returns: the mark."""
    mark, evil = tmp_path / "mark", tmp_path / "evil"
    (evil / "deskgrid").mkdir(parents=True)
    for name in ("sitecustomize.py", "usercustomize.py", "msgspec.py", "deskgrid/__init__.py", "startup.py"):
        (evil / name).write_text(_EVIL.format(mark=str(mark)))
    monkeypatch.setenv("PYTHONPATH", str(evil))
    monkeypatch.setenv("PYTHONSTARTUP", str(evil / "startup.py"))
    monkeypatch.chdir(evil)
    return mark


def test_a_child_loads_our_own_package_and_nothing_that_its_starter_points_to(trap: Path) -> None:
    control = subprocess.run([sys.executable, "-m", "deskgrid.host.doctor.inventory"], capture_output=True, check=False)
    assert trap.exists() and control.returncode
    trap.unlink()
    done = run(python("deskgrid.host.doctor.inventory"), 120)
    assert done.ok, done.stderr
    assert not trap.exists()
    whole = run(python("deskgrid", ["--help"]), 60, env=dict(os.environ))  # even where somebody passes all on
    assert whole.ok and not trap.exists()


def test_a_child_runs_the_package_of_its_starter(tmp_path: Path) -> None:
    """Not another one that happens to be installed."""
    copy = tmp_path / "deskgrid"
    shutil.copytree(SOURCES / "host", copy / "host")
    (copy / "__init__.py").write_text("")
    (copy / "said.py").write_text("print(__file__)")
    argv = [sys.executable, "-I", str(copy / "host/system/start.py"), "deskgrid.said"]
    assert run(argv, 60).stdout.strip() == str(copy / "said.py")


def test_a_program_of_the_system_comes_before_one_that_the_caller_s_path_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sh", "only-here"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:.")
    assert Path(str(program("sh"))).parent != tmp_path
    assert program("only-here") == (None if os.geteuid() == 0 else str(tmp_path / "only-here"))
    assert program(str(tmp_path / "only-here")) == str(tmp_path / "only-here")
    assert "." not in search_path().split(":")
    assert search_path().split(":")[: len(FOLDERS)] == list(FOLDERS)


def test_what_makes_programs_load_things_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "QEMU_MODULE_DIR", "PERL5LIB", "APT_CONFIG", "PYTHONHOME"):
        monkeypatch.setenv(name, "")
        assert name not in environment(*KEPT)
        assert f"{name}=" not in run(["env"], 20).stdout


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_the_umask_of_who_starts_us_changes_no_file_of_ours(tmp_path: Path, mask: int) -> None:
    for number, argv in enumerate((python("deskgrid"), [sys.executable, "-m", "deskgrid"])):
        home = tmp_path / str(number)
        home.mkdir()
        told = [*argv, "image", "init", "first", "--folder", str(home)]
        done = subprocess.run(told, umask=mask, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()} == {
            "first.sh": 0o755,
            "first.toml": 0o644,
        }


def test_every_process_that_we_start_has_an_environment_of_ours() -> None:
    wrong = []
    for path in sorted(SOURCES.rglob("*.py")):
        where = str(path.relative_to(SOURCES))
        text = path.read_text(encoding="utf-8")
        if where not in OWN_SESSION and not where.startswith("guest/"):
            wrong += [f"{where}:{line}" for line in _bare(ast.parse(text))]
        if 'sys.executable, "-m"' in text or 'sys.executable, "-P"' in text:
            wrong.append(f"{where}: a child that is not isolated; see host/system/programs.py")
    assert not wrong


def _bare(tree: ast.AST) -> list[int]:
    """Lines that start a process with whatever environment there is."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            starts = ast.unparse(node.func) in ("subprocess.Popen", "subprocess.run", "subprocess.check_output")
            if starts and not any(keyword.arg == "env" for keyword in node.keywords):
                found.append(node.lineno)
    return found
