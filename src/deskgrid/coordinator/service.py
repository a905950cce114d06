"""Run the coordinator as a service: lock, trust, database, cycles, HTTPS; and a clean end.

Rules:
- One process for each state folder: a lock that ends with the process.
- Nothing is half-written at an end of any kind: files are written whole, changes are transactions. SIGTERM and SIGINT
  answer the reports that are held, record what waits, and return.
- No plain HTTP, nothing older than TLS 1.2.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import uvicorn
from starlette.types import ASGIApp

from deskgrid.coordinator.authority import Authority, AuthorityError, prepare
from deskgrid.coordinator.coordinator import Coordinator, RestoredState
from deskgrid.coordinator.cycle import run_cycles
from deskgrid.coordinator.db.database import DatabaseError, open_database
from deskgrid.coordinator.http.api import Api
from deskgrid.coordinator.http.authentication import Authentication
from deskgrid.coordinator.http.connection import BOUNDS, BoundedConnection, ConnectionBounds, bounded
from deskgrid.coordinator.http.limiter import ConnectionLimiter
from deskgrid.coordinator.http.operator_api import OperatorApi
from deskgrid.coordinator.images.catalogue import Catalogue
from deskgrid.coordinator.retention import keep_small
from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.coordinator.state.credentials import Guard, operator_token
from deskgrid.coordinator.state.own_time import Clock, OwnTime
from deskgrid.coordinator.state.revocations import FILE, Journal
from deskgrid.host.system.locks import Locked, locked
from deskgrid.pool.contract import Pool

log = logging.getLogger(__name__)

_RENEW_SECONDS = 600.0
_GRACE_SECONDS = 5
_FLUSH_SECONDS = 0.15
_BACKLOG = 4096
_FILES = 65536
_OTHER_FILES = 512
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ServiceError(Exception):
    """The service can't run. The message says why and what to do."""


class Ready(msgspec.Struct, frozen=True):
    """The service listens. url: how to call it. fingerprint: of its CA. stop: end it, from any thread."""

    url: str
    fingerprint: str
    stop: Callable[[], None]


def utc_now() -> datetime:
    """The clock of a real service."""
    return datetime.now(UTC)


def run(
    settings: CoordinatorSettings,
    pool: Pool,
    ready: Callable[[Ready], None] = lambda _: None,
    clock: Clock = utc_now,
    catalogue: Catalogue | None = None,
    bounds: ConnectionBounds = BOUNDS,
) -> None:
    """Run until SIGTERM, SIGINT or `Ready.stop`; outside the main thread signals are left alone.

    Args:
        pool: HTCondor. ready: called once the service listens. catalogue: of images, in place of the settings' one.

    Raises:
        ServiceError: when another coordinator uses the state folder, the address is taken, or what is in the state
            folder or the database can't be used.
    """
    prepare_state(settings.state_dir)
    most = _many_connections()
    try:
        with locked(settings.state_dir / "lock", wait=False):
            _loop_runner().run(_serve(settings, pool, ready, clock, catalogue, most, bounds))
    except Locked:
        raise ServiceError(
            f"state folder {settings.state_dir}: another coordinator uses it; stop that one, or choose another folder"
        ) from None
    except (AuthorityError, DatabaseError) as error:
        raise ServiceError(str(error)) from None


