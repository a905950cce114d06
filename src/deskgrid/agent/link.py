"""The way to the coordinator: HTTPS with its own CA pinned, outbound only, one thread per report under way."""

import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import urllib3

from deskgrid.agent.loop import Answered, Item, LinkDown
from deskgrid.wire.messages import Answer, Problem, Report

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 20.0
_MOST_BYTES = 1 << 22
_UNDER_WAY = 3


class HttpsLink:
    """A `Link` over HTTPS. A held report takes a connection; a newer one overtakes it on another."""

    def __init__(self, url: str, ca: Path, desktop: str, credential: str, put: Callable[[Item], None]) -> None:
        """Args: ca: the coordinator's CA certificate (PEM). credential: this desktop's own; SECRET. put: the inbox."""
        context = ssl.create_default_context(cafile=str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._http = urllib3.PoolManager(maxsize=_UNDER_WAY, ssl_context=context, retries=False)
        self._url = f"{url}/v1/report"
        self._headers = {"Authorization": f"Bearer {desktop}:{credential}", "Content-Type": "application/json"}
        self._put = put
        self._under_way = threading.Semaphore(_UNDER_WAY)

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
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=report.wait_seconds + ANSWER_SECONDS)
        try:
            answer = self._http.request(
                "POST",
                self._url,
                body=msgspec.json.encode(report),
                headers=self._headers,
                timeout=timeout,
                preload_content=False,
            )
            body = answer.read(_MOST_BYTES)
            answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return LinkDown(report.sequence, f"{self._url}: {_plain(error)}")
        if answer.status != 200:
            return LinkDown(report.sequence, f"{self._url}: {_problem(answer.status, body)}")
        try:
            return Answered(msgspec.json.decode(body, type=Answer))
        except msgspec.DecodeError as error:
            return LinkDown(report.sequence, f"{self._url}: an answer that cannot be read ({error})")


def _plain(error: Exception) -> str:
    """The innermost cause, without addresses of objects."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, Exception):
        return _plain(reason)
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "connection refused or no route"
    return str(error.args[-1] if error.args else error) or type(error).__name__


def _problem(status: int, body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=Problem).sentence
    except msgspec.DecodeError:
        return f"HTTP status {status}"
