"""Where a desktop gets metadata and manifests: a web server, or a folder.

Rules:
- A source is not trusted: it gives bytes, never more than was asked for, and in bounded time.
- The time is bounded as a whole, not by each read: a server that sends a byte now and then is cut off.
- Nothing is followed, unpacked or guessed: no redirects, no compressed answers, no proxy.
"""

import http.client
import ssl
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from deskgrid.host.system.deadline import Deadline
from deskgrid.host.system.files import open_plain
from deskgrid.images.trust.errors import Duty, TrustError

SECONDS = 20.0
_PIECE = 64 << 10


class Absent(Exception):
    """The source has no such file."""


class RepositorySource(Protocol):
    """Gives files of a repository."""

    def get(self, path: str, most_bytes: int) -> bytes:
        """Return a file. MUST end in bounded time and MUST NOT read on behind `most_bytes`.

        Raises: Absent when there is none; TrustError with Duty.NETWORK when the source can't be asked, and with
        Duty.REPOSITORY when the file is longer.
        """


class RepositoryFolderSource:
    """A repository in a folder, such as one on the same host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, path: str, most_bytes: int) -> bytes:
        """See `RepositorySource`."""
        try:
            with open_plain(self._folder / path) as file:
                content = file.read(most_bytes + 1)
        except FileNotFoundError:
            if not self._folder.is_dir():
                raise unreachable(str(self._folder), "there is no such folder") from None
            raise Absent(path) from None
        except OSError as error:
            raise unreachable(str(self._folder), error.strerror or "?") from None
        return _within(f"{self._folder}/{path}", content, most_bytes)


class RepositoryServer:
    """A repository behind a web server or cache."""

    def __init__(self, url: str, seconds: float = SECONDS, context: ssl.SSLContext | None = None) -> None:
        """Use `url`, the folder that has `metadata` and `targets` in it.

        Args:
            seconds: for one file, all in all. context: what to check a server's certificate with; trust in images does
                not rest on it.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise TrustError(
                Duty.REQUEST, "bad-url", f"repository: got {url!r}, expected http:// or https:// and a host"
            )
        self._url, self._parts, self._seconds = url.rstrip("/"), parts, seconds
        self._context = context or (ssl.create_default_context() if parts.scheme == "https" else None)

    def get(self, path: str, most_bytes: int) -> bytes:
        """See `RepositorySource`."""
        where = f"{self._url}/{path}"
        connection = self._connection()
        deadline = Deadline(connection, self._seconds)
        try:
            with deadline:
                content = self._read(connection, where, path, most_bytes)
            if deadline.late:  # cut off where the end of a connection is the end of a file
                raise TimeoutError
            return content
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # a connection that was cut off ends in any of these, depending on where it was
            if deadline.late or isinstance(error, TimeoutError):
                raise TrustError(
                    Duty.NETWORK, "slow", f"{where}: got less than the whole in {self._seconds:g} s; tried again later"
                ) from None
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise unreachable(where, str(reason)) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host = self._parts.hostname or ""
        if self._context is not None:
            return http.client.HTTPSConnection(host, self._parts.port, timeout=self._seconds, context=self._context)
        return http.client.HTTPConnection(host, self._parts.port, timeout=self._seconds)

    def _read(self, connection: http.client.HTTPConnection, where: str, path: str, most_bytes: int) -> bytes:
        connection.request("GET", f"{self._parts.path.rstrip('/')}/{path}", headers={"Accept-Encoding": "identity"})
        answer = connection.getresponse()
        if answer.status in (403, 404, 410):
            raise Absent(path)
        if answer.status != 200:
            raise unreachable(where, f"the server answered {answer.status}")
        length = answer.length
        content = bytearray()
        while len(content) <= most_bytes and (piece := answer.read1(min(_PIECE, most_bytes + 1 - len(content)))):
            content += piece
        if length is not None and len(content) < min(length, most_bytes):
            raise http.client.IncompleteRead(bytes(content))
        return _within(where, bytes(content), most_bytes)


def unreachable(where: str, why: str) -> TrustError:
    """The error of a source that can't be asked."""
    return TrustError(Duty.NETWORK, "unreachable", f"{where}: can't be reached: {why}; tried again later")


def _within(where: str, content: bytes, most_bytes: int) -> bytes:
    if len(content) > most_bytes:
        raise TrustError(
            Duty.REPOSITORY,
            "too-long",
            f"{where}: got more than {most_bytes} bytes, expected at most that; the rest was not read. Somebody serves "
            "what was not signed: tell the grid's administrators",
        )
    return content
