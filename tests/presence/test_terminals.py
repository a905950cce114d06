"""When something was last typed on a terminal: real pseudo terminals, and files in the place of consoles."""

import os
import pty
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deskgrid.presence.linux.terminals import GRANULARITY_SECONDS, Terminals

NOBODY_OF_THE_GRID: frozenset[int] = frozenset()


class Pseudo:
    """A real pseudo terminal, shown in a folder of its own as pts/0."""

    def __init__(self, dev: Path, age_seconds: float) -> None:
        self.dev = dev
        (dev / "pts").mkdir(parents=True)
        self.keyboard, self.screen = pty.openpty()
        self.real = Path(os.ttyname(self.screen))
        (dev / "pts/0").symlink_to(self.real)
        self.age(age_seconds)

    def age(self, seconds: float) -> None:
        os.utime(self.real, (time.time() - seconds,) * 2)

    def type(self) -> None:
        os.write(self.keyboard, b"ls\n")
        os.read(self.screen, 100)

    def close(self) -> None:
        os.close(self.keyboard)
        os.close(self.screen)


@pytest.fixture
def pseudo(tmp_path: Path) -> Iterator[Pseudo]:
    made = Pseudo(tmp_path / "dev", age_seconds=500)
    yield made
    made.close()


def look(dev: Path, grid_uids: frozenset[int] = NOBODY_OF_THE_GRID) -> Terminals:
    terminals = Terminals(dev, grid_uids)
    terminals.relist()
    terminals.scan()
    return terminals


def idle(terminals: Terminals) -> dict[str, float]:
    return {one.name: one.idle_seconds for one in terminals.quiet()}


def test_a_terminal_is_idle_since_its_last_key_less_what_the_kernel_hides(pseudo: Pseudo) -> None:
    assert idle(look(pseudo.dev)) == {"pts/0": pytest.approx(500 - GRANULARITY_SECONDS, abs=2)}


def test_a_key_is_a_sign(pseudo: Pseudo) -> None:
    terminals = look(pseudo.dev)
    assert not terminals.scan()
    pseudo.type()
    assert terminals.scan()
    assert idle(terminals) == {"pts/0": 0.0}
    assert not terminals.scan()


def test_output_is_not_a_sign(pseudo: Pseudo) -> None:
    terminals = look(pseudo.dev)
    os.write(pseudo.screen, b"a program talks\n")
    os.read(pseudo.keyboard, 100)
    assert not terminals.scan()


def test_the_kernel_moves_the_access_time_at_most_every_eight_seconds(pseudo: Pseudo) -> None:
    """Kernels of today do; if this fails, GRANULARITY_SECONDS has to follow."""
    pseudo.type()
    first = pseudo.real.stat().st_atime
    while int(time.time()) % 8 >= 6:  # keep both keys in one span of 8 s
        time.sleep(0.3)
        pseudo.type()
        first = pseudo.real.stat().st_atime
    time.sleep(1.1)
    pseudo.type()
    assert pseudo.real.stat().st_atime == first


def test_a_clock_that_is_set_ahead_makes_nobody_idle(pseudo: Pseudo) -> None:
    terminals = look(pseudo.dev)
    pseudo.age(7200)  # as if the clock had jumped by two hours: the time moved, so somebody was there
    assert terminals.scan()
    assert idle(terminals) == {"pts/0": 0.0}


def test_an_access_time_in_the_future_is_now(pseudo: Pseudo) -> None:
    pseudo.age(-7200)
    assert idle(look(pseudo.dev)) == {"pts/0": 0.0}


def test_the_grids_own_terminals_do_not_count(pseudo: Pseudo) -> None:
    terminals = look(pseudo.dev, frozenset({pseudo.real.stat().st_uid}))
    pseudo.type()
    assert not terminals.scan()
    assert terminals.quiet() == ()
    assert not terminals.pseudo


def test_a_terminal_that_appears_is_a_sign_and_one_that_goes_is_forgotten(pseudo: Pseudo) -> None:
    terminals = look(pseudo.dev)
    (pseudo.dev / "pts/1").symlink_to(pseudo.real)
    terminals.relist()
    assert terminals.scan()
    (pseudo.dev / "pts/1").unlink()
    assert not terminals.scan()
    assert set(idle(terminals)) == {"pts/0"}
    terminals.relist()
    assert set(idle(terminals)) == {"pts/0"}


def test_serial_lines_instruments_and_the_master_are_no_terminals_of_people(tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    (dev / "pts").mkdir(parents=True)
    for name in ("tty", "tty0", "tty1", "tty12", "ttyS0", "ttyACM0", "ttyUSB0", "console", "pts/ptmx", "pts/4"):
        (dev / name).write_text("")
    assert set(idle(look(dev))) == {"tty1", "tty12", "pts/4"}


def test_only_consoles_that_the_kernel_made_are_looked_at_where_that_is_known(tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    for name in ("tty1", "tty2", "tty3", "vcs", "vcs1", "vcsa1", "vcsu1", "vcs3"):
        (dev / name).write_text("")
    terminals = look(dev)
    assert set(idle(terminals)) == {"tty1", "tty3"}
    (dev / "vcs2").write_text("")
    os.utime(dev)
    terminals.relist()
    assert terminals.scan()
    assert set(idle(terminals)) == {"tty1", "tty2", "tty3"}


def test_consoles_may_be_left_out_of_a_look(tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "tty1").write_text("")
    terminals = look(dev)
    os.utime(dev / "tty1", (1, 1))
    assert not terminals.scan(consoles=False)
    assert terminals.scan(consoles=True)


def test_a_folder_of_devices_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    terminals = look(tmp_path / "dev")
    assert terminals.quiet() == ()
    assert "got No such file" in terminals.faults[0]
