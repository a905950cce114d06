"""Can the coordinator be reached from here, and do both clocks agree? One request, its answer's Date header.

The `Date` of an answer has whole seconds: it was made up to a second later than it says (RFC 9110, 6.6.1).
"""

import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

import msgspec

from deskgrid.host.system.http import HttpClient, HttpFailed, pinned

SECONDS = 5.0


class Contact(msgspec.Struct, frozen=True):
    """error: why it can't be reached, or nothing. ahead_seconds: this computer's clock minus the coordinator's."""

    url: str
    error: str = ""
    milliseconds: int = 0
    ahead_seconds: float | None = None


def contact(url: str, ca_file: Path, seconds: float = SECONDS) -> Contact:
    """Ask the coordinator for a sign of life; never raises for what the network does.

    Args:
        ca_file: the certificate that enrolment left here.
    """
    began, before = time.monotonic(), datetime.now(UTC)
    try:
        client = HttpClient(url, pinned(ca_file.read_text(encoding="ascii")), connect_seconds=seconds)
        answer = client.ask("GET", "/v1/health", seconds, 65536)
        client.close()
    except HttpFailed as failed:
        return Contact(url, error=_words(failed.__cause__ or failed, ca_file))
    except (OSError, ValueError) as error:
        return Contact(url, error=_words(error, ca_file))
    took = time.monotonic() - began
    here = before.timestamp() + took / 2
    if answer.status != HTTPStatus.OK:
        return Contact(url, error=f"it answers with status {answer.status}", milliseconds=int(took * 1000))
    return Contact(url, milliseconds=int(took * 1000), ahead_seconds=_ahead(answer.headers.get("date"), here))


def _ahead(date: str | None, here: float) -> float | None:
    try:
        return round(here - parsedate_to_datetime(date or "").timestamp() - 0.5, 1)
    except ValueError:
        return None


def _words(error: BaseException, ca_file: Path) -> str:
    if isinstance(error, FileNotFoundError):
        return f"its certificate {ca_file} is missing: this computer is not enrolled"
    if isinstance(error, PermissionError):
        return f"its certificate {ca_file} may not be read by this account"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message}); a wrong clock may do that too"
    if isinstance(error, TimeoutError) or (isinstance(error, HttpFailed) and error.late):
        return "no answer in time; is the way to it open?"
    return str(error)
