"""Sets the stage: pool, coordinator and enrolled desktops, running and idle. The demo's, and the system tests'."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from deskgrid.coordinator.client import NoAnswer, OperatorClient
from deskgrid.demo.cast import DESKTOPS, HANG_SECONDS, Cast, DemoError
from deskgrid.demo.jobs import write_jobs
from deskgrid.demo.signers import SignersFolders
from deskgrid.host.trees import trees
from deskgrid.pool.config import PoolSettings
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.pool.embedded.pool import EmbeddedPool, free_port
from deskgrid.presence.fake import set_presence

CYCLE_SECONDS = 2
LEASE_SECONDS = 60
"""How long a job waits for a machine that died without a word: shorter than a person watches."""
Table = Mapping[str, Any]
COORDINATOR: Table = {
    "cycle_seconds": CYCLE_SECONDS,
    "report_seconds": 5,
    "hold_seconds": 20,
    "plan": {
        "match_seconds": 30,
        "settle_seconds": 30,
        "sizes": [{"cpus": 1, "memory_bytes": "1GiB"}],
    },
}
AGENT: Table = {
    "idle_class": False,  # head and desktops share one machine here: the guests must not starve beside them
    "policy": {
        "idle_seconds": 1,
        "idle_seconds_nobody": 1,
        "resume_seconds": 1,
        "grace_seconds": 0,
        "memory_reserve_bytes": "256MiB",
        "memory_short_bytes": "128MiB",
        "disk_floor_bytes": "256MiB",
        "vm_disk_bytes": "2GiB",
        "max_vms": 1,
        "others_cpu_max": 1,  # head, desktops and guests share one machine: each would make way for the others
        "memory_pressure_max": 100,
        "on_battery": True,  # somebody who looks at the demo on a laptop wants to see it run
        "battery_min_percent": 0,
        "metered": True,
        "lid_closed": True,
        "full_screen": True,
        "boot_delay_seconds": 0,
        "start_spacing_seconds": 0,
        "start_offset_seconds": 0,
    },
}


class Stage:
    """All that runs, and the ways to it.

    images: folders of built images; they are published, signed and on offer.
    """

    def __init__(self, cast: Cast, tree: trees.Tree, *images: Path) -> None:
        self.cast, self.tree, self.images = cast, tree, images
        self.signers = cast.folder / "signers"

    def set(self) -> None:
        """Start everything, in order. Raises: DemoError, EmbeddedError."""
        self.vouch(*self.images)
        self.start_pool(HeadSettings(PoolSettings(lease_seconds=LEASE_SECONDS), cycle_seconds=CYCLE_SECONDS))
        self.start_coordinator()
        for desktop in DESKTOPS:
            self.enrol(desktop)
            self.start_agent(desktop)

    def vouch(self, *images: Path) -> None:
        """Publish built images, signed by all who must."""
        if not self.signers.exists():
            self.cast.make_folder(self.signers.name)
        words = [str(self.signers), *map(str, images)]
        self.cast.run(*words, module="deskgrid.demo.signers")

    def start_pool(self, settings: HeadSettings) -> None:
        """Start HTCondor, with the jobs' submit files."""
        cast = self.cast
        folder = cast.make_folder("pool", 0o755)
        self.pool = EmbeddedPool.start(self.tree, folder, settings, timeout_seconds=HANG_SECONDS)
        cast.at_end(self.pool.stop)
        is_root = os.geteuid() == 0
        write_jobs(self.pool.jobs, (cast.account.uid, cast.account.gid) if is_root else None)
        self.port = free_port()

    def start_coordinator(self, more: Table | None = None) -> None:
        """Start the coordinator, or start it again; return when it answers. more: settings over the demo's."""
        cast, pool = self.cast, self.pool
        state = cast.make_folder("coordinator")
        reach = msgspec.to_builtins(msgspec.structs.replace(pool.reach(), account=None))
        own = {
            "port": self.port,
            "state_dir": str(state),
            "images": SignersFolders(self.signers).coordinator(),
            "guest": {"collector": pool.guest_collector, "trust_domain": pool.state.trust_domain},
            "pool": {key: value for key, value in reach.items() if value is not None},
        }
        text = settings_text(over(over(COORDINATOR, own), more or {}))
        self.settings = cast.write(cast.folder / "coordinator.toml", text)
        cast.start("coordinator", "coordinator", "run", "--settings", str(self.settings))
        self.client = self._await_client(state)

    def enrol(self, desktop: str, more: Table | None = None) -> None:
        """Make a desktop a member, its owner away. more: settings over the demo's."""
        cast = self.cast
        state = cast.make_folder(desktop)
        self.owner(desktop, "away")
        own = {
            "coordinator": f"https://localhost:{self.port}",
            "desktop": desktop,
            "state": str(state),
            "root": str(SignersFolders(self.signers).root),
            "presence": f"file:{self.presence(desktop)}",
        }
        settings = write_agent(cast, self.agent_settings(desktop), over(over(AGENT, own), more or {}))
        made = self.client.make_token(3600, 1)
        cast.run("agent", "enrol", "--settings", str(settings), stdin=f"{made.token}@{made.ca_fingerprint}")

    def start_agent(self, desktop: str) -> None:
        """Start a desktop's agent, or start it again."""
        self.cast.start(desktop, "agent", "run", "--settings", str(self.agent_settings(desktop)))

    def agent_settings(self, desktop: str) -> Path:
        """A desktop's settings file."""
        return self.cast.folder / f"{desktop}.toml"

    def presence(self, desktop: str) -> Path:
        """The file that says what a desktop's owner does."""
        return self.cast.folder / desktop / "owner"

    def owner(self, desktop: str, word: str) -> None:
        """The owner comes ("present") or leaves ("away")."""
        set_presence(self.presence(desktop), word)

    def ask(self, *arguments: str) -> str:
        """Ask deskgrid what a person would ask."""
        return self.cast.run(*arguments, "--settings", str(self.settings)).strip()

    def _await_client(self, state: Path) -> OperatorClient:
        deadline = time.monotonic() + HANG_SECONDS
        while True:
            self.cast.watch()
            try:
                client = OperatorClient(f"https://localhost:{self.port}", state)
                client.status()
                return client
            except NoAnswer as error:
                if time.monotonic() > deadline:
                    raise DemoError(f"coordinator: no answer in {HANG_SECONDS:.0f} s: {error}") from None
            time.sleep(0.2)


def over(below: Table, above: Table) -> Table:
    """Settings over others; tables are joined."""
    joined = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            joined[key] = over(below[key], above[key])
    return joined


def write_agent(cast: Cast, file: Path, table: Table) -> Path:
    """Write an agent's settings; its "policy" becomes the grid's layer, since a desktop's own may only tighten."""
    folder = cast.make_folder(f"{file.stem}-policy", 0o755)
    cast.write(folder / "grid.toml", settings_text(table["policy"]))
    own = {key: value for key, value in table.items() if key != "policy"}
    return cast.write(file, settings_text({**own, "policy_folder": str(folder)}))


def settings_text(table: Table) -> str:
    """Settings as TOML."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    return json.dumps(value)
