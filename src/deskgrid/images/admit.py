"""The short process that lets an image into a desktop's store: `python -m deskgrid.images.admit`; see `desktop.py`.

Rules:
- What the signers say is asked anew each time; their word counts at most until the timestamp expires.
- The manifest must be the one that the lease names, by its SHA-256, and must say the same names as its signers.
- A question on its standard input, the reply on its standard output. No secret is in them.
"""

import sys

import msgspec

from deskgrid.images.contract import ImageError
from deskgrid.images.desktop import Admission, AdmitQuestion, AdmitReply
from deskgrid.images.fetch.source import Origin
from deskgrid.images.format import published
from deskgrid.images.format.published import HOLE
from deskgrid.images.serve.launch import disk_server
from deskgrid.images.serve.prefetch import Prefetch
from deskgrid.images.serve.serve import ServeOrder
from deskgrid.images.store.index import HeldImage
from deskgrid.images.store.store import ChunkStore, StoreLimits
from deskgrid.images.trust.desktop.client import opened
from deskgrid.images.trust.values import Version
from deskgrid.model.desktop import Fault
from deskgrid.model.image import ImageFacts, ImageRef
from deskgrid.model.values.outside import read_json


def main() -> None:
    """Read a question, print the reply."""
    question = read_json(sys.stdin.buffer.read(), type=AdmitQuestion, dec_hook=lambda kind, value: kind(value))
    sys.stdout.buffer.write(msgspec.json.encode(reply(question)))


def reply(question: AdmitQuestion) -> AdmitReply:
    """Answer a question."""
    allowance = question.allowance
    try:
        store = ChunkStore(question.origins.store, StoreLimits(allowance.budget_bytes, allowance.floor_bytes), _say)
    except ImageError as error:
        return AdmitReply(sentence=str(error), fault=Fault.DESKTOP)
    try:
        admission = None if question.wanted is None else _admit(store, question, question.wanted)
        return AdmitReply(_held(store), admission)
    except ImageError as error:
        return AdmitReply(_held(store), sentence=str(error), fault=error.whose)
    finally:
        store.close()


def _admit(store: ChunkStore, question: AdmitQuestion, wanted: Version) -> Admission:
    """Check and admit. Raises: TrustError, ImageError."""
    with opened(question.origins.trust) as trusted:
        trusted.refresh(question.now)
        content = trusted.manifest(wanted, question.now)
    if (signed := published.digest(content)) != question.digest:
        raise ImageError(
            f"image {wanted}: got a lease for {question.digest[:12]}…, but its signers say "
            f"{signed[:12]}…; the coordinator's list is another one than theirs",
            Fault.IMAGE,
        )
    with store.admit(content, (wanted.project, wanted.image, wanted.version)) as image:
        order = ServeOrder(
            store=str(store.folder),
            limits=store.limits,
            digest=image.digest,
            sources=_sources(question),
            prefetch=Prefetch.BOOT,
            bytes_per_second=question.allowance.bytes_per_second,
        )
        server = disk_server(order, b"", image.manifest)
        return Admission(_facts(image.digest, image.manifest), image.manifest.cmdline, server)


def _sources(question: AdmitQuestion) -> tuple[Origin, ...]:
    """What the grant names, then what this desktop knows; the coordinator's own authority for its own address."""
    ours, place = question.origins.packs, question.origins.trust
    ca = str(place.certificates) if place.certificates is not None else ""
    urls = dict.fromkeys((*question.sources, *ours))
    return tuple(Origin(url, ca if url in ours and url.startswith("https:") else "") for url in urls)


def _facts(digest: str, manifest: published.PublishedManifest) -> ImageFacts:
    return ImageFacts(
        ImageRef(manifest.name, digest), manifest.memory_bytes, manifest.disk.bytes, manifest.project, manifest.version
    )


def _held(store: ChunkStore) -> tuple[ImageFacts, ...]:
    """The images of which all is here that a boot reads."""
    found = (_held_one(store, image) for image in store.images())
    return tuple(facts for facts in found if facts is not None)


def _held_one(store: ChunkStore, image: HeldImage) -> ImageFacts | None:
    try:
        manifest, table = published.decode(store.manifest_of(image.digest))
    except ImageError as error:
        _say(str(error))
        return None
    needed: dict[int, set[int]] = {}
    for number in published.boot_order(manifest):
        if table.packs[number] != HOLE:
            needed.setdefault(table.packs[number], set()).add(table.blobs[number])
    whole = all(blobs <= store.held(manifest.packs[pack].name) for pack, blobs in needed.items())
    return _facts(image.digest, manifest) if needed and whole else None


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


if __name__ == "__main__":
    main()
