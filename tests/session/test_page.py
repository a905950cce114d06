"""The owner's page says what is so, lets nobody else in, and is never misled by what it shows."""

import html
import http.client
import os
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from deskgrid.model.desktop import VmState
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Ask, Wish
from deskgrid.session.client import NoAgent, ask
from deskgrid.session.lobby import ROOM
from deskgrid.session.page import Shown, facts, render
from deskgrid.session.pictures import Open, days_picture, week
from deskgrid.session.serve import Page, PageServer, door
from deskgrid.wire.local import AskStatus, Question

from .desktop import NOW, OWNER, RIGHTS, Ear, ear, status, vm


def shown(text: str) -> str:
    """What a reader sees: no tags, no style, no script."""
    text = re.sub(r"(?s)<(style|script|svg|title).*?</\1>", "", text)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


# -- what it says -----------------------------------------------------------------------------------------------------


def test_the_first_thing_said_is_what_runs_and_why_not_and_until_when() -> None:
    text = shown(render(Shown(status(), RIGHTS), "k", "n", NOW))
    assert "Nothing runs here now." in text
    assert OWNER.sentence in text
    assert "That should end at 14:29." in text


def test_a_running_machine_is_shown_with_all_that_is_known_of_it() -> None:
    text = shown(facts(Shown(status(vm(), cpu={"vm-1": 1.93}), RIGHTS), "k", NOW))
    assert "its-sl6-lscsoft-20120415" in text
    assert "running since 12:20 · 2 processor cores (uses 1.9 now) · 4.0 GiB of memory" in text
    assert "for HTCondor jobs that asked for its-sl6-lscsoft-20120415" in text


def test_all_reasons_are_there_with_readings_ends_and_names() -> None:
    text = shown(facts(Shown(status(), RIGHTS), "k", NOW))
    assert "Why not: 2 reasons" in text
    assert "idle 4.2 s of 600 s (tty1 4 s) Should end at 14:29. [owner-active]" in text
    assert "Should end at 17:00. [working-hours]" in text


def test_a_wish_is_said_and_can_be_taken_back_only_by_who_may() -> None:
    paused = status(wish=Wish(Ask.PAUSE, "bob", NOW, NOW + timedelta(hours=1)))
    mine = facts(Shown(paused, RIGHTS), "k", NOW)
    assert "Paused until 15:20, as bob asked." in shown(mine)
    assert 'action="/resume"' in mine
    assert "disabled" not in mine
    theirs = facts(Shown(paused, msgspec.structs.replace(RIGHTS, may_resume=False, why_not="It was bob.")), "k", NOW)
    assert "disabled" in theirs
    assert "It was bob." in shown(theirs)


def test_faults_of_files_are_seen() -> None:
    assert "policy.toml: broken" in shown(facts(Shown(status(faults=("policy.toml: broken",)), RIGHTS), "k", NOW))


def test_without_an_agent_it_shows_what_was_and_no_buttons() -> None:
    text = facts(Shown(status(vm()), None, "no agent runs on this computer"), "k", NOW)
    assert "No agent runs here." in shown(text)
    assert "What follows is what was so at 14:20." in shown(text)
    assert "<form" not in text
    assert "Nothing is known here." in shown(facts(Shown(None, None, "no agent"), "k", NOW))


def test_whatever_is_shown_is_escaped() -> None:
    evil = '<script>alert("x")</script>'
    reason = Reason("x", evil, evil, None)
    machine = msgspec.structs.replace(vm(VmState.LEAVING), reason=reason)
    wicked = status(
        machine,
        refusals=(reason,),
        faults=(evil,),
        sources=(evil,),
        presence_faults=(evil,),
        link_fault=evil,
        go_on=reason,
        desktop=evil,
        wish=Wish(Ask.PAUSE, evil, NOW),
    )
    text = render(
        Shown(wicked, msgspec.structs.replace(RIGHTS, may_resume=False, why_not=evil), said=evil), "k", "n", NOW
    )
    assert evil not in text
    assert text.count("<script") == 1


