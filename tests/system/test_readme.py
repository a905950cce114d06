"""Every block of the README, word for word, as an ordinary user who has nothing of deskgrid but its cache.

Each block runs in a shell of its own, so that what a block leaves must be enough for the next. Left out are only
`make demo` and `make test`: the first has tests of its own, the second is what runs this one.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from deskgrid.host.system.account import Account, service_account
from deskgrid.host.system.files import own_folder
from deskgrid.host.system.paths import cache_folder
from deskgrid.host.trees import trees
from deskgrid.images.build.build import Built

from .grid import HANG_SECONDS, until

pytestmark = [pytest.mark.real, pytest.mark.paired, pytest.mark.timeout(1500)]
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
TYPED = [text for kind, text in BLOCKS if kind == "sh" and not text.startswith("make ")]


def block(word: str) -> str:
    """The one block that has this word."""
    (found,) = (text for text in TYPED if word in text)
    return found


class Person:
    """An ordinary user with a home, a shell and the project's folder after `make demo`."""

    def __init__(self, home: Path) -> None:
        account = service_account()
        self.home, self.project = home, home / "project"
        own_folder(home, account)
        self._become = as_person(home, account) if os.geteuid() == 0 else []
        for folder in (self.project, home / ".cache", home / ".cache/deskgrid", home / ".cache/deskgrid/images"):
            own_folder(folder, account)
        (home / ".cache/deskgrid/trees").symlink_to(cache_folder() / "trees")
        (home / ".cache/deskgrid/images/demo").symlink_to(cache_folder() / "images/demo")
        shutil.copytree(ROOT / "recipes", self.project / "recipes")
        shutil.copytree(ROOT / "docs", self.project / "docs")
        (self.project / ".venv").mkdir()
        (self.project / ".venv/bin").symlink_to(Path(sys.prefix) / "bin")
        self.path = "/usr/local/bin:/usr/bin:/bin"
        self._shells: list[subprocess.Popen[bytes]] = []

    def type(self, text: str) -> "subprocess.Popen[bytes]":
        """Type a block into a new shell; what it says goes to a file."""
        said = self.home / f"said-{len(self._shells)}"
        environment = {"HOME": str(self.home), "PATH": self.path, "TERM": "dumb", "LANG": "C.UTF-8"}
        with said.open("wb") as out:
            shell = subprocess.Popen(
                [*self._become, "bash", "-e", "-c", text],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.project,
                env=environment,
                start_new_session=True,
            )
        self._shells.append(shell)
        return shell

    def said(self, number: int = -1) -> str:
        """What a shell and all that it has started have said so far."""
        return (self.home / f"said-{number % len(self._shells)}").read_text(errors="replace")

    def tries(self, argv: list[str]) -> bool:
        """Whether a program succeeds."""
        return subprocess.run([*self._become, *argv], capture_output=True, check=False).returncode == 0

    def does(self, text: str) -> str:
        """Type a block, and read what it says when it is done. All of it must do."""
        shell = self.type(text)
        code = shell.wait(HANG_SECONDS)
        assert code == 0, f"{text}\nexit code {code}:\n{self.said()}"
        return self.said()

    def interrupts(self, text: str, word: str) -> str:
        """Type a block whose last command goes on until Ctrl-C; press it when the word is read."""
        shell = self.type(text)
        until(f"{word!r} of {text!r}: {self.said()}", lambda: word in self.said() or shell.poll() is not None)
        os.killpg(shell.pid, signal.SIGINT)
        shell.wait(HANG_SECONDS)
        assert word in self.said(), self.said()
        return self.said()

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for shell in self._shells:
                with suppress(ProcessLookupError):
                    os.killpg(shell.pid, number)
            if number is signal.SIGTERM:
                with suppress(AssertionError):
                    until("all shells to end", lambda: not any(map(_lives, self._shells)), 30)


