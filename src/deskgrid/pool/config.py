"""HTCondor's configuration for deskgrid, as drop-in files with an explanation for each setting.

`dropins` is pure: settings in, files out. `install` writes them, and never over a file that is not ours. The same
files serve an existing pool (`deskgrid pool configure`) and the embedded one (`pool/embedded.py` adds its head).
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deskgrid.host.files import write_atomic

MARK = "# Written by deskgrid"
VM_USER = "deskgrid-vm"
"""The user part of the identity in the token of every VM."""

COORDINATOR_USER = "deskgrid-coordinator"
"""The user part of the coordinator's identity."""

LOST_SECONDS = 2
"""So long a shadow tries to reach a machine again that the connection to has ended."""

YOUNG_SECONDS = 20
"""A job that began so long ago at the most may be lost by a restart of its schedd."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


class ForeignFile(Exception):
    """A file of that name is there and was not written by deskgrid. The message says what to do."""


class PoolSettings(msgspec.Struct, frozen=True):
    """What can be chosen about HTCondor's side.

    trust_domain: TRUST_DOMAIN of the pool. key: name of the signing key for the tokens of VMs.
    lease_seconds: how long a job and its VM wait for each other, when the VM is paused or the schedd was restarted:
    longer than any VM is paused (`model/policy.py`, GRACE_SECONDS_MOST).
    housekeeping_seconds: how often the collector throws out ads that are over.
    """

    trust_domain: str = "deskgrid"
    key: str = "deskgrid"
    lease_seconds: int = 900
    housekeeping_seconds: int = 30


class Setting(msgspec.Struct, frozen=True):
    """One setting: its line (or lines) as HTCondor reads it, and why it is there."""

    line: str
    why: str


class DropIn(msgspec.Struct, frozen=True):
    """One file. path: its name inside the configuration folder. why: what the file as a whole is for."""

    path: str
    why: str
    settings: tuple[Setting, ...]

    @property
    def text(self) -> str:
        """The file's content."""
        parts = [f"{MARK}; do not edit, later files win.\n# {self.why}\n"]
        for setting in self.settings:
            parts.append(f"{_comment(setting.why)}\n{setting.line}\n")
        return "\n".join(parts)


def dropins(settings: PoolSettings) -> tuple[DropIn, ...]:
    """Return the files for an existing pool's central manager and schedds.

    Raises:
        ValueError: naming every setting that is wrong.
    """
    _check(settings)
    return (_jobs(settings), _negotiation(), _security(settings), _lifetimes(settings))


def install(files: Sequence[DropIn], directory: Path) -> tuple[Path, ...]:
    """Write the files to a configuration folder such as /etc/condor/config.d; all or none.

    Returns:
        The paths whose content has changed.

    Raises:
        ForeignFile: when a file of that name is there and not ours; nothing is written then.
    """
    changed = []
    for file in files:
        path = directory / file.path
        old = path.read_text(errors="replace") if path.exists() else None
        if old is not None and not old.startswith(MARK):
            raise ForeignFile(
                f"configuration {path}: got a file that deskgrid has not written, expected none or one that starts "
                f"with {MARK!r}; move it away or choose another folder"
            )
        if old != file.text:
            changed.append((path, file.text))
    for path, text in changed:
        write_atomic(path, text.encode())
    return tuple(path for path, _ in changed)


def _check(settings: PoolSettings) -> None:
    faults = [
        f"pool setting {what}: got {text!r}, expected letters, digits, '.', '_', '-'"
        for what, text in (("trust_domain", settings.trust_domain), ("key", settings.key))
        if not _WORD.match(text)
    ]
    faults += [
        f"pool setting {what}: got {number}, expected a number of seconds from {least}"
        for what, number, least in (
            ("lease_seconds", settings.lease_seconds, 20),
            ("housekeeping_seconds", settings.housekeeping_seconds, 5),
        )
        if number < least
    ]
    if faults:
        raise ValueError("; ".join(faults))


def _comment(why: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(why, 110))


def _jobs(settings: PoolSettings) -> DropIn:
    lease = _lease(settings)
    return DropIn(
        path="60-deskgrid-jobs.conf",
        why="Schedds: what happens to a job that names an image (+vm_name) when it is submitted.",
        settings=(
            Setting(
                f"JOB_DEFAULT_LEASE_DURATION = {lease}",
                "How long a job waits for a machine that it has lost the connection to; without this line, 40 minutes. "
                "Each of HTCondor's parts that ask evaluates it with what it knows, so it can tell them apart. The "
                f"job's own shadow, when the connection breaks, gets {LOST_SECONDS}: the machine has ended (one that "
                "is paused keeps its connections), and the job runs again elsewhere. All others get "
                f"{settings.lease_seconds}: the machine keeps its job over a pause, and both over a restart of the "
                "schedd.",
            ),
            Setting(
                "TCP_KEEPALIVE_INTERVAL = 15",
                "A machine that has lost its power says nothing, not even that its connections end. Asked after 15 s "
                "of silence, and five times more in 25 s, it is given up after 40 s; the default is six minutes. A "
                "network that is cut for 20 s costs no job. It is for all daemons, since those behind a shared port "
                "get their connections from it as it has set them.",
            ),
            Setting(
                "JOB_TRANSFORM_NAMES = $(JOB_TRANSFORM_NAMES) DeskgridImage",
                "Adds to the transforms that this schedd may have already.",
            ),
            Setting(
                "JOB_TRANSFORM_DeskgridImage @=end\n"
                "   NAME a job that names an image runs only in that image\n"
                "   REQUIREMENTS isString(MY.vm_name)\n"
                "   COPY Requirements DeskgridSubmittedRequirements\n"
                "   SET Requirements (MY.DeskgridSubmittedRequirements) && (TARGET.vm_name == MY.vm_name)\n"
                f"   SET JobLeaseDuration {lease}\n"
                "@end",
                "The job's own Requirements stay and are joined by the image's name, compared as values. They are "
                "referred to, not pasted in: HTCondor would expand macros in a pasted text, and so give away this "
                "configuration to whoever writes a job. The lease is as above.",
            ),
        ),
    )


