"""Reads the desktop's resources."""

import os
import shutil
from pathlib import Path

import psutil

from deskgrid.model.policy import Machine


def read_machine(folder: Path) -> Machine:
    """Read processors, memory, and the free space of the disk that holds `folder`."""
    memory = psutil.virtual_memory()
    return Machine(os.cpu_count() or 1, memory.total, memory.available, shutil.disk_usage(folder).free)
