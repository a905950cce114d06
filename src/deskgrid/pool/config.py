"""HTCondor's configuration for deskgrid, as drop-in files with an explanation for each setting.

`dropins` is pure: settings in, files out. `install` writes them, and never over a file that is not ours. The same
files serve an existing pool (`deskgrid pool configure`) and the embedded one (`pool/embedded/pool.py` adds its head).
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deskgrid.host.system.files import write_atomic
from deskgrid.model.pool import ON_SERVER
from deskgrid.pool.tools.identities import ENDED_MAP, identities, requirements
from deskgrid.pool.tools.reading import COLLECTOR_ATTRIBUTES

MARK = "# Written by deskgrid"
COORDINATOR_USER = "deskgrid-coordinator"
"""The user part of the coordinator's identity."""

_PATH = re.compile(r"/[A-Za-z0-9._/-]{1,200}\Z")

SILENT_SECONDS, PROBES, PROBE_SECONDS = 15, 5, 5
"""A connection is probed after this silence, this many times (HTCondor's number), and should be this often."""
LOST_SECONDS = 2
"""How long a shadow tries to reach a machine again after their connection has ended."""

YOUNG_SECONDS = 20
"""Age up to which a running job may be lost by a restart of its schedd."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


class ForeignFile(Exception):
    """A file of that name is there and was not written by deskgrid. The message says what to do."""


class PoolSettings(msgspec.Struct, frozen=True):
    """What can be chosen about HTCondor's side.

    trust_domain: TRUST_DOMAIN of the pool. key: name of the signing key for the tokens of VMs.
    lease_seconds: how long a job and its VM wait for each other, when the VM is paused or the schedd was restarted:
    longer than any VM is paused (`model/policy.py`, GRACE_SECONDS_MOST).
    housekeeping_seconds: how often the collector throws out ads that are over.
    ended: the file of VMs that have ended, written by the coordinator (`pool.ended` there) and read by the collector.
    """

    trust_domain: str = "deskgrid"
    key: str = "deskgrid"
    lease_seconds: int = 900
    housekeeping_seconds: int = 30
    ended: str = "/var/lib/deskgrid/ended-vms"


class ConfigSetting(msgspec.Struct, frozen=True):
    """One setting: its line (or lines) as HTCondor reads it, and why it is there."""

    line: str
    why: str


class DropIn(msgspec.Struct, frozen=True):
    """One file. path: its name inside the configuration folder. why: what the file as a whole is for."""

    path: str
    why: str
    settings: tuple[ConfigSetting, ...]

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
    if not _PATH.match(settings.ended):
        faults.append(f"pool setting ended: got {settings.ended!r}, expected an absolute path without blanks")
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
            ConfigSetting(
                f"JOB_DEFAULT_LEASE_DURATION = {lease}",
                "How long a job waits for a machine that it has lost the connection to; without this line, 40 minutes. "
                "Each of HTCondor's parts that ask evaluates it with what it knows, so it can tell them apart. The "
                f"job's own shadow, when the connection breaks, gets {LOST_SECONDS}: the machine has ended (one that "
                "is paused keeps its connections), and the job runs again elsewhere. All others get "
                f"{settings.lease_seconds}: the machine keeps its job over a pause, and both over a restart of the "
                "schedd.",
            ),
            ConfigSetting(
                f"TCP_KEEPALIVE_INTERVAL = {SILENT_SECONDS}",
                "A machine that has lost its power says nothing, not even that its connections end. Asked after 15 s "
                "of silence, and five times more, it is given up. How often is the kernel's to say, as HTCondor leaves "
                "it: every 75 s, so after six and a half minutes; with net.ipv4.tcp_keepalive_intvl=5 (sysctl) on this "
                "computer after 40 s, and a network that is cut for 20 s costs no job then either. It is for all "
                "daemons, since those behind a shared port get their connections from it as it has set them.",
            ),
            ConfigSetting(
                "JOB_TRANSFORM_NAMES = $(JOB_TRANSFORM_NAMES) DeskgridLease DeskgridImage DeskgridImageAgain "
                "DeskgridImageOnly",
                "Adds to the transforms that this schedd may have already.",
            ),
            ConfigSetting(
                "JOB_TRANSFORM_DeskgridLease @=end\n"
                "   NAME a job that names an image waits as long as it should for a machine that it has lost\n"
                f"   REQUIREMENTS {_NAMES_AN_IMAGE}\n"
                f"   SET JobLeaseDuration {lease}\n"
                "@end",
                "The lease is as above, whatever the job asks for. Jobs that run on the submit server itself "
                "(scheduler universe, so DAGMan; local; grid) are left alone, here and below.",
            ),
            ConfigSetting(
                _transform("DeskgridImage", f"! {_mentions(_KEPT, _KEPT_AGAIN)}", _KEPT),
                "The job's own Requirements stay and are joined by the image's name, compared as values. They are "
                "referred to, not pasted in: HTCondor would expand macros in a pasted text, and so give away this "
                "configuration to whoever writes a job. Applied again, as HTCondor does to each job of a factory "
                "(max_materialize, max_idle), it changes nothing: Requirements that refer to the attribute already are "
                "not kept under that name a second time, since they would then refer to themselves.",
            ),
            ConfigSetting(
                _transform(
                    "DeskgridImageAgain",
                    f"{_mentions(_KEPT, _KEPT_AGAIN)} && ! {_mentions(_KEPT_AGAIN)} && ! {_joined()}",
                    _KEPT_AGAIN,
                ),
                "A job may write any attribute, this one too, and another server may have added to Requirements that "
                "were joined before: such Requirements are kept under another name.",
            ),
            ConfigSetting(
                _transform("DeskgridImageOnly", f"{_mentions(_KEPT_AGAIN)} && ! {_joined()}", None),
                "Nor can that name be taken twice. Of a job that has come so far, through three servers or on purpose, "
                "only the image's name is asked; a machine weighs the job's size by itself.",
            ),
            ConfigSetting(
                "SCHEDD_ENABLE_PER_USER_MATCH_LIMITS = False",
                "HTCondor 25.11 and later offer a user so many matches in one negotiation, 20 as it comes, and a match "
                "with a machine that could be started counts though it starts nothing: a second image of the same user "
                "would not be seen until the first is served. How many transfers run at once stays bounded. Earlier "
                "versions don't know this setting.",
            ),
        ),
    )


_NAMES_AN_IMAGE = " && ".join(("isString(MY.vm_name)", *(f"JobUniverse =!= {number}" for number in ON_SERVER)))
_KEPT, _KEPT_AGAIN = "DeskgridSubmittedRequirements", "DeskgridFurtherRequirements"


def _transform(name: str, when: str, kept: str | None) -> str:
    """A transform that joins a job's Requirements, kept as the attribute `kept`, with its image's name."""
    own = f"(MY.{kept}) && " if kept else ""
    copy = f"   COPY Requirements {kept}\n" if kept else ""
    return (
        f"JOB_TRANSFORM_{name} @=end\n"
        "   NAME a job that names an image runs only in that image\n"
        f"   REQUIREMENTS {_NAMES_AN_IMAGE} && {when}\n"
        f"{copy}   SET Requirements {own}(TARGET.vm_name == MY.vm_name)\n"
        "@end"
    )


def _mentions(*kept: str) -> str:
    """Whether a job's Requirements name one of these attributes."""
    return f'regexp("{"|".join(kept)}", unparse(Requirements), "i")'


