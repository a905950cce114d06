"""How HTCondor's own command line tools are run against one pool, each bounded in time.

The tools are those of the machine (an existing pool) or those of a root tree (the embedded one), which run without
entering the tree. The caller authenticates with an IDTOKEN of its own from a folder; secrets are never in argv or in
the environment.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from deskgrid.host.system.account import Account, become
from deskgrid.host.system.process import Finished, run
from deskgrid.host.system.programs import environment
from deskgrid.host.trees.entry import NoWay, direct
from deskgrid.model.values.help import Help
from deskgrid.pool.contract import Partial, PoolError, PoolRefused, PoolUnreachable

_DENIED = ("DENIED", "not authorized", "Permission denied", "AUTHENTICATE:", "Failed to read file", "Not authorized")
_SENTENCE_CHARACTERS = 300
_SBIN = frozenset({"condor_advertise", "condor_reconfig"})


class Reach(msgspec.Struct, frozen=True):
    """Where the pool is and who asks."""

    tree: Annotated[str, Help('folder of a root tree whose tools are used; "": those of this machine')] = ""
    config: Annotated[str, Help('the file for CONDOR_CONFIG; "": the machine\'s own')] = ""
    account: Annotated[Account | None, Help("who the tools run as when the caller is root; None: the caller")] = None
    tokens: Annotated[str, Help("folder with the caller's IDTOKEN")] = ""
    keys: Annotated[str, Help('folder with the signing key; "": as configured')] = ""
    key: Annotated[str, Help("the signing key's name")] = "deskgrid"
    trust_domain: Annotated[str, Help("HTCondor's TRUST_DOMAIN")] = "deskgrid"
    ended: Annotated[
        str, Help('the file in which the collector finds the VMs that have ended; "": it was told of none')
    ] = ""
    timeout_seconds: Annotated[
        float, msgspec.Meta(gt=0, le=600), Help("for one call of the contract, however many tools it runs")
    ] = 20.0


class RunTool(Protocol):
    """Runs one of HTCondor's tools; as `run_tool`."""

    def __call__(self, reach: Reach, argv: Sequence[str], timeout_seconds: float, stdin: str = "") -> str:
        """Return what it printed. Raises: PoolError."""


def run_tool(reach: Reach, argv: Sequence[str], timeout_seconds: float, stdin: str = "") -> str:
    """Run a tool and return what it printed.

    Raises:
        PoolUnreachable: no answer in time, or no connection. PoolRefused: HTCondor said no. PoolError: no such tool.
    """
    if timeout_seconds <= 0:
        raise PoolUnreachable(f"{argv[0]}: no time was left to ask; is the pool slow or down?")
    finished = run([*become(reach.account), *_argv(reach, argv)], timeout_seconds, stdin.encode(), _environment(reach))
    if finished.ok:
        return finished.stdout
    raise _fault(argv[0], finished, timeout_seconds)


def _argv(reach: Reach, argv: Sequence[str]) -> list[str]:
    if not reach.tree:
        return list(argv)
    folder = "usr/sbin" if argv[0] in _SBIN else "usr/bin"
    try:
        return direct(Path(reach.tree), f"{folder}/{argv[0]}", argv[1:])
    except NoWay as error:
        raise PoolError(str(error)) from None


def _environment(reach: Reach) -> dict[str, str]:
    kept = environment("HOME")
    chosen = {
        "CONDOR_CONFIG": reach.config,
        "_CONDOR_SEC_TOKEN_DIRECTORY": reach.tokens,
        "_CONDOR_SEC_PASSWORD_DIRECTORY": reach.keys,
        "_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS": "IDTOKENS" if reach.tokens else "",
    }
    if reach.tokens:  # whatever the pool asks of others
        chosen |= {f"_CONDOR_SEC_CLIENT_{what}": "REQUIRED" for what in ("AUTHENTICATION", "ENCRYPTION", "INTEGRITY")}
    return {**kept, "LANG": "C.UTF-8", **{name: value for name, value in chosen.items() if value}}


def _fault(tool: str, finished: Finished, timeout_seconds: float) -> PoolError:
    said = " ".join((finished.stderr or finished.stdout).split())[-_SENTENCE_CHARACTERS:]
    if finished.timed_out:
        return PoolUnreachable(f"{tool}: no answer in {timeout_seconds:.0f} s; is the pool up?")
    if finished.code == 127:
        return PoolError(f"{tool}: {said}; install HTCondor's tools or name the root tree that has them")
    if any(mark in said for mark in _DENIED):
        return PoolRefused(f"{tool}: HTCondor refused: {said}; check token, key and ALLOW settings")
    if finished.code < 0:
        return Partial(f"{tool}: it was killed by signal {-finished.code} before its answer was whole")
    return PoolUnreachable(f"{tool}: failed with code {finished.code}: {said or 'without a word'}; is the pool up?")
