"""What an administrator can choose about the coordinator: one TOML file, checked as a whole.

Rules:
- Everything has a default that works on one machine; a file names only what differs.
- All faults of a file are told at once, with their paths (`host/system/toml.py` reads it).
- Times that would defeat each other are refused here: a held report must not make its desktop look silent, and a
  lease must outlive several missed reports.
"""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from deskgrid.host.system import toml
from deskgrid.model.plan import PlanSettings
from deskgrid.model.values.help import Help
from deskgrid.pool.tools.reach import Reach

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=31 * 86400)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


_COLLECTOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}:([0-9]{1,5})(?:\?sock=[A-Za-z0-9][A-Za-z0-9._-]{0,63})?\Z")


class GuestSettings(msgspec.Struct, frozen=True):
    """What every VM gets to know."""

    collector: Annotated[
        str,
        Help(
            "\"host:port\" of the pool's collector as guests see it (10.0.2.2 is the host behind QEMU's "
            "user network); a collector behind the shared port, such as one of several child "
            'collectors: "host:port?sock=collector3"'
        ),
    ] = "10.0.2.2:9618"
    trust_domain: Annotated[str, Help("HTCondor's TRUST_DOMAIN")] = "deskgrid"
    unused_seconds: Annotated[
        int, msgspec.Meta(ge=10, le=7 * 86400), Help("a VM leaves by itself after this long without a claim")
    ] = 600
    token_seconds: Annotated[
        int,
        msgspec.Meta(ge=300, le=86400),
        Help("how long a VM's pool token is valid; it is renewed after half of that, while its lease holds"),
    ] = 1800

    def __post_init__(self) -> None:
        found = _COLLECTOR.match(self.collector)
        if found is None or not 0 < int(found[1]) < 65536:
            raise ValueError(f'collector: got {self.collector!r}, expected "host:port" or "host:port?sock=NAME"')
        if not self.trust_domain or any(c.isspace() or c in '"\\' for c in self.trust_domain):
            raise ValueError(f"trust_domain: got {self.trust_domain!r}, expected a word")


class ImageSettings(msgspec.Struct, frozen=True):
    """Where images come from."""

    repository: Annotated[
        Path | None,
        Help(
            "folder with `metadata`, `targets`, `pending` and the packs, as `deskgrid trust` and "
            "`deskgrid image publish` use it; without it no image is on offer"
        ),
    ] = None
    online_key: Annotated[Path | None, Help("key file that says what is current; empty: that is done elsewhere")] = None
    online_password_file: Annotated[Path | None, Help("file with its password")] = None
    keys: Annotated[Path | None, Help("folder of the projects' keys, `PROJECT.key`, each with mode 600")] = None
    sources: Annotated[
        tuple[str, ...],
        Help("base addresses (http or https) where desktops fetch packs, asked in this order; empty: this coordinator"),
    ] = ()
    renew_seconds: Annotated[
        float,
        msgspec.Meta(ge=5, le=43200),
        Help("all is read, and said to be current, so often; a change is seen in the next cycle"),
    ] = 300.0

    def __post_init__(self) -> None:
        for source in self.sources:
            parts = urlsplit(source)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
                raise ValueError(f"sources: got {source!r}, expected http://… or https://…")
        if self.online_key is not None and self.online_password_file is None:
            raise ValueError("online_password_file: missing, expected the file with the password of online_key")
        for key in ("online_key", "online_password_file", "keys"):
            path = getattr(self, key)
            if path is not None and self.repository is None:
                raise ValueError(f"{key}: got {path} without repository, expected both")
            if path is not None and self.repository in (path, *path.parents):
                raise ValueError(f"{key}: got {path}, expected a place outside of the repository, which is served")


