"""A connection to the system's D-Bus that never waits: it has a descriptor, and `tend` does what can be done now.

Rules:
- jeepney knows the messages; the socket is ours, because a bus that hangs must not keep us from hearing the keyboard.
- No socket, no fault: a computer may have no D-Bus. One that was there and goes is a fault until it is back; we ask
  again after 1, 2, 4 … 30 s, when somebody calls `tend`. The descriptor stays the same through all of this.
- Signals are handed on only from the owner of the name that they claim to come from: any account may send us others.
- Nobody is started for our sake (no auto-start): what isn't there says nothing.
"""

import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from jeepney.auth import BEGIN, Authenticator
from jeepney.fds import FileDescriptor, fds_buf_size
from jeepney.low_level import HeaderFields, Message, MessageFlag, MessageType, Parser
from jeepney.wrappers import DBusAddress, new_method_call

ANSWER_SECONDS = 3.0
"""Time after which an unanswered call is a fault, and the connection is made anew."""
LOST = "disconnected"
"""The name of a failure that is nobody's answer: there is no connection."""
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 30.0
_MESSAGE_BYTES_MAX = 1 << 20
_MESSAGES_AT_ONCE = 200
_DAEMON = "org.freedesktop.DBus"
_BROKEN = (OSError, ValueError, LookupError, TypeError)  # jeepney's for bytes, ours for an answer of another shape


class CallFailed(msgspec.Struct, frozen=True):
    """A call was answered with an error. name: as "org.freedesktop.DBus.Error.AccessDenied"."""

    name: str
    text: str


class Signal(msgspec.Struct, frozen=True):
    """A signal of a service that we watch."""

    service: str
    path: str
    interface: str
    member: str
    body: tuple[Any, ...]


class BusService(msgspec.Struct, frozen=True):
    """A service to watch.

    name: its name on the bus. rules: match rules of its signals, without type and sender.
    here: told when it has come (True) or gone. heard: told its signals.
    """

    name: str
    rules: tuple[str, ...]
    here: Callable[[bool], None]
    heard: Callable[[Signal], None]


Then = Callable[[tuple[Any, ...] | CallFailed], None]


