"""What serves a disk may be silent, hostile or dead: its keeper is patient for a bounded time, and never waits."""

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from deskgrid.hypervisor.confine.spawn import ProcessLimits
from deskgrid.hypervisor.keeper.disk import MOST_SAID, SAID_CHARS, Begun, NotServed, Serving, ServingLimits, begin
from deskgrid.hypervisor.keeper.place import CannotKeep
from deskgrid.model.image import ImageRef
from deskgrid.model.instance import InstanceData
from deskgrid.model.lease import Size
from deskgrid.wire.disk import DiskServer, OpenedImage
from deskgrid.wire.keeper import TASK, Task, VmSpec
from deskgrid.wire.lines import encode

pytestmark = pytest.mark.slow

LIMITS = ProcessLimits(frozenset(os.sched_getaffinity(0)), idle_class=False)
BRISK = ServingLimits(ready_seconds=60.0, silent_seconds=0.4, away_seconds=0.4, ask_seconds=0.1)
PATIENT = ServingLimits(ready_seconds=60.0, silent_seconds=60.0, away_seconds=60.0, ask_seconds=0.1)
READY = "say({'ready': {}})\n"
PRELUDE = """
import json, os, sys, time
def say(word): os.write(1, json.dumps(word).encode() + b'\\n')
def take(count):
    while count: count -= len(os.read(0, min(count, 65536)))
"""


def started(folder: Path, program: str, opening: bytes = b"", files: bool = False) -> Begun:
    """A program in place of what serves a disk."""
    argv = (sys.executable, "-S", "-E", "-c", PRELUDE + program)
    return begin(DiskServer(argv, opening, 1 << 20, kernel=files, initrd=files), folder, LIMITS)


def story(
    begun: Begun, patience: ServingLimits, steps: Callable[[Serving], Awaitable[None]] | None = None
) -> tuple[str, list[str]]:
    """Wait until it serves, do the steps, end it. Returns: why it does not serve, and what it was heard to say."""
    heard: list[str] = []

    async def whole() -> str:
        serving = Serving(begun, heard.append, patience)
        try:
            await serving.ready()
            if steps is not None:
                await steps(serving)
        except NotServed as error:
            return str(error)
        finally:
            await serving.end()
            assert serving.ended
        return ""

    return asyncio.run(whole()), heard


def test_one_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    why, _ = story(started(tmp_path, "time.sleep(600)"), BRISK)
    assert "said nothing for" in why


def test_one_whose_sources_stay_away_does_not_serve_and_its_own_words_say_why(tmp_path: Path) -> None:
    program = """
say({'said': 'the guest waits: no source gives it now'})
for line in sys.stdin: say({'answer': {'away': 'no source'}})
"""
    why, heard = story(started(tmp_path, program), ServingLimits(60.0, 60.0, 0.4, 0.1))
    assert "got nothing from its sources for" in why
    assert why.endswith(": the guest waits: no source gives it now")
    assert heard == ["the guest waits: no source gives it now"]


def test_one_whose_sources_come_back_serves_however_long_it_takes_meanwhile(tmp_path: Path) -> None:
    program = """
asked = 0
for line in sys.stdin:
    asked += 1
    say({'answer': {'away': 'no source' if asked in (1, 5) else ''}})
    if asked == 12: say({'ready': {}})
"""
    assert story(started(tmp_path, program), ServingLimits(60.0, 60.0, 2.0, 0.2)) == ("", [])


def test_one_that_never_gets_ready_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    program = "for line in sys.stdin: say({'answer': {'away': ''}})"
    why, _ = story(started(tmp_path, program), ServingLimits(0.5, 60.0, 60.0, 0.1))
    assert "did not begin to serve within" in why


def test_a_pause_is_told_once_and_one_that_is_paused_is_not_blamed_for_its_sources(tmp_path: Path) -> None:
    program = """
for line in sys.stdin:
    do = json.loads(line)['do']
    if do == 'status': say({'answer': {'away': 'no source'}})
    else: say({'said': do})
    if do == 'resume': say({'ready': {}})
"""

    async def whole() -> list[str]:
        heard: list[str] = []
        serving = Serving(started(tmp_path, program), heard.append, ServingLimits(60.0, 60.0, 0.3, 0.1))
        serving.pause(True)
        serving.pause(True)
        ready = asyncio.ensure_future(serving.ready())
        await asyncio.sleep(1.5)
        assert not ready.done()
        serving.pause(False)
        await ready
        await serving.end()
        return heard

    assert asyncio.run(whole()) == ["pause", "resume"]


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("say({'said': 'ask for the key of lab'}); sys.exit(1)", "ask for the key of lab"),
        ("sys.stderr.write('no module named x'); sys.exit(3)", "ended with code 3: no module named x"),
        ("os.kill(os.getpid(), 9)", "was killed by signal 9 (SIGKILL)"),
        ("say({'ready': {}}); sys.exit(4)", "ended with code 4"),
    ],
)
def test_one_that_ends_says_why_or_how(tmp_path: Path, program: str, expected: str) -> None:
    async def until_it_ends(serving: Serving) -> None:
        await serving.exit()
        raise NotServed(serving.how_it_ended())

    assert expected in story(started(tmp_path, program), PATIENT, until_it_ends)[0]


def test_what_it_says_is_bounded_in_number_and_length_and_cannot_move_a_cursor(tmp_path: Path) -> None:
    program = """
os.write(1, b'no json\\n{"said": 3}\\n[[[\\n\\xff\\xfe\\n' + b'x' * 1000000 + b'\\n')
for number in range(2000): say({'said': f'fault {number} \\x1b[2J ' + 'y' * 5000})
"""
    why, heard = story(started(tmp_path, program + READY + "sys.stdin.read()"), PATIENT)
    assert why == ""
    assert len(heard) == MOST_SAID
    assert max(map(len, heard[:-1])) == SAID_CHARS
    assert heard[0].startswith("fault 0 [2J yyy")
    assert "not told any more" in heard[-1]


