"""A command as a person types it, and a coordinator to ask: the real service over HTTPS, with the pool in memory."""

import json
import queue
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from deskgrid.cli.main import run
from deskgrid.coordinator.client import OperatorClient
from deskgrid.coordinator.service import Ready
from deskgrid.coordinator.service import run as serve
from deskgrid.coordinator.settings import CoordinatorSettings
from tests.pool.fake import FakePool


class Said(msgspec.Struct, frozen=True):
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that an error is; fails when there is more or less."""
        (line,) = self.err.strip().splitlines()
        assert line.startswith("deskgrid: ")
        return line.removeprefix("deskgrid: ")

    def json(self) -> object:
        """What it printed for programs."""
        return json.loads(self.out)


Command = Callable[..., Said]


@pytest.fixture
def deskgrid(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `deskgrid …` in this process."""

    def command(*argv: object) -> Said:
        capsys.readouterr()
        code = run([str(word) for word in argv])
        return Said(code, *capsys.readouterr())

    return command


class Office(msgspec.Struct):
    """A coordinator that runs, with its settings file."""

    settings: Path
    state: Path
    url: str
    pool: FakePool
    operator: OperatorClient


@pytest.fixture(scope="session")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """A coordinator for all tests; none of them ends it."""
    state = tmp_path_factory.mktemp("office") / "state"
    pool = FakePool(lambda: datetime.now(UTC))
    ready: queue.Queue[Ready] = queue.Queue()
    chosen = CoordinatorSettings(state_dir=state, port=0, cycle_seconds=0.2)
    thread = threading.Thread(target=serve, args=(chosen, pool, ready.put), daemon=True)
    thread.start()
    at = ready.get(timeout=60)
    settings = state.parent / "coordinator.toml"
    settings.write_text(f'port = {at.url.rsplit(":", 1)[1]}\nstate_dir = "{state}"\n')
    operator = OperatorClient(at.url, state)
    yield Office(settings, state, at.url, pool, operator)
    operator.close()
    at.stop()
    thread.join(30)
    assert not thread.is_alive()


def agent_toml(folder: Path, url: str = "https://localhost:1", desktop: str = "desk-1") -> Path:
    """Settings of an agent whose owner is away."""
    (folder / "owner").write_text("away")
    path = folder / "agent.toml"
    path.write_text(
        f'coordinator = "{url}"\ndesktop = "{desktop}"\nstate = "{folder}/state"\nimages = "{folder}/images"\n'
        f'presence = "file:{folder}/owner"\n'
    )
    return path
