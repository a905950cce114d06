"""GET /repository/…: signed metadata, manifests and packs, read-only, for desktops and for whoever else asks.

Rules:
- Nothing here is secret, so nobody is asked who they are: packs are encrypted, metadata signed. What waits for
  signatures, keys, temporary files and listings are not served.
- A path is one of three forms, each part a valid name; it is opened part by part, and a link is never followed.
- The event loop never waits for a disk. Long answers are bounded in number, in all and for each address, with places
  kept for desktops that hold leases (`places.py`); a client that takes less than 256 KiB in half a minute is cut off.
- One range at a time (RFC 9110, 14.2); a Range that is none is ignored. ETag and If-None-Match save a second transfer.
- A file is what it was when it was opened: what is served is never changed, only replaced as a whole.
"""

import asyncio
import errno
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
from starlette.types import Receive, Scope, Send

from deskgrid.coordinator.places import Places, Whereabouts
from deskgrid.coordinator.problems import RequestRefused

PREFIX = "/repository/"
PART_BYTES, PART_SECONDS = 256 << 10, 30.0
SMALL_BYTES = 64 << 10
MOST_LONG = 64
"""Answers of more than SMALL_BYTES at once; the next client gets 503 and comes back."""
LONG_EACH, LONG_EACH_DESKTOP = 8, 4
"""Of these for one address, and further ones for each desktop that reports from there."""

TRANSPORT = "deskgrid.transport"
"""Where a scope has its connection's transport (connection.py)."""

log = logging.getLogger(__name__)
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_METADATA = re.compile(r"metadata/[A-Za-z0-9][A-Za-z0-9._-]{0,160}\.json\Z")
_MANIFEST = rf"targets/images/{_NAME}/{_NAME}/[0-9a-f]{{64}}\.{_NAME}\.json"
_FOR_EVER = re.compile(rf"(?:{_MANIFEST}|{_NAME}/packs/[0-9a-f]{{2}}/[0-9a-f]{{64}})\Z")
_RANGE = re.compile(rb"bytes=(\d{0,18})-(\d{0,18})\Z")
_NO_LINK = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Part(msgspec.Struct, frozen=True):
    """The bytes of a file that are sent: from start to end; ranged: as an answer to a Range header."""

    start: int
    end: int
    ranged: bool


class _File(msgspec.Struct, frozen=True):
    handle: int
    length: int
    tag: bytes