def test_the_page_is_one_file_that_loads_nothing() -> None:
    text = render(Shown(status(vm()), RIGHTS), "k", "n", NOW)
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import""", text)
    assert len(text) < 60_000


def test_each_day_has_its_bar() -> None:
    picture = days_picture((("2026-11-21", 3600.0), ("2026-11-22", 0.0)))
    assert "Sat 21 Nov: 60 min" in picture
    assert "Sun 22 Nov: 0 s" in picture
    assert days_picture(()).startswith("<svg")


def test_the_week_is_drawn_as_the_policy_says_it() -> None:
    policy = Policy(closed=("Mon-Fri 07:00-17:00",), closed_nobody=("Sun 22:00-06:00",))
    days = week(policy, NOW)
    assert days[0][:12] == [Open.NEVER] * 12  # what began on Sunday; this Sunday's goes into the next week
    assert days[0][12:14] == [Open.ALWAYS] * 2
    assert days[0][14:34] == [Open.NOBODY] * 20
    assert days[5] == [Open.ALWAYS] * 48
    assert days[6][44:] == [Open.NEVER] * 4


# -- who gets in ------------------------------------------------------------------------------------------------------


class Browser:
    """One browser: sends what it is told to, keeps the cookie."""

    def __init__(self, server: PageServer) -> None:
        self.server, self.cookie = server, ""

    def send(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
        port = self.server.server_port
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            more.setdefault("Cookie", self.cookie)
        if body:
            more.setdefault("Content-Type", "application/x-www-form-urlencoded")
        link.request(method, path, body or None, {"Host": f"127.0.0.1:{port}", **more})
        answer = link.getresponse()
        text = answer.read().decode()
        found = dict(answer.getheaders())
        link.close()
        if "Set-Cookie" in found:
            self.cookie = found["Set-Cookie"].split(";")[0]
        return answer.status, text, found

    def enter(self) -> "Browser":
        assert self.send("GET", f"/?key={self.server.page.key}")[0] == 200
        return self

    def press(self, button: str, how_long: str = "forever", key: str = "", **headers: str) -> int:
        form = {"key": key or self.server.page.form_key, "how_long": how_long}
        return self.send("POST", f"/{button}", urllib.parse.urlencode(form), **headers)[0]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Ear]:
    with ear(tmp_path) as made:
        yield made


@pytest.fixture
def server(agent: Ear) -> Iterator[PageServer]:
    def asking(question: Question) -> object:
        return ask((agent.path,), question)

    made = PageServer(Page(asking, lambda: None, lambda: NOW.astimezone()))  # type: ignore[arg-type]
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(30)


def test_who_has_the_key_gets_in_and_stays_in_by_a_cookie(server: PageServer) -> None:
    browser = Browser(server)
    code, text, headers = browser.send("GET", f"/?key={server.page.key}")
    assert code == 200
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
    assert "Nothing runs" not in text
    code, text, headers = browser.send("GET", "/")
    assert code == 200
    assert "Nothing runs here now." in text
    assert headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; form-action 'self'")
    nonce = re.search(r"'nonce-([^']+)'", policy)
    assert nonce is not None and f'<script nonce="{nonce[1]}">' in text


def test_without_the_key_nobody_gets_in(server: PageServer) -> None:
    assert Browser(server).send("GET", "/")[0] == 403
    assert Browser(server).send("GET", "/?key=wrong")[0] == 403
    assert Browser(server).send("GET", "/?key=%ff%fe")[0] == 403
    assert Browser(server).send("GET", "/", Cookie=f"{server.cookie}=wrong")[0] == 403
    assert Browser(server).send("GET", "/", Cookie="\x01;;==")[0] == 403
    assert Browser(server).enter().send("GET", "/etc/passwd")[0] == 404


def test_another_name_for_this_address_is_not_answered_to(server: PageServer) -> None:
    browser = Browser(server).enter()
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1", ""):
        assert browser.send("GET", "/", Host=host)[0] == 421
        assert browser.press("pause", Host=host) == 421


def test_it_listens_on_loopback_only(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_button_does_what_it_says_and_the_page_tells(server: PageServer, agent: Ear) -> None:
    browser = Browser(server).enter()
    assert browser.press("pause") == 303
    assert agent.wishes[-1].ask is Ask.PAUSE
    text = shown(browser.send("GET", "/")[1])
    assert "Paused until you say `deskgrid resume`; no virtual machine is here." in text
    assert "Resume" in text
    assert browser.press("resume", "") == 303
    assert "Resumed:" in shown(browser.send("GET", "/")[1])
    assert "Resumed:" not in shown(browser.send("GET", "/")[1])
    assert browser.press("finish", "soon") == 303
    assert "how long: got 'soon'" in shown(browser.send("GET", "/")[1])
    assert [wish.ask for wish in agent.wishes] == [Ask.PAUSE, Ask.RESUME]


def test_a_button_counts_only_from_the_page_itself(server: PageServer, agent: Ear) -> None:
    browser = Browser(server)
    assert browser.press("pause") == 403  # no cookie
    browser.enter()
    assert browser.press("pause", key="guessed") == 403
    assert browser.press("pause", key=server.page.key) == 403
    assert browser.press("pause", Origin="http://evil.example") == 403
    assert browser.press("pause", Origin="null") == 403
    assert browser.press("start") == 404
    assert browser.send("POST", "/pause", "x" * 5000)[0] == 403
    assert browser.send("POST", "/pause", Content_Length="-1")[0] == 403
    assert browser.send("POST", "/pause", Content_Length="much")[0] == 403
    assert agent.wishes == []
    assert browser.press("pause", Origin=f"http://127.0.0.1:{server.server_port}") == 303
    assert len(agent.wishes) == 1


def test_other_methods_are_not_there(server: PageServer) -> None:
    assert Browser(server).enter().send("PUT", "/pause")[0] == 501


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x", b"POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\n"])
def test_visitors_who_say_nothing_or_half_or_have_no_key_keep_nobody_out(server: PageServer, said: bytes) -> None:
    with ExitStack() as here:
        for _ in range(2 * ROOM):
            silent = here.enter_context(socket.create_connection(("127.0.0.1", server.server_port), 30))
            with suppress(OSError):  # it was turned away already
                silent.sendall(said)
        browser = Browser(server).enter()
        assert browser.send("GET", "/")[0] == 200
        assert browser.press("pause", "1h") == 303


def test_a_request_in_two_pieces_is_answered(server: PageServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), 30) as link:
        link.sendall(f"GET /?key={server.page.key} HTTP/1.0\r\n".encode())
        time.sleep(0.3)
        link.sendall(f"Host: 127.0.0.1:{server.server_port}\r\n\r\n".encode())
        assert b" 200 " in link.recv(65536)


def test_an_agent_that_ends_is_told_on_the_page(server: PageServer, agent: Ear) -> None:
    browser = Browser(server).enter()
    agent.server.close()
    code, text, _ = browser.send("GET", "/")
    assert code == 200
    assert "no agent runs on this computer" in text
    assert browser.press("pause") == 303
    assert "no agent runs on this computer" in browser.send("GET", "/")[1]


def test_the_door_for_the_browser_is_readable_by_its_account_alone(tmp_path: Path) -> None:
    file = door("http://127.0.0.1:1/?key=a&b", tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert 'content="0;url=http://127.0.0.1:1/?key=a&amp;b"' in file.read_text()


def test_an_agent_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NoAgent, match="no agent runs on this computer") as caught:
        ask((tmp_path / "none",), AskStatus())
    assert caught.value.missing


def test_a_socket_that_is_closed_to_this_account_is_told_as_that(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may talk to all")
    with ear(tmp_path) as closed:
        closed.path.chmod(0o000)
        with pytest.raises(NoAgent, match="may not talk to the agent there") as caught:
            ask((closed.path,), AskStatus())
        assert not caught.value.missing
        with pytest.raises(NoAgent, match=r"nobody listens at .*none; .*agent\.sock is not for this account to see"):
            ask((closed.path, tmp_path / "none"), AskStatus())
