"""A desktop's images: signed by two, in encrypted chunks, fetched in part. What the agent uses; small.

Rules:
- Before each start a short process (`admit.py`) checks that the version may start now, and lets it into the store of
  chunks: python-tuf and the store take memory that an agent at rest has not.
- What a virtual machine reads comes from a process of its own (`serve/serve.py`), which its keeper starts; here is
  only said how. The project's key goes through here in memory and is not kept.
- An image is held when all is here that a boot reads. That is looked up by the same short process, now and then.
- While one of its virtual machines is here, an image is not removed: its lock is held (`store/store.py`).
"""

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from deskgrid.host.system.locks import hold
from deskgrid.host.system.programs import KEPT, environment, python
from deskgrid.images.contract import ImageError
from deskgrid.images.trust.values import TrustConfiguration, Version
from deskgrid.model.desktop import Fault
from deskgrid.model.image import ImageFacts, ImageGrant, ImageRef
from deskgrid.model.values.moment import Moment
from deskgrid.model.values.outside import read_json
from deskgrid.wire.disk import DiskServer, OpenedImage

log = logging.getLogger("deskgrid.images")
ADMIT_SECONDS = 180.0
LOOK_SECONDS = 1.0
"""Later, so that a start or an end of a machine has not to wait for it."""
_DIGITS = 64


class Allowance(msgspec.Struct, frozen=True):
    """What images may take here. bytes_per_second: of the network, for each virtual machine; 0: all."""

    budget_bytes: int
    floor_bytes: int
    bytes_per_second: int = 0


class Origins(msgspec.Struct, frozen=True):
    """Where images are. trust: metadata, shipped root, repository. packs: asked after what a grant names."""

    store: Path
    trust: TrustConfiguration
    packs: tuple[str, ...] = ()


class AdmitQuestion(msgspec.Struct, frozen=True):
    """For `admit.py`. wanted, digest: the version to be admitted; none: only what is held is asked."""

    origins: Origins
    allowance: Allowance
    now: Moment
    wanted: Version | None = None
    digest: str = ""
    sources: tuple[str, ...] = ()


class Admission(msgspec.Struct, frozen=True):
    """An admitted image. server: without the key at the end of `opening`."""

    facts: ImageFacts
    cmdline: str
    server: DiskServer


class AdmitReply(msgspec.Struct, frozen=True):
    """Of `admit.py`. sentence: why the version may not start, "" if it may; fault: whose."""

    held: tuple[ImageFacts, ...] = ()
    admission: Admission | None = None
    sentence: str = ""
    fault: Fault = Fault.NONE


class DesktopStore:
    """See `contract.ImageStore`."""

    def __init__(self, origins: Origins, allowance: Callable[[], Allowance], now: Callable[[], datetime]) -> None:
        """Use the store and the metadata in the folders of `origins`; look for what is held, aside."""
        self.origins, self._allowance, self._now = origins, allowance, now
        self._mutex, self._asking = threading.Lock(), threading.Lock()
        self._held: tuple[ImageFacts, ...] = ()
        self._admitted: dict[str, Admission] = {}
        self._locks: dict[str, list[int]] = {}
        self._looking = False
        self._look()

    def held(self) -> Sequence[ImageFacts]:
        """The images of which all is here that a boot reads, as of the last look."""
        return self._held

    def fetch(self, ref: ImageRef, grant: ImageGrant | None) -> None:
        """Check that one of its virtual machines may start now, and let it into the store. Raises: ImageError."""
        if grant is None:
            raise ImageError(f"image {ref.name}: the coordinator gave no key for it; update the coordinator")
        wanted = Version(grant.project, ref.name, grant.version)
        reply = self._ask(wanted, ref.digest, grant.sources)
        if reply.admission is None:
            raise ImageError(reply.sentence or f"image {ref.name}: not admitted; see the agent's log", reply.fault)
        with self._mutex:
            self._admitted[ref.digest] = reply.admission

    def open(self, ref: ImageRef, grant: ImageGrant | None) -> OpenedImage:
        """Say how it is served to one virtual machine. Raises: ImageError."""
        with self._mutex:
            admission = self._admitted.get(ref.digest)
        if admission is None or grant is None or len(grant.key) != _DIGITS:
            raise ImageError(f"image {ref.name}: it was not fetched, or there is no key for it; it is tried again")
        self._lock(ref)
        server = admission.server
        served = msgspec.structs.replace(server, opening=server.opening + bytes.fromhex(grant.key))
        return OpenedImage(admission.facts.ref, admission.cmdline, served=served)

    def close(self, ref: ImageRef) -> None:
        """One of its virtual machines is gone."""
        with self._mutex:
            locks = self._locks.get(ref.digest, [])
            if locks:
                os.close(locks.pop())
            if not locks:
                self._locks.pop(ref.digest, None)
        self._look()

    def _lock(self, ref: ImageRef) -> None:
        """Keep it from being removed."""
        path = self.origins.store / "images" / f"{ref.digest}.lock"
        try:
            handle = hold(path, shared=True)
        except OSError as error:
            raise ImageError(f"store {path}: {error.strerror}; see to the folder and its rights") from None
        with self._mutex:
            self._locks.setdefault(ref.digest, []).append(handle)

    def _look(self) -> None:
        """Look aside for what is held; once for all who want it meanwhile."""
        with self._mutex:
            if self._looking:
                return
            self._looking = True
        threading.Thread(target=self._look_now, name="images", daemon=True).start()

    def _look_now(self) -> None:
        time.sleep(LOOK_SECONDS)
        with self._mutex:
            self._looking = False
        try:
            self._ask(None, "", ())
        except ImageError as error:
            log.warning("%s", error)

    def _ask(self, wanted: Version | None, digest: str, sources: tuple[str, ...]) -> AdmitReply:
        """Ask a process of its own; one at a time: the metadata have one writer. Raises: ImageError."""
        question = AdmitQuestion(self.origins, self._allowance(), self._now(), wanted, digest, sources)
        with self._asking:
            try:
                done = subprocess.run(
                    python("deskgrid.images.admit"),
                    env=environment(*KEPT),
                    cwd="/",
                    input=msgspec.json.encode(question, enc_hook=str),
                    capture_output=True,
                    timeout=ADMIT_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise ImageError(f"images: not checked within {ADMIT_SECONDS:.0f} s; tried again later") from None
            except OSError as error:
                raise ImageError(
                    f"images: the process that checks them can't be started: {error.strerror}; see to this computer"
                ) from None
        said = done.stderr[-2000:].decode(errors="replace").strip()
        try:
            reply = read_json(done.stdout, type=AdmitReply)
        except msgspec.MsgspecError:
            log.warning("images: the process that checks them ended with %d: %s", done.returncode, said)
            raise ImageError("images: the process that checks them gave no answer; see the agent's log") from None
        if said:
            log.info("%s", said)
        self._held = reply.held
        return reply
