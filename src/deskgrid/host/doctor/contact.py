"""Can the coordinator be reached from here, and do both clocks agree? One request, its answer's Date header.

The `Date` of an answer has whole seconds: it was made up to a second later than it says (RFC 9110, 6.6.1).
"""

import http.client
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from deskgrid.host.system.deadline import Deadline

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
    parts = urlsplit(url)
    began, before = time.monotonic(), datetime.now(UTC)
    try:
        trust = ssl.create_default_context(cafile=str(ca_file))
        way = http.client.HTTPSConnection(parts.hostname or "", parts.port or 443, timeout=seconds, context=trust)
        try:
            with Deadline(way, seconds) as deadline:
                way.request("GET", "/v1/health")
                answer = way.getresponse()
                answer.read(65536)
            if deadline.late:
                raise TimeoutError
        finally:
            way.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Contact(url, error=_words(error, ca_file))
    took = time.monotonic() - began
    here = before.timestamp() + took / 2
    if answer.status != http.client.OK:
        return Contact(url, error=f"it answers with status {answer.status}", milliseconds=int(took * 1000))
    return Contact(url, milliseconds=int(took * 1000), ahead_seconds=_ahead(answer.headers.get("Date"), here))


def _ahead(date: str | None, here: float) -> float | None:
    try:
        return round(here - parsedate_to_datetime(date or "").timestamp() - 0.5, 1)
    except ValueError:
        return None


def _words(error: Exception, ca_file: Path) -> str:
    if isinstance(error, FileNotFoundError):
        return f"its certificate {ca_file} is missing: this computer is not enrolled"
    if isinstance(error, PermissionError):
        return f"its certificate {ca_file} may not be read by this account"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message}); a wrong clock may do that too"
    if isinstance(error, TimeoutError):
        return "no answer in time; is the way to it open?"
    return str(error)
