"""Which image each name stands for: from what the signed repository lists to what is on offer, and why the rest is not.

Rules:
- Offered is the version that `latest` names. When that one may not start, the newest good one that came before it is
  offered instead; never one that came after, since somebody stepped back from it.
- A name belongs to the first project that published under it, for as long as that project exists. Another project's
  image of that name is not offered.
- Whatever is not on offer has a reason, and the operator gets it as a sentence.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from deskgrid.model.image import Attribute, ImageFacts, ImageRef
from deskgrid.model.reason import Reason
from deskgrid.model.values.names import Digest, Name


class CatalogueEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of an image as its repository lists it.

    number: its place among its image's versions, from 1. latest: its signers' pointer names it. signers: who has
    signed it. refused: why it may not start; None: it may. size_bytes: most that a desktop fetches. free_bytes, says:
    as in ImageFacts.
    """

    ref: ImageRef
    project: Name
    version: Name
    number: int = 1
    latest: bool = False
    signers: tuple[str, ...] = ()
    memory_bytes: int = 0
    disk_bytes: int = 0
    size_bytes: int = 0
    refused: Reason | None = None
    free_bytes: int = 0
    says: tuple[Attribute, ...] = ()

    def __str__(self) -> str:
        return f"{self.project}/{self.ref.name}/{self.version}"

    @property
    def facts(self) -> ImageFacts:
        """What the planner needs to know."""
        return ImageFacts(
            self.ref, self.memory_bytes, self.disk_bytes, self.project, self.version, self.free_bytes, self.says
        )


class Listing(msgspec.Struct, frozen=True):
    """All that a repository lists. projects: those that exist. until: when this stops being true; None: never.

    revoked: digest and why of each version that may not even go on running.
    """

    versions: tuple[CatalogueEntry, ...] = ()
    projects: frozenset[str] = frozenset()
    until: datetime | None = None
    revoked: Mapping[Digest, str] = msgspec.field(default_factory=dict)
    problems: tuple[str, ...] = ()


class Choice(msgspec.Struct, frozen=True):
    """What is on offer by name, why other names are not, whom each name belongs to, and what should be looked at."""

    offered: Mapping[str, ImageFacts]
    absent: Mapping[str, Reason]
    owners: Mapping[str, str]
    problems: tuple[str, ...]


def choose(listing: Listing, owners: Mapping[str, str]) -> Choice:
    """Decide what is on offer. owners: the project that each name belonged to so far."""
    kept = {name: project for name, project in owners.items() if project in listing.projects}
    offered: dict[str, ImageFacts] = {}
    absent: dict[str, Reason] = {}
    foreign: dict[str, Reason] = {}
    problems: list[str] = []
    for (name, project), versions in _images(listing.versions).items():
        best, reason = _best(versions)
        if best is not None:
            owner = kept.setdefault(name, project)
            if owner != project:
                reason = _taken(name, project, owner)
            else:
                offered[name] = best.facts
        if reason is not None:
            problems.append(f"image {project}/{name}: {reason.sentence}")
            (absent if kept.get(name, project) == project else foreign).setdefault(name, reason)
    left = {name: reason for name, reason in {**foreign, **absent}.items() if name not in offered}
    return Choice(offered, left, kept, tuple(problems))


def gone(before: Mapping[Digest, str], listing: Listing) -> dict[Digest, str]:
    """The digests that may not go on running, with why. before: the project of each that was listed so far.

    What is missing only because a file is damaged goes on; a project's end is signed by the administrators.
    """
    ended = {
        digest: f"project {project} is no more" for digest, project in before.items() if project not in listing.projects
    }
    return ended | dict(listing.revoked)


def _images(versions: Iterable[CatalogueEntry]) -> dict[tuple[str, str], list[CatalogueEntry]]:
    found: dict[tuple[str, str], list[CatalogueEntry]] = {}
    for one in sorted(versions, key=lambda v: (v.ref.name, v.project, v.number, v.version)):
        found.setdefault((one.ref.name, one.project), []).append(one)
    return found


def _best(versions: Sequence[CatalogueEntry]) -> tuple[CatalogueEntry | None, Reason | None]:
    """The version to offer, and what is wrong with the one that should be."""
    pointed = next((one for one in versions if one.latest), None)
    if pointed is None:
        waits = next((one.refused for one in reversed(versions) if one.refused is not None), None)
        return None, waits or Reason(
            "image-no-latest", "No version is signed as its latest; its researcher and approver must sign that."
        )
    if pointed.refused is None:
        return pointed, None
    older = [one for one in versions if one.refused is None and one.number < pointed.number]
    if not older:
        return None, pointed.refused
    reason = msgspec.structs.replace(
        pointed.refused, sentence=f"{pointed.refused.sentence} Version {older[-1].version} is offered instead."
    )
    return older[-1], reason


def _taken(name: str, project: str, owner: str) -> Reason:
    return Reason(
        "image-name-taken",
        f"The name {name} belongs to project {owner}, which published under it first; {project} must choose another.",
    )
