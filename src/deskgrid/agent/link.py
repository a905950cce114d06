"""The way to the coordinator: HTTPS with its own CA pinned, outbound only, one thread per report under way.

Rules:
- The standard library's client: it costs a quarter of the memory of urllib3, and the agent is there all day.
- An answer is bounded in size, and in time as a whole.
- A connection that answered is kept for the next report. One that was kept may have been closed by the other end
  meanwhile: then the report is said once more on a new one; a report may be repeated without harm.
"""

import http.client
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from deskgrid.agent.inbox import Answered, Item, LinkDown
from deskgrid.host.system.deadline import Deadline, read_within
from deskgrid.model.values.outside import read_json
from deskgrid.wire.messages import Answer, Problem, Report

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 20.0
_MOST_BYTES = 1 << 22
_UNDER_WAY = 3
_PATH = "/v1/report"


class HttpsLink:
    """A `Link` over HTTPS. A held report takes a connection; a newer one overtakes it on another."""

    def __init__(self, url: str, ca: Path, desktop: str, credential: str, put: Callable[[Item], None]) -> None:
        """Args: ca: the coordinator's CA certificate (PEM). credential: this desktop's own; SECRET. put: the inbox."""
        self._context = ssl.create_default_context(cafile=str(ca))
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._url = f"{url}{_PATH}"
        self._place = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {desktop}:{credential}", "Content-Type": "application/json"}
        self._put = put
        self._under_way = threading.Semaphore(_UNDER_WAY)
        self._kept: list[http.client.HTTPSConnection] = []

    def say(self, report: Report) -> None:
        """Send a report aside."""
        if not self._under_way.acquire(blocking=False):
            self._put(LinkDown(report.sequence, "earlier reports are still under way"))
            return
        threading.Thread(target=self._say, args=(report,), name=f"report-{report.sequence}", daemon=True).start()

    def _say(self, report: Report) -> None:
        try:
            self._put(self._post(report))
        finally:
            self._under_way.release()

    def _post(self, report: Report) -> Item:
        try:
            status, body = self._ask(msgspec.json.encode(report), report.wait_seconds + ANSWER_SECONDS)
        except (http.client.HTTPException, OSError, ValueError) as error:
            return LinkDown(report.sequence, f"{self._url}: {_plain(error)}")
        if status != 200:
            return LinkDown(report.sequence, f"{self._url}: {_problem(status, body)}")
        try:
            answer = read_json(body, type=Answer)
        except msgspec.DecodeError as error:
            return LinkDown(report.sequence, f"{self._url}: an answer that cannot be read ({error})")
        if answer.to != report.sequence:  # one from the future would make all later ones late
            return LinkDown(report.sequence, f"{self._url}: an answer to report {answer.to}, not to {report.sequence}")
        return Answered(answer)

    def _ask(self, body: bytes, seconds: float) -> tuple[int, bytes]:
        """Say it on a kept connection if there is one that still stands, else on a new one."""
        try:
            kept = self._kept.pop()
        except IndexError:
            return self._ask_on(self._connect(), body, seconds)
        try:
            return self._ask_on(kept, body, seconds)
        except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError):
            return self._ask_on(self._connect(), body, seconds)

    def _connect(self) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection(self._place, timeout=CONNECT_SECONDS, context=self._context)
        connection.connect()
        return connection

    def _ask_on(self, connection: http.client.HTTPSConnection, body: bytes, seconds: float) -> tuple[int, bytes]:
        keep = False
        try:
            connection.sock.settimeout(seconds)
            with Deadline(connection, seconds) as deadline:
                connection.request("POST", _PATH, body, self._headers)
                answer = connection.getresponse()
                said = read_within(answer, _MOST_BYTES)
            if deadline.late:
                raise TimeoutError
            keep = answer.isclosed() and not answer.will_close
        finally:
            if not keep:
                connection.close()
        if keep:
            self._kept.append(connection)
        return answer.status, said


def _plain(error: Exception) -> str:
    """The cause in words."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _problem(status: int, body: bytes) -> str:
    try:
        return read_json(body, type=Problem).sentence
    except msgspec.DecodeError:
        return f"HTTP status {status}"
