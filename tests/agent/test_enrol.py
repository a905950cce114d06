"""Enrolment over real HTTPS: what goes wrong is one sentence, and nothing is written then."""

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from deskgrid.agent.enrol import EnrolError, ca_file, credential_file, enrol
from deskgrid.model.values.names import BadName
from deskgrid.wire.messages import Enrol, Enrolled, Problem

from .server import Server, serving

TOKEN = "dgt_1234_abcdefgh"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "coordinator") as running:
        yield running


def text(server: Server, token: str = TOKEN) -> str:
    return f"{token}@{server.authority.fingerprint}"


def test_a_desktop_with_a_good_token_gets_a_credential_of_its_own(server: Server, tmp_path: Path) -> None:
    state = tmp_path / "agent"
    server.replies["/v1/enrol"] = lambda body: (200, msgspec.json.encode(Enrolled("desk-1", "its-own-secret")))
    enrol(server.url, "desk-1", f"  {text(server)}\n", state)
    assert credential_file(state).read_text() == "its-own-secret"
    assert credential_file(state).stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700
    assert ca_file(state).read_bytes() == server.ca()
    assert msgspec.json.decode(server.asked[-1][1], type=Enrol) == Enrol(TOKEN, "desk-1")


def refused(server: Server, tmp_path: Path, **more: str) -> str:
    """The sentence of a refusal; nothing may have been written."""
    given = {"url": server.url, "desktop": "desk-1", "text": text(server), **more}
    with pytest.raises((EnrolError, BadName)) as caught:
        enrol(given["url"], given["desktop"], given["text"], tmp_path / "agent")
    assert not (tmp_path / "agent").exists() or list((tmp_path / "agent").iterdir()) == []
    assert TOKEN not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        TOKEN,
        f"{TOKEN}@",
        f"{TOKEN}@abc",
        f"@{'0' * 64}",
        f"short@{'0' * 64}",
        f"{TOKEN}@{'G' * 64}",
        f"a b@{'0' * 64}",
    ],
)
def test_a_text_that_is_no_enrolment_text_is_refused_without_repeating_it(
    server: Server, tmp_path: Path, wrong: str
) -> None:
    assert "expected <token>@<fingerprint>" in refused(server, tmp_path, text=wrong)
    assert server.asked == []


@pytest.mark.parametrize("wrong", ["", "a/b", "../x", "desk 1", "x" * 65])
def test_a_name_that_is_none_is_refused_before_anything_is_asked(server: Server, tmp_path: Path, wrong: str) -> None:
    assert "desktop name: got" in refused(server, tmp_path, desktop=wrong)
    assert server.asked == []


@pytest.mark.parametrize("wrong", ["http://127.0.0.1:1", "127.0.0.1:1", "ftp://x", "https://", "https://x y"])
def test_an_address_that_is_not_https_is_refused_before_anything_is_asked(
    server: Server, tmp_path: Path, wrong: str
) -> None:
    assert "expected https://host:port" in refused(server, tmp_path, url=wrong)


def test_a_coordinator_that_is_not_there_is_named_with_what_to_do(server: Server, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{free.getsockname()[1]}"
    sentence = refused(server, tmp_path, url=url)
    assert url in sentence and "check the address" in sentence and "0x" not in sentence


def test_a_server_that_is_something_else_is_told_from_a_coordinator(server: Server, tmp_path: Path) -> None:
    server.replies["/v1/ca"] = lambda body: (404, b"<html>Not here</html>")
    assert "its answer is no certificate" in refused(server, tmp_path)


def test_a_coordinator_in_between_is_found_by_its_fingerprint(server: Server, tmp_path: Path) -> None:
    sentence = refused(server, tmp_path, text=f"{TOKEN}@{'0' * 64}")
    assert "somebody may be in between" in sentence
    assert [path for path, _, _ in server.asked] == ["/v1/ca"]


def test_a_coordinator_that_refuses_is_quoted(server: Server, tmp_path: Path) -> None:
    problem = Problem("token-expired", "This enrolment token expired yesterday; ask for a new one.")
    server.replies["/v1/enrol"] = lambda body: (403, msgspec.json.encode(problem))
    assert "This enrolment token expired yesterday" in refused(server, tmp_path)


@pytest.mark.parametrize("said", [b"", b"<html>", b"{}", b'{"desktop": "desk-1"}', b'{"desktop": 1, "credential": 2}'])
def test_an_answer_that_cannot_be_read_is_refused(server: Server, tmp_path: Path, said: bytes) -> None:
    server.replies["/v1/enrol"] = lambda body: (200, said)
    assert "an answer that cannot be read" in refused(server, tmp_path)


def test_a_refusal_without_a_sentence_is_told_by_its_status(server: Server, tmp_path: Path) -> None:
    server.replies["/v1/enrol"] = lambda body: (500, b"oops")
    assert "HTTP status 500" in refused(server, tmp_path)


def test_a_refusal_leaves_an_earlier_membership_alone(server: Server, tmp_path: Path) -> None:
    state = tmp_path / "agent"
    server.replies["/v1/enrol"] = lambda body: (200, msgspec.json.encode(Enrolled("desk-1", "its-own-secret")))
    enrol(server.url, "desk-1", text(server), state)
    server.replies["/v1/enrol"] = lambda body: (403, b"")
    with pytest.raises(EnrolError):
        enrol(server.url, "desk-1", text(server), state)
    assert credential_file(state).read_text() == "its-own-secret"
