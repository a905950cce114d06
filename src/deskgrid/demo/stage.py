"""Sets the demo's stage: pool, coordinator and two enrolled desktops, running and idle."""

import json
import time
from pathlib import Path

import msgspec

from deskgrid.coordinator.client import NoAnswer, OperatorClient
from deskgrid.demo.cast import DESKTOPS, Cast, DemoError
from deskgrid.demo.jobs import write_jobs
from deskgrid.host import trees
from deskgrid.images.build import Built
from deskgrid.images.store import facts_of
from deskgrid.pool.embedded import EmbeddedPool, free_port
from deskgrid.pool.head import HeadSettings
from deskgrid.presence.fake import set_presence

CYCLE_SECONDS = 2
_COORDINATOR = """
port = {port}
state_dir = "{state}"
cycle_seconds = {cycle}
report_seconds = 5
hold_seconds = 20

[guest]
collector = "{collector}"
trust_domain = "{trust_domain}"

[plan]
match_seconds = 30
settle_seconds = 30
sizes = [{{ cpus = 1, memory_bytes = "1GiB" }}]

[pool]
{pool}
"""
_AGENT = """
coordinator = "https://localhost:{port}"
desktop = "{desktop}"
state = "{state}"
images = "{images}"
presence = "file:{presence}"

[policy]
idle_seconds = 1
idle_seconds_nobody = 1
resume_seconds = 1
grace_seconds = 0
memory_reserve_bytes = "256MiB"
memory_short_bytes = "128MiB"
disk_floor_bytes = "256MiB"
vm_disk_bytes = "2GiB"
max_vms = 1
max_cpus = 1
"""


class Stage:
    """All that runs, and the ways to it."""

    def __init__(self, cast: Cast, tree: trees.Tree, image: Built) -> None:
        self.cast, self.tree, self.image = cast, tree, image

    def set(self) -> None:
        """Start everything, in order. Raises: DemoError, EmbeddedError."""
        cast = self.cast
        self.pool = EmbeddedPool.start(
            self.tree, cast.make_folder("pool", 0o755), HeadSettings(cycle_seconds=CYCLE_SECONDS)
        )
        cast.at_end(self.pool.stop)
        write_jobs(self.pool.jobs, (cast.account.uid, cast.account.gid) if _is_root() else None)
        self.port = free_port()
        self._start_coordinator()
        self._start_agents()

    def presence(self, desktop: str) -> Path:
        """The file that says what a desktop's owner does."""
        return self.cast.folder / desktop / "owner"

    def owner(self, desktop: str, word: str) -> None:
        """The owner comes ("present") or leaves ("away")."""
        set_presence(self.presence(desktop), word)

    def ask(self, *arguments: str) -> str:
        """Ask deskgrid what a person would ask."""
        return self.cast.run(*arguments, "--settings", str(self.settings)).strip()

    def _start_coordinator(self) -> None:
        cast, pool = self.cast, self.pool
        state = cast.make_folder("coordinator")
        reach = msgspec.to_builtins(msgspec.structs.replace(pool.reach(), account=None))
        reach = "\n".join(f"{key} = {json.dumps(value)}" for key, value in reach.items() if value is not None)
        text = _COORDINATOR.format(
            port=self.port,
            state=state,
            cycle=CYCLE_SECONDS,
            collector=pool.guest_collector,
            trust_domain=pool.state.trust_domain,
            pool=reach,
        )
        self.settings = cast.write(cast.folder / "coordinator.toml", text)
        cast.start("coordinator", "coordinator", "run", "--settings", str(self.settings))
        self.client = self._await_client(state)
        self.client.offer_image(facts_of(self.image.folder))

    def _await_client(self, state: Path) -> OperatorClient:
        deadline = time.monotonic() + 60
        while True:
            self.cast.watch()
            try:
                client = OperatorClient(f"https://localhost:{self.port}", state)
                client.status()
                return client
            except NoAnswer as error:
                if time.monotonic() > deadline:
                    raise DemoError(f"coordinator: no answer in 60 s: {error}") from None
            time.sleep(0.2)

    def _start_agents(self) -> None:
        cast = self.cast
        made = self.client.make_token(3600, len(DESKTOPS))
        for desktop in DESKTOPS:
            state = cast.make_folder(desktop)
            self.owner(desktop, "away")
            text = _AGENT.format(
                port=self.port,
                desktop=desktop,
                state=state,
                images=self.image.folder.parent.parent,
                presence=self.presence(desktop),
            )
            settings = cast.write(state / "agent.toml", text)
            cast.run("agent", "enrol", "--settings", str(settings), stdin=f"{made.token}@{made.ca_fingerprint}")
            cast.start(desktop, "agent", "run", "--settings", str(settings))


def _is_root() -> bool:
    import os

    return os.geteuid() == 0
