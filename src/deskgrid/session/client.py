"""Asks the agent of this computer over its local socket."""

import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from deskgrid.agent.owner.socket import RUN_FOLDER, SOCKET_NAME
from deskgrid.wire.lines import Lines, encode
from deskgrid.wire.local import ANSWER_BYTES, Answer, Denial, Question, decode_answer

ANSWER_SECONDS = 10.0
START = "start it with `systemctl start deskgrid-agent`, or ask your administrator whether this computer takes part"


class NoAgent(Exception):
    """No agent can be asked here. The message says why and what to do. missing: nobody listens."""

    def __init__(self, sentence: str, missing: bool = True) -> None:
        self.missing = missing
        super().__init__(sentence)


def places(chosen: Path | None, state: Path | None) -> tuple[Path, ...]:
    """Where an agent may listen (see `agent.local_socket.listening_place`): the one of these settings goes first."""
    if chosen is not None:
        return (chosen,)
    folders = [RUN_FOLDER] if state is None else [state, RUN_FOLDER]
    return tuple(folder / SOCKET_NAME for folder in folders)


class AgentClient:
    """A connection to the agent. Raises from all methods: NoAgent."""

    def __init__(self, tried: Sequence[Path], seconds: float = ANSWER_SECONDS) -> None:
        faults = []
        for path in tried:
            try:
                self.link = _connected(path, seconds)
            except OSError as error:
                faults.append((path, error))
                continue
            self.path = path
            self._lines, self._answers = Lines(ANSWER_BYTES), deque[bytes]()
            return
        raise _no_agent(faults)

    def __enter__(self) -> "AgentClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.link.close()

    def say(self, question: Question) -> None:
        """Say something that gets no answer."""
        try:
            self.link.sendall(encode(question))
        except OSError as error:
            raise NoAgent(f"{self.path}: the agent does not listen any more ({error.strerror})") from None

    def ask(self, question: Question) -> Answer:
        """Ask, and wait for the answer."""
        self.say(question)
        try:
            while not self._answers:
                data = self.link.recv(65536)
                if not data:
                    raise NoAgent(f"{self.path}: the agent has ended; try again in a moment")
                self._answers += self._lines.feed(data)
            return decode_answer(self._answers.popleft())
        except OSError:
            raise NoAgent(f"{self.path}: the agent gave no answer in time; try again in a moment") from None
        except ValueError:
            raise NoAgent(f"{self.path}: got an answer that is none; do agent and command have one version?") from None


def ask(tried: Sequence[Path], question: Question) -> Answer:
    """Ask one thing. Raises: NoAgent."""
    with AgentClient(tried) as agent:
        answer = agent.ask(question)
        if isinstance(answer, Denial) and answer.sentence.startswith("local socket:"):
            raise NoAgent(f"{agent.path}: {answer.sentence}; do agent and command have one version?")
        return answer


def _connected(path: Path, seconds: float) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # not settimeout: with it connect fails at once when others are waiting before us
        wait = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        link.connect(os.fsencode(path))
    except OSError:
        link.close()
        raise
    return link


def _no_agent(faults: Sequence[tuple[Path, OSError]]) -> NoAgent:
    closed = [path for path, error in faults if isinstance(error, PermissionError)]
    if len(closed) == len(faults):
        return NoAgent(f"{closed[0]}: this account may not talk to the agent there; expected mode 0666", False)
    tried = ", ".join(str(path) for path, _ in faults if path not in closed)
    hidden = "".join(f"; {path} is not for this account to see" for path in closed)
    return NoAgent(f"no agent runs on this computer (nobody listens at {tried}{hidden}); {START}")
