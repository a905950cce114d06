"""The soak's rounds: kept one by one, so that it goes on where it was; and its cable."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from bench.soak import COUNTS, Kept, Round

CABLE = """
import socket, subprocess, sys
from bench.cable import alone, cable
alone("none", [])
server = socket.create_server(("127.0.0.1", 9000))
server.settimeout(20)
desktop = "import socket; print(socket.create_connection(('127.0.0.1', 9000), 20).recv(1), flush=True)"
with cable([9000]) as wire:
    for pulled in (False, True):
        desk = subprocess.Popen([*wire.inside, sys.executable, "-c", desktop], stdout=subprocess.PIPE, text=True)
        link, _ = server.accept()
        if pulled:
            wire.pull()
        link.sendall(b"x")
        try:
            print(pulled, desk.communicate(timeout=3 if pulled else 20)[0].strip())
        except subprocess.TimeoutExpired:
            print(pulled, "nothing")
            wire.plug()
            print("plugged", desk.communicate(timeout=20)[0].strip())
"""

AT = datetime(2026, 11, 30, tzinfo=UTC)


def test_rounds_are_counted_by_what_they_were() -> None:
    kept = Kept([Round("cut", AT), Round("qemu", AT, 1.5), Round("cut", AT, wrong="again"), Round("pause", AT)])
    again = msgspec.json.decode(msgspec.json.encode(kept), type=Kept)
    assert [again.count(sort) for sort in COUNTS] == [2, 1, 1]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="needs root and nftables")
def test_a_cable_that_is_pulled_carries_nothing_and_nobody_is_told_and_plugged_in_it_arrives() -> None:
    argv = ["unshare", "--net", sys.executable, "-c", CABLE]
    environment = os.environ | {"DESKGRID_BENCH_ALONE": "1"}
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert done.stdout.split("\n") == ["False b'x'", "True nothing", "plugged b'x'", ""], done.stderr
