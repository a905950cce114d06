"""A desktop's store of signed images beside a real repository in a folder."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from deskgrid.demo.signers import Signers, SignersFolders
from deskgrid.images.contract import ImageStore
from deskgrid.images.desktop import Allowance, DesktopStore, Origins
from deskgrid.images.format.published import decode, digest
from deskgrid.images.trust.signing.online import renew
from deskgrid.images.trust.values import TrustConfiguration, Version
from deskgrid.model.image import ImageFacts, ImageGrant, ImageRef
from tests.images.built import built_image


class Rig:
    """A store with one image, and a way to take the image back."""

    def __init__(
        self, store: ImageStore, facts: ImageFacts, grant: ImageGrant | None, take_back: Callable[[], None]
    ) -> None:
        self.store, self.facts, self.grant, self.take_back = store, facts, grant, take_back


def signed(folder: Path) -> Rig:
    """A real repository in a folder, and a desktop's store beside it."""
    signers = Signers(folder / "signers")
    version = signers.publish(built_image(folder / "built"))
    places = signers.places
    content = (places.repository / version.path).read_bytes()
    made, _ = decode(content)
    online = signers.signer("online")
    renew(places.repository, online, datetime.now(UTC))

    def take_back() -> None:
        signers.revoke(version, "it has a hole")
        renew(places.repository, online, datetime.now(UTC))

    facts = ImageFacts(
        ImageRef(version.image, digest(content)), made.memory_bytes, made.disk.bytes, version.project, version.version
    )
    return Rig(store_of(folder, places), facts, grant_of(places, version), take_back)


def store_of(folder: Path, places: SignersFolders) -> DesktopStore:
    trust = TrustConfiguration(folder / "trust", places.root, str(places.repository))
    origins = Origins(folder / "store", trust, (places.repository.as_uri(),))
    return DesktopStore(origins, lambda: Allowance(1 << 30, 0), lambda: datetime.now(UTC))


def grant_of(places: SignersFolders, version: Version) -> ImageGrant:
    key = (places.project_keys / f"{version.project}.key").read_text().strip()
    return ImageGrant(version.project, version.version, key)
