"""The way to the coordinator: HTTPS with its own CA pinned, outbound only, one thread per report under way.

A report may be repeated without harm, so a connection is kept (`host/system/http.py`).
"""

import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from deskgrid.agent.inbox import Answered, Item, LinkDown
from deskgrid.host.system.http import HttpClient, HttpFailed, pinned
from deskgrid.model.values.outside import read_json
from deskgrid.wire.messages import Answer, Report, problem_of

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 20.0
_MOST_BYTES = 1 << 22
_UNDER_WAY = 3
_PATH = "/v1/report"


class HttpsLink:
    """A `Link` over HTTPS. A held report takes a connection; a newer one overtakes it on another."""

    def __init__(self, url: str, ca: Path, desktop: str, credential: str, put: Callable[[Item], None]) -> None:
        """Args: ca: the coordinator's CA certificate (PEM). credential: this desktop's own; SECRET. put: the inbox."""
        context = pinned(ca.read_text(encoding="ascii"))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        headers = {"Authorization": f"Bearer {desktop}:{credential}", "Content-Type": "application/json"}
        self._url, self._put = f"{url}{_PATH}", put
        self._client = HttpClient(self._url, context, headers, CONNECT_SECONDS)
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
        seconds = report.wait_seconds + ANSWER_SECONDS
        try:
            said = self._client.ask("POST", "", seconds, _MOST_BYTES, msgspec.json.encode(report))
        except HttpFailed as failed:
            return LinkDown(report.sequence, f"{self._url}: {failed}")
        if said.status != 200:
            why = problem_of(said.body).sentence or f"HTTP status {said.status}"
            return LinkDown(report.sequence, f"{self._url}: {why}")
        try:
            answer = read_json(said.body, type=Answer)
        except msgspec.DecodeError as error:
            return LinkDown(report.sequence, f"{self._url}: an answer that cannot be read ({error})")
        if answer.to != report.sequence:  # one from the future would make all later ones late
            return LinkDown(report.sequence, f"{self._url}: an answer to report {answer.to}, not to {report.sequence}")
        return Answered(answer)
