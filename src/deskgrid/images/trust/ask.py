"""Trust asked from another process: python-tuf takes 25 MB, which an agent at rest has not.

Rules, told first
- One question, one short process, one answer: JSON on its standard input and output. Nothing secret is in it.
- The time comes with the question.
"""

import hashlib
import logging
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from deskgrid.images.trust.errors import Fault, TrustError
from deskgrid.images.trust.words import Entry, Freshness, Version, manifest_place, version
from deskgrid.model.moment import Moment

_log = logging.getLogger(__name__)


class Place(msgspec.Struct, frozen=True):
    """Where a desktop keeps its metadata, the root that was shipped, and where the repository is.

    repository: a URL, or a folder. seconds: for one file. certificates: file of CAs for https.
    """

    folder: Path
    bootstrap: Path
    repository: str
    seconds: float = 20.0
    certificates: Path | None = None


class Question(msgspec.Struct, frozen=True):
    """ask: `manifest` of the one version, the `latest` of its image, or which of the versions are `revoked`."""

    place: Place
    ask: Literal["refresh", "manifest", "latest", "revoked"]
    now: Moment
    versions: tuple[Version, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """What was found, or what is wrong and whose fault it is. manifest: what both have signed of it; it is kept now."""

    freshness: Freshness | None = None
    manifest: Entry | None = None
    latest: Version | None = None
    revoked: tuple[tuple[Version, str], ...] = ()
    fault: Fault | None = None
    code: str = ""
    sentence: str = ""


def read_question(content: bytes) -> Question:
    """Read what `ask` wrote."""
    return msgspec.json.decode(content, type=Question, dec_hook=lambda kind, value: kind(value))


def ask(question: Question, within_seconds: float = 120.0) -> Answer:
    """Ask in a process of its own. Raises: TrustError."""
    for each in question.versions:
        version(each.project, each.image, each.version)
    argv = [sys.executable, "-m", "deskgrid.images.trust.answer"]
    failed = TrustError(
        Fault.DESKTOP, "no-answer", "images: the process that checks them ended without an answer; see the agent's log"
    )
    try:
        done = subprocess.run(
            argv,
            input=msgspec.json.encode(question, enc_hook=str),
            capture_output=True,
            timeout=within_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TrustError(
            Fault.NETWORK, "slow", f"images: not checked within {within_seconds:g} s; tried again later"
        ) from None
    except OSError as error:
        _log.warning("images: %s can't be started: %s", argv[0], error.strerror)
        raise failed from None
    try:
        answer = msgspec.json.decode(done.stdout, type=Answer)
    except msgspec.DecodeError:
        _log.warning("images: check ended with %s: %s", done.returncode, done.stderr[-2000:].decode(errors="replace"))
        raise failed from None
    if answer.fault is not None:
        raise TrustError(answer.fault, answer.code, answer.sentence.removesuffix(f" [{answer.code}]"))
    return answer


def verified_manifest(place: Place, wanted: Version, now: datetime) -> bytes:
    """The manifest of a version that may start now. Raises: TrustError that says why not."""
    entry = ask(Question(place, "manifest", now, (wanted,))).manifest
    assert entry is not None
    return kept_manifest(place, entry)


def kept_manifest(place: Place, entry: Entry) -> bytes:
    """A manifest that was found to be what both signed. Raises: TrustError when the disk has lost or changed it."""
    kept = manifest_place(place.folder, entry)
    try:
        content = kept.read_bytes()
    except OSError as error:
        raise TrustError(Fault.DESKTOP, "disk", f"manifest {kept}: can't be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise TrustError(Fault.DESKTOP, "disk", f"manifest {kept}: changed on this computer's disk; tried again later")
    return content


def latest(place: Place, wanted: Version, now: datetime) -> Version:
    """The latest version of the image of `wanted`, whatever version that names. Raises: TrustError."""
    found = ask(Question(place, "latest", now, (wanted,))).latest
    assert found is not None
    return found


def revoked(place: Place, running: Sequence[Version], now: datetime) -> dict[Version, str]:
    """Which of these may not even go on running, with the reason. Raises: TrustError."""
    return dict(ask(Question(place, "revoked", now, tuple(running))).revoked)
