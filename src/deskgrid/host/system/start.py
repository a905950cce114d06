"""Run a module of the package that this file is in: `python -I …/start.py MODULE [ARGUMENT …]`; see programs.py.

It is run as a file, and so needs no way to find the package: that is three folders up.
"""

import os
import runpy
import sys


def set_umask() -> None:
    """From now on a mode is what is asked for, whatever the caller's umask was; only others' writing needs asking."""
    os.umask(0o022)


if __name__ == "__main__":
    set_umask()
    _HOME = os.path.realpath(f"{__file__}/../../../..")
    if _HOME not in sys.path:  # not installed, but run from where it is written
        sys.path.insert(0, _HOME)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
