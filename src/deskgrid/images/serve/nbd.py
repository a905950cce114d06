"""The NBD protocol, read only: handshake and requests of one connection. No files, no chunks: it asks `Blocks`.

Rules:
- Fixed newstyle handshake; the options that matter (GO, INFO, LIST, EXPORT_NAME, ABORT), all others are refused
  politely. Simple replies. Writing is refused.
- A request that can be answered is answered at once, one that can't waits aside while later ones are answered:
  replies may come in any order. Replies to small requests that came together go together.
- What a client says is bounded before memory is taken; a client that breaks the protocol is cut off.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

import errno
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence

from deskgrid.images.contract import ImageError
from deskgrid.images.serve.prefetch import WaitingRead
from deskgrid.images.serve.reader import Blocks, Part

MOST_REQUEST_BYTES = 2 << 20
_IHAVEOPT = 0x49484156454F5054
_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC, _ANSWER_MAGIC = 0x25609513, 0x67446698
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_EXPORT_NAME, _ABORT, _LIST, _INFO, _GO = 1, 2, 3, 6, 7
_ACK, _SERVER, _INFORM = 1, 2, 3
_ERR_UNSUP, _ERR_UNKNOWN, _ERR_INVALID = (1 << 31) + 1, (1 << 31) + 6, (1 << 31) + 3
_FLAGS = 1 | 2 | 1 << 2 | 1 << 8  # has flags, read only, FLUSH is answered, several connections are one
_READ, _WRITE, _DISC, _FLUSH = 0, 1, 2, 3
_REQUEST = struct.Struct(">IHHQQI")
_ANSWER = struct.Struct(">IIQ")
_MOST_OPTION_BYTES = 8192
_IOV = 512
_TOGETHER_BYTES = 64 << 10


class Broken(Exception):
    """The client broke the protocol or went away."""


class Connection:
    """One client. Blocks the calling thread in `serve` until it goes."""

    def __init__(
        self, link: socket.socket, exports: Mapping[str, Blocks], wait_for: Callable[[WaitingRead], None]
    ) -> None:
        """Serve `exports` by name; the first is also what a client gets that names none."""
        self._link, self._exports, self._wait_for = link, exports, wait_for
        self._sending = threading.Lock()
        self._held: list[Part] = []
        self._held_bytes = 0
        self.note: Callable[[int, int], None] | None = None
        """Told offset and length of every read, if it is there."""

    def serve(self) -> None:
        """Talk until the client goes; never raises."""
        try:
            blocks = self._handshake()
            if blocks is not None:
                self._answer_requests(blocks)
        except (OSError, Broken):
            pass
        finally:
            self._link.close()

    def _handshake(self) -> Blocks | None:
        self._link.sendall(struct.pack(">8sQH", b"NBDMAGIC", _IHAVEOPT, _FIXED_NEWSTYLE | _NO_ZEROES))
        flags = struct.unpack(">I", self._exactly(4))[0]
        while True:
            magic, option, length = struct.unpack(">QII", self._exactly(16))
            if magic != _IHAVEOPT or length > _MOST_OPTION_BYTES:
                raise Broken
            content = self._exactly(length)
            if option == _EXPORT_NAME:
                blocks = self._export(content)
                if blocks is None:
                    return None
                zeroes = b"" if flags & _NO_ZEROES else bytes(124)
                self._link.sendall(struct.pack(">QH", blocks.size, _FLAGS) + zeroes)
                return blocks
            if option == _ABORT:
                self._option_reply(option, _ACK)
                return None
            if option in (_INFO, _GO):
                blocks = self._inform(option, content)
                if blocks is not None and option == _GO:
                    return blocks
            elif option == _LIST:
                for name in self._exports:
                    self._option_reply(option, _SERVER, struct.pack(">I", len(name)) + name.encode())
                self._option_reply(option, _ACK)
            else:
                self._option_reply(option, _ERR_UNSUP)

    def _inform(self, option: int, content: bytes) -> Blocks | None:
        length = int.from_bytes(content[:4], "big")
        if len(content) < 6 or length > len(content) - 6:
            self._option_reply(option, _ERR_INVALID)
            return None
        blocks = self._export(content[4 : 4 + length])
        if blocks is None:
            self._option_reply(option, _ERR_UNKNOWN)
            return None
        self._option_reply(option, _INFORM, struct.pack(">HQH", 0, blocks.size, _FLAGS))
        self._option_reply(option, _INFORM, struct.pack(">HIII", 3, 1, 4096, MOST_REQUEST_BYTES))
        self._option_reply(option, _ACK)
        return blocks

    def _export(self, name: bytes) -> Blocks | None:
        if not name:
            return next(iter(self._exports.values()))
        return self._exports.get(name.decode(errors="replace"))

    def _option_reply(self, option: int, kind: int, content: bytes = b"") -> None:
        self._link.sendall(struct.pack(">QIII", _REPLY_MAGIC, option, kind, len(content)) + content)

    def _answer_requests(self, blocks: Blocks) -> None:
        buffer, begin, end = bytearray(256 * _REQUEST.size), 0, 0
        view = memoryview(buffer)
        while True:
            while end - begin >= _REQUEST.size:
                if not self._answer(blocks, *_REQUEST.unpack_from(buffer, begin)):
                    return
                begin += _REQUEST.size
            self._send_held()
            view[: end - begin] = bytes(view[begin:end])
            begin, end = 0, end - begin
            came = self._link.recv_into(view[end:])
            if not came:
                return
            end += came

    def _answer(self, blocks: Blocks, magic: int, flags: int, kind: int, cookie: int, offset: int, length: int) -> bool:
        """Answer one request; False when the client takes its leave."""
        if kind == _READ and magic == _REQUEST_MAGIC:
            if offset + length > blocks.size or not 0 < length <= MOST_REQUEST_BYTES:
                self._hold(cookie, errno.EINVAL)
                return True
            if self.note is not None:
                self.note(offset, length)
            try:
                parts = blocks.read(offset, length)
            except ImageError:
                parts = None  # who fetches reports it
            if parts is not None:
                self._hold(cookie, 0, parts, length)
            else:
                self._wait_for(WaitingRead(blocks, offset, length, lambda parts: self._send_later(cookie, parts)))
            return True
        if magic != _REQUEST_MAGIC or kind in (_WRITE, _DISC):  # what follows a WRITE is its data
            return False
        self._hold(cookie, 0 if kind == _FLUSH else errno.EPERM)
        return True

    def _hold(self, cookie: int, error: int, parts: Sequence[Part] = (), length: int = 0) -> None:
        """Send a reply, with the next ones when there is little in it."""
        self._held += (_ANSWER.pack(_ANSWER_MAGIC, error, cookie), *parts)
        self._held_bytes += _ANSWER.size + length
        if self._held_bytes >= _TOGETHER_BYTES:
            self._send_held()

    def _send_held(self) -> None:
        if self._held:
            held, length = self._held, self._held_bytes
            self._held, self._held_bytes = [], 0
            self._send(held, length)

    def _send_later(self, cookie: int, parts: list[Part] | None) -> None:
        """Send the reply to a request that had to wait; from another thread."""
        head = _ANSWER.pack(_ANSWER_MAGIC, errno.EIO if parts is None else 0, cookie)
        try:
            self._send([head, *(parts or ())], len(head) + sum(map(len, parts or ())))
        except OSError:
            self._link.close()

    def _send(self, parts: Sequence[Part], length: int) -> None:
        with self._sending:
            sent = self._link.sendmsg(parts[:_IOV])
            if sent < length:
                self._send_rest(parts, sent)

    def _send_rest(self, parts: Sequence[Part], sent: int) -> None:
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
                continue
            self._link.sendall(memoryview(part)[sent:])
            sent = 0

    def _exactly(self, count: int) -> bytes:
        content = bytearray()
        while len(content) < count:
            part = self._link.recv(count - len(content))
            if not part:
                raise Broken
            content += part
        return bytes(content)
