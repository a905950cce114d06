"""What is answered to an account of this computer: by whose right, and what the grid obeys then."""

import logging
from collections.abc import Callable
from pathlib import Path

from deskgrid.agent.clock import Clock
from deskgrid.agent.owner.wishes import Denied, WishBook, decide
from deskgrid.model.wish import Ask, Wish
from deskgrid.wire.local import (
    Answer,
    AskDump,
    AskFinish,
    AskPause,
    AskResume,
    AskStatus,
    Denial,
    Dumped,
    Granted,
    Now,
    Rights,
    Status,
)

log = logging.getLogger("deskgrid.agent.owner.server")
_LOOK_SECONDS = 60.0
"""The wall clock may be set while a wish waits for its end, so it is looked at so often."""
_ASKS = {AskPause: Ask.PAUSE, AskFinish: Ask.FINISH, AskResume: Ask.RESUME}


class OwnerRequests:
    """Answers questions; see `agent/owner/server.py` for the arguments."""

    def __init__(
        self,
        wishes: WishBook,
        status: Callable[[], Status],
        wish: Callable[[Wish], None],
        dump: Callable[[], Path],
        wall: Clock,
    ) -> None:
        self._wishes, self._status, self._wish, self._dump, self._wall = wishes, status, wish, dump, wall
        self._obeyed: Wish | None = None

    def answer(self, uid: int, question: AskStatus | AskPause | AskFinish | AskResume | AskDump) -> Answer:
        """Answer the account `uid`, as the kernel names it."""
        if isinstance(question, AskStatus):
            return Now(self._status(), self._rights(uid))
        if isinstance(question, AskDump):
            return self._dumped(uid)
        now = self._wall()
        until = None if isinstance(question, AskResume) else question.until
        if until is not None and until <= now:
            return Denial(f"until: got {until:%Y-%m-%d %H:%M} UTC, expected a time to come")
        wish = Wish(_ASKS[type(question)], account_name(uid), now, until)
        try:
            self._wishes.say(uid, wish, now)
        except Denied as denied:
            return Denial(str(denied))
        log.info("%s asks: %s, until %s", wish.by, wish.ask, wish.until or "it is taken back")
        self.obey()
        return Granted(wish.ask, self._obeyed, len(self._status().vms))

    def _dumped(self, uid: int) -> Answer:
        """Programs that people run are in it: it is for who may read the agent's folder anyway."""
        if uid not in (0, self._wishes.agent_uid):
            return Denial("only root and the agent's own account may have it, since it tells which programs run")
        try:
            return Dumped(str(self._dump()))
        except OSError as error:
            return Denial(f"it could not be written: {error.strerror or error}; make room on this disk")

    def obey(self) -> None:
        """Tell what the grid shall obey now, if that is something else than before."""
        now = self._wall()
        strongest = self._wishes.strongest(now)
        if strongest == self._obeyed:
            return
        self._obeyed = strongest
        self._wish(strongest or Wish(Ask.RESUME, "the accounts of this computer", now))

    def look_again_seconds(self) -> float | None:
        """When `obey` must be called again; None: when somebody asks something."""
        if self._obeyed is None or self._obeyed.until is None:
            return None
        return max(0.0, min(_LOOK_SECONDS, (self._obeyed.until - self._wall()).total_seconds()))

    def _rights(self, uid: int) -> Rights:
        now, name = self._wall(), account_name(uid)
        try:
            decide(self._wishes.said, uid, Wish(Ask.RESUME, name, now), self._wishes.agent_uid, now)
        except Denied as denied:
            return Rights(name, False, str(denied))
        return Rights(name, True)


def account_name(uid: int) -> str:
    """The name of an account, for people."""
    try:
        import pwd  # not on Windows

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError, OSError):
        return f"uid {uid}"
