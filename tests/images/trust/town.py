"""A grid whose people type commands, and an intruder who may change any file of the repository between two of them.

Rules:
- People are honest and careful, not clever: who is asked looks at what is on his screen, and at nothing else.
- What the researcher saw is the manifest that she gives; what the approver saw are the digests on his screen when he
  says yes, which he does to all that waits. An administrator says yes to a new life of the same keys only.
- The intruder has the repository's folder and the online key, knows all that was ever there, and may have one more key.
  He acts between commands, and while somebody is being asked.
"""

import hashlib
import io
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import typer

from deskgrid.cli.output import CommandFailed
from deskgrid.cli.trust import trust
from deskgrid.images.contract import ImageError
from deskgrid.images.trust.desktop.client import Trusted
from deskgrid.images.trust.desktop.source import RepositoryFolderSource
from deskgrid.images.trust.errors import TrustError
from deskgrid.images.trust.keys import make_key, open_signer, read_public
from deskgrid.images.trust.roles import OWNER, pattern
from deskgrid.images.trust.signing.repository import first_root, listed, next_snapshot, next_timestamp, target_file
from deskgrid.images.trust.tufapi import CryptoSigner, DelegatedRole, Delegations, Key, Metadata, Signer, Targets
from deskgrid.images.trust.values import ListedVersion, Pointer, Version

from .published import manifest
from .rig import person

PASSWORD = "correct horse battery"
PEOPLE = ("ada", "bob", "cleo", "rita", "paul", "online")
RESEARCHER, APPROVER = "einstein-researcher", "einstein-approver"
EVIL = Version("einstein", "search", "66.6")
POINTER = EVIL.latest
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
Act = Callable[[], object]


class Reader(io.StringIO):
    """Somebody at a terminal, who decides by what is on the screen."""

    def __init__(self, screen: io.StringIO, decide: Callable[[str], bool], meanwhile: Act) -> None:
        super().__init__()
        self._screen, self._decide, self._meanwhile = screen, decide, meanwhile

    def readline(self, size: int = -1, /) -> str:
        answer = "y\n" if self._decide(self._screen.getvalue()) else "n\n"
        self._meanwhile()
        return answer


