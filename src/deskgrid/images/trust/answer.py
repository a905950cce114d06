"""The process that answers one question of `ask.py`: `python -m deskgrid.images.trust.answer`."""

import ssl
import sys
from pathlib import Path

import msgspec

from deskgrid.images.trust.ask import Answer, Place, Question, read_question
from deskgrid.images.trust.client import Trusted
from deskgrid.images.trust.errors import Fault, TrustError
from deskgrid.images.trust.source import FolderSource, HttpSource, Source

_WAIT_SECONDS = 30.0


def main() -> None:
    """Read a question, print its answer."""
    question = read_question(sys.stdin.buffer.read())
    try:
        answer = reply(question)
    except TrustError as error:
        answer = Answer(fault=error.fault, code=error.code, sentence=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


def reply(question: Question) -> Answer:
    """Answer a question. Raises: TrustError."""
    now, place = question.now, question.place
    asked = question.versions
    if question.ask in ("manifest", "latest") and len(asked) != 1:
        raise TrustError(Fault.REQUEST, "bad-question", f"{question.ask}: got {len(asked)} versions, expected one")
    with opened(place) as trusted:
        try:
            freshness = trusted.refresh(now)
        except TrustError:
            if question.ask != "revoked":
                raise
            return Answer(revoked=tuple(trusted.revoked(asked, now).items()))
        if question.ask == "manifest":
            trusted.manifest(asked[0], now)
            return Answer(freshness, manifest=trusted.check(asked[0], now))
        if question.ask == "latest":
            return Answer(freshness, latest=trusted.latest(asked[0].project, asked[0].image, now))
        return Answer(freshness, revoked=tuple(trusted.revoked(asked, now).items()))


def opened(place: Place) -> Trusted:
    """A client of this place; enter it before use. Raises: TrustError."""
    try:
        bootstrap = place.bootstrap.read_bytes()
    except OSError as error:
        raise TrustError(
            Fault.DESKTOP,
            "no-root",
            f"root {place.bootstrap}: can't be read: {error.strerror}; install the agent again",
        ) from None
    return Trusted(place.folder, bootstrap, source_of(place), _WAIT_SECONDS)


def source_of(place: Place) -> Source:
    """The source that a place names. Raises: TrustError."""
    if place.repository.startswith("/"):
        return FolderSource(Path(place.repository))
    try:
        context = ssl.create_default_context(cafile=str(place.certificates)) if place.certificates else None
    except OSError as error:
        raise TrustError(
            Fault.DESKTOP, "no-certificates", f"certificates {place.certificates}: can't be read: {error.strerror}"
        ) from None
    return HttpSource(place.repository, place.seconds, context)


if __name__ == "__main__":
    main()
