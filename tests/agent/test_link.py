"""The way to the coordinator over real HTTPS."""

import queue
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from deskgrid.agent.inbox import Answered, Item, LinkDown
from deskgrid.agent.link import HttpsLink
from deskgrid.model.desktop import Availability, Room
from deskgrid.wire.messages import Answer, Problem, Report

from .server import Server, serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "coordinator") as running:
        yield running


def report(sequence: int = 1) -> Report:
    return Report("life-1", sequence, datetime.now(UTC), Availability(True), Room(1, 1, 1, 1), 4, 1 << 33)


def answer(body: bytes) -> tuple[int, bytes]:
    heard = msgspec.json.decode(body, type=Report)
    return 200, msgspec.json.encode(Answer(heard.sequence, datetime.now(UTC), (), 20.0))


def say(server: Server, ca: Path | None = None, url: str = "") -> Item:
    inbox: queue.SimpleQueue[Item] = queue.SimpleQueue()
    link = HttpsLink(url or server.url, ca or server.authority.certificate, "desk-1", "s3cret", inbox.put)
    link.say(report())
    return inbox.get(timeout=30)


def down(item: Item) -> str:
    assert isinstance(item, LinkDown) and item.to == 1
    assert "s3cret" not in item.sentence and "0x" not in item.sentence
    return item.sentence


def test_a_report_is_answered(server: Server) -> None:
    server.replies["/v1/report"] = answer
    item = say(server)
    assert isinstance(item, Answered) and item.answer.to == 1
    assert server.asked[0][2] == "Bearer desk-1:s3cret"


def test_a_refusal_is_told_in_the_coordinators_own_words(server: Server) -> None:
    server.replies["/v1/report"] = lambda body: (403, msgspec.json.encode(Problem("revoked", "desk-1 was revoked.")))
    assert "desk-1 was revoked." in down(say(server))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"<html>",
        b'{"to": 1}',
        b'{"to": "one", "now": "2026-03-03T20:00:00Z", "orders": [], "next_report_seconds": 1}',
        b'{"to": 1, "now": "2026-03-03T20:00:00", "orders": [], "next_report_seconds": 1}',
    ],
    ids=["empty", "html", "incomplete", "wrong-type", "time-without-zone"],
)
def test_an_answer_that_cannot_be_read_is_no_answer(server: Server, said: bytes) -> None:
    server.replies["/v1/report"] = lambda body: (200, said)
    assert "cannot be read" in down(say(server))


def test_a_coordinator_that_is_not_there_is_told_in_plain_words(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{free.getsockname()[1]}"
    assert "connection refused" in down(say(server, url=url))


def test_a_server_with_another_ca_is_not_trusted_and_hears_no_credential(server: Server, tmp_path: Path) -> None:
    with serving(tmp_path / "somebody-else") as other:
        sentence = down(say(server, ca=other.authority.certificate))
    assert "certificate" in sentence.lower()
    assert server.asked == []


def test_more_than_three_reports_under_way_are_refused_at_once(server: Server) -> None:
    go_on = threading.Event()

    def slow(body: bytes) -> tuple[int, bytes]:
        go_on.wait(20)
        return answer(body)

    server.replies["/v1/report"] = slow
    inbox: queue.SimpleQueue[Item] = queue.SimpleQueue()
    link = HttpsLink(server.url, server.authority.certificate, "desk-1", "s3cret", inbox.put)
    for sequence in range(1, 5):
        link.say(report(sequence))
    first = inbox.get(timeout=20)
    assert isinstance(first, LinkDown) and first.to == 4
    go_on.set()
    rest = [inbox.get(timeout=20) for _ in range(3)]
    assert {item.answer.to for item in rest if isinstance(item, Answered)} == {1, 2, 3}


@pytest.mark.parametrize("hang_up", [False, True], ids=["kept", "closed-by-the-coordinator"])
def test_the_next_report_uses_the_same_connection_if_it_still_stands(server: Server, hang_up: bool) -> None:
    server.replies["/v1/report"], server.hang_up = answer, hang_up
    inbox: queue.SimpleQueue[Item] = queue.SimpleQueue()
    link = HttpsLink(server.url, server.authority.certificate, "desk-1", "s3cret", inbox.put)
    for sequence in (1, 2, 3):
        link.say(report(sequence))
        item = inbox.get(timeout=20)
        assert isinstance(item, Answered) and item.answer.to == sequence
    assert len(set(server.peers)) == (3 if hang_up else 1)


@pytest.mark.parametrize("to", [0, 2, 1 << 53])
def test_an_answer_to_another_report_is_none_and_makes_no_later_one_late(server: Server, to: int) -> None:
    server.replies["/v1/report"] = lambda body: (200, msgspec.json.encode(Answer(to, datetime.now(UTC), (), 20.0)))
    assert f"an answer to report {to}, not to 1" in down(say(server))
