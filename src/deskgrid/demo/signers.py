"""The people who vouch for images, played by one process: `python -m deskgrid.demo.signers FOLDER IMAGE_FOLDER…`.

Rules:
- What it makes is what people would: a repository that two administrators signed, a project with a researcher and an
  approver, the online key, the key of the project. docs/trust.md tells how people do it, and why they are many.
- Called again with the same folder it publishes further images, or the next version of one.
- The keys are files in FOLDER/keys, good for one run: their password lies beside them.
"""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from deskgrid.core.fleet.promise import Promise
from deskgrid.images.format.keys import ProjectKey
from deskgrid.images.format.keys import make_key as make_project_key
from deskgrid.images.format.keys import read_key as read_project_key
from deskgrid.images.format.manifest import reference
from deskgrid.images.format.published import encode
from deskgrid.images.publish.publish import Progress, publish, source_of
from deskgrid.images.publish.trial import kept_promise, kept_reads
from deskgrid.images.trust.keys import make_key, open_signer
from deskgrid.images.trust.roles import ROOT, TARGETS, project_roles
from deskgrid.images.trust.signing.editor import RepositoryEditor
from deskgrid.images.trust.signing.repository import first_root, first_targets
from deskgrid.images.trust.tufapi import Signer
from deskgrid.images.trust.values import Version

PROJECT = "demo"
PASSWORD = "good for one run"  # noqa: S105 - it protects nothing: the keys are thrown away
_QUICK = 2
"""Stretching of the password, for keys that nobody could want."""
_ADMINISTRATORS, _RESEARCHER, _APPROVER, _ONLINE = ("ada", "bob"), "rita", "paul", "online"


class SignersFolders:
    """Where what they make lies."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.keys = folder / "repository", folder / "keys"
        self.online, self.password = self.keys / _ONLINE, self.keys / "password"
        self.project_keys = folder / "project-keys"
        self.root = self.repository / "metadata" / "1.root.json"

    def coordinator(self) -> Mapping[str, str]:
        """The table [images] of a coordinator's settings."""
        return {
            "repository": str(self.repository),
            "online_key": str(self.online),
            "online_password_file": str(self.password),
            "keys": str(self.project_keys),
        }


class Signers:
    """All of them, with a repository."""

    def __init__(self, folder: Path) -> None:
        """Begin a repository below `folder`, or go on with the one that is there."""
        self.places = SignersFolders(folder)
        self._shelf = RepositoryEditor(self.places.repository)
        if not self.places.root.exists():
            self._begin()

    def _begin(self) -> None:
        places = self.places
        for each in (places.repository, places.keys, places.project_keys):
            each.mkdir(parents=True, mode=0o700)
        now = datetime.now(UTC)
        places.password.write_text(PASSWORD)
        places.password.chmod(0o600)
        people = (*_ADMINISTRATORS, _RESEARCHER, _APPROVER, _ONLINE)
        keys = {name: make_key(places.keys / name, name, PASSWORD, scrypt=_QUICK) for name in people}
        researcher, approver = project_roles(PROJECT)
        with self._shelf.editing(new=True):
            self._shelf.keep(ROOT, first_root([keys[name] for name in _ADMINISTRATORS], 2, keys[_ONLINE], now))
            self._shelf.keep(TARGETS, first_targets(now))
            self._sign(*_ADMINISTRATORS)
            self._shelf.rotate(researcher, now, [keys[_RESEARCHER]])
            self._shelf.rotate(approver, now, [keys[_APPROVER]])
            self._sign(*_ADMINISTRATORS)
        make_project_key(places.project_keys / f"{PROJECT}.key")

    def publish(self, image: Path, progress: Progress = lambda part: None) -> Version:
        """Publish a built image as its next version, signed by both.

        Args:
            image: its folder. progress: told the part that is done, 0 to 1.
        """
        ref = reference(image.resolve())
        number = 1 + sum(1 for _ in (self.places.repository / "images" / PROJECT / ref.name).glob("*.json"))
        version = Version(PROJECT, ref.name, f"{number}.0")
        source = source_of(image, kept_reads(image))
        source = msgspec.structs.replace(source, promise=kept_promise(image) or Promise())
        key = ProjectKey(read_project_key(self.places.project_keys / f"{PROJECT}.key"))
        made = publish(source, self.places.repository, (PROJECT, ref.name, version.version), key, progress)
        now = datetime.now(UTC)
        with self._shelf.editing():
            self._shelf.propose(version, encode(made.manifest), now)
            self._sign(_RESEARCHER)
            self._shelf.approve(version, now)
            self._sign(_APPROVER)
        return version

    def revoke(self, version: Version, why: str) -> None:
        """The approver takes a version back."""
        with self._shelf.editing():
            self._shelf.revoke(project_roles(PROJECT)[1], version, why, datetime.now(UTC))
            self._sign(_APPROVER)

    def _sign(self, *names: str) -> None:
        for name in names:
            self._shelf.sign(self.signer(name))
        self._shelf.settle()

    def signer(self, name: str) -> Signer:
        """One of their keys, ready to sign."""
        return open_signer(self.places.keys / name, lambda what: PASSWORD)


def main() -> None:
    """Publish the images in the folders that are named."""
    folder, *images = map(Path, sys.argv[1:])
    signers = Signers(folder)
    for image in images:
        sys.stdout.write(f"{signers.publish(image)}\n")


if __name__ == "__main__":
    main()
