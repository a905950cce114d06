"""TUF's list of attacks and some more, each against the real client: what is refused, and whose fault it is."""

import contextlib
import hashlib
import http.server
import json
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deskgrid.images.trust import roles
from deskgrid.images.trust.desktop.client import Trusted
from deskgrid.images.trust.desktop.source import RepositoryServer
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.roles import OWNER, entry_of
from deskgrid.images.trust.signing.repository import (
    again,
    edit_project,
    listed,
    next_snapshot,
    next_timestamp,
    target_file,
)
from deskgrid.images.trust.tufapi import CryptoSigner, Metadata, SSlibKey
from deskgrid.images.trust.values import MANIFEST_BYTES, ListedVersion, Version, version

from .rig import DAY, HOUR, NOW, ONE, TWO, Attacker, Grid, desktop, person, refused, web_server

pytestmark = pytest.mark.slow

YEAR = timedelta(days=365)


def raw(metadata: Metadata[Any]) -> bytes:
    return metadata.to_bytes()


def serve_listed(grid: Grid, attacker: Attacker, changed: dict[str, Metadata[Any]], signer: CryptoSigner) -> None:
    """Serve these roles' metadata, with snapshot and timestamp that list them, signed by `signer`."""
    old = grid.shelf.settled("snapshot")
    assert old is not None
    meta = dict(old.signed.meta)
    for role, metadata in changed.items():
        content = raw(metadata)
        meta[f"{role}.json"] = listed(content, metadata.signed.version)
        attacker.instead[f"metadata/{metadata.signed.version}.{role}.json"] = content
    snapshot = next_snapshot(old.signed, meta, NOW)
    snapshot.sign(signer)
    timestamp_before = grid.shelf.settled("timestamp")
    assert timestamp_before is not None
    timestamp = next_timestamp(timestamp_before.signed, listed(raw(snapshot), snapshot.signed.version), NOW)
    timestamp.sign(signer)
    attacker.instead[f"metadata/{snapshot.signed.version}.snapshot.json"] = raw(snapshot)
    attacker.instead["metadata/timestamp.json"] = raw(timestamp)


def forged(grid: Grid, role: str, version: Version, content: bytes, *signers: CryptoSigner) -> Metadata[Any]:
    """The role's next metadata, which list this content, signed by these."""
    base = grid.shelf.settled(role)
    assert base is not None
    draft = again(base, base.signed.version + 1, NOW)
    number = entry.number if (entry := entry_of(base.signed, version.path)) else 7
    draft.signed.targets.pop(version.path, None)
    entry = ListedVersion(len(content), hashlib.sha256(content).hexdigest(), number)
    draft.signed.targets[version.path] = target_file(version.path, entry)
    for signer in signers:
        draft.sign(signer, append=True)
    return draft


# -- arbitrary software ---------------------------------------------------------------------------------------


def test_a_manifest_that_was_not_signed_is_refused(grid: Grid, home: Path) -> None:
    content = grid.publish(ONE)
    attacker = Attacker(grid.source)
    (path,) = (f"targets/{p.relative_to(grid.shelf.targets)}" for p in grid.shelf.targets.rglob("*.1.0.json"))
    attacker.instead[path] = content.replace(b"1.0", b"6.6")
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        said = refused("mixed", Duty.REPOSITORY, lambda: trusted.manifest(ONE, NOW))
        assert "it is not what was signed" in said
        attacker.instead[path] = content[:-1]
        refused("mixed", Duty.REPOSITORY, lambda: trusted.manifest(ONE, NOW))
        attacker.without(path)
        refused("missing", Duty.REPOSITORY, lambda: trusted.manifest(ONE, NOW))


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "einstein-researcher", "einstein-approver"])
def test_metadata_that_a_stranger_signed_are_refused(grid: Grid, home: Path, role: str) -> None:
    grid.publish(ONE)
    attacker, mallory = Attacker(grid.source), person("mallory")
    if role in ("timestamp", "snapshot"):
        settled = grid.shelf.settled(role)
        assert settled is not None
        settled.sign(mallory)
        name = "timestamp" if role == "timestamp" else f"{settled.signed.version}.snapshot"
        attacker.instead[f"metadata/{name}.json"] = raw(settled)
    else:
        base = grid.shelf.settled(role)
        assert base is not None
        draft = again(base, base.signed.version + 1, NOW)
        draft.sign(mallory)
        serve_listed(grid, attacker, {role: draft}, grid.online)
    with desktop(home, grid, attacker) as trusted:
        expected = "mixed" if role == "snapshot" else "bad-signatures"
        refused(expected, Duty.REPOSITORY, lambda: (trusted.refresh(NOW), trusted.manifest(ONE, NOW)))


