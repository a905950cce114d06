"""Where a desktop gets metadata and manifests: a web server, or a folder.

Rules:
- A source is not trusted: it gives bytes, never more than was asked for, and in bounded time.
- The time is bounded as a whole, not by each read: a server that sends a byte now and then is cut off.
- Nothing is followed, unpacked or guessed: no redirects, no compressed answers, no proxy.
"""

import ssl
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from deskgrid.host.system.files import open_plain
from deskgrid.host.system.http import AnswerTooLong, HttpClient, HttpFailed
from deskgrid.images.trust.errors import Duty, TrustError

SECONDS = 20.0


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
        if len(content) > most_bytes:
            raise _too_long(f"{self._folder}/{path}", most_bytes)
        return content


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
        self._url, self._seconds = url.rstrip("/"), seconds
        if parts.scheme == "https" and context is None:
            context = ssl.create_default_context()
        self._client = HttpClient(self._url, context, {"Accept-Encoding": "identity"}, seconds)

    def get(self, path: str, most_bytes: int) -> bytes:
        """See `RepositorySource`."""
        where = f"{self._url}/{path}"
        try:
            answer = self._client.ask("GET", f"/{path}", self._seconds, most_bytes)
        except AnswerTooLong:
            raise _too_long(where, most_bytes) from None
        except HttpFailed as failed:
            if failed.late:
                raise TrustError(
                    Duty.NETWORK, "slow", f"{where}: got less than the whole in {self._seconds:g} s; tried again later"
                ) from None
            raise unreachable(where, str(failed)) from None
        if answer.status in (403, 404, 410):
            raise Absent(path)
        if answer.status != 200:
            raise unreachable(where, f"the server answered {answer.status}")
        return answer.body


def unreachable(where: str, why: str) -> TrustError:
    """The error of a source that can't be asked."""
    return TrustError(Duty.NETWORK, "unreachable", f"{where}: can't be reached: {why}; tried again later")


def _too_long(where: str, most_bytes: int) -> TrustError:
    return TrustError(
        Duty.REPOSITORY,
        "too-long",
        f"{where}: got more than {most_bytes} bytes, expected at most that; the rest was not read. Somebody serves "
        "what was not signed: tell the grid's administrators",
    )
