"""agent.toml: what an agent must be told. Everything else has a default."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from deskgrid.agent.policy_files import POLICY_FOLDER, PolicyTable, Zone
from deskgrid.model.names import Name
from deskgrid.model.policy import Seconds

ADDRESS = r"^https://[A-Za-z0-9.\[\]:-]+\Z"
"""Where a coordinator may be: never without TLS, and nothing but host and port."""


ROOT = Path("/etc/deskgrid/root.json")
Repository = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(https?://[!-~]+)?\Z", description="an address such as https://grid.example.org/repository"
    ),
]
Presence = Annotated[str, msgspec.Meta(pattern=r"^(linux|file:/.+)$", description="linux, or file:/ and a path")]


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One desktop's agent.

    coordinator: "https://host:port". desktop: this computer's name in the grid. state: folder of its own, mode 0700.
    images: folder of its store of images; none: in `state`. root: the first version of the signers' root, shipped with
    the agent. repository: where signed metadata and packs are (a URL); empty: at the coordinator.
    presence: "linux", or "file:/path" for a desktop without an owner (demo, tests).
    hypervisor: "qemu" or "fake". idle_class: VMs get only the processor time that nobody else wants.
    zone: IANA name of the owner's time zone; empty: the computer's own.
    hold_seconds: how long a report may be held open. sense_seconds: how often presence is read with VMs
    here. sense_seconds_at_rest: the same without VMs.
    local: the socket where accounts of this computer are heard; none: in /run/deskgrid if it may, else in `state`.
    neighbour_port: where desktops of its subnet ask for parts of images, if the policy says `neighbours`; 0: any free.
    policy_folder: folder of grid.toml, group.toml and desktop.toml. policy: the desktop's layer, if it has no file.
    """

    coordinator: Annotated[
        str, msgspec.Meta(pattern=ADDRESS, description="https://, a host, and a port: https://grid.example.org:9443")
    ]
    desktop: Name
    state: Path
    images: Path | None = None
    root: Path = ROOT
    repository: Repository = ""
    presence: Annotated[str, msgspec.Meta(pattern=r"^(linux|file:/.+)$", description="linux, or file:/ and a path")] = (
        "linux"
    )
    hypervisor: Literal["qemu", "fake"] = "qemu"
    idle_class: bool = True
    zone: Zone = ""
    hold_seconds: Seconds = 25.0
    sense_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 1.0
    sense_seconds_at_rest: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    local: Path | None = None
    neighbour_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    policy_folder: Path = POLICY_FOLDER
    policy: PolicyTable = PolicyTable()

    @property
    def store(self) -> Path:
        """The folder of its store of images."""
        return self.images or self.state / "images"

    @property
    def repository_url(self) -> str:
        """Where signed metadata and packs are."""
        return self.repository.rstrip("/") or f"{self.coordinator}/repository"
