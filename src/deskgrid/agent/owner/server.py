"""The agent's ear for the accounts of this computer: a Unix socket, one thread, bounded in every way.

Rules:
- Who speaks is what the kernel says (SO_PEERCRED). What an account may do is decided in `agent/owner/wishes.py`.
- It never waits for a peer: sockets do not block, and who is silent or does not fetch its answers in time is let go.
  The thread sleeps in the kernel while nobody talks. A flood is answered no faster than `SocketLimits` says, in turns.
- A flood costs its account alone: each account has a pace and places of its own, and who is not to be heard now is
  turned away at once, so that nobody waits behind him.
- A helper's word lasts as long as its connection, and no longer than `told_seconds` after it was said.
- The callables that it is made with are called from its thread, and must not wait either.
"""

import logging
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deskgrid.agent.clock import Clock, utc_now
from deskgrid.agent.owner.requests import OwnerRequests
from deskgrid.agent.owner.socket import AccountPace, LocalError, SocketLimits, hung_up, inode, listen
from deskgrid.agent.owner.wishes import ROOT, WishBook
from deskgrid.host.system.peer import peer as peer_of
from deskgrid.model.presence import SessionReading
from deskgrid.model.wish import Wish
from deskgrid.wire.lines import Lines, encode
from deskgrid.wire.local import LINE_BYTES, Answer, Denial, Question, Status, Tell, decode_question

log = logging.getLogger("deskgrid.agent.owner.server")
DEFAULT = SocketLimits()
_TELL_COST = 5.0
_ROUND = 1024
"""Connections that are accepted or turned away in one round, before those who are here get their turn."""
_CROWD = 64
_REST_SECONDS = 0.02
"""Pause in accepting after a round that turned away a crowd: a flood does not take a whole core."""
_HEARD_OUT = 10
"""Who has gone is heard out so far, and no further: a flood ends with whoever sent it."""
_NOT_UNDERSTOOD = Denial("local socket: got a line that is no question, expected one of the local protocol")
_FULL = Denial("The agent is talked to by too many at once; try again in a moment.")

_TOO_MUCH = Denial("You ask too much in too short a time; try again in a moment.")


class _Peer:
    """One connection. key: its number, never used again. coming: lines not answered yet; going: not read by it yet."""

    def __init__(self, link: socket.socket, key: int, uid: int, now: float) -> None:
        self.link, self.key, self.uid, self.heard_at = link, key, uid, now
        self.begun_at, self.lines = now, 0
        self.cut, self.coming, self.going = Lines(LINE_BYTES), deque[bytes](), bytearray()
        self.told = self.last_words = False


