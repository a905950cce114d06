"""How a desktop becomes a member: the coordinator's CA is fetched and checked against its fingerprint, then the
enrolment token is exchanged for a credential of this desktop's own.

An enrolment text is `<token>@<fingerprint>`, made by `deskgrid coordinator token`; it is read from a file or standard
input, never from argv or the environment.
"""

import hashlib
import hmac
import os
import re
import ssl
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from deskgrid.agent.settings import ADDRESS, ca_file, credential_file
from deskgrid.host.system.files import write_atomic
from deskgrid.host.system.http import HttpAnswer, HttpClient, HttpFailed, pinned
from deskgrid.model.values.names import name
from deskgrid.model.values.outside import read_json
from deskgrid.wire.messages import Enrol, Enrolled, problem_of

_TEXT = re.compile(r"(?P<token>[A-Za-z0-9._-]{8,200})@(?P<fingerprint>[0-9a-f]{64})\Z")
_SECONDS = 20.0
_MOST_BYTES = 64 << 10


class EnrolError(Exception):
    """The desktop was not enrolled. The message says why and what to do; nothing was written."""


def enrol(url: str, desktop: str, text: str, state: Path) -> None:
    """Enrol this desktop.

    Args:
        url: "https://host:port". desktop: the name it shall have. text: `<token>@<fingerprint>`. SECRET.
        state: the agent's folder.

    Raises:
        BadName: the desktop's. EnrolError: the text or the address is none, the certificate is not the one expected, or
            the coordinator refused.
    """
    name("desktop name", desktop)
    if not re.match(ADDRESS, url):
        raise EnrolError(f"coordinator: got {url!r}, expected https://host:port")
    match = _TEXT.match(text.strip())
    if match is None:
        raise EnrolError("enrolment text: got something else, expected <token>@<fingerprint>; ask the operator for one")
    pem = _fetch_ca(url, match["fingerprint"])
    _make_ready(state)
    answer = _ask(url, "/v1/enrol", pinned(pem.decode()), msgspec.json.encode(Enrol(match["token"], desktop)))
    if answer.status != 200:
        why = problem_of(answer.body).sentence or f"HTTP status {answer.status}"
        raise EnrolError(f"coordinator {url} refused: {why}")
    try:
        enrolled = read_json(answer.body, type=Enrolled)
    except msgspec.DecodeError as error:
        raise EnrolError(f"coordinator {url}: an answer that cannot be read ({error}); check the address") from None
    try:
        write_atomic(ca_file(state), pem, 0o644)
        write_atomic(credential_file(state), enrolled.credential.encode(), 0o600)
    except OSError as error:
        raise EnrolError(f"state folder {state}: {error.strerror}; make room there and enrol again") from None


def _make_ready(state: Path) -> None:
    """Make the folder, before a use of the token is spent."""
    reason = "no permission to write there"
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(state, os.W_OK | os.X_OK):
            return
    except OSError as error:
        reason = error.strerror or str(error)
    raise EnrolError(f"state folder {state}: {reason}; expected a folder of uid {os.geteuid()}")


def _fetch_ca(url: str, fingerprint: str) -> bytes:
    """The CA certificate over an unverified connection: it is trusted for its fingerprint alone."""
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    pem = _ask(url, "/v1/ca", blind).body
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise EnrolError(f"coordinator {url}: its answer is no certificate; check the address") from None
    got = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
    if not hmac.compare_digest(got, fingerprint):
        raise EnrolError(
            f"coordinator {url}: its CA has the fingerprint {got[:16]}…, expected {fingerprint[:16]}…; "
            "somebody may be in between, or the text is for another coordinator"
        )
    return pem


def _ask(url: str, path: str, context: ssl.SSLContext, body: bytes | None = None) -> HttpAnswer:
    """Ask whoever is there. Raises: EnrolError."""
    client = HttpClient(url, context, connect_seconds=_SECONDS)
    try:
        return client.ask("GET" if body is None else "POST", path, _SECONDS, _MOST_BYTES, body)
    except HttpFailed as failed:
        why = f"no whole answer in {_SECONDS:g} s" if failed.late else str(failed)
        raise EnrolError(f"coordinator {url}: {why}; check the address and that it runs") from None
    finally:
        client.close()
