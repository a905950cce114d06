"""For all tests of what runs in a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .desktop_bus import SessionBus


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[SessionBus]:
    """A session's bus."""
    made = SessionBus(tmp_path)
    yield made
    made.close()