def test_an_opening_longer_than_a_socket_holds_arrives_whole(tmp_path: Path) -> None:
    begun = started(tmp_path, "time.sleep(0.5); take(3000000)\n" + READY + "sys.stdin.read()", bytes(3_000_000))
    assert 0 < len(begun.unsent) < 3_000_000
    assert story(begun, PATIENT) == ("", [])


def test_its_memory_files_are_sealed_when_it_serves_and_the_kernel_s_can_be_given_back(tmp_path: Path) -> None:
    program = """
for name in sys.argv[-2:]: os.write(int(name), b'content')
say({'ready': {}})
sys.stdin.read()
"""
    begun = started(tmp_path, program, files=True)

    async def steps(serving: Serving) -> None:
        kernel, initrd = os.dup(begun.kernel), os.dup(begun.initrd)
        for handle in (kernel, initrd):
            assert os.pread(handle, 100, 0) == b"content"
            with pytest.raises(PermissionError):
                os.pwrite(handle, b"x", 0)
            with pytest.raises(PermissionError):
                os.ftruncate(handle, 100)
            with pytest.raises(PermissionError):
                fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        serving.release_kernel()
        serving.release_kernel()
        assert (os.fstat(kernel).st_size, os.fstat(initrd).st_size, begun.kernel) == (0, 7, -1)
        os.close(kernel)
        os.close(initrd)

    assert story(begun, PATIENT, steps) == ("", [])


def test_a_program_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CannotKeep, match="could not be started"):
        begin(DiskServer(("/nonexistent/program",), b"", 1), tmp_path, LIMITS)


def test_the_secret_is_in_no_argument_and_no_environment(tmp_path: Path) -> None:
    begun = started(tmp_path, "take(11)\n" + READY + "sys.stdin.read()", b"the secret!")

    async def steps(serving: Serving) -> None:
        for name in ("cmdline", "environ"):
            assert b"the secret!" not in Path(f"/proc/{serving.pid}/{name}").read_bytes()

    assert story(begun, PATIENT, steps) == ("", [])
    assert begun.unsent == b""


UNPRIVILEGED = """
import asyncio, ctypes, os, sys, time
from pathlib import Path
from deskgrid.hypervisor.keeper.disk import begin
from deskgrid.hypervisor.keeper.disk import Serving
from deskgrid.hypervisor.confine.spawn import ProcessLimits
from deskgrid.wire.disk import DiskServer

PROGRAM = '''
import ctypes, os, sys
sys.stdin.buffer.read(6)
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # like one that has a secret
os.write(1, b'{"ready":{}}' + bytes([10]))
sys.stdin.read()
'''

async def main():
    limits = ProcessLimits(frozenset(os.sched_getaffinity(0)))
    server = DiskServer((sys.executable, "-S", "-E", "-c", PROGRAM), b"secret", 1, kernel=False, initrd=False)
    serving = Serving(begin(server, Path("/"), limits), print)
    await serving.ready()
    await asyncio.sleep(1.0)
    path = Path(f"/proc/{serving.pid}/autogroup")
    print(path.read_text().split()[-1] if path.exists() else "19")
    await serving.end()

asyncio.run(main())
"""


def test_without_privileges_too_one_that_lets_nobody_look_into_it_gets_the_least_share_of_the_cpu() -> None:
    user = 61999 if os.geteuid() == 0 else None
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED],
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("19\n", "")


def test_a_keeper_forgets_what_opens_the_disk_and_keeps_the_rest() -> None:
    instance = InstanceData("vm-1", "img", "desk", "host:9618", "token", "td", 1, 512)
    server = DiskServer(("program",), b"secret", 1 << 20)
    spec = VmSpec("vm-1", OpenedImage(ImageRef("img", "0" * 64), served=server), Size(1, 1 << 29), instance, 1 << 30)
    task = Task(spec, Path("/vms/vm-1"), "qemu", ("tcg",), True)
    came = TASK.decode(encode(task))
    assert came == task
    assert b"secret" not in encode(task)  # bytes go as base64
    kept = came.spec.image.without_secret()
    assert kept == OpenedImage(ImageRef("img", "0" * 64), served=DiskServer(("program",), b"", 1 << 20))
    plain = OpenedImage(ImageRef("img", "0" * 64), "", Path("/disk"))
    assert plain.without_secret() is plain


def test_that_it_waits_is_told_while_its_sources_are_away_or_bring_little_and_not_when_it_is_paused(
    tmp_path: Path,
) -> None:
    program = """
say({'ready': {}})
answers = [{'waited_seconds': 0.0}, {'waited_seconds': 1e9}, {'waited_seconds': 1e9}, {'away': 'no source gives it'}]
for line in sys.stdin:
    if json.loads(line)['do'] == 'status': say({'answer': answers.pop(0) if answers else {'away': 'still'}})
"""

    async def whole() -> tuple[list[str], int]:
        waits: list[str] = []
        serving = Serving(started(tmp_path, program), print, PATIENT, waits.append)
        await serving.ready()
        for _ in range(4):
            serving.ask()
            await asyncio.sleep(0.3)
        while len(waits) < 2:
            await asyncio.sleep(0.02)
        serving.pause(True)
        told = len(waits)
        for _ in range(3):
            serving.ask()
            await asyncio.sleep(0.1)
        await serving.end()
        return waits, told

    waits, told = asyncio.run(whole())
    assert waits == ["its sources, or the network, are slow", "no source gives it"]
    assert told == len(waits)
