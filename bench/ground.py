"""What a benchmark stands on: a folder, processes as the service account, and their end.

Rules:
- As in the demo, everything runs without privileges, whoever calls, and is put away in reverse order whatever happened.
- Nothing here waits for ever: each wait has an end and a sentence.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from bench.machine import CannotMeasure
from deskgrid.coordinator.client import NoAnswer, OperatorClient
from deskgrid.demo.cast import Cast
from deskgrid.demo.signers import SignersFolders
from deskgrid.host.system.account import become
from deskgrid.host.trees.trees import Tree
from deskgrid.images.build.build import Built
from deskgrid.pool.embedded.pool import free_port

Say = Callable[[str], None]


class Ground:
    """A benchmark's place.

    tree: the root tree with HTCondor. demo: the demo's image. say: tells progress. output: folder for what is kept.
    """

    def __init__(self, cast: Cast, tree: Tree, demo: Built, say: Say, output: Path) -> None:
        self.cast, self.tree, self.demo, self.say, self.output = cast, tree, demo, say, output
        self._places = SignersFolders(cast.folder / "signers")

    def vouch(self, *images: Path) -> None:
        """Publish built images, signed by all who must."""
        folder = self.cast.make_folder("signers")
        self.cast.run(str(folder), *map(str, images), module="deskgrid.demo.signers", timeout_seconds=900)

    @property
    def signed(self) -> str:
        """The table [images] of a coordinator's settings."""
        return "[images]\n" + "".join(f'{key} = "{value}"\n' for key, value in self._places.coordinator().items())

    def start_program(self, module: ModuleType, *arguments: str, core: int | None = None) -> int:
        """Start one of our programs as the service account, which need not be able to read our folder.

        Args:
            module: it names in BESIDE the modules of this checkout that it imports; they are copied for it.
            core: keep it on this one.

        Returns: its process id.
        """
        text = Path(str(module.__file__)).read_text()
        for one in module.BESIDE:
            *folders, file = one.__name__.split(".")
            for depth in range(1, len(folders) + 1):
                place = self.cast.make_folder("/".join(folders[:depth]))
            self.cast.write(place / f"{file}.py", Path(str(one.__file__)).read_text())
        pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
        argv = [*become(self.cast.account), *pinned, sys.executable, "-c", text, *arguments]
        return self.cast.start_argv(module.__name__, argv).pid

    def end_program(self, module: ModuleType) -> None:
        """End one of our programs before the rest."""
        process = self.cast.processes.pop(module.__name__)
        process.terminate()
        process.wait(15)

    def settings_of_coordinator(self, **lines: str) -> tuple[Path, Path, int]:
        """Write a coordinator's settings. Returns: its settings, its state folder and its port."""
        state, port = self.cast.make_folder("coordinator"), free_port()
        rest = "\n".join(f"{key} = {value}" for key, value in lines.items() if not value.startswith("["))
        tables = "\n".join(value for value in lines.values() if value.startswith("["))
        text = f'port = {port}\nstate_dir = "{state}"\n{rest}\n\n{tables}\n'
        return self.cast.write(self.cast.folder / "coordinator.toml", text), state, port

    def client(self, state: Path, port: int) -> OperatorClient:
        """The operator's way to a coordinator that has just been started."""
        end = time.monotonic() + 60
        while True:
            self.cast.watch()
            try:
                client = OperatorClient(f"https://localhost:{port}", state)
                client.status()
                return client
            except NoAnswer as error:
                if time.monotonic() > end:
                    raise CannotMeasure(f"coordinator: no answer in 60 s: {error}") from None
            time.sleep(0.2)

    def start_agent(self, client: OperatorClient, port: int, desktop: str, presence: str, rest: str) -> int:
        """Enrol and start a real agent. rest: further settings; their [policy] is the grid's. Returns: its pid."""
        state, policy = self.cast.make_folder(desktop), self.cast.make_folder(f"{desktop}-policy", 0o755)
        rest, _, grid = rest.partition("[policy]\n")
        self.cast.write(policy / "grid.toml", grid)
        text = (
            f'coordinator = "https://localhost:{port}"\ndesktop = "{desktop}"\nstate = "{state}"\n'
            f'root = "{self._places.root}"\npresence = "{presence}"\npolicy_folder = "{policy}"\n{rest}\n'
        )
        settings = self.cast.write(state / "agent.toml", text)
        made = client.make_token(3600, 1)
        self.cast.run("agent", "enrol", "--settings", str(settings), stdin=f"{made.token}@{made.ca_fingerprint}")
        return self.cast.start(desktop, "agent", "run", "--settings", str(settings)).pid

    def until(self, what: str, seconds: float, done: Callable[[], bool], step_seconds: float = 0.2) -> None:
        """Wait until it holds. Raises: CannotMeasure; DemoError when a process has ended."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise CannotMeasure(f"waited {seconds:.0f} s for {what}, in vain")
            self.cast.watch()
            time.sleep(step_seconds)


@contextmanager
def ground(tree: Tree, demo: Built, say: Say, output: Path) -> Iterator[Ground]:
    """A fresh place, put away at the end."""
    cast = Cast()
    try:
        yield Ground(cast, tree, demo, say, output)
    finally:
        cast.close()
