"""HTTPS: what desktops say and ask. The operator's part is in `operator_api.py`.

Rules:
- A body is at most 1 MiB (of who has proved nothing, 16 KiB) and complete within 30 s, as a whole. Wrong types are
  refused with the path of the fault; unknown fields are kept.
- Whether a desktop is a member is asked before its body and again after it: revocation wins every race.
- Every refusal is a `Problem`: a stable code and a sentence. What goes wrong here is logged; secrets never are.
- The repository of images is served under /repository/ (`repository.py`).
- Reports take the shortest way: no routing, no middleware.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec
import sqlalchemy as sa
from starlette.types import ASGIApp, Receive, Scope, Send

from deskgrid.coordinator.coordinator import Coordinator
from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.values import Member, TokenRecord
from deskgrid.coordinator.http.authentication import Authentication
from deskgrid.coordinator.http.repository import PREFIX, RepositoryFiles
from deskgrid.coordinator.orders import answer
from deskgrid.coordinator.places import Places
from deskgrid.coordinator.problems import RequestRefused
from deskgrid.coordinator.state import membership
from deskgrid.coordinator.state.credentials import token_parts
from deskgrid.coordinator.state.fleet import AnotherAgent
from deskgrid.model.values.outside import JsonReader
from deskgrid.wire.messages import PROTOCOL, Enrol, Enrolled, Problem, Report

log = logging.getLogger(__name__)

BODY_BYTES = 1 << 20
ENROL_BYTES = 16 << 10
BODY_SECONDS = 30.0
_JSON = (b"content-type", b"application/json")
_report = JsonReader(Report)
_enrol = JsonReader(Enrol)
_encode = msgspec.json.Encoder().encode


class Api:
    """The service as an ASGI application: reports and enrolments here, everything else in `rest`."""

    def __init__(self, coordinator: Coordinator, who: Authentication, rest: ASGIApp) -> None:
        self._coordinator, self._who, self._rest = coordinator, who, rest
        self._files = RepositoryFiles(coordinator.settings.images.repository, coordinator.whereabouts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if path == "/v1/report":
            await self._guarded(self._take_report, scope, receive, send)
        elif path == "/v1/enrol":
            await self._guarded(self._take_enrol, scope, receive, send)
        elif path.startswith(PREFIX):
            await self._give_file(scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    @property
    def long(self) -> Places:
        """The places for long answers."""
        return self._files.long

    def close(self) -> None:
        """Let go of threads."""
        self._files.close()

    async def _guarded(
        self, handle: Callable[[Scope, Receive], Awaitable[bytes]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            if scope["method"] != "POST":
                raise RequestRefused(405, "method", "Use POST here.")
            status, body = 200, await handle(scope, receive)
        except ClientGone:
            return
        except Exception as error:
            refusal = refusal_of(error)
            status, body = refusal.status, _encode(Problem(refusal.code, refusal.sentence))
        await _reply(send, status, body)

    async def _give_file(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._files(scope, receive, send)
        except RequestRefused as refusal:
            await _reply(send, refusal.status, _encode(Problem(refusal.code, refusal.sentence)))

    async def _take_report(self, scope: Scope, receive: Receive) -> bytes:
        member = await self._who.desktop(header(scope, b"authorization"), address(scope))
        raw = await read_body(scope, receive)
        report = _report.decode(raw)
        _check_report(report)
        self._who.still(member)  # and nothing is awaited until the report is taken in
        return _encode(await answer(self._coordinator, member.name, report, raw, address(scope)))

    async def _take_enrol(self, scope: Scope, receive: Receive) -> bytes:
        try:
            return _encode(await self._enrol(_enrol.decode(await read_body(scope, receive, ENROL_BYTES))))
        except ClientGone:
            raise
        except Exception as error:
            refusal = refusal_of(error)
            raise (refusal if refusal.status >= 500 else self._who.counted(address(scope), refusal)) from None

    async def _enrol(self, request: Enrol) -> Enrolled:
        coordinator, now = self._coordinator, self._coordinator.clock()
        parts = token_parts(request.token)
        known = coordinator.tokens.get(parts[0]) if parts else None
        membership.check(known, coordinator.members.get(request.desktop), request, now)
        enrolled, member, token = await coordinator.recorder.call(lambda c: _enrolled(c, request, now))
        coordinator.members[member.name] = member
        coordinator.tokens[token.id] = token
        coordinator.forget_desktop(member.name)
        log.info("desktop %s: enrolled with token %s", member.name, member.token_id)
        return enrolled


def _enrolled(connection: sa.Connection, request: Enrol, now: datetime) -> tuple[Enrolled, Member, TokenRecord]:
    enrolled, member = membership.enrol(connection, request, now)
    token = queries.token(connection, member.token_id)
    assert token is not None  # enrolled with it
    return enrolled, member, token


async def _reply(send: Send, status: int, body: bytes) -> None:
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class ClientGone(Exception):
    """The client went away before its request was complete."""


def refusal_of(error: Exception) -> RequestRefused:
    """What to tell a client; what is our own fault is logged."""
    if isinstance(error, RequestRefused):
        return error
    if isinstance(error, AnotherAgent):
        return RequestRefused(409, "another-agent", str(error))
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):  # ValidationError is a DecodeError
        return RequestRefused(400, "bad-message", f"The message can't be used: {error}.")
    if isinstance(error, sa.exc.SQLAlchemyError):
        log.error("database: %s", error)
        return RequestRefused(503, "database", "The coordinator can't write its database now; try again in a minute.")
    log.error("request failed", exc_info=error)
    return RequestRefused(500, "internal", "The coordinator failed at this request; its log says why.")


async def read_body(scope: Scope, receive: Receive, most_bytes: int = BODY_BYTES) -> bytes:
    """Read a request's body within bounds. Raises: RequestRefused, ClientGone."""
    length = header(scope, b"content-length")
    if length and (not length.isdigit() or len(length) > 18 or int(length) > most_bytes):
        raise _too_large(most_bytes)
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
    except TimeoutError:
        raise RequestRefused(408, "slow-body", f"The message was not complete after {BODY_SECONDS:.0f} s.") from None
    return bytes(body)


def header(scope: Scope, name: bytes) -> bytes:
    """A request's header, or nothing."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


def address(scope: Scope) -> str:
    """Where a request comes from."""
    client = scope.get("client")
    return client[0] if client else "?"


def _too_large(most_bytes: int) -> RequestRefused:
    return RequestRefused(413, "too-large", f"The message is larger than {most_bytes} bytes.")


def _check_report(report: Report) -> None:
    """What the types do not say."""
    if report.protocol != PROTOCOL:
        raise RequestRefused(
            400,
            "protocol",
            f"report.protocol: got {report.protocol}, expected {PROTOCOL}; bring agent and coordinator to one version.",
        )
