"""Where packs come from: a folder, or any web server that knows Range.

Rules:
- A source is asked for a part of a pack and gives bytes as they come. Nobody believes it: who asks checks every blob.
- It never gives more than it was asked for, follows nobody elsewhere, and gives up when nothing comes for ten
  seconds, or when less than 2 KiB/s come over half a minute: a bad source costs time, a bounded one. It gives up much
  sooner when there is another source behind it (`patience.py`).
- `cancel` ends at once, from another thread, all that was asked for by `read` until then, however far it has got: while
  it connects, greets, waits or reads. Only a computer's name that is being looked up is waited for.
"""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from deskgrid.host.system.files import open_plain
from deskgrid.images.contract import ImageError
from deskgrid.images.fetch.line import KeptConnection
from deskgrid.images.fetch.patience import ANOTHER_FOLLOWS, LAST, Patience, Timely

_PART_BYTES = 64 << 10


class Away(ImageError):
    """A source does not answer, or not with what was asked for. Another may, or the same one later."""


class Lacks(Away):
    """A source says that it has not got it. some: but it has something of that pack."""

    def __init__(self, sentence: str, some: bool) -> None:
        super().__init__(sentence)
        self.some = some


class Origin(msgspec.Struct, frozen=True):
    """Where a source is. url: http, https or file; the folder that was published to. ca: PEM file of its authority."""

    url: str
    ca: str = ""


class PackSource(Protocol):
    """Something that has packs."""

    name: str
    patience: Patience

    def read(self, project: str, pack: str, start: int, end: int) -> Iterator[bytes]:
        """Give the bytes from start to end as they come. Raises: Away, at the first byte or later."""

    def cancel(self) -> None:
        """End what `read` was called for until now: it raises Away. From any thread."""


def open_sources(origins: Sequence[Origin]) -> list[PackSource]:
    """Return the sources at these addresses, to be asked in this order. Raises: ImageError when an address is none."""
    last = len(origins) - 1
    return [open_source(one, LAST if number == last else ANOTHER_FOLLOWS) for number, one in enumerate(origins)]


def open_source(origin: Origin, patience: Patience = LAST) -> PackSource:
    """Return the source at an address. Raises: ImageError when the address is none."""
    parts = urlsplit(origin.url)
    if parts.scheme == "file" and parts.path:
        return PackFolder(Path(parts.path))
    if parts.scheme in ("http", "https") and parts.hostname and not parts.username:
        return PackServer(origin, patience)
    raise ImageError(f"source of packs: got {origin.url!r}, expected http://…, https://… or file:///…; correct it")


class PackFolder:
    """A folder that was published to, such as a mounted one."""

    def __init__(self, root: Path) -> None:
        """Read below `root`."""
        self._root, self.name, self.patience = root, str(root), LAST

    def read(self, project: str, pack: str, start: int, end: int) -> Iterator[bytes]:
        """Give the bytes from start to end. Raises: Away."""
        path = self._root / project / "packs" / pack[:2] / pack
        try:
            with open_plain(path) as file:
                file.seek(start)
                while start < end and (part := file.read(min(_PART_BYTES, end - start))):
                    start += len(part)
                    yield part
        except OSError as error:
            raise Away(f"{path}: {error.strerror}") from None
        if start < end:
            raise Away(f"{path}: it ends {end - start} bytes too early")

    def cancel(self) -> None:
        """Nothing here takes long."""


