"""The place of an embedded pool: its folder made ready, its port free, nothing of an earlier life still running."""

import hashlib
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from deskgrid.host.system.account import Account, become
from deskgrid.host.system.files import own_folder, write_atomic
from deskgrid.host.system.process import run
from deskgrid.host.trees.trees import Tree
from deskgrid.model.values.outside import read_json
from deskgrid.pool.config import dropins
from deskgrid.pool.embedded.head import Folders, HeadSettings, collector_address, head_dropin, main_config

_FOLDERS = ("etc", "etc/config.d", "etc/tokens.d", "log", "spool", "execute", "lock", "jobs")
_SOCKET_PATH_BYTES = 70
"""A Unix socket's path has at most 108 bytes; HTCondor appends a name of its own."""


class EmbeddedError(Exception):
    """The embedded pool did not start. The message says why and where to read more."""


class PoolState(msgspec.Struct, frozen=True):
    """What another process must know to use a running pool; in `pool.json` of the run folder."""

    port: int
    guest_host: str
    trust_domain: str
    key: str
    binds: tuple[str, ...]


def folders_of(folder: Path) -> Folders:
    """Return where the parts of the pool in `folder` are; sockets go to the tree's /tmp when the path is too long."""
    home = folder.absolute()
    sockets = home / "sock"
    if len(str(sockets)) > _SOCKET_PATH_BYTES:
        sockets = Path("/tmp") / f"deskgrid-{hashlib.sha256(str(home).encode()).hexdigest()[:16]}"  # noqa: S108
    return Folders(home, sockets)


def free_port() -> int:
    """Return a TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_state(folders: Folders) -> PoolState | None:
    """What the pool in this folder last was, running or not."""
    try:
        return read_json((folders.run / "pool.json").read_bytes(), type=PoolState)
    except (OSError, msgspec.DecodeError):
        return None


def usual_port(folders: Folders) -> int:
    """Return the port that the pool had, since settings elsewhere name it; a free one if it had none or it is taken."""
    state = last_state(folders)
    if state is not None:
        with suppress(EmbeddedError):
            check_port(state.port)
            return state.port
    return free_port()


def job_folders(tree: Tree, named: Sequence[Path] | None) -> tuple[Path, ...]:
    """The folders that HTCondor shall see beside its own.

    Args:
        named: what the caller wishes. None: the home folder and the one in which we are, of an ordinary user; none of
            root's, since the pool's account has no business there.
    """
    if named is not None:
        return tuple(path.resolve() for path in named)
    if os.geteuid() == 0:
        return ()
    wished = (Path.home().resolve(), Path.cwd())
    found = tuple(path for path in dict.fromkeys(wished) if path.is_dir() and _free_in(tree, path))
    return found[:1] if found[1:] and found[1].is_relative_to(found[0]) else found


def _free_in(tree: Tree, path: Path) -> bool:
    """Whether a folder can be put into the tree without hiding something of the tree's own."""
    there = tree.root / path.relative_to("/")
    return len(path.parts) > 2 and not any(files for _, _, files in os.walk(there))


def check_binds(account: Account, binds: Sequence[Path]) -> None:
    """Raises: EmbeddedError: the pool's account can't reach one of them; to be bound must give it nothing."""
    for path in binds:
        if not run([*become(account), "test", "-r", str(path), "-a", "-x", str(path)], 10).ok:
            raise EmbeddedError(
                f"folder for jobs: got {path}, expected one that user {account.uid} can reach, who runs the pool"
            )


def daemons_of(folders: Folders) -> list[psutil.Process]:
    """HTCondor's processes that run by this folder's configuration, also those whose master is gone."""
    found = []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            ours = (process.info["name"] or "").startswith("condor_")
            if ours and process.environ().get("CONDOR_CONFIG") == str(folders.config):
                found.append(process)
    return found


def end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


def check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise EmbeddedError(f"embedded pool: port {port} of 127.0.0.1 can't be used: {error.strerror}") from None


def prepare(account: Account, folders: Folders, settings: HeadSettings, state: PoolState) -> None:
    """Make folders, configuration and, once, the signing key."""
    own_folder(folders.run, account)
    for name in _FOLDERS:
        own_folder(folders.run / name, account)
    if not run([*become(account), "test", "-w", str(folders.run)], 10).ok:
        raise EmbeddedError(
            f"embedded pool {folders.run}: user {account.uid} can't reach this folder; "
            "choose one whose parent folders everybody may pass"
        )
    own_folder(folders.keys, account, 0o700)
    own_folder(folders.tokens, account, 0o700)
    if folders.sockets.is_relative_to(folders.run):
        own_folder(folders.sockets, account)
    key = folders.keys / settings.pool.key
    if not key.exists():
        write_atomic(key, secrets.token_hex(64).encode(), 0o600, account)
    write_atomic(folders.config, main_config(folders).encode(), owner=account)
    write_atomic(folders.collector_address, collector_address(state.port).encode(), owner=account)
    own = msgspec.structs.replace(settings.pool, ended=str(folders.ended))
    for file in (head_dropin(settings, folders, state.port), *dropins(own)):
        write_atomic(folders.dropins / file.path, file.text.encode(), owner=account)
    write_atomic(folders.run / "pool.json", msgspec.json.encode(state), owner=account)
    folders.pid.unlink(missing_ok=True)