class LocalServer:
    """Listens at `path` until `close`.

    Args:
        path: the socket; its folder is made if it is missing. wishes: what is asked here.
        status: what is true now.
        wish: hears what the grid shall obey, at the start too; Ask.RESUME when nothing stands any more.
        told: hears what helpers see of their sessions, by uid; None: forget what this account said.
        dump: writes what the agent knows, and says where.
    """

    def __init__(
        self,
        path: Path,
        wishes: WishBook,
        status: Callable[[], Status],
        wish: Callable[[Wish], None],
        told: Callable[[int, SessionReading | None], None],
        dump: Callable[[], Path],
        wall: Clock = utc_now,
        limits: SocketLimits = DEFAULT,
    ) -> None:
        self.path, self.limits = path, limits
        self._requests, self._told = OwnerRequests(wishes, status, wish, dump, wall), told
        self._pace, self._arrivals = AccountPace(limits), AccountPace(limits)
        self._selector = selectors.DefaultSelector()
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._peers: dict[int, _Peer] = {}
        self._turns: list[int] = []
        self._resting_until: float | None = None
        self._number = 0
        self._closing = False
        self._listener: socket.socket | None = None
        self._inode = 0
        self._thread = threading.Thread(target=self._run, name="local", daemon=True)

    def start(self) -> None:
        """Listen. Raises: LocalError."""
        self._listen()
        self._requests.obey()
        self._thread.start()

    def mend(self) -> None:
        """Listen anew if somebody took the socket's file away; from any thread. Cheap: for every now and then."""
        if self._thread.is_alive() and inode(self.path) != self._inode:
            self._ring()

    def close(self) -> None:
        """Stop listening and take the socket's file away. A second time does nothing."""
        if self._closing:
            return
        self._closing = True
        self._ring()
        if self._thread.is_alive():
            self._thread.join()
        for peer in list(self._peers.values()):
            self._end(peer)
        if self._listener is not None:
            self._listener.close()
            if inode(self.path) == self._inode:
                self.path.unlink(missing_ok=True)
            self._listener = None
        self._selector.close()
        self._bell.close()
        self._rope.close()

    def _ring(self) -> None:
        with suppress(OSError):  # it rings already, or is closed
            self._rope.send(b"!")

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            for ready, mask in self._selector.select(self._sleep_seconds()):
                self._serve(ready.data, mask)
            turns, self._turns = self._turns, []
            for key in turns:
                if (peer := self._peers.get(key)) is None:
                    continue
                if self._pace.wait_seconds(peer.uid):
                    self._turns.append(key)
                else:
                    self._turn(peer)
            self._look_at_clocks()

    def _serve(self, peer: _Peer | socket.socket | None, mask: int) -> None:
        if isinstance(peer, _Peer):
            if mask & selectors.EVENT_WRITE:
                self._flush(peer)
            elif peer.key not in self._turns:
                self._hear(peer)
        elif peer is not None:
            self._accept(peer)
        else:
            with suppress(BlockingIOError):
                self._bell.recv(64)
            if not self._closing and inode(self.path) != self._inode:
                self._listen_again()

    def _sleep_seconds(self) -> float | None:
        """Until it is somebody's turn, a peer has been silent for too long or a wish ends; None: for ever."""
        now = time.monotonic()
        ends = [peer.heard_at + self._patience(peer) - now for peer in self._peers.values()]
        waits = [self._pace.wait_seconds(self._peers[key].uid) for key in self._turns if key in self._peers]
        if waits and min(waits) == 0.0:
            return 0.0
        ends += waits
        if self._resting_until is not None:
            ends.append(self._resting_until - now)
        if (seconds := self._requests.look_again_seconds()) is not None:
            ends.append(seconds)
        return max(0.0, min(ends)) + 0.01 if ends else None

    def _patience(self, peer: _Peer) -> float:
        return self.limits.told_seconds if peer.told and not peer.going else self.limits.silence_seconds

    def _look_at_clocks(self) -> None:
        now = time.monotonic()
        for peer in [one for one in self._peers.values() if one.heard_at + self._patience(one) <= now]:
            self._end(peer)
        if self._resting_until is not None and self._resting_until <= now:
            self._resting_until = None
            if self._listener is not None:
                self._selector.register(self._listener, selectors.EVENT_READ, self._listener)
        if self._requests.look_again_seconds() == 0.0:
            self._requests.obey()

    # -- listening ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._listener = listen(self.path)
        self._inode = inode(self.path)
        self._selector.register(self._listener, selectors.EVENT_READ, self._listener)

    def _listen_again(self) -> None:
        if self._listener is not None:
            if self._resting_until is None:
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        self._resting_until = None
        try:
            self._listen()
        except LocalError as error:
            log.warning("%s", error)

    def _accept(self, listener: socket.socket) -> None:
        """Take in all who wait, or turn them away; quickly, so that nobody waits behind a flood."""
        turned_away = 0
        for _ in range(_ROUND):
            try:
                link, _ = listener.accept()
            except BlockingIOError:
                break
            except OSError:  # it went away, or we have no descriptor left: a rest keeps that from being a busy loop
                turned_away = _CROWD
                break
            link.setblocking(False)
            uid = peer_of(link).uid
            refusal = _TOO_MUCH if self._arrivals.wait_seconds(uid) else self._no_place(uid)
            self._arrivals.spend(uid)
            if refusal is None:
                self._take_in(link, uid)
                continue
            turned_away += 1
            with suppress(OSError):
                link.send(encode(refusal), socket.MSG_NOSIGNAL)
            link.close()
        if turned_away >= _CROWD:
            self._selector.unregister(listener)
            self._resting_until = time.monotonic() + _REST_SECONDS

    def _take_in(self, link: socket.socket, uid: int) -> None:
        self._number += 1
        peer = _Peer(link, self._number, uid, time.monotonic())
        self._peers[peer.key] = peer
        self._selector.register(link, selectors.EVENT_READ, peer)

    def _no_place(self, uid: int) -> Denial | None:
        """Why there is no place for one more of this account; where all are taken, a first one gets a place."""
        have = Counter(peer.uid for peer in self._peers.values())
        if uid != ROOT and have[uid] >= self.limits.connections_per_account:
            return _FULL
        if len(self._peers) < self.limits.connections:
            return None
        most, count = have.most_common(1)[0]
        if have[uid] or count < 2:
            return _FULL
        self._end(next(peer for peer in self._peers.values() if peer.uid == most))
        return None

    # -- one peer -------------------------------------------------------------------------------------------------

    def _hear(self, peer: _Peer) -> None:
        """Read a little."""
        try:
            data = peer.link.recv(LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(peer)
            return
        peer.coming += peer.cut.feed(data)
        self._turns.append(peer.key)

    def _turn(self, peer: _Peer) -> None:
        """Answer one line; what else has been said waits for the next turn."""
        if not peer.coming:
            return
        self._pace.spend(peer.uid)
        if peer.lines >= _HEARD_OUT and hung_up(peer.link):
            self._end(peer)
            return
        question = decode_question(peer.coming.popleft())
        try:
            self._take(peer, question)
        except Exception:
            log.exception("local socket: a question could not be answered")
            self._end(peer)
        if peer.key in self._peers and not (peer.going or peer.last_words or peer.key in self._turns):
            self._turns.append(peer.key)

    def _take(self, peer: _Peer, question: Question | None) -> None:
        peer.lines += 1
        allowed = self.limits.lines + self.limits.lines_per_second * (time.monotonic() - peer.begun_at)
        if question is None or peer.lines > allowed:
            peer.last_words = True
            self._say(peer, _NOT_UNDERSTOOD if question is None else _TOO_MUCH)
            return
        peer.heard_at = time.monotonic()
        if isinstance(question, Tell):
            self._pace.spend(peer.uid, _TELL_COST - 1)
            peer.told = True
            self._told(peer.uid, question.reading)
            return
        self._say(peer, self._requests.answer(peer.uid, question))

    def _say(self, peer: _Peer, answer: Answer) -> None:
        peer.going += encode(answer)
        self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        """Let it fetch what it has not got yet; until it has all, it is not heard."""
        try:
            sent = peer.link.send(peer.going, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end(peer)
            return
        del peer.going[:sent]
        if peer.last_words and not peer.going:
            self._end(peer)
            return
        self._selector.modify(peer.link, selectors.EVENT_WRITE if peer.going else selectors.EVENT_READ, peer)
        if not peer.going and peer.coming and peer.key not in self._turns:
            self._turns.append(peer.key)

    def _end(self, peer: _Peer) -> None:
        if self._peers.pop(peer.key, None) is None:
            return
        self._selector.unregister(peer.link)
        peer.link.close()
        if peer.told:
            self._told(peer.uid, None)
