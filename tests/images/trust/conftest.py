"""A grid that trusts, made anew for each test: without scrypt or disks in the way that is a few milliseconds."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .rig import Grid

MEMORY = next((path for path in ("/dev/shm",) if Path(path).is_dir()), None)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return Grid(tmp_path / "repository")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The desktop's folder."""
    return tmp_path / "desktop"


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder) / "begun"


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder) / "town"