def _joined() -> str:
    """Whether a job's Requirements are what a transform makes of them, however HTCondor writes that."""
    joined = f"^[ (]*MY[.]({_KEPT}|{_KEPT_AGAIN})[ )]*&&[ (]*TARGET[.]vm_name *== *MY[.]vm_name[ )]*$"
    return f'regexp("{joined}", unparse(Requirements), "i")'


_OURS = "^[^@]*@vm-[a-z2-7]{10}(@.*|[.]deskgrid[.]internal)?$"
"""A slot of ours as RemoteHost names it: id and domain as coordinator and guest give them. Other machines called vm-…,
such as those of a cloud, have a domain of their own."""


def _lease(settings: PoolSettings) -> str:
    """JobLeaseDuration as an expression: four ask, each with what it knows, and only the shadow gets the short answer.

    - The schedd, when it was restarted, and the shadow that it starts then, have no TransferSocket yet.
    - The startd, when the job begins, has no ClaimId in its copy.
    - The starter, when the connection breaks, has a copy from before the job began: for it, the job has never begun.
      While it is young that can't be told apart, and so little work is lost.
    A job on a machine that is none of ours waits as long as all others do.
    """
    marks = ("JobCurrentStartExecutingDate", "TransferInStarted", "TransferInFinished")
    began = [f"{mark} >= JobCurrentStartDate" for mark in marks]
    asks = " || ".join(f"(({it}) =?= true)" for it in (*began, f"time() - JobCurrentStartDate < {YOUNG_SECONDS}"))
    ours = f'regexp("{_OURS}", RemoteHost) =?= true'
    shadow = f"isString(TransferSocket) && isString(ClaimId) && ({ours}) && ({asks})"
    return f"ifThenElse({shadow}, {LOST_SECONDS}, {settings.lease_seconds})"


def _negotiation() -> DropIn:
    return DropIn(
        path="60-deskgrid-negotiator.conf",
        why="Negotiator: machines that run win over machines that could be started.",
        settings=(
            ConfigSetting(
                "NEGOTIATOR_PRE_JOB_RANK = ($(NEGOTIATOR_PRE_JOB_RANK)) - (1.0e15 * (Offline =?= True))",
                "deskgrid advertises what the fleet could start as offline ads. Without this line a job could be "
                "matched with such an ad although a slot that runs is free, and would be counted as demand twice.",
            ),
        ),
    )


