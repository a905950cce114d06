"""HTTPS for the operator: what is there, why, and the few things that an operator does.

Rules:
- Everything but the CA's certificate and the sign of life needs the operator's token.
- What changes something is noted in the audit, in the transaction that changes it.
- Answers are the structs of `views.py`; refusals are Problems.
"""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import msgspec
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from deskgrid import __version__
from deskgrid.coordinator import explain
from deskgrid.coordinator.authority import Authority
from deskgrid.coordinator.coordinator import Coordinator
from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.values import Member
from deskgrid.coordinator.http.api import read_body, refusal_of
from deskgrid.coordinator.http.authentication import OPERATOR, Authentication
from deskgrid.coordinator.problems import RequestRefused
from deskgrid.coordinator.state import membership
from deskgrid.core.fleet.why import vm_of
from deskgrid.model.reason import Reason
from deskgrid.model.values.names import BadName, name
from deskgrid.model.values.outside import read_json
from deskgrid.model.values.text import counted
from deskgrid.pool.contract import PoolError
from deskgrid.wire.messages import PROTOCOL, Problem
from deskgrid.wire.operator import Because, Done, Events, Healthy, MadeToken, MakeToken

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[object]]
_JOB = re.compile(r"\d{1,9}\.\d{1,9}\Z")
_WAIT_SECONDS = 60.0
_DAYS = 86400.0


