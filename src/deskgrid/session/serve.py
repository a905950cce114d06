"""The owner's page on loopback, for as long as `deskgrid page` runs in their session.

Rules:
- It listens on 127.0.0.1 only. Who has the key of this run gets in: once by its address, then by a cookie that scripts
  cannot read and other sites cannot send. No name but 127.0.0.1 and localhost is answered to (DNS rebinding).
- A button counts only with the key that is in the page's own forms, and from the page's own origin.
- The key is in no argv: `--open` hands the browser a file of this account's that leads to the page.
- Who connects and says nothing, or has no key, keeps nobody out (`lobby.py`).
- Nothing is kept by the browser, nothing is loaded from elsewhere, nothing frames the page.
- What this account may do is the agent's decision; the page only asks.
"""

import hmac
import os
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from deskgrid.agent.owner.requests import account_name
from deskgrid.session import sentences as words
from deskgrid.session.client import NoAgent
from deskgrid.session.lobby import SILENT_SECONDS, Lobby
from deskgrid.session.page import Shown, render
from deskgrid.session.sentences import escape
from deskgrid.wire.local import (
    Answer,
    AskFinish,
    AskPause,
    AskResume,
    AskStatus,
    Denial,
    Granted,
    Now,
    Question,
    Status,
)

BODY_BYTES = 4096
MAX_VISITS = 16
"""Requests with the key that are answered at a time, …"""
MAX_STRANGERS = 4
"""… and so many of others: those are told why not."""
_STOPS: dict[str, type[AskPause] | type[AskFinish]] = {"pause": AskPause, "finish": AskFinish}


class Page:
    """Knows the agent, the keys and what the last button brought.

    Args: ask: asks the agent, may raise NoAgent. left: what the last agent left. now: in this computer's zone.
    """

    def __init__(
        self, ask: Callable[[Question], Answer], left: Callable[[], Status | None], now: Callable[[], datetime]
    ) -> None:
        self._ask, self._left, self.now = ask, left, now
        self.key, self.form_key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._said = ("", False)

    def shown(self) -> Shown:
        """What is so now. What came of the last button is said once."""
        (said, wrong), self._said = self._said, ("", False)
        try:
            answer = self._ask(AskStatus())
        except NoAgent as error:
            return Shown(self._left(), None, str(error), said, wrong)
        if isinstance(answer, Now):
            return Shown(answer.status, answer.rights, "", said, wrong)
        fault = answer.sentence if isinstance(answer, Denial) else "The agent answered something else."
        return Shown(self._left(), None, fault, said, wrong)

    def press(self, button: str, how_long: str) -> None:
        """Carry a button out; the outcome is said on the page. Raises: KeyError: no such button."""
        now = self.now()
        try:
            if isinstance(told := self._ask(AskStatus()), Now):
                now = words.wall(now, told.status.zone)
            answer = self._ask(AskResume() if button == "resume" else _STOPS[button](words.until_of(how_long, now)))
        except (words.BadDuration, NoAgent) as error:
            self._said = (str(error), True)
            return
        if isinstance(answer, Granted):
            self._said = (words.done_sentence(answer, account_name(os.geteuid()), now), False)
        elif isinstance(answer, Denial):
            self._said = (answer.sentence, True)


