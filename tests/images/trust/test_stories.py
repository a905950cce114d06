"""Whole stories, made up at random: whatever people publish, approve, revoke and point at, whenever a desktop looks, it
never gives out what not both have signed, never other content than before, and nothing that it saw revoked."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deskgrid.images.trust.desktop.client import Trusted
from deskgrid.images.trust.errors import TrustError
from deskgrid.images.trust.values import Version

from .rig import NOW, Grid, desktop

pytestmark = pytest.mark.slow

VERSIONS = [Version("einstein", "search", f"{n}.0") for n in range(1, 4)]
ACTS = st.tuples(
    st.sampled_from(["propose", "approve", "revoke", "point", "back", "renew", "look", "look"]),
    st.sampled_from(VERSIONS),
    st.sampled_from([b"one", b"two"]),
)


class Story:
    """What people did, kept beside what the desktop says."""

    def __init__(self, folder: Path) -> None:
        self.grid = Grid(folder / "repository")
        self.grid.renew()
        self.signed: dict[str, dict[Version, bytes]] = {"researcher": {}, "approver": {}}
        self.given: dict[Version, bytes] = {}
        self.seen_revoked: set[Version] = set()

    def act(self, act: str, version: Version, content: bytes, trusted: Trusted) -> None:
        if act == "look":
            self.look(trusted)
            return
        try:
            getattr(self, act)(version, content)
        except TrustError as error:
            assert str(error)
            for pending in self.grid.shelf.waiting.iterdir():
                pending.unlink()

    def propose(self, version: Version, content: bytes) -> None:
        self.grid.propose(version, content, latest=False)
        self.signed["researcher"][version] = content

    def approve(self, version: Version, _: bytes) -> None:
        self.grid.approve(version)
        self.signed["approver"][version] = self.signed["researcher"][version]

    def revoke(self, version: Version, _: bytes) -> None:
        self.grid.revoke("einstein-approver", version)

    def point(self, version: Version, _: bytes, back: bool = False) -> None:
        with self.grid.shelf.editing():
            self.grid.shelf.point(version, NOW, back)
            self.grid.signed(self.grid.rita)

    def back(self, version: Version, _: bytes) -> None:
        self.point(version, b"", back=True)

    def renew(self, _: Version, __: bytes) -> None:
        assert self.grid.renew().problems == ()

    def look(self, trusted: Trusted) -> None:
        trusted.refresh(NOW)
        for version in VERSIONS:
            try:
                content = trusted.manifest(version, NOW)
            except TrustError as error:
                assert version not in self.given or error.code == "revoked", str(error)
                self.seen_revoked |= {version} if error.code == "revoked" else set()
                continue
            assert version not in self.seen_revoked
            assert self.signed["researcher"][version] == self.signed["approver"][version] == content
            assert self.given.setdefault(version, content) == content
        try:
            assert trusted.latest("einstein", "search", NOW) in self.given
        except TrustError as error:
            assert error.code in ("no-role", "no-image", "not-both", "revoked"), str(error)


@settings(max_examples=25, deadline=None)
@given(st.lists(ACTS, min_size=1, max_size=25))
def test_no_story_makes_a_desktop_trust_what_it_should_not(acts: list[tuple[str, Version, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder))
        with desktop(Path(folder) / "desktop", story.grid) as trusted:
            for act in acts:
                story.act(*act, trusted)
            story.look(trusted)
