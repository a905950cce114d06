"""Every part of the benchmarks, as it is run, but short: what nobody runs for weeks rots. (The demo: tests/system.)"""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.__main__ import PARTS
from bench.figure import Figure

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.real, pytest.mark.paired]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", [part for part in PARTS if part.name != "demo"], ids=lambda part: part.name)
def test_a_part_measures_all_its_figures(part, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    argv = [sys.executable, "-m", "bench", "--short", "--wait-quiet", "0", "--output", str(output), part.name]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=880)
    said = done.stdout[-4000:] + done.stderr[-4000:]
    assert done.returncode == 0, said
    figures = {figure.name: figure for figure in msgspec.json.decode(output.read_bytes(), type=list[Figure])}
    assert [(name, figures[name].reason) for name in part.names if figures[name].value is None] == [], said