def as_person(home: Path, account: Account) -> list[str]:
    """What goes before an argv so that it runs as an ordinary user of this computer, whom only it knows.

    Root's tests have no ordinary user: this one is in /etc/passwd, and has subordinate ids, in a mount namespace alone.
    """
    lines = {
        "passwd": f"person:x:{account.uid}:{account.gid}::{home}:/bin/bash",
        "group": f"person:x:{account.gid}:",
        "subuid": f"person:{1 << 20}:65536",
        "subgid": f"person:{1 << 20}:65536",
    }
    mounts = []
    for name, line in lines.items():
        system, own = Path("/etc") / name, home.parent / name
        system.touch()
        kept = [one for one in system.read_text().splitlines() if one.split(":")[2:3] != [str(account.uid)]]
        own.write_text("\n".join([line, *kept, ""]))
        mounts.append(f"mount --bind {own} {system}")
    become = f"setpriv --reuid {account.uid} --regid {account.gid} --clear-groups --inh-caps=-all --"
    script = " && ".join([*mounts, f'exec {become} "$@"'])
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def _lives(shell: "subprocess.Popen[bytes]") -> bool:
    shell.poll()
    try:
        os.killpg(shell.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _enters_trees(person: Person) -> bool:
    return person.tries(["unshare", "--user", "--mount", "--map-current-user", "true"]) or person.tries(
        ["sudo", "-n", "true"]
    )


@pytest.fixture
def person(built: Built) -> Iterator[Person]:
    trees.provide()
    folder = Path(tempfile.mkdtemp(prefix="dg-"))
    folder.chmod(0o755)
    made = Person(folder / "home")
    try:
        if not _enters_trees(made):
            pytest.skip("an ordinary user can't enter a root tree here: no user namespaces, no sudo without a password")
        yield made
    finally:
        made.type("deskgrid pool stop").wait(HANG_SECONDS)
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_every_block_of_the_readme_does_what_it_says(person: Person) -> None:
    assert {kind for kind, _ in BLOCKS} == {"sh", "text", "submit"}

    first = person.type(block("deskgrid pool start"))
    until("the coordinator's address", lambda: "coordinator at https://" in person.said() or _ended(first))
    assert "coordinator at https://" in person.said(), person.said()
    person.path = f"{person.project}/.venv/bin:{person.path}"

    person.does(block("deskgrid coordinator token"))
    submitted = person.does(block("condor_submit"))
    assert "3 job(s) submitted to cluster 1." in submitted
    until("a machine", lambda: "desk-1" in person.does("deskgrid vm list"), step_seconds=2)
    elsewhere = person.type("cd /etc && deskgrid pool tool condor_submit passwd")
    assert elsewhere.wait(HANG_SECONDS) == 2
    assert "passwd in /etc: HTCondor sees other folders only" in person.said()
    answers = person.does(block("deskgrid why job"))
    for word in ("desk-1", "job 1.0: ", "desktop desk-1: ", "vm-"):
        assert word in answers, answers

    results = [person.project / f"analyse.{number}.out" for number in range(3)]
    until("three results", lambda: all(file.exists() and "analysed on" in file.read_text() for file in results))
    assert "job 1.0: It has finished." in person.does("deskgrid why job 1.0")

    (person.project / "hundred.sub").write_text(next(text for kind, text in BLOCKS if kind == "submit"))
    assert "100 job(s) submitted to cluster 2." in person.does("deskgrid pool tool condor_submit hundred.sub")
    person.does("deskgrid pool tool condor_rm 2")

    owner = person.interrupts(block("deskgrid pause"), "until Ctrl-C")
    assert "Paused until" in owner and "Resumed" in owner
    assert "paused" not in person.does("deskgrid desktop list")
    week = person.does(block("deskgrid policy"))
    assert "3 cases, all as expected" in week and "168 hours" in week
    last = person.does(block("pool configure"))
    assert "# ---- /etc/condor/config.d/" in last and last.endswith("stopped\n")
    done = {block(word) for word in ("pool start", "coordinator token", "condor_submit", "why job", "pause", "policy")}
    assert set(TYPED) == done | {block("pool configure")}, "a block that no test types"


def _ended(shell: "subprocess.Popen[bytes]") -> bool:
    """Whether the block has failed: what it leaves in the background goes on when it has not."""
    return shell.poll() not in (None, 0)