def _lease(settings: PoolSettings) -> str:
    """JobLeaseDuration as an expression: four ask, each with what it knows, and only the shadow gets the short answer.

    - The schedd, when it was restarted, and the shadow that it starts then, have no TransferSocket yet.
    - The startd, when the job begins, has no ClaimId in its copy.
    - The starter, when the connection breaks, has a copy from before the job began: for it, the job has never begun.
      While it is young that can't be told apart, and so little work is lost.
    A job on a machine that is none of ours waits as long as all others do.
    """
    began = ("JobCurrentStartExecutingDate >= JobCurrentStartDate", "TransferInStarted >= JobCurrentStartDate")
    asks = " || ".join(f"(({it}) =?= true)" for it in (*began, f"time() - JobCurrentStartDate < {YOUNG_SECONDS}"))
    ours = 'regexp("^[^@]*@vm-", RemoteHost) =?= true'
    shadow = f"isString(TransferSocket) && isString(ClaimId) && ({ours}) && ({asks})"
    return f"ifThenElse({shadow}, {LOST_SECONDS}, {settings.lease_seconds})"


def _negotiation() -> DropIn:
    return DropIn(
        path="60-deskgrid-negotiator.conf",
        why="Negotiator: machines that run win over machines that could be started.",
        settings=(
            Setting(
                "NEGOTIATOR_PRE_JOB_RANK = ($(NEGOTIATOR_PRE_JOB_RANK)) - (1.0e15 * (Offline =?= True))",
                "deskgrid advertises what the fleet could start as offline ads. Without this line a job could be "
                "matched with such an ad although a slot that runs is free, and would be counted as demand twice.",
            ),
        ),
    )


def _security(settings: PoolSettings) -> DropIn:
    vm, coordinator = f"{VM_USER}@{settings.trust_domain}", f"{COORDINATOR_USER}@{settings.trust_domain}"
    return DropIn(
        path="60-deskgrid-security.conf",
        why="All daemons: VMs authenticate with tokens of a signing key of their own, and all traffic is encrypted.",
        settings=(
            Setting(f"TRUST_DOMAIN = {settings.trust_domain}", "The issuer in the tokens; VMs are told the same."),
            Setting(
                "SEC_DEFAULT_AUTHENTICATION = REQUIRED\n"
                "SEC_DEFAULT_ENCRYPTION = REQUIRED\n"
                "SEC_DEFAULT_INTEGRITY = REQUIRED",
                "No daemon listens to somebody it does not know, and nothing can be read or changed on the way. The "
                "list of methods is left as it is; IDTOKENS is in HTCondor's default.",
            ),
            Setting(
                f"ALLOW_ADVERTISE_STARTD = $(ALLOW_ADVERTISE_STARTD) {vm} {coordinator}\n"
                f"ALLOW_ADVERTISE_MASTER = $(ALLOW_ADVERTISE_MASTER) {vm} {coordinator}\n"
                f"ALLOW_READ = $(ALLOW_READ) {vm} {coordinator}",
                "What the identity in a VM's token may do; the token itself is limited to the same three. It is "
                f"signed with the key {settings.key!r} in SEC_PASSWORD_DIRECTORY: removing that file revokes the "
                "tokens of all VMs and of nothing else. The coordinator advertises offline ads and takes the ads of "
                "VMs that are gone out of the collector.",
            ),
        ),
    )


def _lifetimes(settings: PoolSettings) -> DropIn:
    return DropIn(
        path="60-deskgrid-collector.conf",
        why="Collector: ads of VMs that are gone don't linger.",
        settings=(
            Setting(
                f"HOUSEKEEPER_INTERVAL = {settings.housekeeping_seconds}",
                "How often the collector looks for ads whose lifetime is over; the default is 300 seconds. VMs and "
                "offline ads carry a short lifetime of their own.",
            ),
            Setting(
                "TCP_KEEPALIVE_INTERVAL = 15",
                "Machines behind NAT are called through the collector. It must know as soon as a job's shadow does "
                "that one has lost its power (60-deskgrid-jobs.conf), or each call waits for an answer in vain.",
            ),
        ),
    )