def test_a_new_root_that_the_old_administrators_did_not_sign_is_refused(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    thieves = [person("mallory"), person("trudy")]
    root = grid.file("1.root.json")
    root.signed.version = 2
    root.signed.roles["root"].keyids.clear()
    for thief in thieves:
        root.signed.add_key(thief.public_key, "root")
    root.signatures.clear()
    for thief in thieves:
        root.sign(thief, append=True)
    attacker.instead["metadata/2.root.json"] = raw(root)
    with desktop(home, grid, attacker) as trusted:
        refused("bad-signatures", Duty.REPOSITORY, lambda: trusted.refresh(NOW))


def test_what_targets_itself_lists_counts_for_nothing(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    targets = forged(grid, "targets", TWO, b"{}", grid.ada, grid.bob)
    serve_listed(grid, attacker, {"targets": targets}, grid.online)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused("no-image", Duty.REQUEST, lambda: trusted.manifest(TWO, NOW))


# -- rollback -------------------------------------------------------------------------------------------------


def kept(grid: Grid) -> dict[str, bytes]:
    return {f"metadata/{path.name}": path.read_bytes() for path in grid.shelf.metadata.iterdir()}


def test_an_older_timestamp_is_refused(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    old = kept(grid)
    grid.publish(TWO)
    attacker = Attacker(grid.source)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        attacker.instead = dict(old)
        said = refused("rolled-back", Duty.REPOSITORY, lambda: trusted.refresh(NOW))
        assert "somebody serves old metadata" in said


def test_an_older_snapshot_under_a_new_timestamp_is_refused(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    before = grid.shelf.settled("snapshot")
    assert before is not None
    grid.publish(TWO)
    attacker = Attacker(grid.source)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        stamp = grid.shelf.settled("timestamp")
        assert stamp is not None
        name = f"{before.signed.version}.snapshot.json"
        content = (grid.shelf.metadata / name).read_bytes()
        evil = next_timestamp(stamp.signed, listed(content, before.signed.version), NOW)
        evil.sign(grid.online)
        attacker.instead["metadata/timestamp.json"] = raw(evil)
        refused("rolled-back", Duty.REPOSITORY, lambda: trusted.refresh(NOW))


@pytest.mark.parametrize("role", ["targets", "einstein-researcher", "einstein-approver"])
def test_an_older_version_of_a_role_under_a_new_snapshot_is_refused(grid: Grid, home: Path, role: str) -> None:
    grid.publish(ONE)
    first = grid.shelf.settled(role)
    assert first is not None
    grid.publish(TWO)
    grid.project("other", person("olga"), person("otto"))
    grid.renew()
    attacker = Attacker(grid.source)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        serve_listed(grid, attacker, {role: first}, grid.online)
        refused("rolled-back", Duty.REPOSITORY, lambda: trusted.refresh(NOW))


def test_a_snapshot_that_leaves_a_role_out_is_refused(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        snapshot = grid.shelf.settled("snapshot")
        assert snapshot is not None
        meta = {name: each for name, each in snapshot.signed.meta.items() if "approver" not in name}
        evil = next_snapshot(snapshot.signed, meta, NOW)
        evil.sign(grid.online)
        stamp = grid.shelf.settled("timestamp")
        assert stamp is not None
        timestamp = next_timestamp(stamp.signed, listed(raw(evil), evil.signed.version), NOW)
        timestamp.sign(grid.online)
        attacker.instead[f"metadata/{evil.signed.version}.snapshot.json"] = raw(evil)
        attacker.instead["metadata/timestamp.json"] = raw(timestamp)
        refused("damaged", Duty.REPOSITORY, lambda: trusted.refresh(NOW))


# -- freeze, clocks, expiry -----------------------------------------------------------------------------------


def test_news_held_back_stop_new_starts_after_a_day(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    attacker.instead = dict(kept(grid))
    grid.revoke("einstein-approver", ONE)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        trusted.check(ONE, NOW + DAY - HOUR)
        said = refused("expired-timestamp", Duty.REPOSITORY, lambda: trusted.refresh(NOW + DAY))
        assert "somebody holds news back" in said
        refused("expired-timestamp", Duty.REPOSITORY, lambda: trusted.check(ONE, NOW + DAY))


def test_a_clock_a_year_ahead_starts_nothing_and_names_the_clock(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        said = refused("expired-timestamp", Duty.REPOSITORY, lambda: trusted.refresh(NOW + YEAR))
        assert "This computer's clock says 2027-11-22" in said
        trusted.refresh(NOW)  # set right: nothing was remembered of the wrong time
        trusted.check(ONE, NOW)


def test_a_clock_a_year_behind_starts_nothing_also_on_a_new_desktop(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        said = refused("clock-behind", Duty.DESKTOP, lambda: trusted.refresh(NOW - YEAR))
        assert "clock of this computer: got 2025-11-22" in said
        trusted.refresh(NOW)


def test_a_clock_set_back_after_a_good_check_starts_nothing(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        trusted.check(ONE, NOW - HOUR / 2)  # what a time server corrects
        for step in (lambda: trusted.refresh(NOW - 2 * DAY), lambda: trusted.check(ONE, NOW - 2 * DAY)):
            refused("clock-behind", Duty.DESKTOP, step)
    with desktop(home, grid) as trusted:
        refused("clock-behind", Duty.DESKTOP, lambda: trusted.refresh(NOW - 2 * DAY))


@pytest.mark.parametrize("ahead", [HOUR, 20 * HOUR, 20 * DAY, 3 * YEAR])
def test_a_clock_that_was_ahead_once_does_not_matter_when_it_is_right(grid: Grid, home: Path, ahead: timedelta) -> None:
    """All clocks were: so the timestamp was found good then, and the time remembered."""
    grid.publish(ONE)
    grid.renew(NOW + ahead)
    with desktop(home, grid) as trusted, contextlib.suppress(TrustError):  # in three years the root has expired
        trusted.refresh(NOW + ahead)
    grid.renew(NOW)
    for later in (NOW, NOW + HOUR, NOW - HOUR):
        with desktop(home, grid) as trusted:
            trusted.refresh(later)
            trusted.check(ONE, later)


def test_who_sets_the_clock_back_and_has_all_that_was_ever_signed_leads_nobody_back(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    grid.renew(NOW)
    old = dict(kept(grid))
    grid.renew(NOW + DAY / 2)
    between = dict(kept(grid))
    grid.revoke("einstein-approver", ONE)
    grid.renew(NOW + 5 * DAY)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW + 5 * DAY)
        refused("revoked", Duty.SIGNERS, lambda: trusted.check(ONE, NOW + 5 * DAY))
    for served, at in ((old, NOW), (between, NOW + DAY / 2)):
        attacker = Attacker(grid.source)
        attacker.instead = dict(served)
        with desktop(home, grid, attacker) as trusted, pytest.raises(TrustError):
            trusted.refresh(at)


def test_an_expired_root_starts_nothing_until_the_administrators_sign_a_new_one(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    late = NOW + 800 * DAY
    grid.renew(late)
    with desktop(home, grid) as trusted:
        said = refused("expired-root", Duty.SIGNERS, lambda: trusted.refresh(late))
        assert "those who hold its keys must sign it anew" in said


@pytest.mark.parametrize(("role", "code"), [("targets", "expired-targets"), ("einstein-approver", "expired-role")])
def test_an_expired_role_starts_nothing_of_its_own(grid: Grid, home: Path, role: str, code: str) -> None:
    grid.project("other", person("olga"), person("otto"))
    grid.publish(ONE)
    late = NOW + 450 * DAY
    if role != "targets":
        with grid.shelf.editing():
            grid.shelf.keep("targets", grid.shelf.draft("targets", late))
            grid.signed(grid.ada, grid.bob)
    grid.renew(late)
    with desktop(home, grid) as trusted:
        refused(code, Duty.SIGNERS, lambda: (trusted.refresh(late), trusted.check(ONE, late)))


# -- endless data, slow retrieval -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metadata/2.root.json", "metadata/timestamp.json", "snapshot", "targets", "manifest"])
def test_endless_data_are_cut_off(grid: Grid, home: Path, name: str) -> None:
    grid.publish(ONE)
    sent = 0

    class Endless(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            nonlocal sent
            wanted = {"snapshot": "snapshot.json", "targets": ".targets.json", "manifest": "1.0.json"}.get(name, name)
            path = grid.shelf.folder / self.path.lstrip("/")
            if wanted not in self.path:
                content = path.read_bytes() if path.exists() else b""
                self.send_response(200 if path.exists() else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.close_connection = True
            try:
                while sent < 1 << 30:
                    self.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    sent += 65536
            except OSError:
                pass

    with web_server(Endless) as url, desktop(home, grid, RepositoryServer(url)) as trusted:
        said = refused("too-long", Duty.REPOSITORY, lambda: (trusted.refresh(NOW), trusted.manifest(ONE, NOW)))
        assert "the rest was not read" in said
    assert sent < 64 << 20


@pytest.mark.parametrize("part", ["nothing", "status", "headers", "body", "chunks"])
def test_slow_retrieval_ends_in_bounded_time(grid: Grid, home: Path, part: str) -> None:
    grid.publish(ONE)

    class Slow(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            head = {
                "nothing": b"",
                "status": b"HTTP/1.1 ",
                "headers": b"HTTP/1.1 200 OK\r\nX: ",
                "body": b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
                "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            }[part]
            try:
                self.connection.sendall(head)
                for _ in range(600):
                    time.sleep(0.05)
                    self.connection.sendall({"nothing": b"", "chunks": b"1\r\n \r\n"}.get(part, b"1"))
            except OSError:
                pass

    with web_server(Slow) as url, desktop(home, grid, RepositoryServer(url, seconds=0.6)) as trusted:
        began = time.monotonic()
        said = refused("slow", Duty.NETWORK, lambda: trusted.refresh(NOW))
        assert time.monotonic() - began < 20
        assert "got less than the whole in 0.6 s" in said


def test_a_slow_repository_leaves_what_is_here_in_use(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        trusted.manifest(ONE, NOW)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with desktop(home, grid, RepositoryServer(url, seconds=0.3)) as trusted:
            assert "got less than the whole" in trusted.refresh(NOW).offline
            trusted.manifest(ONE, NOW)


def test_a_redirect_is_not_followed(grid: Grid, home: Path) -> None:
    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()

    with web_server(Elsewhere) as url, desktop(home, grid, RepositoryServer(url)) as trusted:
        assert "answered 302" in refused("unreachable", Duty.NETWORK, lambda: trusted.refresh(NOW))


def test_a_login_page_is_no_metadata(grid: Grid, home: Path) -> None:
    attacker = Attacker(grid.source)
    attacker.instead["metadata/timestamp.json"] = b"<html>Welcome to the hotel"
    with desktop(home, grid, attacker) as trusted:
        assert "login page" in refused("damaged", Duty.REPOSITORY, lambda: trusted.refresh(NOW))


# -- mix and match --------------------------------------------------------------------------------------------


def test_files_of_different_times_cannot_be_mixed(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    old = kept(grid)
    grid.publish(TWO)
    for name in ("snapshot", "einstein-researcher", "einstein-approver"):
        settled = grid.shelf.settled(name)
        assert settled is not None
        version = settled.signed.version
        attacker = Attacker(grid.source)
        attacker.instead[f"metadata/{version}.{name}.json"] = old[f"metadata/{version - 1}.{name}.json"]
        with desktop(home / name, grid, attacker) as trusted:
            refused("mixed", Duty.REPOSITORY, lambda it=trusted: (it.refresh(NOW), it.check(TWO, NOW)))


def test_one_image_s_manifest_cannot_be_served_as_another_s(grid: Grid, home: Path) -> None:
    grid.publish(ONE, b"one")
    grid.publish(TWO, b"two")
    attacker = Attacker(grid.source)
    paths = {p.read_bytes(): f"targets/{p.relative_to(grid.shelf.targets)}" for p in grid.shelf.targets.rglob("*.json")}
    attacker.instead = {paths[b"one"]: b"two", paths[b"two"]: b"one"}
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused("mixed", Duty.REPOSITORY, lambda: trusted.manifest(ONE, NOW))


# -- fast-forward, compromise of the online key ---------------------------------------------------------------


def test_after_a_fast_forward_a_new_online_key_heals_every_desktop(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        snapshot, stamp = grid.shelf.settled("snapshot"), grid.shelf.settled("timestamp")
        assert snapshot is not None
        assert stamp is not None
        snapshot.signed.version = 2**31 - 2
        stamp.signed.version = 2**31 - 2
        evil = next_snapshot(snapshot.signed, snapshot.signed.meta, NOW)
        evil.sign(grid.online)
        timestamp = next_timestamp(stamp.signed, listed(raw(evil), evil.signed.version), NOW)
        timestamp.sign(grid.online)
        attacker.instead[f"metadata/{evil.signed.version}.snapshot.json"] = raw(evil)
        attacker.instead["metadata/timestamp.json"] = raw(timestamp)
        trusted.refresh(NOW)
        attacker.instead.clear()
        grid.publish(TWO)
        refused("rolled-back", Duty.REPOSITORY, lambda: trusted.refresh(NOW))
        stolen, grid.online = grid.online, person("new-coordinator")
        grid.rotate("online", (grid.ada, grid.bob), add=[grid.online.public_key], remove=[stolen.public_key.keyid])
        grid.renew()
        trusted.refresh(NOW)
        trusted.check(TWO, NOW)
        attacker.instead["metadata/timestamp.json"] = raw(timestamp)
        refused("bad-signatures", Duty.REPOSITORY, lambda: trusted.refresh(NOW))


def test_who_has_the_online_key_can_publish_nothing(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    for role, signer in (("einstein-researcher", grid.online), ("einstein-approver", grid.online)):
        attacker = Attacker(grid.source)
        serve_listed(grid, attacker, {role: forged(grid, role, TWO, b"evil", signer)}, grid.online)
        with desktop(home / role, grid, attacker) as trusted:
            trusted.refresh(NOW)
            refused("bad-signatures", Duty.REPOSITORY, lambda it=trusted: it.check(TWO, NOW))


def test_a_timestamp_signed_for_years_is_refused(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    stamp = grid.shelf.settled("timestamp")
    assert stamp is not None
    stamp.signed.version, stamp.signed.expires = 99, NOW + YEAR
    stamp.sign(grid.online)
    attacker = Attacker(grid.source)
    attacker.instead["metadata/timestamp.json"] = raw(stamp)
    with desktop(home, grid, attacker) as trusted:
        refused("clock-behind", Duty.DESKTOP, lambda: trusted.refresh(NOW))


# -- compromise of signers, wrong roles -----------------------------------------------------------------------


@pytest.mark.parametrize(("image", "name"), [(TWO, "not-both"), (ONE, "disagree")], ids=["publish", "change"])
@pytest.mark.parametrize(("role", "who"), [("einstein-researcher", "rita"), ("einstein-approver", "paul")])
def test_one_signer_and_the_online_key_can_publish_and_change_nothing(
    grid: Grid, home: Path, role: str, who: str, image: Version, name: str
) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    serve_listed(grid, attacker, {role: forged(grid, role, image, b"evil", getattr(grid, who))}, grid.online)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused(name, Duty.SIGNERS, lambda: trusted.check(image, NOW))


def test_even_all_signers_cannot_change_a_version_that_a_desktop_has_seen(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        trusted.manifest(ONE, NOW)
        evil = {
            "einstein-researcher": forged(grid, "einstein-researcher", ONE, b"evil", grid.rita),
            "einstein-approver": forged(grid, "einstein-approver", ONE, b"evil", grid.paul),
        }
        serve_listed(grid, attacker, evil, grid.online)
        trusted.refresh(NOW)
        said = refused("changed", Duty.SIGNERS, lambda: trusted.manifest(ONE, NOW))
        assert "a name and version never change" in said


def test_even_all_signers_cannot_make_a_revoked_version_good_again(grid: Grid, home: Path) -> None:
    content = grid.publish(ONE)
    attacker = Attacker(grid.source)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        trusted.check(ONE, NOW)
        grid.revoke("einstein-approver", ONE)
        trusted.refresh(NOW)
        refused("revoked", Duty.SIGNERS, lambda: trusted.check(ONE, NOW))
        evil = {"einstein-approver": forged(grid, "einstein-approver", ONE, content, grid.paul)}
        serve_listed(grid, attacker, evil, grid.online)
        trusted.refresh(NOW)
        refused("revoked", Duty.SIGNERS, lambda: trusted.check(ONE, NOW))


def test_one_administrator_cannot_change_root_or_targets(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    root = again(grid.file("1.root.json"), 2, NOW)
    root.sign(grid.ada)
    attacker.instead["metadata/2.root.json"] = raw(root)
    with desktop(home, grid, attacker) as trusted:
        said = refused("bad-signatures", Duty.REPOSITORY, lambda: trusted.refresh(NOW))
        assert "signed by 1/2 keys" in said


@pytest.mark.parametrize(
    ("role", "who"), [("einstein-researcher", "paul"), ("einstein-approver", "rita"), ("einstein-approver", "ada")]
)
def test_a_signature_in_the_wrong_role_counts_for_nothing(grid: Grid, home: Path, role: str, who: str) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    serve_listed(grid, attacker, {role: forged(grid, role, TWO, b"evil", getattr(grid, who))}, grid.online)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused("bad-signatures", Duty.REPOSITORY, lambda: trusted.check(TWO, NOW))


def test_metadata_of_one_role_cannot_stand_for_another_s(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    researcher = grid.shelf.settled("einstein-researcher")
    assert researcher is not None
    serve_listed(grid, attacker, {"einstein-approver": researcher}, grid.online)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused("bad-signatures", Duty.REPOSITORY, lambda: trusted.check(ONE, NOW))
    attacker.instead["metadata/timestamp.json"] = (grid.shelf.metadata / "1.root.json").read_bytes()
    with desktop(home / "2", grid, attacker) as trusted:
        refused("damaged", Duty.REPOSITORY, lambda: trusted.refresh(NOW))


def test_a_role_of_one_project_cannot_speak_of_another_s_images(grid: Grid, home: Path) -> None:
    grid.project("other", person("olga"), person("otto"))
    grid.publish(ONE)
    foreign = Version("other", "search", "1.0")
    attacker = Attacker(grid.source)
    evil = {
        "einstein-researcher": forged(grid, "einstein-researcher", foreign, b"evil", grid.rita),
        "einstein-approver": forged(grid, "einstein-approver", foreign, b"evil", grid.paul),
    }
    serve_listed(grid, attacker, evil, grid.online)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused("no-role", Duty.SIGNERS, lambda: trusted.check(foreign, NOW))


def test_a_delegation_for_other_paths_is_refused(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with grid.shelf.editing():
        draft = grid.shelf.draft("targets", NOW)
        draft.signed.delegations.roles["einstein-approver"].paths = ["images/other/*/*.json"]
        grid.shelf.keep("targets", draft)
        refused("strange", Duty.SIGNERS, lambda: grid.signed(grid.ada, grid.bob))
    for signer in (grid.ada, grid.bob):
        draft.sign(signer, append=True)
    attacker = Attacker(grid.source)
    serve_listed(grid, attacker, {"targets": draft}, grid.online)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused("foreign-path", Duty.SIGNERS, lambda: trusted.check(ONE, NOW))


# -- one key for two ------------------------------------------------------------------------------------------


def alias(signer: CryptoSigner, keyid: str) -> SSlibKey:
    """The same key under another id, as somebody who wants to count twice would write it."""
    key = signer.public_key
    content = {"public": key.keyval["public"].upper() if key.keytype == "ed25519" else key.keyval["public"]}
    return SSlibKey(keyid, key.keytype, key.scheme, content, {OWNER: "somebody-else"})


def test_one_signature_counted_twice_is_not_readable(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    root = again(grid.file("1.root.json"), 2, NOW)
    root.sign(grid.ada)
    twice = json.loads(raw(root))
    twice["signatures"] *= 2
    attacker.instead["metadata/2.root.json"] = json.dumps(twice).encode()
    with desktop(home, grid, attacker) as trusted:
        refused("damaged", Duty.REPOSITORY, lambda: trusted.refresh(NOW))


def test_a_signature_copied_under_another_key_s_id_does_not_count(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    root = again(grid.file("1.root.json"), 2, NOW)
    root.sign(grid.ada)
    twice = json.loads(raw(root))
    twice["signatures"].append({**twice["signatures"][0], "keyid": grid.bob.public_key.keyid})
    attacker.instead["metadata/2.root.json"] = json.dumps(twice).encode()
    with desktop(home, grid, attacker) as trusted:
        refused("bad-signatures", Duty.REPOSITORY, lambda: trusted.refresh(NOW))


def test_a_root_that_names_one_key_twice_is_refused(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    root = again(grid.file("1.root.json"), 2, NOW)
    root.signed.add_key(alias(grid.ada, "f" * 64), "root")
    root.sign(grid.ada)
    root.sign(grid.bob, append=True)
    attacker = Attacker(grid.source)
    attacker.instead["metadata/2.root.json"] = raw(root)
    with desktop(home, grid, attacker) as trusted:
        said = refused("bad-id", Duty.SIGNERS, lambda: trusted.refresh(NOW))
        assert "the hash of the key" in said
    refused(
        "bad-id",
        Duty.SIGNERS,
        lambda: grid.shelf.rotate("administrators", NOW, [alias(grid.ada, "f" * 64)]),
    )


def forced(grid: Grid, key: SSlibKey, role: str) -> Metadata[Any]:
    """Targets with this key in this role, signed by the administrators; our own tools refuse to publish them."""
    with grid.shelf.editing():
        draft = grid.shelf.draft("targets", NOW)
        draft.signed.add_key(key, role)
        grid.shelf.keep("targets", draft)
        with pytest.raises(TrustError, match=r"key-in-both|bad-id"):
            grid.signed(grid.ada, grid.bob)
    for signer in (grid.ada, grid.bob):
        draft.sign(signer, append=True)
    return draft


@pytest.mark.parametrize("disguise", [False, True])
def test_an_approver_s_key_in_the_researcher_s_role_is_refused_by_both_sides(
    grid: Grid, home: Path, disguise: bool
) -> None:
    grid.publish(ONE)
    key = alias(grid.paul, "e" * 64) if disguise else grid.paul.public_key
    code, why = ("bad-id", "the hash of the key") if disguise else ("key-in-both", "must be held by different people")
    said = refused(code, Duty.SIGNERS, lambda: grid.shelf.rotate("einstein-researcher", NOW, [key]))
    assert why in said
    attacker = Attacker(grid.source)
    serve_listed(grid, attacker, {"targets": forced(grid, key, "einstein-researcher")}, grid.online)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused(code, Duty.SIGNERS, lambda: trusted.check(ONE, NOW))


@pytest.mark.parametrize("role", ["administrators", "einstein-researcher", "einstein-approver"])
def test_the_online_key_can_hold_no_other_role(grid: Grid, role: str) -> None:
    refused("key-in-both", Duty.SIGNERS, lambda: grid.shelf.rotate(role, NOW, [grid.online.public_key]))


@pytest.mark.parametrize("disguise", [False, True])
def test_the_online_key_in_a_project_s_role_is_refused_by_the_desktop(grid: Grid, home: Path, disguise: bool) -> None:
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    key = alias(grid.online, "d" * 64) if disguise else grid.online.public_key
    evil = forced(grid, key, "einstein-approver")
    serve_listed(grid, attacker, {"targets": evil}, grid.online)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused("bad-id" if disguise else "key-in-both", Duty.SIGNERS, lambda: trusted.check(ONE, NOW))


def test_a_kind_of_key_that_we_do_not_take_is_refused(grid: Grid) -> None:
    rsa = CryptoSigner.generate_rsa(size=2048)
    draft = grid.shelf.draft("targets", NOW)
    refused("bad-key", Duty.SIGNERS, lambda: edit_project(grid.shelf.root(), draft, "x-approver", [rsa.public_key]))


# -- names, sizes ---------------------------------------------------------------------------------------------

HOSTILE = [
    "..",
    ".",
    "",
    "a/b",
    "../../etc/passwd",
    "a\\b",
    "a\0b",
    "a b",
    "*",
    "[a]",
    "%2e%2e",
    "x" * 65,
    "ü",
    "-x",
    "a\n",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_meets_no_path(grid: Grid, home: Path, name: str) -> None:
    for parts in ((name, "search", "1.0"), ("einstein", name, "1.0"), ("einstein", "search", name)):
        refused("bad-name", Duty.REQUEST, lambda parts=parts: version(*parts))
        assert roles.parse_path("images/{}/{}/{}.json".format(*parts)) is None or name == ""
    with pytest.raises(TrustError):
        grid.shelf.rotate(f"{name}-researcher", NOW, [person("x").public_key])
    watched = Attacker(grid.source)
    grid.publish(ONE)
    with desktop(home, grid, watched) as trusted:
        trusted.refresh(NOW)
        asked = len(watched.asked)
        with pytest.raises(TrustError):
            trusted.check(Version(name, "search", "1.0"), NOW)
        with pytest.raises(TrustError):
            trusted.latest(name, "search", NOW)
        assert len(watched.asked) == asked


def test_a_version_cannot_be_called_latest(grid: Grid, home: Path) -> None:
    refused("bad-name", Duty.REQUEST, lambda: version("einstein", "search", "latest"))
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        refused("bad-name", Duty.REQUEST, lambda: trusted.check(Version("einstein", "search", "latest"), NOW))


@pytest.mark.parametrize(
    "path", ["images/other/x/1.json", "images/einstein/../x.json", "/etc/passwd", "images/einstein/x"]
)
def test_a_foreign_path_in_a_role_is_never_published(grid: Grid, path: str) -> None:
    grid.publish(ONE)
    before = grid.shelf.settled("snapshot")
    assert before is not None
    with grid.shelf.editing():
        draft = grid.shelf.draft("einstein-researcher", NOW)
        draft.signed.targets[path] = draft.signed.targets[ONE.path]
        grid.shelf.keep("einstein-researcher", draft)
        refused("foreign-path", Duty.SIGNERS, lambda: grid.signed(grid.rita))
        draft.sign(grid.rita)
        (grid.shelf.metadata / f"{draft.signed.version}.einstein-researcher.json").write_bytes(draft.to_bytes())
    assert "einstein-researcher: version 2 lies there" in grid.renew().problems[-1]
    after = grid.shelf.settled("snapshot")
    assert after is not None
    assert after.signed.meta == before.signed.meta


def test_projects_that_differ_in_case_only_are_refused(grid: Grid) -> None:
    refused("bad-name", Duty.REQUEST, lambda: grid.shelf.rotate("Einstein-approver", NOW, [person("x").public_key]))


def test_a_manifest_of_absurd_size_is_refused_before_it_is_fetched(grid: Grid, home: Path) -> None:
    refused("too-long", Duty.REQUEST, lambda: grid.shelf.propose(TWO, b"x" * (MANIFEST_BYTES + 1), NOW))
    grid.publish(ONE)
    attacker = Attacker(grid.source)
    evil = {}
    for role, signer in (("einstein-researcher", grid.rita), ("einstein-approver", grid.paul)):
        draft = forged(grid, role, TWO, b"evil")
        draft.signed.targets[TWO.path].length = 1 << 40
        draft.sign(signer)
        evil[role] = draft
    serve_listed(grid, attacker, evil, grid.online)
    with desktop(home, grid, attacker) as trusted:
        trusted.refresh(NOW)
        refused("too-long", Duty.SIGNERS, lambda: trusted.manifest(TWO, NOW))
    assert not any(path.startswith("targets/") for path in attacker.asked)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"signed": ' + b'{"a":' * 50_000, b"\xff\xfe", b"null", b"1e999"]
)
def test_hostile_json_is_a_sentence(grid: Grid, home: Path, content: bytes) -> None:
    for name in ("metadata/timestamp.json", "metadata/2.root.json"):
        attacker = Attacker(grid.source)
        attacker.instead[name] = content[: 16 << 10]
        with desktop(home / name.replace("/", "_"), grid, attacker) as trusted:
            refused("damaged", Duty.REPOSITORY, lambda it=trusted: it.refresh(NOW))


# -- roots ----------------------------------------------------------------------------------------------------


def test_a_desktop_that_was_away_follows_several_roots_with_all_keys_changed(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        for n in range(3):
            dora, emil = person(f"dora{n}"), person(f"emil{n}")
            old = (grid.ada, grid.bob)
            grid.rotate(
                "administrators",
                (*old, dora, emil),
                add=[dora.public_key, emil.public_key],
                remove=[each.public_key.keyid for each in (*old, *((grid.cleo,) if n == 0 else ()))],
            )
            grid.ada, grid.bob = dora, emil
            assert grid.shelf.pending("root") is None
            assert grid.shelf.pending("targets") is None
        grid.publish(TWO)
        assert trusted.refresh(NOW).root == 4
        trusted.check(TWO, NOW)
    with desktop(home, grid, RepositoryServer("http://127.0.0.1:1", seconds=2)) as trusted:
        assert trusted.refresh(NOW).root == 4
        trusted.check(TWO, NOW)


def test_an_expired_root_in_between_does_no_harm(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    late = NOW + 800 * DAY
    with grid.shelf.editing():
        for role in ("root", "targets", "einstein-researcher", "einstein-approver"):
            grid.shelf.keep(role, grid.shelf.draft(role, late))
        grid.signed(grid.ada, grid.bob, grid.rita, grid.paul)
    grid.renew(late)
    with desktop(home, grid) as trusted:
        assert trusted.refresh(late).root == 2
        trusted.check(ONE, late)


def test_a_root_that_skips_a_version_is_refused(grid: Grid, home: Path) -> None:
    root = again(grid.file("1.root.json"), 3, NOW)
    root.sign(grid.ada)
    root.sign(grid.bob, append=True)
    attacker = Attacker(grid.source)
    attacker.instead["metadata/2.root.json"] = raw(root)
    grid.publish(ONE)
    with desktop(home, grid, attacker) as trusted:
        refused("rolled-back", Duty.REPOSITORY, lambda: trusted.refresh(NOW))


def test_a_rotated_researcher_must_be_signed_for_anew_and_the_old_key_is_worth_nothing(grid: Grid, home: Path) -> None:
    grid.publish(ONE)
    rosa = person("rosa")
    grid.rotate(
        "einstein-researcher",
        (grid.ada, grid.bob),
        add=[rosa.public_key],
        remove=[grid.rita.public_key.keyid],
    )
    assert "not signed by enough of its keys of today" in grid.renew().problems[0]
    with desktop(home, grid) as trusted:
        trusted.refresh(NOW)
        refused("bad-signatures", Duty.REPOSITORY, lambda: trusted.check(ONE, NOW))
        with grid.shelf.editing():
            grid.signed(grid.rita)
            assert grid.shelf.pending("einstein-researcher") is not None
            grid.signed(rosa)
        assert grid.renew().problems == ()
        trusted.refresh(NOW)
        trusted.check(ONE, NOW)


def test_a_client_needs_no_more_than_the_root_it_was_shipped_with(grid: Grid, tmp_path: Path) -> None:
    grid.publish(ONE)
    other = Grid(tmp_path / "other")
    other.publish(ONE)
    with Trusted(tmp_path / "x", grid.bootstrap, other.source) as trusted:
        refused("bad-signatures", Duty.REPOSITORY, lambda: trusted.refresh(NOW))
