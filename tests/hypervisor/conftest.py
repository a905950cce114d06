"""For all tests of the hypervisor."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rigs import QemuRig


@pytest.fixture
def rig() -> Iterator[QemuRig]:
    """Real VMs."""
    made = QemuRig()
    yield made
    made.close()
