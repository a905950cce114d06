"""An HTTP client whose answers are whole, bounded in size, and in time as a whole. No redirects, no proxy, no pieces.

Rules:
- A socket's own timeout begins anew with each byte that comes. Here another thread cuts the connection when the time is
  over, whatever it is doing then; only the look-up of a computer's name is waited for.
- A connection that answered is kept for the next question. One that was kept may have been closed by the other end
  meanwhile: then the question is asked once more on a new one; so it must be one that may come twice.
- The standard library's client: it costs a quarter of the memory of urllib3, and the agent is there all day.
"""

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import msgspec

_AGAIN_SECONDS = 0.2
_REFUSAL_BYTES = 64 << 10


class HttpFailed(Exception):
    """There was no answer. The message says why, without saying of whom. late: there was none in time."""

    def __init__(self, sentence: str, late: bool = False) -> None:
        super().__init__(sentence)
        self.late = late


class AnswerTooLong(HttpFailed):
    """The answer is longer than what was asked for; the rest was not read."""


class HttpAnswer(msgspec.Struct, frozen=True):
    """Status, body, and the headers by their names in small letters."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def pinned(pem: str) -> ssl.SSLContext:
    """Trust these certificates and nothing else. Raises: ssl.SSLError, ValueError: there is none in it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem)
    return context


class HttpClient:
    """Asks one server. Any thread may ask; each question under way has a connection of its own."""

    def __init__(
        self,
        url: str,
        context: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        connect_seconds: float = 10.0,
    ) -> None:
        """Args: url: "http(s)://host[:port][/path]"; paths are asked for below it. context: for HTTPS."""
        parts = urlsplit(url)
        self._place, self._base, self._context = parts.netloc, parts.path.rstrip("/"), context
        self._headers, self._connect_seconds = dict(headers or {}), connect_seconds
        self._kept: list[http.client.HTTPConnection] = []

    def ask(self, method: str, path: str, seconds: float, most_bytes: int, body: bytes | None = None) -> HttpAnswer:
        """Ask, and read the whole answer. Raises: HttpFailed; AnswerTooLong."""
        try:
            kept = self._kept.pop()
        except IndexError:
            return self._ask_on(self._new(), method, path, seconds, most_bytes, body)
        try:
            return self._ask_on(kept, method, path, seconds, most_bytes, body)
        except _Closed:
            return self._ask_on(self._new(), method, path, seconds, most_bytes, body)

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._kept:
            self._kept.pop().close()

    def _new(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._place, timeout=self._connect_seconds)
        return http.client.HTTPSConnection(self._place, timeout=self._connect_seconds, context=self._context)

    def _ask_on(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        seconds: float,
        most_bytes: int,
        body: bytes | None,
    ) -> HttpAnswer:
        keep, was_kept, deadline = False, connection.sock is not None, Deadline(connection, seconds)
        try:
            with deadline:
                connection.sock.settimeout(seconds)
                connection.request(method, self._base + path, body, self._headers)
                answer = connection.getresponse()
                content = read_within(answer, most_bytes)
            if deadline.late:  # cut off where the end of a connection is the end of an answer
                raise TimeoutError
            keep = answer.isclosed() and not answer.will_close
            return HttpAnswer(answer.status, content, {name.lower(): value for name, value in answer.getheaders()})
        except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError) as error:
            if was_kept and not deadline.late:
                raise _Closed from None
            raise HttpFailed(_why(error, deadline.late), deadline.late) from error
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # a connection that was cut off ends in any of these, depending on where it was
            late = deadline.late or isinstance(error, TimeoutError)
            raise HttpFailed(_why(error, late), late) from error
        finally:
            if keep:
                self._kept.append(connection)
            else:
                connection.close()


class _Closed(Exception):
    """A connection that was kept is closed."""


def _why(error: Exception, late: bool) -> str:
    """The cause in words."""
    if late:
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class Deadline:
    """Connects if need be, and cuts the connection when it is over, while the `with` lasts."""

    def __init__(self, connection: http.client.HTTPConnection, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds
        self._late, self._done = threading.Event(), threading.Event()
        self._link: socket.socket | None = None

    @property
    def late(self) -> bool:
        """Whether the time was over; then any error, or what looks like an end, comes of that."""
        return self._late.is_set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._cut, name="deadline", daemon=True).start()
        try:
            if self._connection.sock is None:
                self._connection.connect()
        except BaseException:
            self._done.set()
            raise
        self._link = self._connection.sock  # an answer that ends with its connection takes it away from there
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def _cut(self) -> None:
        pause = self._seconds
        while not self._done.wait(pause):
            self._late.set()
            pause = _AGAIN_SECONDS  # it may only be connecting
            link = self._link or self._connection.sock
            if link is not None:
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)


def read_within(answer: http.client.HTTPResponse, most_bytes: int) -> bytes:
    """Read an answer's body; of a refusal no more than its beginning.

    Raises: AnswerTooLong when it is longer than `most_bytes`; the rest is not read.
    """
    if answer.status >= http.client.BAD_REQUEST:
        return answer.read(_REFUSAL_BYTES)
    length, content = answer.length, answer.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise AnswerTooLong(f"an answer of more than {most_bytes} bytes")
    if length is not None and len(content) < length:
        raise http.client.IncompleteRead(content)
    return content
