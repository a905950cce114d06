"""Make a Debian root tree with mmdebstrap, as a tar file.

mmdebstrap finds its mirror itself; `DESKGRID_MIRROR` overrides it. Without root it works where user namespaces and
subordinate ids do, else through `sudo -n`.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from deskgrid.host.system.process import kill_group, run
from deskgrid.host.system.programs import KEPT, environment, program

Progress = Callable[[float, str], None]
"""Called with the part that is done (0 to 1) and a sentence; from the thread that builds."""

_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_STEPS = (
    ("running apt-get update", 0.05, "fetching the package lists"),
    ("downloading packages with apt", 0.15, "downloading the essential packages"),
    ("extracting archives", 0.25, "unpacking the essential packages"),
    ("installing essential packages", 0.30, "installing the essential packages"),
    ("installing remaining packages", 0.50, "downloading and installing the other packages"),
    ("cleaning package lists", 0.85, "cleaning up"),
    ("creating tarball", 0.88, "writing the tree"),
    ("success in", 0.95, "the tree is written"),
)


_UNMET = " : Depends: "
"""APT's words for a package whose dependency can't be installed."""


class BuildFailed(Exception):
    """A root tree could not be built. The message says why and what to do."""


def quiet(_fraction: float, _sentence: str) -> None:
    """Progress that nobody looks at."""


def bootstrap(
    suite: str,
    packages: Sequence[str],
    output: Path,
    progress: Progress = quiet,
    options: Sequence[str] = (),
    timeout_seconds: float = 1800,
    mirror: str = "",
    source_date_epoch: int | None = None,
) -> None:
    """Write the tar of a `minbase` Debian tree with `packages` to `output`.

    Args:
        options: further options of mmdebstrap (hooks, dpkg options).
        mirror: address of the archive; `DESKGRID_MIRROR` comes first, mmdebstrap's own choice last.
        source_date_epoch: seconds since 1970 that no time stamp in the tree may exceed, for the same bytes each time.

    Raises:
        BuildFailed: with mmdebstrap's last lines and what to do.
    """
    _check()
    privilege = _privilege()
    limit = ["timeout", "--kill-after=10", str(int(timeout_seconds))]
    epoch = {} if source_date_epoch is None else {"SOURCE_DATE_EPOCH": str(source_date_epoch)}
    lines: list[str] = []
    with output.open("wb") as sink:
        os.fchmod(sink.fileno(), 0o600)
        process = subprocess.Popen(
            [*privilege, *limit, *_argv(suite, packages, options, mirror)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.PIPE,
            env=environment(*KEPT, *_PROXIES) | epoch,
            umask=0o022,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        try:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line.rstrip())
                _tell(line, progress)
            code = process.wait()
        except BaseException:
            _interrupt(process, privilege)
            raise
    if code != 0:
        raise BuildFailed(_explain(suite, code, lines))


def _argv(suite: str, packages: Sequence[str], options: Sequence[str], mirror: str) -> list[str]:
    mode = "root" if os.geteuid() == 0 or not _user_namespaces() else "unshare"
    mirror = os.environ.get("DESKGRID_MIRROR", "") or mirror
    return [
        "mmdebstrap",
        f"--mode={mode}",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(packages)}",
        '--aptopt=Acquire::Retries "3"',
        *options,
        suite,
        "-",
        *([mirror] if mirror else []),
    ]


def _privilege() -> list[str]:
    if os.geteuid() == 0 or _user_namespaces():
        return []
    keep = "--preserve-env=http_proxy,https_proxy,no_proxy,SOURCE_DATE_EPOCH,TMPDIR"
    return ["sudo", "-n", keep, "--"]


def _user_namespaces() -> bool:
    """Whether this user can map a range of subordinate ids and mount, which mmdebstrap's unshare mode needs."""
    trial = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return run(trial, timeout_seconds=10).ok


def _check() -> None:
    if program("mmdebstrap") is None:
        raise BuildFailed("mmdebstrap is not installed; run: sudo apt-get install mmdebstrap")
    if not KEYRING.exists():
        raise BuildFailed(
            f"the keys of Debian's archive are missing ({KEYRING}); run: sudo apt-get install debian-archive-keyring"
        )


def _tell(line: str, progress: Progress) -> None:
    for mark, fraction, sentence in _STEPS:
        if mark in line:
            progress(fraction, sentence)


def _explain(suite: str, code: int, lines: Sequence[str]) -> str:
    faults = [line for line in lines if line.startswith(("E:", "Err:", "sudo:")) or _UNMET in line] or list(lines[-3:])
    why = "it took too long" if code in (124, 137) else "; ".join(faults[-4:]) or f"exit code {code}"
    return (
        f"mmdebstrap could not build the {suite} tree: {why}. "
        "Check the network; without root it needs user namespaces with subordinate ids (package uidmap) or sudo."
    )


def _interrupt(process: "subprocess.Popen[str]", privilege: Sequence[str]) -> None:
    """Let mmdebstrap clean up after itself (it removes its folder on SIGTERM), then insist."""
    kill_group(process.pid, 15)
    if privilege:
        run([*privilege, "kill", "-TERM", "--", f"-{process.pid}"], timeout_seconds=10)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    kill_group(process.pid, 9)