class Bus:
    """The connection. All calls from one thread at a time.

    Args:
        path: the bus's socket. services: whom to listen to.
    """

    def __init__(self, path: Path, services: Sequence[BusService]) -> None:
        self._path = path
        self._services = {one.name: one for one in services}
        self._owners: dict[str, str] = {}
        self._epoll = select.epoll()
        self._socket: socket.socket | None = None
        self._login: Authenticator | None = None
        self._parser = Parser()
        self._waiting: dict[int, tuple[Then, float]] = {}
        self._serial = 0
        self._retry_at, self._retry_seconds = 0.0, _FIRST_RETRY_SECONDS
        self._ready = self._closed = False
        self.fault = ""
        """Why there is no connection though there is or was a bus; empty: all is well, or no bus here."""

    def fileno(self) -> int:
        """A descriptor that is readable when `tend` has something to do."""
        return self._epoll.fileno()

    @property
    def settled(self) -> bool:
        """Whether no answer is awaited: what services say of themselves is known, or they aren't there."""
        return not self._waiting and (self._ready or self._socket is None)

    @property
    def connected(self) -> bool:
        """Whether the bus talks to us."""
        return self._ready

    def wait(self, seconds: float) -> None:
        """Wait until `tend` has something to do, at most `seconds`."""
        self._epoll.poll(seconds)

    def tend(self) -> None:
        """Take what has arrived, connect when it is time, give up what isn't answered."""
        if self._closed:
            return
        now = time.monotonic()
        try:
            if self._socket is None:
                if now < self._retry_at or not self._there():
                    return
                self._connect()
            for _ in range(_MESSAGES_AT_ONCE):
                if not self._receive():
                    break
            if any(now - since > ANSWER_SECONDS for _, since in self._waiting.values()):
                raise TimeoutError(f"no answer for {ANSWER_SECONDS:.0f} s")
        except _BROKEN as error:
            self._lose(error)

    def call(
        self,
        service: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
        then: Then = lambda answer: None,
    ) -> None:
        """Ask; the answer, or why there is none, is given to `then` by a later `tend`."""
        if self._socket is None:
            then(CallFailed(LOST, self.fault))
            return
        message = new_method_call(DBusAddress(path, service, interface), member, signature or None, body)
        message.header.flags |= MessageFlag.no_auto_start
        self._serial += 1
        self._waiting[self._serial] = (then, time.monotonic())
        try:
            self._socket.sendall(message.serialise(self._serial))
        except OSError as error:
            self._lose(error)

    def close(self) -> None:
        """End the connection; may be called twice."""
        if not self._closed:
            self._closed = True
            self._drop()
            self._epoll.close()

    # -- the connection -------------------------------------------------------------------------------------------

    def _there(self) -> bool:
        if self._path.exists():
            return True
        if self._retry_seconds > _FIRST_RETRY_SECONDS:
            self.fault = f"D-Bus {self._path}: got no socket, where one was; expected the system's bus"
        return False

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.connect(os.fspath(self._path))
        self._epoll.register(self._socket, select.EPOLLIN)
        self._login, self._parser = Authenticator(enable_fds=True), Parser()
        self._waiting[0] = (lambda answer: None, time.monotonic())  # logging in has its time too
        self._socket.sendall(self._login.data_to_send() or b"")

    def _lose(self, error: Exception) -> None:
        self._drop()
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        self.fault = f"D-Bus {self._path}: got {what}, expected the system's bus; asked again soon"
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(_LAST_RETRY_SECONDS, self._retry_seconds * 2)

    def _drop(self) -> None:
        if self._socket is not None:
            with suppress(OSError, ValueError):
                self._epoll.unregister(self._socket)
            self._socket.close()
        self._socket, self._login, self._ready = None, None, False
        waiting, self._waiting = self._waiting, {}
        for extra in self._parser.fds:
            extra.close()
        self._parser.fds.clear()
        for then, _ in waiting.values():
            then(CallFailed(LOST, "the connection is gone"))
        for name in list(self._owners):
            self._owned(name, "")

    def _receive(self) -> bool:
        """Take one message or piece of one. Returns whether there may be more."""
        assert self._socket is not None
        if self._login is not None:
            return self._log_in(self._login, self._socket)
        wanted = self._parser.bytes_desired()
        if wanted > _MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {wanted} bytes")
        try:
            data, extra, _, _ = self._socket.recvmsg(wanted, fds_buf_size(), socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionResetError("its end")
        self._parser.add_data(data, FileDescriptor.from_ancdata(extra))
        if (message := self._parser.get_next_message()) is not None:
            self._take(message)
        return self._socket is not None

    def _log_in(self, login: Authenticator, connection: socket.socket) -> bool:
        try:
            data = connection.recv(1024)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionResetError("its end while logging in")
        login.feed(data)
        while more := login.data_to_send():
            connection.sendall(more)
        if login.authenticated:
            connection.sendall(BEGIN)
            self._login = None
            del self._waiting[0]
            self.call(_DAEMON, "/org/freedesktop/DBus", _DAEMON, "Hello", then=self._greeted)
        return True

    # -- messages -------------------------------------------------------------------------------------------------

    def _greeted(self, answer: tuple[Any, ...] | CallFailed) -> None:
        if isinstance(answer, CallFailed):
            return
        self.fault, self._retry_seconds, self._ready = "", _FIRST_RETRY_SECONDS, True
        for name, service in self._services.items():
            self._match(f"sender='{_DAEMON}',member='NameOwnerChanged',arg0='{name}'")
            for rule in service.rules:
                self._match(f"sender='{name}',{rule}")
            self._ask("GetNameOwner", name, partial(self._found, name))

    def _match(self, rule: str) -> None:
        self._ask("AddMatch", f"type='signal',{rule}", lambda answer: None)

    def _ask(self, member: str, argument: str, then: Then) -> None:
        self.call(_DAEMON, "/org/freedesktop/DBus", _DAEMON, member, "s", (argument,), then)

    def _found(self, name: str, answer: tuple[Any, ...] | CallFailed) -> None:
        self._owned(name, "" if isinstance(answer, CallFailed) else answer[0])

    def _owned(self, name: str, owner: str) -> None:
        """The name has a new owner, or none."""
        before = self._owners.get(name, "")
        if owner == before:
            return
        self._owners[name] = owner
        if before:
            self._services[name].here(False)
        if owner:
            self._services[name].here(True)

    def _take(self, message: Message) -> None:
        fields, kind = message.header.fields, message.header.message_type
        if kind in (MessageType.method_return, MessageType.error):
            then, _ = self._waiting.pop(fields.get(HeaderFields.reply_serial, -1), (None, 0.0))
            if then is not None:
                failed = kind is MessageType.error
                text = " ".join(str(one) for one in message.body)[:200] if failed else ""
                then(CallFailed(fields.get(HeaderFields.error_name, ""), text) if failed else message.body)
        elif kind is MessageType.signal:
            self._hear(message)

    def _hear(self, message: Message) -> None:
        fields = message.header.fields
        sender, member = fields.get(HeaderFields.sender, ""), fields.get(HeaderFields.member, "")
        if sender == _DAEMON:
            if member == "NameOwnerChanged" and len(message.body) == 3 and message.body[0] in self._services:
                self._owned(message.body[0], message.body[2])
            return
        for name, owner in self._owners.items():
            if owner and owner == sender:
                path, interface = fields.get(HeaderFields.path, ""), fields.get(HeaderFields.interface, "")
                self._services[name].heard(Signal(name, path, interface, member, message.body))
                return
