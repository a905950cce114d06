"""The guest's member, as a real process on a real terminal, with a stand-in for HTCondor's startd."""

import json
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from deskgrid import guest
from deskgrid.core.commands import Renew
from deskgrid.core.events import GuestLeft, Joined
from deskgrid.model.instance import InstanceData
from deskgrid.wire.guest import Hello, Join, Leave, TrialAd, decode_from_guest, encode
from tests.waiting import SOON_SECONDS, eventually

pytestmark = pytest.mark.slow

MEMBER = guest.FILES[f"{guest.FOLDER}/member.py"][0]
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ2bSJ9.c2VjcmV0LXBhcnQ"
INSTANCE = InstanceData(
    vm_id="vm-1",
    vm_name="its-sl6",
    desktop="desk-7",
    collector="10.0.2.2:9618",
    token=TOKEN,
    trust_domain="pool.example.org",
    cpus=2,
    memory_mb=900,
    unused_seconds=600,
)


class Guest:
    """A member on the far end of a pseudo-terminal."""

    def __init__(self, folder: Path, behaviour: str = "quiet") -> None:
        self.folder, self.run = folder, folder / "run"
        startd = folder / "condor_startd"
        source = Path(__file__).with_name("standin_startd.py").read_text()
        startd.write_text(f"#!{sys.executable} -IS\n{source}")
        startd.chmod(0o755)
        (folder / "behaviour").write_text(behaviour)
        self.ours, theirs = os.openpty()
        self._rest = b""
        settings = {
            "port": os.ttyname(theirs),
            "run": str(self.run),
            "execute": str(folder / "execute"),
            "startd": str(startd),
            "rtc": "",
            "network": "",
            "hosts": str(folder / "hosts"),
            "status": str(folder / "condor_status"),
            "farewell_seconds": "0.2",
        }
        argv = [sys.executable, "-I", "-S", str(MEMBER), *(f"{key}={value}" for key, value in settings.items())]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._theirs = theirs

    def say(self, message: Join | Leave | Renew) -> None:
        self.write(encode(message))

    def write(self, data: bytes) -> None:
        os.write(self.ours, data)

    def hear(self, kind: type, seconds: float = SOON_SECONDS) -> Any:
        """The next message of this kind."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if select.select([self.ours], [], [], 0.1)[0]:
                self._rest += os.read(self.ours, 4096)
            while b"\n" in self._rest:
                line, self._rest = self._rest.split(b"\n", 1)
                message = decode_from_guest(line)
                assert message is not None, line
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__} in {seconds} s")

    def join(self, instance: InstanceData = INSTANCE) -> None:
        self.hear(Hello)
        self.say(Join(instance))
        self.hear(Joined)

    def wait_for(self, name: str) -> None:
        eventually((self.folder / name).exists, name)

    def close(self) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        os.close(self.ours)
        os.close(self._theirs)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Guest] = []

    def one(behaviour: str = "quiet") -> Guest:
        made.append(Guest(tmp_path, behaviour))
        return made[-1]

    yield one
    for each in made:
        each.close()


def test_it_says_hello_each_second_until_it_is_told_who_it_is(make: Any) -> None:
    member = make()
    began = time.monotonic()
    for _ in range(3):
        member.hear(Hello)
    assert time.monotonic() - began > 1.0
    member.say(Join(INSTANCE))
    member.hear(Joined)
    with pytest.raises(AssertionError, match="no Hello"):
        member.hear(Hello, seconds=1.5)


def test_it_writes_the_configuration_and_keeps_the_token_to_root(make: Any) -> None:
    member = make()
    member.join()
    member.wait_for("ready")
    token = member.run / "tokens.d/pool"
    assert token.read_text() == TOKEN + "\n"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    text = (member.run / "condor_config").read_text()
    for line in (
        "COLLECTOR_HOST = 10.0.2.2:9618",
        'vm_name = "its-sl6"',
        'deskgrid_vm_id = "vm-1"',
        'deskgrid_desktop = "desk-7"',
        "NUM_CPUS = 2",
        "MEMORY = 900",
        "TRUST_DOMAIN = pool.example.org",
        "SEC_DEFAULT_ENCRYPTION = REQUIRED",
    ):
        assert f"\n{line}\n" in text
    assert TOKEN not in text
    assert TOKEN not in (member.folder / "seen").read_text()


def test_a_repeated_join_is_answered_again_and_starts_nothing_twice(make: Any) -> None:
    member = make()
    member.join()
    member.wait_for("ready")
    first = (member.folder / "seen").read_text()
    member.say(Join(INSTANCE))
    member.hear(Joined)
    assert (member.folder / "seen").read_text() == first


def test_a_renewed_token_takes_the_place_of_the_old_one_and_the_startd_is_told(make: Any) -> None:
    member = make()
    member.join()
    member.wait_for("ready")
    newer = TOKEN + "bmV3"
    member.write(b'{"type":"renew","token":"../../etc/shadow"}\n{"type":"renew"}\n')
    member.say(Renew(newer))
    eventually(lambda: newer in _read(member.folder / "again"))
    token = member.run / "tokens.d/pool"
    assert token.read_text() == newer + "\n"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert [path.name for path in token.parent.iterdir()] == ["pool"]


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_asked_to_leave_it_ends_htcondor_fast_and_says_so(make: Any) -> None:
    member = make("busy")
    member.join()
    member.wait_for("ready")
    member.say(Leave())
    member.say(Leave())
    assert member.hear(GuestLeft).cause == "asked"
    assert (member.folder / "quit").read_text() == "SIGQUIT"
    assert member.process.wait(timeout=SOON_SECONDS) == 0


def test_asked_to_leave_before_it_joined_it_leaves(make: Any) -> None:
    member = make()
    member.hear(Hello)
    member.say(Leave())
    assert member.hear(GuestLeft).cause == "asked"
    assert not (member.folder / "seen").exists()


def test_a_startd_that_ignores_the_order_is_ended_by_force(make: Any) -> None:
    member = make("stubborn")
    member.join()
    member.wait_for("ready")
    member.say(Leave())
    assert member.hear(GuestLeft).cause == "asked"


def test_when_htcondor_dies_it_leaves_as_failed_with_the_logs_words(make: Any) -> None:
    member = make("dies")
    member.join()
    left = member.hear(GuestLeft)
    assert left.cause == "failed"
    assert "exit code 3" in left.sentence
    assert "something is missing" in left.sentence


def test_unused_for_long_it_leaves_by_itself(make: Any) -> None:
    member = make("quiet")
    member.hear(Hello)
    member.say(Join(InstanceData(**{name: getattr(INSTANCE, name) for name in _FIELDS} | {"unused_seconds": 1})))
    left = member.hear(GuestLeft)
    assert left.cause == "unused"
    assert (member.folder / "quit").exists()


def test_with_a_job_it_is_not_unused(make: Any) -> None:
    member = make("busy")
    member.hear(Hello)
    member.say(Join(InstanceData(**{name: getattr(INSTANCE, name) for name in _FIELDS} | {"unused_seconds": 1})))
    member.hear(Joined)
    with pytest.raises(AssertionError, match="no GuestLeft"):
        member.hear(GuestLeft, seconds=4)


def test_noise_on_the_line_does_it_no_harm(make: Any) -> None:
    member = make()
    member.hear(Hello)
    member.write(b'\xff\x00nonsense\n[1]\n"text"\n{"type":"unknown"}\n{"type":\n' + b"[" * 3000 + b"\n")
    member.hear(Hello)
    member.join()


def test_a_line_without_an_end_does_not_fill_its_memory(make: Any) -> None:
    member = make()
    member.hear(Hello)
    for _ in range(80):
        member.write(b"x" * 2000)
        time.sleep(0.005)
    member.write(b"\n")
    member.join()


_FIELDS = tuple(INSTANCE.__struct_fields__)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vm_name", 'x"\nALLOW_ADMINISTRATOR = *'),
        ("vm_name", "x\n"),
        ("vm_id", "../../etc"),
        ("desktop", "a b"),
        ("collector", "10.0.2.2"),
        ("collector", "10.0.2.2:9618\nSTARTD = /bin/sh"),
        ("collector", "10.0.2.2:9618?sock=a&b"),
        ("token", "a.b.c\nd"),
        ("token", ""),
        ("trust_domain", "$(SECRET)"),
        ("cpus", 0),
        ("cpus", True),
        ("cpus", "2"),
        ("memory_mb", 1e9),
        ("unused_seconds", -1),
    ],
)
def test_instance_data_that_could_say_more_than_they_should_are_refused(make: Any, field: str, value: object) -> None:
    member = make()
    member.hear(Hello)
    instance = {name: getattr(INSTANCE, name) for name in _FIELDS} | {field: value}
    member.write(json.dumps({"type": "join", "instance": instance}).encode() + b"\n")
    left = member.hear(GuestLeft)
    assert left.cause == "failed"
    assert field in left.sentence
    if field == "token" and value:
        assert str(value) not in left.sentence
    assert not member.run.exists()


def test_a_collector_behind_the_shared_port_can_be_named(make: Any) -> None:
    member = make()
    member.join(msgspec.structs.replace(INSTANCE, collector="cm.example.org:9618?sock=collector3"))
    assert "COLLECTOR_HOST = cm.example.org:9618?sock=collector3\n" in (member.run / "condor_config").read_text()


def test_a_machine_knows_its_own_name_and_says_nothing_twice(make: Any) -> None:
    member, name = make(), os.uname().nodename
    (member.folder / "hosts").write_text(f"127.0.0.1 localhost # not {name}")
    member.join()
    written = (member.folder / "hosts").read_text()
    assert written.splitlines()[1:] == [f"127.0.0.1 {name}"]
    member.say(Leave())
    member.hear(GuestLeft)
    again = Guest(member.folder)
    try:
        again.join()
        assert (member.folder / "hosts").read_text() == written
    finally:
        again.close()


STATUS = """#!/bin/sh
[ "$1 $2 $3" = "-direct <127.0.0.1:7> -json" ] && [ "$_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS" = FS ] || exit 1
echo '[{"OpSysMajorVer": 13, "Children": [], "Start": "/Expr(x)/", "HasVM": false}]'
"""


def test_in_a_trial_it_says_what_its_slots_ad_says_before_it_leaves(make: Any) -> None:
    member = make()
    (member.folder / "condor_status").write_text(STATUS)
    (member.folder / "condor_status").chmod(0o755)
    member.join(msgspec.structs.replace(INSTANCE, trial=True))
    (member.run / "log/.startd_address").write_text("<127.0.0.1:7>\n$CondorVersion: x $\n")
    member.say(Leave())
    assert member.hear(TrialAd).ad == {"OpSysMajorVer": 13, "Start": "/Expr(x)/", "HasVM": False}
    assert member.hear(GuestLeft).cause == "asked"


def test_out_of_a_trial_nobody_is_asked(make: Any) -> None:
    member = make()
    member.join()
    member.wait_for("ready")
    assert "_CONDOR_SEC" not in (member.folder / "seen").read_text()
    member.say(Leave())
    with pytest.raises(AssertionError, match="no TrialAd"):
        member.hear(TrialAd, seconds=0.5)


def test_unknown_fields_are_ignored_and_the_default_of_the_unused_time_holds(make: Any) -> None:
    member = make()
    member.hear(Hello)
    instance = {name: getattr(INSTANCE, name) for name in _FIELDS if name != "unused_seconds"} | {"colour": "blue"}
    member.write(json.dumps({"type": "join", "instance": instance}).encode() + b"\n")
    member.hear(Joined)


def test_a_startd_that_is_not_there_is_a_failure_in_words(make: Any) -> None:
    member = make()
    member.hear(Hello)
    (member.folder / "condor_startd").unlink()
    member.say(Join(INSTANCE))
    left = member.hear(GuestLeft)
    assert (left.cause, "could not be started" in left.sentence) == ("failed", True)


def test_the_token_is_never_printed(make: Any) -> None:
    member = make("dies")
    member.join()
    member.hear(GuestLeft)
    member.process.wait(timeout=SOON_SECONDS)
    assert member.process.stdout is not None
    said = member.process.stdout.read()
    assert "left (failed)" in said
    assert TOKEN not in said
