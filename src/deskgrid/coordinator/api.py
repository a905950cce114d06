"""HTTPS: what desktops say and ask. The operator's part is in `operator_api.py`.

Rules, told first:
- A body is at most 1 MiB and complete within 30 s. Wrong types are refused with the path of the fault; unknown fields
  are kept.
- Every refusal is a `Problem`: a stable code and a sentence. What goes wrong here is logged; secrets never are.
- The repository of images is served under /repository/ (`repository.py`).
- Reports take the shortest way: no routing, no middleware.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import sqlalchemy as sa

from deskgrid.coordinator import membership
from deskgrid.coordinator.authentication import Authentication
from deskgrid.coordinator.coordinator import Coordinator
from deskgrid.coordinator.fleet import AnotherAgent
from deskgrid.coordinator.orders import answer
from deskgrid.coordinator.problems import Refusal
from deskgrid.coordinator.repository import PREFIX, RepositoryFiles
from deskgrid.wire.messages import PROTOCOL, Enrol, Problem, Report

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES = 1 << 20
BODY_SECONDS = 30.0
_JSON = (b"content-type", b"application/json")
_report = msgspec.json.Decoder(Report)
_enrol = msgspec.json.Decoder(Enrol)
_encode = msgspec.json.Encoder().encode


class Api:
    """The service as an ASGI application: reports and enrolments here, everything else in `rest`."""

    def __init__(self, office: Coordinator, who: Authentication, rest: Application) -> None:
        self._office, self._who, self._rest = office, who, rest
        self._files = RepositoryFiles(office.settings.images.repository)

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

    def close(self) -> None:
        """Let go of threads."""
        self._files.close()

    async def _guarded(
        self, handle: Callable[[Scope, Receive], Awaitable[bytes]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            if scope["method"] != "POST":
                raise Refusal(405, "method", "Use POST here.")
            status, body = 200, await handle(scope, receive)
        except Gone:
            return
        except Exception as error:
            refusal = refusal_of(error)
            status, body = refusal.status, _encode(Problem(refusal.code, refusal.sentence))
        await _reply(send, status, body)

    async def _give_file(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._files(scope, receive, send)
        except Refusal as refusal:
            await _reply(send, refusal.status, _encode(Problem(refusal.code, refusal.sentence)))

    async def _take_report(self, scope: Scope, receive: Receive) -> bytes:
        name = await self._who.desktop(header(scope, b"authorization"), address(scope))
        raw = await read_body(scope, receive)
        report = _report.decode(raw)
        _check_report(report)
        return _encode(await answer(self._office, name, report, raw, address(scope)))

    async def _take_enrol(self, scope: Scope, receive: Receive) -> bytes:
        office, where = self._office, address(scope)
        request = _enrol.decode(await read_body(scope, receive))
        self._who.may_guess(where, "enrolment")
        now = office.clock()
        try:
            enrolled, member = await office.recorder.call(lambda c: membership.enrol(c, request, now))
        except Refusal as refusal:
            if refusal.guess:
                self._who.guessed_wrong(where, "enrolment")
            raise
        office.members[member.name] = member
        office.fleet.drop(member.name)
        office.neighbours.drop(member.name)
        log.info("desktop %s: enrolled with token %s", member.name, member.token_id)
        return _encode(enrolled)


async def _reply(send: Send, status: int, body: bytes) -> None:
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Gone(Exception):
    """The client went away before its request was complete."""


def refusal_of(error: Exception) -> Refusal:
    """What to tell a client; what is our own fault is logged."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, AnotherAgent):
        return Refusal(409, "another-agent", str(error))
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):  # ValidationError is a DecodeError
        return Refusal(400, "bad-message", f"The message can't be used: {error}.")
    if isinstance(error, sa.exc.SQLAlchemyError):
        log.error("database: %s", error)
        return Refusal(503, "database", "The coordinator can't write its database now; try again in a minute.")
    log.error("request failed", exc_info=error)
    return Refusal(500, "internal", "The coordinator failed at this request; its log says why.")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Read a request's body within bounds. Raises: Refusal, Gone."""
    length = header(scope, b"content-length")
    if length and (not length.isdigit() or int(length) > BODY_BYTES):
        raise _too_large()
    message = await _next(receive)
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await _next(receive)
        body += message.get("body", b"")
        if len(body) > BODY_BYTES:
            raise _too_large()
    return body


async def _next(receive: Receive) -> Message:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            message = await receive()
    except TimeoutError:
        raise Refusal(408, "slow-body", f"The message was not complete after {BODY_SECONDS:.0f} s.") from None
    if message["type"] == "http.disconnect":
        raise Gone
    return message


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


def _too_large() -> Refusal:
    return Refusal(413, "too-large", f"The message is larger than {BODY_BYTES} bytes.")


def _check_report(report: Report) -> None:
    """What the types do not say."""
    if report.protocol != PROTOCOL:
        raise Refusal(
            400,
            "protocol",
            f"report.protocol: got {report.protocol}, expected {PROTOCOL}; bring agent and coordinator to one version.",
        )