class CoordinatorSettings(msgspec.Struct, frozen=True):
    """All settings of the coordinator."""

    host: Annotated[str, Help("address where it listens")] = "127.0.0.1"
    port: Annotated[Port, Help("port where it listens; 0: a free one")] = 9443
    state_dir: Annotated[Path, Help("CA, keys, database; readable by the service only")] = Path(
        "/var/lib/deskgrid/coordinator"
    )
    names: Annotated[
        tuple[str, ...], Help("host names and IP addresses in the server's certificate, as agents will call it")
    ] = ("localhost", "127.0.0.1")
    database: Annotated[str, Help("SQLAlchemy URL; empty: SQLite in the state folder")] = ""
    cycle_seconds: Annotated[Positive, Help("time between two plans")] = 5.0
    report_seconds: Annotated[Positive, Help("how often a desktop reports at the least")] = 20.0
    hold_seconds: Annotated[
        float,
        msgspec.Meta(ge=0, le=600),
        Help("how long a report is held open until there is something to say"),
    ] = 30.0
    max_held: Annotated[Count, Help("how many reports are held open at once")] = 5000
    advertise_seconds: Annotated[Positive, Help("offline ads are refreshed so often")] = 60.0
    pool_seconds: Annotated[Positive, Help("HTCondor is given up for this cycle after")] = 60.0
    negotiation_seconds: Annotated[
        Positive, Help("within this time HTCondor has surely negotiated (for the answers of `why`)")
    ] = 90.0
    keep_days: Annotated[
        float,
        msgspec.Meta(ge=8, le=36525),
        Help(
            "ended leases with their stories, spent tokens, and what revoked desktops were made of are kept this long"
        ),
    ] = 90.0
    audit_days: Annotated[float, msgspec.Meta(ge=8, le=36525), Help("the same for the audit")] = 400.0
    guest: GuestSettings = GuestSettings()
    plan: PlanSettings = PlanSettings()
    pool: Annotated[Reach, Help("how HTCondor is asked")] = Reach()
    images: Annotated[ImageSettings, Help("where images come from")] = ImageSettings()

    def __post_init__(self) -> None:
        faults = [*_times(self), *_plan(self.plan)]
        if not self.names:
            faults.append("names: got none, expected at least one host name or IP address for the certificate")
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def database_url(self) -> str:
        """The URL to connect to."""
        return self.database or f"sqlite:///{self.state_dir / 'coordinator.sqlite'}"

    def __repr__(self) -> str:
        """Without the database URL, which may hold a password."""
        return f"CoordinatorSettings(host={self.host!r}, port={self.port}, state_dir={str(self.state_dir)!r})"


def read_settings(path: Path) -> CoordinatorSettings:
    """Read coordinator.toml. Raises: host.toml.BadSettings with every fault of the file."""
    return toml.read(path, CoordinatorSettings)


def _times(settings: CoordinatorSettings) -> list[str]:
    silence = settings.report_seconds + settings.hold_seconds
    faults = []
    for key in ("stale_seconds", "lease_seconds"):
        limit = getattr(settings.plan, key)
        if limit < 2 * silence:
            faults.append(
                f"plan.{key}: got {limit:g}, expected at least {2 * silence:g} "
                "(twice report_seconds and hold_seconds together)"
            )
    return faults


def _plan(plan: PlanSettings) -> list[str]:
    faults = [
        f"plan.{field.name}: got {value:g}, expected more than 0"
        for field in msgspec.structs.fields(plan)
        if isinstance(value := getattr(plan, field.name), int | float) and value <= 0
    ]
    if not plan.sizes:
        faults.append("plan.sizes: got none, expected at least one table with cpus and memory_bytes")
    for index, size in enumerate(plan.sizes):
        if size.cpus < 1:
            faults.append(f"plan.sizes[{index}].cpus: got {size.cpus}, expected at least 1")
        if size.memory_bytes < 64 << 20:
            faults.append(f"plan.sizes[{index}].memory_bytes: got {size.memory_bytes}, expected at least 64 MiB")
    return faults
