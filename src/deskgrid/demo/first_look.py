"""The settings of a first look: one grid on one's own machine, whose only desktop is played.

Rules:
- They are written to the account's own folder of settings, so that every command, in every shell, means this grid.
- Nothing that we have not written is written over; what is current stays, and so does the coordinator's port.
- The desktop's owner is a file with one word, "away" or "present": who types the tour must not stop it by typing.
"""

from contextlib import suppress
from pathlib import Path

import msgspec

from deskgrid.demo.cast import DESKTOPS
from deskgrid.demo.signers import SignersFolders
from deskgrid.demo.stage import AGENT, COORDINATOR, Table, over, settings_text
from deskgrid.host.system.files import write_atomic
from deskgrid.model.values.outside import read_toml
from deskgrid.pool.embedded.place import EmbeddedError, check_port, free_port
from deskgrid.pool.embedded.pool import EmbeddedPool

MARK = "# Written by `deskgrid trust first-look --write`; a file without this line is never written over."
PORT = 9443


class NotOurs(Exception):
    """A file is there that we have not written. The message says what to do."""


def write(config: Path, folder: Path, pool: EmbeddedPool) -> list[Path]:
    """Write the settings of coordinator and agent.

    Args:
        config: where they go. folder: of the signers, and of what both services keep. pool: the one that runs.

    Returns:
        The files that have changed.

    Raises:
        NotOurs: when a file of that name is there and not ours; nothing is written then.
    """
    files = {config / name: f"{MARK}\n{text}" for name, text in _texts(config, folder, pool).items()}
    changed = {path: text for path, text in files.items() if _before(path) != text}
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, changed[path].encode(), 0o600)
    owner = folder / DESKTOPS[0] / "owner"
    if not owner.exists():
        owner.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner.write_text("away\n", encoding="ascii")
    return list(changed)


def _texts(config: Path, folder: Path, pool: EmbeddedPool) -> dict[str, str]:
    desktop, places = DESKTOPS[0], SignersFolders(folder)
    port = _port(config / "coordinator.toml")
    reach = {k: v for k, v in msgspec.to_builtins(pool.reach()).items() if v not in (None, "") and k != "account"}
    coordinator: Table = {
        "port": port,
        "state_dir": str(folder / "coordinator"),
        "images": places.coordinator(),
        "guest": {"collector": pool.guest_collector, "trust_domain": pool.state.trust_domain},
        "pool": reach,
    }
    agent: Table = {
        "coordinator": f"https://localhost:{port}",
        "desktop": desktop,
        "state": str(folder / desktop),
        "root": str(places.root),
        "presence": f"file:{folder / desktop / 'owner'}",
        "idle_class": AGENT["idle_class"],
        "policy_folder": str(config / "policy"),
    }
    return {
        "coordinator.toml": settings_text(over(COORDINATOR, coordinator)),
        "agent.toml": settings_text(agent),
        "policy/grid.toml": settings_text(AGENT["policy"]),
    }


def _before(path: Path) -> str | None:
    """What is there. Raises: NotOurs."""
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith(MARK):
        raise NotOurs(
            f"settings {path}: got a file that deskgrid has not written, expected none; it says already which grid is "
            "meant, so move it away first"
        )
    return text


def _port(file: Path) -> int:
    """The port that the file names, or the usual one, or a free one."""
    with suppress(OSError, ValueError, KeyError):
        return int(read_toml(file.read_text(encoding="utf-8"))["port"])
    try:
        check_port(PORT)
    except EmbeddedError:
        return free_port()
    return PORT
