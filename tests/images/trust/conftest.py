"""A grid that trusts, made anew for each test: without scrypt or disks in the way that is a few milliseconds."""

from pathlib import Path

import pytest

from .rig import Grid


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return Grid(tmp_path / "repository")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The desktop's folder."""
    return tmp_path / "desktop"