class PackServer:
    """A web server or a cache; one request at a time over one connection that is kept."""

    def __init__(self, origin: Origin, patience: Patience = LAST) -> None:
        """Talk to the server at `origin.url`; nobody bears with it for longer than so."""
        self.patience = patience
        self._parts = urlsplit(origin.url)
        self.name = f"{self._parts.scheme}://{self._parts.netloc}{self._parts.path.rstrip('/')}"
        self._ca = origin.ca
        self._line = KeptConnection()
        self._link: http.client.HTTPConnection | None = None

    def read(self, project: str, pack: str, start: int, end: int) -> Iterator[bytes]:
        """Give the bytes from start to end as they come. Raises: Away, at the first byte or later."""
        path = f"{self._parts.path.rstrip('/')}/{project}/packs/{pack[:2]}/{pack}"
        return self._read(path, start, end, self._line.turn())

    def cancel(self) -> None:
        """Cut the connection, also one that is being made; whoever reads from it gets Away."""
        self._line.cut()

    def _read(self, path: str, start: int, end: int, turn: int) -> Iterator[bytes]:
        whole = False
        try:
            answer = self._ask(path, start, end, turn)
            yield from self._body(answer, start, end)
            whole = True
        except Lacks:
            whole = True  # and the connection may be used again
            raise
        except (OSError, http.client.HTTPException) as error:
            raise Away(f"{self.name}: {error or type(error).__name__}") from None
        finally:
            if not whole:
                self._drop()

    def _drop(self) -> None:
        """Close the connection; from the thread that reads."""
        self._line.forget()
        if self._link is not None:
            self._link.close()
            self._link = None

    def _ask(self, path: str, start: int, end: int, turn: int) -> http.client.HTTPResponse:
        again = self._link is not None and self._link.sock is not None
        while True:
            try:
                link = self._connected(turn)
                link.request("GET", path, headers={"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"})
                answer = link.getresponse()
                break
            except (OSError, http.client.HTTPException):
                self._drop()
                if not again:
                    raise
                again = False  # a kept connection that the server has closed meanwhile
        if isinstance(answer, _Answer):
            answer.begun()
        if answer.status in (404, 416):
            self._settle(answer)
            raise Lacks(f"{self.name}: it has not got pack {path[-64:][:12]}…, or not all of it", answer.status == 416)
        if answer.status == 200 and start == 0:
            return answer  # a server without Range: the beginning is what was asked for
        if answer.status != 206:
            raise Away(f"{self.name}: got status {answer.status} for pack {path[-64:][:12]}…, expected 206")
        if not (answer.getheader("Content-Range") or "").startswith(f"bytes {start}-{end - 1}/"):
            raise Away(f"{self.name}: got another range than it was asked for")
        if answer.length != end - start:
            raise Away(f"{self.name}: got a length of {answer.length} bytes, expected {end - start}")
        return answer

    def _settle(self, answer: http.client.HTTPResponse) -> None:
        """Make ready for the next request, over this connection if nothing more comes over it."""
        if answer.length == 0 and not answer.will_close:
            answer.read()
        else:
            self._drop()

    def _connected(self, turn: int) -> http.client.HTTPConnection:
        """Return the connection that is kept, or a new one. Raises: OSError."""
        if self._link is not None and self._link.sock is not None:
            self._line.use(self._link.sock, turn)
            return self._link
        host, port, trust = self._parts.hostname or "", self._parts.port, None
        if self._parts.scheme == "https":
            trust = ssl.create_default_context(cafile=self._ca or None)
            self._link = http.client.HTTPSConnection(host, port, context=trust)
        else:
            self._link = http.client.HTTPConnection(host, port)
        seconds = self.patience.connect_seconds
        self._link.sock = self._line.connect((host, self._link.port), trust, turn, seconds)
        self._link.response_class = partial(_Answer, self.patience)  # type: ignore[assignment]
        return self._link

    def _body(self, answer: http.client.HTTPResponse, start: int, end: int) -> Iterator[bytes]:
        left, waited, came, patience = end - start, 0.0, 0, self.patience
        while left:
            asked_at = time.monotonic()
            part = answer.read1(min(_PART_BYTES, left))
            waited += time.monotonic() - asked_at
            if not part:
                raise Away(f"{self.name}: it ended {left} bytes too early")
            left -= len(part)
            came += len(part)
            yield part
            if waited > patience.slow_seconds:
                if came < waited * patience.slow_bytes_per_second:
                    raise Away(f"{self.name}: only {came} bytes came in {waited:.0f} s")
                waited, came = 0.0, 0
        self._settle(answer)


class _Answer(http.client.HTTPResponse):
    """An answer that must begin in time."""

    def __init__(self, patience: Patience, connection: socket.socket, *words: Any, **more: Any) -> None:
        super().__init__(connection, *words, **more)
        raw = self.fp.detach()
        self._timely = Timely(raw, connection, patience)
        self.fp = io.BufferedReader(self._timely)

    def begun(self) -> None:
        """Its head is here."""
        self._timely.until = None