class OperatorApi:
    """The operator's requests."""

    def __init__(self, coordinator: Coordinator, who: Authentication, authority: Authority) -> None:
        self._coordinator, self._who, self._authority = coordinator, who, authority

    def application(self) -> ASGIApp:
        """The routes, as an ASGI application."""
        gets: dict[str, Handler] = {
            "/v1/status": self.status,
            "/v1/desktops": self.desktops,
            "/v1/desktop/{name}": self.desktop,
            "/v1/inventory": self.inventory,
            "/v1/vms": self.vms,
            "/v1/leases": self.leases,
            "/v1/lease/{vm_id}": self.lease,
            "/v1/images": self.images,
            "/v1/story/{vm_id}": self.story,
            "/v1/why/job/{job_id}": self.why_job,
            "/v1/why/desktop/{name}": self.why_desktop,
            "/v1/events": self.events,
        }
        posts: dict[str, Handler] = {
            "/v1/tokens": self.make_token,
            "/v1/token/{token_id}/revoke": self.revoke_token,
            "/v1/desktop/{name}/revoke": self.revoke,
            "/v1/vm/{vm_id}/end": self.end_vm,
        }
        return Starlette(
            routes=[
                Route("/v1/ca", self.ca),
                Route("/v1/health", _answered(self.health)),
                *(Route(path, self._for_operator(handler)) for path, handler in gets.items()),
                *(Route(path, self._for_operator(handler), methods=["POST"]) for path, handler in posts.items()),
            ],
            exception_handlers={404: _not_found, 405: _not_found},
        )

    async def ca(self, request: Request) -> Response:
        """The CA's certificate, for an agent that knows its fingerprint."""
        return Response(self._authority.pem(), media_type="application/x-pem-file")

    async def health(self, request: Request) -> object:
        """A sign of life."""
        return Healthy(__version__, PROTOCOL)

    async def status(self, request: Request) -> object:
        """The whole."""
        return explain.status(self._coordinator, self._authority.fingerprint)

    async def desktops(self, request: Request) -> object:
        """All desktops."""
        return [explain.desktop(self._coordinator, member) for _, member in sorted(self._coordinator.members.items())]

    async def desktop(self, request: Request) -> object:
        """One desktop."""
        return explain.desktop(self._coordinator, self._member(request), whole=True)

    async def inventory(self, request: Request) -> object:
        """What the fleet's desktops are made of."""
        return explain.inventory(self._coordinator)

    async def vms(self, request: Request) -> object:
        """The VMs that live."""
        return explain.vms(self._coordinator)

    async def leases(self, request: Request) -> object:
        """Leases, living and ended, newest first, at most MOST_LEASES; `desktop` and `limit` choose."""
        desktop = request.query_params.get("desktop")
        limit = int(_number(request, "limit", 100, 10_000))
        return await self._coordinator.recorder.call(lambda c: queries.leases(c, desktop, limit))

    async def lease(self, request: Request) -> object:
        """One lease, living or ended."""
        vm_id = _named(request, "vm_id", "VM id")
        found = await self._coordinator.recorder.call(lambda c: queries.lease(c, vm_id))
        if found is None:
            raise RequestRefused(404, "vm-unknown", f"No virtual machine {vm_id} is known; see `deskgrid vm list`.")
        return found

    async def images(self, request: Request) -> object:
        """All versions of all images."""
        return explain.images(self._coordinator)

    async def story(self, request: Request) -> object:
        """A VM's life across coordinator and agent."""
        vm_id = _named(request, "vm_id", "VM id")
        await self._coordinator.recorder.flush()
        lines = await self._coordinator.recorder.call(lambda c: queries.story(c, vm_id))
        if not lines:
            raise RequestRefused(404, "vm-unknown", f"No virtual machine {vm_id} was ever ordered here.")
        return lines

    async def why_job(self, request: Request) -> object:
        """Why does a job wait, or where is it?"""
        job_id = request.path_params["job_id"]
        if not _JOB.match(job_id):
            raise RequestRefused(400, "bad-job", f'job: got {job_id[:40]!r}, expected "cluster.proc", such as 12.0')
        try:
            job = await self._coordinator.ask_pool(lambda: self._coordinator.pool.job(job_id))
        except PoolError as error:
            return explain.pool_silent(job_id, error)
        if job is None and (answer := explain.abroad(self._coordinator, job_id)) is not None:
            return answer
        if job is None:
            raise RequestRefused(404, "job-unknown", f"HTCondor knows no job {job_id}; it may have left the queue.")
        last_vm = vm_of(job.last_host)
        return explain.why_job(
            self._coordinator, job, await self._coordinator.recorder.call(lambda c: queries.lease(c, last_vm))
        )

    async def why_desktop(self, request: Request) -> object:
        """Why does a desktop run what it runs, or nothing?"""
        return explain.why_desktop(self._coordinator, _named(request, "name", "desktop"))

    async def events(self, request: Request) -> object:
        """New lines of all stories since a number, waiting for them for `wait` seconds at most."""
        recorder = self._coordinator.recorder
        since = int(_number(request, "since", recorder.last_line, 1 << 62))
        lines = await recorder.lines_since(since, _number(request, "wait", 0, _WAIT_SECONDS))
        return Events(tuple(lines), lines[-1].id if lines else since)

    async def make_token(self, request: Request) -> object:
        """A new enrolment token, said once."""
        asked = await _body(request, MakeToken)
        if not 60 <= asked.lifetime_seconds <= 90 * _DAYS or not 1 <= asked.uses <= 100_000:
            raise RequestRefused(
                400,
                "bad-limits",
                f"token: got {asked.lifetime_seconds:g} s and {counted(asked.uses, 'use')}, "
                "expected 60 s to 90 days and 1 to 100000 uses.",
            )
        now = self._coordinator.clock()
        token, kept = await self._coordinator.recorder.call(
            lambda c: membership.make_token(c, asked.lifetime_seconds, asked.uses, OPERATOR, now)
        )
        self._coordinator.tokens[kept.id] = kept
        return MadeToken(token, kept.id, kept.expires_at, kept.uses_left, self._authority.fingerprint)

    async def revoke_token(self, request: Request) -> object:
        """End an enrolment token. A use that is under way is counted before or refused after."""
        coordinator, now, token_id = (
            self._coordinator,
            self._coordinator.clock(),
            _named(request, "token_id", "token id"),
        )
        if token_id not in coordinator.tokens:
            raise RequestRefused(
                404, "token-unknown", f"No enrolment token {token_id} is known; its text is dgt_ID_SECRET."
            )
        reason = (await _body(request, Because)).reason or "by the operator"
        over = await coordinator.recorder.call(
            lambda c: coordinator.journal.revoke_token(c, token_id, reason, OPERATOR, now)
        )
        if over is None:
            raise RequestRefused(409, "token-expired", f"Enrolment token {token_id} is over already.")
        coordinator.tokens[token_id] = over
        return Done(f"Enrolment token {token_id} is revoked; whom it has enrolled stays until it is revoked too.")

    async def revoke(self, request: Request) -> object:
        """Take a desktop's membership away: its credential is void, its VMs end."""
        coordinator, member, now = self._coordinator, self._member(request), self._coordinator.clock()
        if member.revoked_at is not None:
            raise RequestRefused(409, "desktop-revoked", f"{member.name} was revoked already: {member.revoked_reason}")
        reason = (await _body(request, Because)).reason or "by the operator"
        revoked = await coordinator.recorder.call(
            lambda c: coordinator.journal.revoke(c, member.name, reason, OPERATOR, now)
        )
        if revoked is None:
            raise RequestRefused(409, "desktop-revoked", f"{member.name} was revoked already.")
        coordinator.members[member.name] = revoked
        coordinator.ledger.cut_off(member.name, Reason("desktop-revoked", f"{member.name} was revoked: {reason}"), now)
        coordinator.invalidate_ended()
        coordinator.forget_desktop(member.name)
        coordinator.long_polls.release(member.name)
        coordinator.release()
        await coordinator.recorder.flush()
        return Done(f"{member.name} is revoked; what it runs ends with its leases.")

    async def end_vm(self, request: Request) -> object:
        """Withdraw a lease: its desktop ends the VM."""
        coordinator, vm_id = self._coordinator, _named(request, "vm_id", "VM id")
        reason = (await _body(request, Because)).reason or "the operator ended it"
        live = coordinator.ledger.get(vm_id)
        if live is None:
            raise RequestRefused(404, "vm-unknown", f"No virtual machine {vm_id} is here now.")
        now = coordinator.clock()
        if coordinator.ledger.withdraw(vm_id, Reason("ended-by-operator", f"It was ended: {reason}"), now):
            what = f"ended vm {vm_id}: {reason}"
            await coordinator.recorder.call(lambda c: queries.note(c, OPERATOR, what, now))
            await coordinator.recorder.flush()
            coordinator.release()
        return Done(f"{live.lease.desktop} is told to end {vm_id}.")

    def _member(self, request: Request) -> Member:
        wanted = _named(request, "name", "desktop")
        member = self._coordinator.members.get(wanted)
        if member is None:
            raise RequestRefused(404, "desktop-unknown", f"No desktop named {wanted} is enrolled.")
        return member

    def _for_operator(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> object:
            where = request.client.host if request.client else "?"
            self._who.operator(request.headers.get("authorization", "").encode("latin-1"), where)
            return await handler(request)

        return _answered(checked)


def _noted(change: Callable[[sa.Connection], None], what: str, now: datetime) -> Callable[[sa.Connection], None]:
    """A change and its line of audit, in one transaction."""

    def both(connection: sa.Connection) -> None:
        change(connection)
        queries.note(connection, OPERATOR, what, now)

    return both


def _answered(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return _json(200, await handler(request))
        except BadName as error:
            return _problem(RequestRefused(400, "bad-name", f"{error}."))
        except Exception as error:
            return _problem(refusal_of(error))

    return endpoint


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _problem(
        RequestRefused(status, "not-found", f"There is nothing at {request.method} {request.url.path[:200]}.")
    )


async def _body(request: Request, kind: type[T]) -> T:
    return read_json(await read_body(request.scope, request.receive) or b"{}", type=kind)


def _named(request: Request, key: str, what: str) -> str:
    return name(what, request.path_params[key])


def _number(request: Request, key: str, default: float, most: float) -> float:
    text = request.query_params.get(key)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise RequestRefused(400, "bad-number", f"{key}: got {text[:40]!r}, expected a number from 0 to {most:g}.")
    return number


def _json(status: int, value: object) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _problem(refusal: RequestRefused) -> Response:
    return _json(refusal.status, Problem(refusal.code, refusal.sentence))