class RepositoryFiles:
    """Serves a repository's folder as an ASGI application."""

    def __init__(
        self,
        folder: Path | None,
        where: Whereabouts | None = None,
        most_long: int = MOST_LONG,
        part_seconds: float = PART_SECONDS,
    ) -> None:
        """Serve `folder`; None: nothing. where: desktops are. part_seconds: what a client may take for PART_BYTES."""
        self._folder, self._part_seconds = folder, part_seconds
        self.long = Places("repository, long answers", most_long, LONG_EACH, LONG_EACH_DESKTOP, where or Whereabouts())
        self._threads = ThreadPoolExecutor(4, "repository")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises: RequestRefused, before anything was sent."""
        path = str(scope["path"]).removeprefix(PREFIX)
        if scope["method"] not in ("GET", "HEAD"):
            raise RequestRefused(405, "method", "Use GET here.")
        if self._folder is None or not (_METADATA.match(path) or _FOR_EVER.match(path)):
            raise _nothing(path)
        loop = asyncio.get_running_loop()
        file = await loop.run_in_executor(self._threads, _open, self._folder, path)
        try:
            await self._answer(file, bool(_FOR_EVER.match(path)), scope, receive, send)
        finally:
            os.close(file.handle)

    async def _answer(self, file: _File, for_ever: bool, scope: Scope, receive: Receive, send: Send) -> None:
        asked = {bytes(key): bytes(value) for key, value in scope["headers"]}
        headers = [
            (b"etag", file.tag),
            (b"accept-ranges", b"bytes"),
            (b"cache-control", b"public, max-age=31536000, immutable" if for_ever else b"no-cache"),
            (b"content-type", b"application/octet-stream" if for_ever else b"application/json"),
        ]
        if file.tag in [tag.strip() for tag in asked.get(b"if-none-match", b"").split(b",")]:
            await _start(send, 304, headers)
            return
        part = part_of(asked, file.length, file.tag)
        if part is None:
            await _start(
                send, 416, [*headers, (b"content-range", b"bytes */%d" % file.length), (b"content-length", b"0")]
            )
            return
        if part.ranged:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (part.start, part.end - 1, file.length)))
        headers.append((b"content-length", b"%d" % (part.end - part.start)))
        if scope["method"] == "HEAD" or part.start == part.end:
            await _start(send, 206 if part.ranged else 200, headers)
            return
        with self._place(part, scope):
            await send({"type": "http.response.start", "status": 206 if part.ranged else 200, "headers": headers})
            await self._send(file.handle, part, scope, receive, send)

    async def _send(self, handle: int, part: Part, scope: Scope, receive: Receive, send: Send) -> None:
        loop, at, transport = asyncio.get_running_loop(), part.start, scope.get(TRANSPORT)
        while at < part.end:
            body = await loop.run_in_executor(self._threads, os.pread, handle, min(PART_BYTES, part.end - at), at)
            at += len(body)
            try:
                if not body or (transport is not None and transport.is_closing()):
                    raise TimeoutError
                async with asyncio.timeout(self._part_seconds):
                    await send({"type": "http.response.body", "body": body, "more_body": at < part.end})
            except TimeoutError:  # it went away, or it is too slow, or the file is damaged
                if transport is not None:
                    transport.abort()
                await receive()
                return

    @contextmanager
    def _place(self, part: Part, scope: Scope) -> Iterator[None]:
        """One of the places for long answers. Raises: RequestRefused when all are taken."""
        if part.end - part.start <= SMALL_BYTES:
            yield
            return
        client = scope.get("client")
        address = str(client[0]) if client else "?"
        if not self.long.take(address, time.monotonic()):
            raise RequestRefused(
                503, "busy", "Many desktops fetch now; come back in a few seconds, or ask another source."
            )
        try:
            yield
        finally:
            self.long.leave(address)

    def close(self) -> None:
        """Serve no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def part_of(asked: Mapping[bytes, bytes], length: int, tag: bytes) -> Part | None:
    """Which part of a file of this length is asked for; None: one that it does not have."""
    match = _RANGE.match(asked.get(b"range", b""))
    if match is None or match[1] == match[2] == b"" or asked.get(b"if-range", tag) != tag:
        return Part(0, length, False)
    if match[1] == b"":
        start, end = max(0, length - int(match[2])), length
    else:
        start = int(match[1])
        end = min(length, int(match[2]) + 1) if match[2] else length
        if match[2] and int(match[2]) < start:
            return Part(0, length, False)
    return Part(start, end, True) if start < end else None


def _open(folder: Path, path: str) -> _File:
    """Open a file part by part, links not followed. Raises: RequestRefused."""
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        *folders, last = path.split("/")
        for name in folders:
            at = _step(at, name, os.O_DIRECTORY)
        handle = _step(at, last, 0)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise _nothing(path) from None
        log.warning("repository %s: %s can't be read: %s", folder, path, error.strerror)
        raise RequestRefused(503, "unreadable", "The coordinator can't read this now; its log says why.") from None
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):
        os.close(handle)
        raise _nothing(path)
    return _File(handle, state.st_size, b'"%x-%x-%x"' % (state.st_mtime_ns, state.st_size, state.st_ino))


def _step(at: int, name: str, more: int) -> int:
    try:
        return os.open(name, _NO_LINK | more, dir_fd=at)
    finally:
        os.close(at)


def _nothing(path: str) -> RequestRefused:
    return RequestRefused(404, "not-found", f"There is no {path[:80]!r} in the repository.")


async def _start(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    """Send an answer without a body."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
