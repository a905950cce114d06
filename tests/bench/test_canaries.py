"""The search for plaintext finds what is in the clear: a search that finds nothing anywhere would prove nothing."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.canaries import Canary, Found, below, count, held, key, overlay_keys, pieces, shared
from bench.machine import CannotMeasure
from deskgrid.hypervisor.machine.overlay import create, fill

pytestmark = pytest.mark.slow

WORD = Canary("word", b"a canary of this test: 5b1f")
MIB = 1 << 20


@pytest.mark.parametrize("at", [0, 8 * MIB - 5, 8 * MIB - 4096, 40 * MIB])
def test_it_is_found_wherever_it_is_in_a_file_with_holes(tmp_path: Path, at: int) -> None:
    file = tmp_path / "deep" / "file"
    file.parent.mkdir()
    with file.open("wb") as out:
        out.write(random.Random(1).randbytes(9 * MIB))
        out.truncate(64 * MIB)
        os.pwrite(out.fileno(), WORD.content, at)
    assert count([WORD, Canary("none", b"what is not there")], below(tmp_path)) == [Found("word", str(file))]


def test_a_file_without_a_name_is_found_by_who_holds_it_open_and_a_file_in_memory_is_none(tmp_path: Path) -> None:
    with (tmp_path / "gone").open("wb") as gone:
        gone.write(WORD.content)
        gone.flush()
        (tmp_path / "gone").unlink()
        memory = os.memfd_create("memory")
        os.write(memory, WORD.content)
        (found,) = count([WORD], held([os.getpid()]))
        os.close(memory)
    assert "gone (deleted)" in found.place


def test_a_file_left_in_a_place_for_passing_files_is_found_if_it_is_new(tmp_path: Path) -> None:
    since, name = time.time() - 1, Path(f"/dev/shm/canary-{os.getpid()}")
    name.write_bytes(WORD.content)
    try:
        assert name in set(shared(os.geteuid(), since))
        assert name not in set(shared(os.geteuid(), time.time() + 60))
        assert name not in set(shared(os.geteuid(), since, but=(name.parent,)))
        assert name not in set(shared(os.geteuid() + 1, since))
    finally:
        name.unlink()


def test_a_key_is_found_in_each_of_its_forms(tmp_path: Path) -> None:
    secret = os.urandom(32)
    forms = key("key", secret)
    for number, form in enumerate(forms):
        (tmp_path / str(number)).write_bytes(b"x" + form.content + b"x")
    assert {one.place for one in count(forms, below(tmp_path))} == {str(path) for path in below(tmp_path)}


def test_pieces_of_a_file_are_found_in_a_copy_and_not_in_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(MIB) + random.Random(2).randbytes(MIB))
    (tmp_path / "other").write_bytes(bytes(MIB) + random.Random(3).randbytes(MIB))
    found = pieces("image", tmp_path / "file")
    assert len(found) == 8
    assert count(found, below(tmp_path)) == [Found("image", str(tmp_path / "file"))]
    (tmp_path / "empty").write_bytes(bytes(MIB))
    with pytest.raises(CannotMeasure, match="pieces"):
        pieces("image", tmp_path / "empty")


HOLDER = "import os, sys; word = sys.stdin.readline(); print('here', flush=True); sys.stdin.readline()"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look into another process")
def test_the_key_of_a_disk_is_found_in_the_memory_of_who_knows_it_and_in_nobody_else_s(tmp_path: Path) -> None:
    overlay, passphrase = create(tmp_path), os.urandom(32).hex()
    fill(overlay, tmp_path, 64 * MIB, 64 * MIB, passphrase.encode())
    place = Path(f"/proc/{os.getpid()}/fd/{overlay}")
    for told in (passphrase, os.urandom(32).hex()):
        with subprocess.Popen(
            [sys.executable, "-S", "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            assert holder.stdin is not None and holder.stdout is not None
            holder.stdin.write(f"{told}\n")
            holder.stdin.flush()
            holder.stdout.readline()
            if told == passphrase:
                found = overlay_keys(holder.pid, place)
                assert found[0].content == passphrase.encode()
                assert count(found, [place]) == []
            else:
                with pytest.raises(CannotMeasure, match="not in its memory"):
                    overlay_keys(holder.pid, place)
            holder.stdin.write("\n")
    os.close(overlay)