def prepare_state(folder: Path) -> None:
    """Make the state folder, readable by its owner only."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        raise ServiceError(
            f"state folder {folder}: {error.strerror}; expected a folder of uid {os.geteuid()}"
        ) from None


def _many_connections() -> int:
    """Every desktop holds a connection open; the usual limit is 1024 files. Returns: how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    else:
        wanted = soft if soft != resource.RLIM_INFINITY else _FILES
    return max(wanted - _OTHER_FILES, wanted // 2)


def _loop_runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _serve(
    settings: CoordinatorSettings,
    pool: Pool,
    ready: Callable[[Ready], None],
    clock: Clock,
    catalogue: Catalogue | None,
    most_connections: int,
    bounds: ConnectionBounds,
) -> None:
    authority = prepare(settings.state_dir, settings.names, clock())
    token = operator_token(settings.state_dir)
    database = open_database(settings.database_url)
    try:
        loaded = RestoredState(database, clock(), journal=_journal(settings))
        coordinator = Coordinator(settings, pool, OwnTime(clock), loaded, catalogue)
        for problem in coordinator.journal.problems(()):
            log.warning("revocations: %s", problem)
        who = Authentication(coordinator, token, Guard())
        application = Api(coordinator, who, OperatorApi(coordinator, who, authority).application())
        connection = bounded(most_connections, bounds, coordinator.whereabouts)
        coordinator.bounds = (connection.places, application.long)
        server = _Server(_config(settings, authority, application, connection), coordinator, connection, bounds)
        coordinator.invalidate_ended()
        try:
            with _listen(settings) as listening:
                url = f"https://{settings.names[0]}:{listening.getsockname()[1]}"
                await _until_stopped(
                    server, coordinator, listening, lambda stop: ready(Ready(url, authority.fingerprint, stop))
                )
        finally:
            application.close()
            await coordinator.close()
    finally:
        database.close()


def _journal(settings: CoordinatorSettings) -> Journal:
    path = settings.state_dir / FILE
    try:
        return Journal(path)
    except OSError as error:
        raise ServiceError(f"journal of revocations {path}: {error.strerror}; may the service read it?") from None


def _listen(settings: CoordinatorSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ServiceError(
            f"address {settings.host} port {settings.port}: {error.strerror}; choose another one, or end what uses it"
        ) from None


async def _until_stopped(
    server: "_Server", coordinator: Coordinator, listening: socket.socket, ready: Callable[[Callable[[], None]], None]
) -> None:
    stopping = asyncio.Event()

    def stop() -> None:
        stopping.set()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    signals = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
    for number in signals:
        loop.add_signal_handler(number, stop)
    log.info("listening on %s port %d", *listening.getsockname()[:2])
    ready(partial(_call_soon, loop, stop))
    tasks = [
        asyncio.create_task(run_cycles(coordinator, stopping)),
        asyncio.create_task(_renew(server, coordinator, stopping)),
        asyncio.create_task(keep_small(coordinator, stopping)),
    ]
    try:
        await server.serve([listening])
    finally:
        stopping.set()
        await asyncio.gather(*tasks)
        for number in signals:
            loop.remove_signal_handler(number)


def _call_soon(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # it has ended already
        loop.call_soon_threadsafe(stop)


async def _renew(
    server: "_Server", coordinator: Coordinator, stopping: asyncio.Event, every_seconds: float = _RENEW_SECONDS
) -> None:
    """Make the server's certificate again before it ends; connections made from then on use it."""
    settings = coordinator.settings
    while not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_seconds):
                await stopping.wait()
        try:
            prepare(settings.state_dir, settings.names, coordinator.clock())
            server.reload(settings.state_dir)
        except Exception:
            log.exception("the server's certificate could not be looked after; it is tried again")


def _config(
    settings: CoordinatorSettings,
    authority: Authority,
    application: ASGIApp,
    connection: type[BoundedConnection],
) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=connection,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="error",  # what strangers send wrong is not worth a line each
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(settings.report_seconds * 2) + 15,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=_BACKLOG,
        ssl_certfile=authority.chain,
        ssl_keyfile=authority.key,
    )


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us and held reports answered first when it ends."""

    def __init__(
        self,
        config: uvicorn.Config,
        coordinator: Coordinator,
        connection: type[BoundedConnection],
        bounds: ConnectionBounds,
    ) -> None:
        super().__init__(config)
        self._coordinator, self._connection, self._bounds = coordinator, connection, bounds
        self._doors: list[ConnectionLimiter] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signals alone: `_until_stopped` has them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open a door of ours for each socket: what comes is counted before its greeting."""
        await self.lifespan.startup()
        config = self.config

        def made() -> BoundedConnection:
            state = self.lifespan.state
            return self._connection(config=config, server_state=self.server_state, app_state=state)

        seconds = self._bounds.greeting_seconds
        self._doors = [ConnectionLimiter(one, made, config.ssl, seconds) for one in sockets or ()]
        self.servers = []
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer who waits, then end as uvicorn does, without waiting for clients to close what is idle."""
        for door in self._doors:
            door.close()
            await door.wait_closed()
        self._coordinator.long_polls.close()
        self._coordinator.recorder.wake()
        cutting = asyncio.create_task(self._cut_idle())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    async def _cut_idle(self) -> None:
        await asyncio.sleep(_FLUSH_SECONDS)
        while self.server_state.tasks:
            await asyncio.sleep(0.05)
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    def reload(self, state: Path) -> None:
        """Use the certificate that is in the state folder now."""
        context = self.config.ssl
        if isinstance(context, ssl.SSLContext):
            context.load_cert_chain(state / "server.pem", state / "server.key")
