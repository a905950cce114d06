"""A signed repository with real images in it, and all that a coordinator is told about it."""

from datetime import datetime
from pathlib import Path

import msgspec

from deskgrid.coordinator.settings import ImageSettings
from deskgrid.images.format.keys import ProjectKey, make_key, read_key
from deskgrid.images.publish.publish import Publication, publish
from deskgrid.images.trust.keys import make_key as make_signing_key
from deskgrid.images.trust.keys import open_signer
from deskgrid.images.trust.values import Version
from tests.images.trust.rig import Grid, person

PASSWORD = "correct horse"


class Lab:
    """Two administrators, a project with two signers, and its images."""

    def __init__(self, folder: Path, now: datetime) -> None:
        self.folder, self.web, self.keys = folder, folder / "web", folder / "keys"
        self.keys.mkdir(parents=True)
        self.web.mkdir()
        self.grid = Grid(self.web, now)
        online = folder / "online"
        public = make_signing_key(online, "coordinator", PASSWORD, scrypt=1 << 10)
        self.password = folder / "password"
        self.password.write_text(PASSWORD + "\n")
        before = self.grid.online.public_key.keyid
        self.grid.rotate("online", (self.grid.ada, self.grid.bob), add=[public], remove=[before])
        self.grid.online = open_signer(online, lambda _: PASSWORD)  # type: ignore[assignment]
        make_key(self.keys / "einstein.key")
        self.settings = ImageSettings(self.web, online, self.password, self.keys)

    def second_project(self, name: str) -> None:
        """A project with other people and a key of its own."""
        self.grid.rita, self.grid.paul = person("nina"), person("omar")
        self.grid.project(name, self.grid.rita, self.grid.paul)
        make_key(self.keys / f"{name}.key")

    def propose(self, text: str, **how: bool) -> bytes:
        """Publish chunks; the researcher signs. text: project/image/version."""
        version = Version(*text.split("/"))
        disk = self.folder / "disk.raw"
        disk.write_bytes(text.encode() * 20_000)
        source = Publication(disk, None, None, "", 256 << 20, (), "0" * 64)
        key = ProjectKey(read_key(self.keys / f"{version.project}.key"))
        made = publish(source, self.web, (version.project, version.image, version.version), key)
        content = made.path.read_bytes()
        self.grid.propose(version, content, **how)
        return content

    def publish(self, text: str, **how: bool) -> bytes:
        """Publish chunks; both sign. Nobody says yet that it is current."""
        content = self.propose(text, **how)
        self.grid.approve(Version(*text.split("/")))
        return content

    def revoke(self, text: str, why: str = "telnet was left in") -> None:
        """One of them revokes; nobody says yet that it is current."""
        with self.grid.shelf.editing():
            version = Version(*text.split("/"))
            self.grid.shelf.revoke(f"{version.project}-approver", version, why, self.grid.now)
            self.grid.signed(self.grid.paul)

    def more(self, **more: object) -> ImageSettings:
        """Settings that differ."""
        return msgspec.structs.replace(self.settings, **more)