class PageServer(ThreadingHTTPServer):
    """Serves one page. Raises: OSError: the port is taken."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, page: Page, port: int = 0) -> None:
        self.page = page
        self._places = {True: threading.BoundedSemaphore(MAX_VISITS), False: threading.BoundedSemaphore(MAX_STRANGERS)}
        self._lobby = Lobby(self._keyed, self._answer, self.shutdown_request)
        super().__init__(("127.0.0.1", port), _Visit)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self.cookie = f"deskgrid-{self.server_port}"  # cookies know no ports

    @property
    def url(self) -> str:
        """Where the page is, with its key. SECRET."""
        return f"http://127.0.0.1:{self.server_port}/?key={self.page.key}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Let a connection wait until it says something."""
        self._lobby.let_in(request, client_address)

    def server_close(self) -> None:
        """End all that waits, too."""
        self._lobby.close()
        super().server_close()

    def _keyed(self, words: list[str]) -> bool:
        return any(_same(word, self.page.key) for word in words)

    def _answer(self, link: socket.socket, address: object, keyed: bool) -> None:
        """Answer in a thread of its own, if there are not too many."""
        places = self._places[keyed]
        if not places.acquire(blocking=False):
            self.shutdown_request(link)
            return

        def visit() -> None:
            try:
                self.process_request_thread(link, address)
            finally:
                places.release()

        threading.Thread(target=visit, name="visit", daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no fault; anything else is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Visit(BaseHTTPRequestHandler):
    server: PageServer
    timeout = SILENT_SECONDS
    server_version, sys_version = "deskgrid", ""

    def do_GET(self) -> None:
        if not self._from_here():
            return
        asked = urlsplit(self.path)
        if asked.path != "/":
            self._answer(HTTPStatus.NOT_FOUND, "There is nothing here.")
            return
        key = parse_qs(asked.query).get("key", [""])[0]
        if key and _same(key, self.server.page.key):
            self._let_in()
        elif not self._has_cookie():
            self._answer(HTTPStatus.FORBIDDEN, "This page needs its key: open the address that `deskgrid page` told.")
        else:
            nonce = secrets.token_urlsafe(16)
            page = self.server.page
            shown = page.shown()
            now = words.wall(page.now(), shown.status.zone if shown.status else "")
            self._send(HTTPStatus.OK, render(shown, page.form_key, nonce, now), nonce=nonce)

    def do_POST(self) -> None:
        if not self._from_here():
            return
        origin = self.headers.get("Origin")
        form = self._form()
        if (
            not self._has_cookie()
            or (origin is not None and origin not in {f"http://{host}" for host in self.server.hosts})
            or not _same(form.get("key", ""), self.server.page.form_key)
        ):
            self._answer(HTTPStatus.FORBIDDEN, "Only the buttons of this page can do that.")
            return
        try:
            self.server.page.press(self.path.removeprefix("/"), form.get("how_long", ""))
        except KeyError:
            self._answer(HTTPStatus.NOT_FOUND, "There is no such button.")
            return
        self._send(HTTPStatus.SEE_OTHER, "", {"Location": "/"})

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the address holds the key."""

    def _from_here(self) -> bool:
        if self.headers.get("Host", "") in self.server.hosts:
            return True
        self._answer(HTTPStatus.MISDIRECTED_REQUEST, "This page is only at 127.0.0.1.")
        return False

    def _has_cookie(self) -> bool:
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return False
        found = cookies.get(self.server.cookie)
        return found is not None and _same(found.value, self.server.page.key)

    def _let_in(self) -> None:
        """Set the cookie and go on from this page itself: a redirect would count as from elsewhere, without cookie."""
        cookie = f"{self.server.cookie}={self.server.page.key}; Path=/; HttpOnly; SameSite=Strict"
        onward = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/"><a href="/">On</a>'
        self._send(HTTPStatus.OK, onward, {"Set-Cookie": cookie})

    def _form(self) -> dict[str, str]:
        try:
            length = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(length).decode("ascii") if 0 <= length <= BODY_BYTES else ""
        except ValueError:
            return {}
        return {name: values[0] for name, values in parse_qs(body).items()}

    def _answer(self, code: HTTPStatus, sentence: str) -> None:
        self._send(code, f'<!doctype html><meta charset="utf-8"><title>deskgrid</title><p>{escape(sentence)}</p>')

    def _send(self, code: HTTPStatus, text: str, more: dict[str, str] | None = None, nonce: str = "") -> None:
        body = text.encode()
        script = f"; script-src 'nonce-{nonce}'; connect-src 'self'" if nonce else ""
        self.send_response(code)
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
            f"base-uri 'none'; frame-ancestors 'none'{script}",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in {**headers, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def door(url: str, folder: Path | None = None) -> Path:
    """Write a file, readable by this account alone, that leads a browser to `url`."""
    base = folder or Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    handle, name = tempfile.mkstemp(prefix="deskgrid-", suffix=".html", dir=base)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={escape(url)}">')
    return Path(name)


def browser(file: Path) -> Sequence[str]:
    """The command that opens a file for whoever sits here."""
    return ("open" if sys.platform == "darwin" else "xdg-open", str(file))


def _same(got: str, expected: str) -> bool:
    return hmac.compare_digest(got.encode("utf-8", "replace"), expected.encode())