def _security(settings: PoolSettings) -> DropIn:
    vm, coordinator = identities(settings.trust_domain), f"{COORDINATOR_USER}@{settings.trust_domain}"
    return DropIn(
        path="60-deskgrid-security.conf",
        why="All daemons: VMs authenticate with tokens of a signing key of their own. Whether others must authenticate "
        "is left as this pool has it: VMs and coordinator insist on it, and on encryption, from their side.",
        settings=(
            ConfigSetting(
                f"TRUST_DOMAIN = {settings.trust_domain}", "The issuer in the tokens; VMs are told the same."
            ),
            ConfigSetting(
                "DESKGRID_OWN_MACHINES = $(ALLOW_DAEMON)\n"
                "if $(LEGACY_ALLOW_SEMANTICS:False)\n"
                "   DESKGRID_OWN_MACHINES = $(ALLOW_DAEMON:$(ALLOW_WRITE))\n"
                "endif",
                "Who may advertise machines here while the two settings below are not set: HTCondor takes ALLOW_DAEMON "
                "for them, and ALLOW_WRITE for that in pools that keep the ways of 8.8. It may still.",
            ),
            ConfigSetting(
                f"ALLOW_ADVERTISE_STARTD = $(ALLOW_ADVERTISE_STARTD:$(DESKGRID_OWN_MACHINES)) {vm} {coordinator}\n"
                f"ALLOW_ADVERTISE_MASTER = $(ALLOW_ADVERTISE_MASTER:$(DESKGRID_OWN_MACHINES)) {vm} {coordinator}\n"
                f"ALLOW_READ = $(ALLOW_READ) {vm} {coordinator}",
                "What the identities in VMs' tokens may do; a token itself is limited to the same three. It is "
                f"signed with the key {settings.key!r} in SEC_PASSWORD_DIRECTORY: removing that file revokes the "
                "tokens of all VMs and of nothing else. The coordinator advertises offline ads and takes the ads of "
                "VMs that are gone out of the collector.",
            ),
        ),
    )


def _lifetimes(settings: PoolSettings) -> DropIn:
    return DropIn(
        path="60-deskgrid-collector.conf",
        why="Collector: a VM speaks for itself only, and ads of VMs that are gone don't linger.",
        settings=(
            ConfigSetting(
                f"HOUSEKEEPER_INTERVAL = {settings.housekeeping_seconds}",
                "How often the collector looks for ads whose lifetime is over; the default is 300 seconds. VMs and "
                "offline ads carry a short lifetime of their own.",
            ),
            ConfigSetting(
                f"COLLECTOR_REQUIREMENTS = ($(COLLECTOR_REQUIREMENTS:True)) && {requirements(COLLECTOR_ATTRIBUTES)}",
                "Each VM has an identity of its own, with the time of its end in it. Its ads are those that bear its "
                "own id and name, and only until then; it can't overwrite another's, nor pretend an offline ad or "
                "another daemon. What tells whose they are must be plain text, not an expression, which could be one "
                "thing now and another a moment later; none is large or lasts. Ads of everybody else are taken as "
                "before.",
            ),
            ConfigSetting(
                f"COLLECTOR_CLASSAD_USER_MAP_NAMES = $(COLLECTOR_CLASSAD_USER_MAP_NAMES) {ENDED_MAP}\n"
                f"CLASSAD_USER_MAPFILE_{ENDED_MAP} = {settings.ended}\n"
                "COLLECTOR.ALLOW_ADMINISTRATOR = $(COLLECTOR.ALLOW_ADMINISTRATOR:$(ALLOW_ADMINISTRATOR)) "
                f"{COORDINATOR_USER}@{settings.trust_domain}",
                "The VMs of a desktop that was revoked are named there: their tokens are dead at once, whatever "
                "connection is still open. The coordinator writes the file and lets the collector read it again "
                "(condor_reconfig), which is all that it administers.",
            ),
            ConfigSetting(
                "IGNORE_INVALIDATE = True",
                "Whoever may advertise a machine may also take the ads of any other machine away, and the collector "
                "does not look who it is: one VM could empty the pool. So the collector does not obey such commands; "
                "ads end by their lifetime, and those of VMs are written over by the coordinator. The price: the ads "
                "of an ordinary node that is shut down stay for their 15 minutes.",
            ),
            ConfigSetting(
                f"TCP_KEEPALIVE_INTERVAL = {SILENT_SECONDS}",
                "Machines behind NAT are called through the collector. It must know as soon as a job's shadow does "
                "that one has lost its power (60-deskgrid-jobs.conf), or each call waits for an answer in vain.",
            ),
        ),
    )