class Town:
    """People with keys, a repository, desktops."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.web = folder, folder / "web"
        self.saw: dict[str, set[str]] = {"rita": set(), "paul": set()}
        self.screens = {"rita": "", "paul": ""}
        self.number = 0

    # -- commands ---------------------------------------------------------------------------------------------

    def type(
        self, command: str, *argv: object, decide: Callable[[str], bool] = lambda _: True, meanwhile: Act = lambda: None
    ) -> tuple[int, str]:
        """Type `deskgrid trust …`; return its exit code, and what it printed."""
        screen, faults = io.StringIO(), io.StringIO()
        before, sys.stdin = sys.stdin, Reader(screen, decide, meanwhile)
        try:
            with redirect_stdout(screen), redirect_stderr(faults):
                _commands()([command, *map(str, argv), "--repository", str(self.web)], standalone_mode=False)
            code = 0
        except (CommandFailed, ImageError, typer.Abort):  # every other error is one of ours
            code = 1
        finally:
            sys.stdin = before
        for who in self.screens:
            self.screens[who] += screen.getvalue() if self.key(who) in argv else ""
        return code, screen.getvalue()

    def signing(self, command: str, *argv: object, **how: Any) -> tuple[int, str]:
        return self.type(command, *argv, "--password-file", self.folder / "password", **how)

    def key(self, who: str) -> Path:
        return self.folder / who

    @contextmanager
    def asked(self, meanwhile: Act) -> Iterator[Path]:
        """A password file that takes its time: `meanwhile` happens when it is opened, or at the end if it never is."""
        file = self.folder / "asked"
        os.mkfifo(file)

        def answer() -> None:
            with suppress(BrokenPipeError), file.open("w") as pipe:
                meanwhile()
                pipe.write(PASSWORD)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield file
        finally:
            handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
            thread.join()
            os.close(handle)
            file.unlink()

    def keyid(self, who: str) -> str:
        return read_public(self.key(who)).keyid

    def signatures(self) -> set[tuple[str, str]]:
        """All that lie in the folder, with their keys."""
        found = [json.loads(path.read_bytes()) for path in self.web.glob("[mp]e*/*.json")]
        return {(each["sig"], each["keyid"]) for one in found for each in one["signatures"]}

    # -- what people do ---------------------------------------------------------------------------------------

    def propose(self, meanwhile: Act = lambda: None) -> bool:
        """Rita publishes the next version and signs it."""
        self.number += 1
        image = f"einstein/search/{self.number}.0"
        own = self.folder / "rita's" / image.replace("/", "-")
        own.parent.mkdir(exist_ok=True)
        own.write_bytes(manifest(image, cmdline=f"good {self.number}"))
        meanwhile()
        self.saw["rita"].add(hashlib.sha256(own.read_bytes()).hexdigest())
        return self.signing("propose", image, own, self.key("rita"))[0] == 0

    def approve(self, meanwhile: Act = lambda: None) -> bool:
        """Paul approves all that waits for him."""
        code, screen = self.type("status", "--key", self.key("paul"), "--json")
        waits = json.loads(screen)["approvals"] if code == 0 else []
        done = bool(waits)
        for each in waits:
            image = "/".join(each["version"][part] for part in ("project", "image", "version"))
            code, _ = self.signing("approve", image, self.key("paul"), decide=self._paul_reads, meanwhile=meanwhile)
            done = done and code == 0
        return done

    def _paul_reads(self, screen: str) -> bool:
        self.saw["paul"] |= set(_DIGEST.findall(screen))
        return True

    def first_command(self, who: str, meanwhile: Act = lambda: None) -> None:
        """Somebody who holds no root types what he would, and then says `--root` as he was told to."""
        self.key(f"{who}.held").unlink(missing_ok=True)
        image = f"einstein/search/{self.number + 1}.0"
        own = self.folder / "own.json"
        own.write_bytes(manifest(image, cmdline="good"))
        argv: dict[str, tuple[object, ...]] = {
            "rita": ("propose", image, own, self.key(who)),
            "paul": ("approve", f"einstein/search/{self.number}.0", self.key(who), "--yes"),
            "ada": ("sign", self.key(who), "--yes"),
        }
        with self.asked(meanwhile) as password:
            self.type(str(argv[who][0]), *argv[who][1:], "--password-file", password)
        self.type("status", "--key", self.key(who), "--root", self.folder / "1.root.json")

    def revoke(self) -> bool:
        """Paul steps back from the newest version."""
        image = f"einstein/search/{self.number}.0"
        return self.signing("revoke", image, self.key("paul"), "--reason", "a hole")[0] == 0

    def new_life(self, meanwhile: Act = lambda: None) -> bool:
        """The administrators sign the same keys for a new year."""
        self.type("rotate", "targets")
        self.signing("sign", self.key("ada"), decide=_new_life_only)
        return self.signing("sign", self.key("bob"), decide=_new_life_only, meanwhile=meanwhile)[0] == 0

    def renew(self) -> None:
        """The coordinator lists what is signed."""
        self.signing("renew", self.key("online"))

    def look(self, home: str) -> dict[str, str]:
        """What a desktop takes: versions with their digests."""
        found: dict[str, str] = {}
        now = datetime.now(UTC)
        root = (self.folder / "1.root.json").read_bytes()
        with Trusted(self.folder / home, root, RepositoryFolderSource(self.web)) as trusted:
            try:
                trusted.refresh(now)
            except TrustError:
                return found
            for version in (EVIL, *(Version("einstein", "search", f"{n}.0") for n in range(1, self.number + 2))):
                try:
                    found[version.version] = hashlib.sha256(trusted.manifest(version, now)).hexdigest()
                except TrustError:
                    continue
        return found

    def latest(self, home: str) -> int:
        """The number of the version that a desktop takes for the latest; 0: none."""
        now = datetime.now(UTC)
        root = (self.folder / "1.root.json").read_bytes()
        with Trusted(self.folder / home, root, RepositoryFolderSource(self.web)) as trusted, suppress(TrustError):
            trusted.refresh(now)
            return int(trusted.latest("einstein", "search", now).version.split(".")[0])
        return 0

    def were_shown_a_step_back(self, stolen: str | None) -> bool:
        """Whether all signers whose keys are their own were."""
        return all("a step BACK" in screen for who, screen in self.screens.items() if who != stolen)


def _new_life_only(screen: str) -> bool:
    changes = {line.strip() for line in screen.splitlines() if line.startswith("  ")}
    return changes == {"the same keys, a new life"}


@cache
def _commands() -> Any:
    return typer.main.get_command(trust.app)


@contextmanager
def town(folder: Path, built: Path) -> Iterator[Town]:
    """A town where a ceremony was held and one image is published."""
    shutil.copytree(_begun(built), folder, symlinks=True)
    here = Town(folder)
    here.number = 1
    digest = _DIGEST.findall((folder / "first").read_text())[0]
    here.saw = {"rita": {digest}, "paul": {digest}}
    yield here


@cache
def _begun(folder: Path) -> Path:
    here = Town(folder)
    folder.mkdir()
    (folder / "password").write_text(PASSWORD)
    for who in PEOPLE:
        make_key(folder / who, who, PASSWORD, scrypt=2)
    admins = [word for who in PEOPLE[:3] for word in ("--admin", folder / f"{who}.pub")]
    here.type("init", *admins, "--online", folder / "online.pub")
    here.type("add-key", RESEARCHER, folder / "rita.pub")
    here.type("add-key", APPROVER, folder / "paul.pub")
    for who in ("ada", "bob"):
        here.signing("sign", folder / who)
    shutil.copy(here.web / "metadata/1.root.json", folder)
    for who in ("rita", "paul", "cleo"):
        assert here.type("status", "--key", folder / who, "--root", folder / "1.root.json")[0] == 0
    assert here.propose()
    assert here.approve()
    here.renew()
    (digest,) = here.saw["rita"] & set(here.look("check").values())
    (folder / "first").write_text(digest)
    return folder


class Intruder:
    """What he may do to the folder. keys: that he has besides the online one."""

    def __init__(self, here: Town, stolen: str | None) -> None:
        self.web, self.stolen = here.web, stolen
        self.online = self._key(here, "online")
        self.mine, self.other = person("mallory"), person("trudy")
        self.keys: list[Signer] = [self.mine, self.other, *([self._key(here, stolen)] if stolen else [])]
        self.evil = manifest("einstein/search/66.6", cmdline="with a back door")
        self.remembered: list[dict[Path, bytes]] = []
        self.remember()

    def _key(self, here: Town, who: str) -> Signer:
        return open_signer(here.key(who), lambda _: PASSWORD)

    def remember(self) -> None:
        """He keeps what is there now."""
        self.remembered.append({path: path.read_bytes() for path in self.web.rglob("*.json")})

    # -- acts -------------------------------------------------------------------------------------------------

    def nothing(self) -> None:
        """He waits."""

    def put_back(self, which: int = -1) -> None:
        """The folder is as it was."""
        for path in self.web.rglob("*.json"):
            path.unlink()
        for path, content in self.remembered[which % len(self.remembered)].items():
            path.write_bytes(content)

    def put_back_served(self, which: int = -1) -> None:
        """Files are again what they were; what came since stays."""
        for path, content in self.remembered[which % len(self.remembered)].items():
            if path.parent.name == "metadata":
                path.write_bytes(content)

    def forge(self, *roles: str) -> None:
        """His image is in what is served, under signatures that are void, unless he has the key."""
        self.remember()
        for role in roles:
            path = self._newest(role)
            if path is not None:
                self._write(path, self._with_evil(Metadata.from_bytes(path.read_bytes())))
        self._put_evil()

    def number_up(self, *roles: str) -> None:
        """His image is in a new version of what is served."""
        self.remember()
        for role in roles:
            path = self._newest(role)
            if path is not None:
                draft = self._with_evil(Metadata.from_bytes(path.read_bytes()))
                draft.signed.version += 1
                self._write(path.with_name(f"{draft.signed.version}.{role}.json"), draft)
        self._put_evil()

    def lay(self, role: str) -> None:
        """A draft waits that has his image in it."""
        self.remember()
        self._write(self.web / f"pending/{role}.json", self._with_evil(self._draft(role)))
        self._put_evil()

    def lay_hidden(self, role: str) -> None:
        """A draft waits that delegates to him where nobody looks, and has a field of its own."""
        self.remember()
        draft = self._draft(role)
        key = self.mine.public_key
        roles = {role: DelegatedRole("mine", [key.keyid], 1, True, [pattern("einstein")])}
        draft.signed.delegations = Delegations({key.keyid: key}, {"mine": roles[role]})
        draft.signed.unrecognized_fields["x-mine"] = True
        self._write(self.web / f"pending/{role}.json", draft)

    def lay_keys(self) -> None:
        """A draft waits in which the ids of rita and paul stand for keys of his."""
        self.remember()
        draft = self._draft("targets")
        if draft.signed.delegations is None:
            return
        for role, signer in ((RESEARCHER, self.mine), (APPROVER, self.other)):
            for keyid in draft.signed.delegations.roles[role].keyids:
                named = draft.signed.delegations.keys[keyid].unrecognized_fields
                key = Key.from_dict(keyid, signer.public_key.to_dict())
                key.unrecognized_fields.update(named)
                draft.signed.delegations.keys[keyid] = key
        self._write(self.web / "pending/targets.json", draft)

    def lay_more_keys(self) -> None:
        """A draft waits in which both roles have a key of his too, under the names of who has them."""
        self.remember()
        draft = self._draft("targets")
        if draft.signed.delegations is None:
            return
        for role, signer, who in ((RESEARCHER, self.mine, "rita"), (APPROVER, self.other, "paul")):
            signer.public_key.unrecognized_fields[OWNER] = who
            draft.signed.add_key(signer.public_key, role)
        self._write(self.web / "pending/targets.json", draft)

    def pose(self) -> None:
        """He signs his image in both roles with keys that he calls rita's and paul's."""
        self.remember()
        targets = self._newest("targets")
        if targets is None:
            return
        keys = Metadata.from_bytes(targets.read_bytes()).signed.delegations.roles
        for role, signer in ((RESEARCHER, self.mine), (APPROVER, self.other)):
            path = self._newest(role)
            if path is None:
                continue
            draft = self._with_evil(Metadata.from_bytes(path.read_bytes()))
            draft.signed.version += 1
            for keyid in keys[role].keyids:
                public = Key.from_dict(keyid, signer.public_key.to_dict())
                draft.sign(CryptoSigner(signer._private_key, public), append=True)  # type: ignore[arg-type]
            self._write(path.with_name(f"{draft.signed.version}.{role}.json"), draft)
        self._put_evil()

    def swap_manifests(self) -> None:
        """Every manifest in the folder is his."""
        self.remember()
        for path in (*self.web.glob("targets/images/**/*.json"), *self.web.glob("images/**/*.json")):
            path.write_bytes(self.evil)

    def swap_version(self) -> None:
        """The newest version that the researcher lists has other content, and is signed if he has her key."""
        self.remember()
        path = self._newest(RESEARCHER)
        if path is None:
            return
        draft: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
        names = sorted(name for name in draft.signed.targets if not name.endswith(("/latest.json", EVIL.path)))
        if not names:
            return
        image = names[-1].removeprefix("images/").removesuffix(".json")
        evil = manifest(image, cmdline="with a back door")
        digest = hashlib.sha256(evil).hexdigest()
        number = draft.signed.targets[names[-1]].unrecognized_fields["custom"]["number"]
        draft.signed.targets[names[-1]] = target_file(names[-1], ListedVersion(len(evil), digest, number))
        draft.signed.version += 1
        self._write(path.with_name(f"{draft.signed.version}.{RESEARCHER}.json"), draft)
        folder, _, file = names[-1].rpartition("/")
        (self.web / f"targets/{folder}/{digest}.{file}").write_bytes(evil)

    def forge_root(self) -> None:
        """A ceremony of his own: his root, his targets, and what the researcher lists has his image, under his keys."""
        now, targets, role = datetime.now(UTC), self._newest("targets"), self._newest(RESEARCHER)
        root = first_root([self.mine.public_key], 1, self.other.public_key, now)
        self._sign(self.web / "metadata/1.root.json", root)
        if targets is None or role is None:
            return
        named: Metadata[Any] = Metadata.from_bytes(targets.read_bytes())
        if named.signed.delegations is not None and RESEARCHER in named.signed.delegations.roles:
            named.signed.add_key(self.mine.public_key, RESEARCHER)
        self._sign(targets, named)
        self._sign(role, self._with_evil(Metadata.from_bytes(role.read_bytes())))
        self._put_evil()

    def _sign(self, path: Path, metadata: Metadata[Any]) -> None:
        metadata.signatures.clear()
        metadata.sign(self.mine)
        path.write_bytes(metadata.to_bytes())

    def lay_earlier(self) -> None:
        """A draft says that an older pointer of his is good meanwhile; it is the approver's, if he has that key."""
        pointer = Pointer("1.0", 1, 9, 9)
        digest = self._put_pointer(pointer)
        if self.stolen == "paul":
            self._point(APPROVER, ListedVersion(len(msgspec.json.encode(pointer)), digest), served=True)
        draft = self._draft(RESEARCHER).signed.targets.get(POINTER)
        if draft is not None:
            self._point(RESEARCHER, ListedVersion(draft.length, draft.hashes["sha256"], earlier=digest))

    def lay_back(self) -> None:
        """A draft, or what the researcher signed, points to the first version, with a step back that nobody saw."""
        pointer = Pointer("1.0", 1, 9, 8)
        entry = ListedVersion(len(msgspec.json.encode(pointer)), self._put_pointer(pointer))
        self._point(RESEARCHER, entry, served=self.stolen == "rita")
        if self.stolen != "rita":
            self._point(APPROVER, entry)

    def lay_revoked(self) -> None:
        """A draft waits in which the pointer is revoked, and has a number."""
        was = self._draft(APPROVER).signed.targets.get(POINTER)
        if was is not None:
            self._point(APPROVER, ListedVersion(was.length, was.hashes["sha256"], 7, "hidden"))

    def lay_unrevoked(self) -> None:
        """Drafts wait in which nothing is revoked."""
        self.remember()
        for role in (RESEARCHER, APPROVER):
            draft = self._draft(role)
            for file in draft.signed.targets.values():
                file.unrecognized_fields["custom"].pop("revoked", None)
            self._write(self.web / f"pending/{role}.json", draft)

    def _point(self, role: str, entry: ListedVersion, served: bool = False) -> None:
        self.remember()
        draft = self._draft(role)
        draft.signatures.clear()
        draft.signed.targets[POINTER] = target_file(POINTER, entry)
        place = f"metadata/{draft.signed.version}.{role}.json" if served else f"pending/{role}.json"
        self._write(self.web / place, draft)

    def _put_pointer(self, pointer: Pointer) -> str:
        content = msgspec.json.encode(pointer)
        digest = hashlib.sha256(content).hexdigest()
        (self.web / f"targets/images/einstein/search/{digest}.latest.json").write_bytes(content)
        return digest

    def take_away(self, role: str) -> None:
        """The newest version of a role is gone."""
        self.remember()
        path = self._newest(role)
        if path is not None:
            path.unlink()

    def list_all(self) -> None:
        """With the online key he says that whatever lies there is current."""
        path, meta = self._newest("snapshot"), {}
        for role in ("targets", RESEARCHER, APPROVER):
            newest = self._newest(role)
            if newest is not None:
                version = int(newest.name.split(".")[0])
                meta[f"{role}.json"] = listed(newest.read_bytes(), version)
        last = int(path.name.split(".")[0]) if path else 0
        now = datetime.now(UTC)
        snapshot = next_snapshot(None, meta, now, last)
        snapshot.sign(self.online)
        place = self.web / f"metadata/{snapshot.signed.version}.snapshot.json"
        place.write_bytes(snapshot.to_bytes())
        stamp: Metadata[Any] = Metadata.from_bytes((self.web / "metadata/timestamp.json").read_bytes())
        new = next_timestamp(stamp.signed, listed(place.read_bytes(), snapshot.signed.version), now)
        new.sign(self.online)
        (self.web / "metadata/timestamp.json").write_bytes(new.to_bytes())

    # -- ------------------------------------------------------------------------------------------------------

    def _newest(self, role: str) -> Path | None:
        found = self.web.glob(f"metadata/*.{role}.json")
        return max(found, key=lambda path: int(path.name.split(".")[0]), default=None)

    def _draft(self, role: str) -> Metadata[Any]:
        waits = self.web / f"pending/{role}.json"
        newest = self._newest(role)
        if waits.exists():
            return Metadata.from_bytes(waits.read_bytes())
        draft: Metadata[Any] = Metadata.from_bytes(newest.read_bytes()) if newest else Metadata(Targets())
        draft.signed.version += 1
        return draft

    def _with_evil(self, draft: Metadata[Any]) -> Metadata[Any]:
        entry = ListedVersion(len(self.evil), hashlib.sha256(self.evil).hexdigest(), 66)
        draft.signed.targets[EVIL.path] = target_file(EVIL.path, entry)
        return draft

    def _put_evil(self) -> None:
        place = self.web / f"targets/images/einstein/search/{hashlib.sha256(self.evil).hexdigest()}.66.6.json"
        place.write_bytes(self.evil)

    def _write(self, path: Path, draft: Metadata[Any]) -> None:
        for signer in self.keys:
            draft.sign(signer, append=True)
        path.write_bytes(draft.to_bytes())
