"""agent.toml: what an agent must be told (everything else has a default), and where its files lie."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from deskgrid.agent.policy.files import POLICY_FOLDER, PolicyTable, Zone
from deskgrid.model.policy import Seconds
from deskgrid.model.values.help import Help
from deskgrid.model.values.names import Name

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
    """One desktop's agent."""

    coordinator: Annotated[
        str,
        msgspec.Meta(pattern=ADDRESS, description="https://, a host, and a port: https://grid.example.org:9443"),
        Help('"https://host:port"'),
    ]
    desktop: Annotated[Name, Help("this computer's name in the grid")]
    state: Annotated[Path, Help("folder of its own, mode 0700")]
    images: Annotated[Path | None, Help("folder of its store of images; none: in `state`")] = None
    root: Annotated[Path, Help("the first version of the signers' root, shipped with the agent")] = ROOT
    repository: Annotated[
        Repository, Help("where signed metadata and packs are (a URL); empty: at the coordinator")
    ] = ""
    presence: Annotated[
        str,
        msgspec.Meta(pattern=r"^(linux|file:/.+)$", description="linux, or file:/ and a path"),
        Help('"linux", or "file:/path" for a desktop without an owner (demo, tests)'),
    ] = "linux"
    hypervisor: Annotated[Literal["qemu", "fake"], Help('"qemu" or "fake"')] = "qemu"
    idle_class: Annotated[bool, Help("VMs get only the processor time that nobody else wants")] = True
    zone: Annotated[Zone, Help("IANA name of the owner's time zone; empty: the computer's own")] = ""
    hold_seconds: Annotated[Seconds, Help("how long a report may be held open")] = 25.0
    sense_seconds: Annotated[float, msgspec.Meta(gt=0, le=60), Help("how often presence is read with VMs here")] = 1.0
    sense_seconds_at_rest: Annotated[float, msgspec.Meta(gt=0, le=60), Help("the same without VMs")] = 5.0
    local: Annotated[
        Path | None,
        Help("the socket where accounts of this computer are heard; none: in /run/deskgrid if it may, else in `state`"),
    ] = None
    neighbour_port: Annotated[
        int,
        msgspec.Meta(ge=0, le=65535),
        Help("where desktops of its subnet ask for parts of images, if the policy says `neighbours`; 0: any free"),
    ] = 0
    policy_folder: Annotated[Path, Help("folder of grid.toml, group.toml and desktop.toml")] = POLICY_FOLDER
    policy: Annotated[PolicyTable, Help("the desktop's layer, if it has no file")] = PolicyTable()

    @property
    def store(self) -> Path:
        """The folder of its store of images."""
        return self.images or self.state / "images"

    @property
    def repository_url(self) -> str:
        """Where signed metadata and packs are."""
        return self.repository.rstrip("/") or f"{self.coordinator}/repository"


def credential_file(state: Path) -> Path:
    """The desktop's own credential, mode 0600. SECRET."""
    return state / "credential"


def ca_file(state: Path) -> Path:
    """The coordinator's CA certificate, pinned at enrolment."""
    return state / "coordinator-ca.pem"


def dump_file(state: Path) -> Path:
    """What `deskgrid agent dump` had the agent write."""
    return state / "dump.json"


def status_file(state: Path) -> Path:
    """What the agent tells its owner."""
    return state / "status.json"
