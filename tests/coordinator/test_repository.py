"""The repository as it is served: what may be had, what may not, ranges, and clients that misbehave."""

import asyncio
import hashlib
import http.client
import os
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import urllib3

from deskgrid.coordinator.http.repository import PART_BYTES, TRANSPORT, Part, RepositoryFiles, part_of
from deskgrid.coordinator.problems import RequestRefused
from deskgrid.images.fetch.source import Origin, open_source
from deskgrid.images.trust.desktop.client import Trusted
from deskgrid.images.trust.desktop.source import RepositoryServer
from deskgrid.images.trust.values import Version

from .lab import Lab
from .running import Service, context, now, problem, service

pytestmark = pytest.mark.slow

PACK = "ab" * 32
BIG = 40 * PART_BYTES + 17


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    made = Lab(tmp_path_factory.mktemp("lab"), now())
    made.publish("einstein/search/1.0")
    (made.web / "einstein/packs/ab").mkdir(exist_ok=True)
    (made.web / "einstein/packs/ab" / PACK).write_bytes(os.urandom(BIG))
    (made.web / "secret").write_text("secret")
    (made.web / "metadata/link.json").symlink_to("../secret")
    (made.web / "linked").symlink_to("einstein")
    (made.web / "metadata/folder.json").mkdir()
    (made.web / "empty/packs/ab").mkdir(parents=True)
    (made.web / "empty/packs/ab" / PACK).touch()
    os.mkfifo(made.web / "metadata/pipe.json")
    return made


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, lab: Lab) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("served") / "state", images=lab.settings) as running:
        end = time.monotonic() + 30
        while not running.operator.images():
            assert time.monotonic() < end
            time.sleep(0.05)
        yield running


def get(here: Service, path: str, method: str = "GET", **headers: str) -> urllib3.BaseHTTPResponse:
    return here.http.request(method, f"{here.at.url}/repository/{path}", headers=headers)


def raw(here: Service, path: str) -> tuple[int, bytes]:
    """Ask for a path as it is, without anybody who makes it tidy."""
    port = int(here.at.url.rsplit(":", 1)[1])
    link = http.client.HTTPSConnection("localhost", port, timeout=20, context=context(here.state))
    link.request("GET", f"/repository/{path}")
    answer = link.getresponse()
    found = answer.status, answer.read()
    link.close()
    return found


def big(lab: Lab) -> bytes:
    return (lab.web / "einstein/packs/ab" / PACK).read_bytes()


def test_a_desktop_learns_and_checks_all_that_is_signed_from_here(here: Service, lab: Lab, tmp_path: Path) -> None:
    source = RepositoryServer(f"{here.at.url}/repository", context=context(here.state))
    wanted = Version("einstein", "search", "1.0")
    with Trusted(tmp_path / "desktop", lab.grid.bootstrap, source) as trusted:
        trusted.refresh(datetime.now(UTC))
        assert trusted.latest("einstein", "search", datetime.now(UTC)) == wanted
        content = trusted.manifest(wanted, datetime.now(UTC))
    assert content == (lab.web / "images/einstein/search/1.0.json").read_bytes()


def test_a_desktop_fetches_parts_of_packs_from_here(here: Service, lab: Lab) -> None:
    source = open_source(Origin(f"{here.at.url}/repository", str(here.state / "ca.pem")))
    for start, end in ((0, 1), (5, 9), (PART_BYTES - 1, PART_BYTES + 1), (0, BIG), (BIG - 1, BIG)):
        assert b"".join(source.read("einstein", PACK, start, end)) == big(lab)[start:end]


def test_what_is_no_signed_metadata_no_manifest_and_no_pack_is_not_there(here: Service, lab: Lab) -> None:
    waiting = sorted((lab.web / "pending").iterdir())
    for path in (
        "",
        "metadata",
        "metadata/",
        "secret",
        "lock",
        "../lab/secret",
        "metadata/../secret",
        "metadata/%2e%2e/secret",
        "metadata/..%2fsecret",
        "metadata/%2e%2e%2fsecret.json",
        "metadata/link.json",
        "metadata/folder.json",
        "metadata/pipe.json",
        "metadata/none.json",
        "metadata/timestamp.json/",
        "metadata//timestamp.json",
        "metadata/timestamp.json%00",
        "metadata/timestamp.json%0a",
        "pending/einstein-researcher.json",
        "images/einstein/search/1.0.json",
        f"linked/packs/ab/{PACK}",
        f"einstein/packs/ab/{PACK}/",
        f"einstein/packs/../packs/ab/{PACK}",
        f"einstein/packs/ab/.{PACK}",
        f"einstein/packs/cd/{PACK}",
        "einstein/.publishing",
        *(f"pending/{path.name}" for path in waiting),
    ):
        assert problem(raw(here, path)) == (404, "not-found"), path


def test_only_reading_is_possible(here: Service) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = get(here, "metadata/timestamp.json", method)
        assert problem((answer.status, answer.data)) == (405, "method")


def test_a_whole_file_comes_with_its_length_and_is_not_sent_again_to_who_has_it(here: Service, lab: Lab) -> None:
    answer = get(here, f"einstein/packs/ab/{PACK}")
    assert (answer.status, answer.headers["content-length"]) == (200, str(BIG))
    assert answer.data == big(lab)
    assert "immutable" in answer.headers["cache-control"]
    again = get(here, f"einstein/packs/ab/{PACK}", **{"If-None-Match": f'"x", {answer.headers["etag"]}'})
    assert (again.status, again.data) == (304, b"")
    head = get(here, f"einstein/packs/ab/{PACK}", "HEAD")
    assert (head.status, head.headers["content-length"], head.data) == (200, str(BIG), b"")
    assert get(here, "metadata/timestamp.json").headers["cache-control"] == "no-cache"
    empty = get(here, f"empty/packs/ab/{PACK}")
    assert (empty.status, empty.data) == (200, b"")


def test_a_range_is_a_part_and_one_that_the_file_lacks_is_416(here: Service, lab: Lab) -> None:
    path = f"einstein/packs/ab/{PACK}"
    part = get(here, path, Range="bytes=100-299999")
    assert (part.status, part.headers["content-range"]) == (206, f"bytes 100-299999/{BIG}")
    assert part.data == big(lab)[100:300000]
    assert get(here, path, Range="bytes=-5").data == big(lab)[-5:]
    assert get(here, path, Range=f"bytes={BIG - 3}-").data == big(lab)[-3:]
    lacking = get(here, path, Range=f"bytes={BIG}-")
    assert (lacking.status, lacking.headers["content-range"]) == (416, f"bytes */{BIG}")
    several = get(here, path, Range="bytes=0-1,5-6")
    assert (several.status, len(several.data)) == (200, BIG)
    stale = get(here, path, **{"Range": "bytes=0-1", "If-Range": '"old"'})
    assert (stale.status, len(stale.data)) == (200, BIG)
    head = get(here, path, "HEAD", Range="bytes=0-1")
    assert (head.status, head.headers["content-length"]) == (206, "2")


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (b"", Part(0, 10, False)),
        (b"bytes=0-0", Part(0, 1, True)),
        (b"bytes=3-", Part(3, 10, True)),
        (b"bytes=3-99", Part(3, 10, True)),
        (b"bytes=-3", Part(7, 10, True)),
        (b"bytes=-99", Part(0, 10, True)),
        (b"bytes=-0", None),
        (b"bytes=10-", None),
        (b"bytes=5-3", Part(0, 10, False)),
        (b"bytes=-", Part(0, 10, False)),
        (b"bytes=a-b", Part(0, 10, False)),
        (b"bytes=1-2,3-4", Part(0, 10, False)),
        (b"bytes=" + b"9" * 40 + b"-", Part(0, 10, False)),
        (b"lines=1-2", Part(0, 10, False)),
    ],
)
def test_a_range_is_taken_or_ignored_or_lacks(asked: bytes, part: Part | None) -> None:
    assert part_of({b"range": asked}, 10, b'"t"') == part


def test_clients_that_go_away_in_the_middle_leave_the_service_as_it_was(here: Service) -> None:
    port = int(here.at.url.rsplit(":", 1)[1])
    request = f"GET /repository/einstein/packs/ab/{PACK} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for _ in range(80):  # more than there are places
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            ssl.create_default_context(cafile=here.state / "ca.pem").wrap_socket(
                plain, server_hostname="localhost"
            ) as link,
        ):
            link.sendall(request)
            assert link.recv(12).startswith(b"HTTP/1.1 ")
    end = time.monotonic() + 30
    while get(here, f"einstein/packs/ab/{PACK}").status != 200:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_long_answers_have_so_many_places_and_short_ones_always_one(lab: Lab) -> None:
    async def story() -> None:
        files, sent, going = RepositoryFiles(lab.web, most_long=1), list[str](), asyncio.Event()

        async def slow(message: dict[str, object]) -> None:
            if message["type"] == "http.response.body":
                await going.wait()

        async def send(message: dict[str, object]) -> None:
            sent.append(str(message.get("status", "")))

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        def scope(path: str) -> dict[str, object]:
            return {"path": f"/repository/{path}", "method": "GET", "headers": []}

        first = asyncio.create_task(files(scope(f"einstein/packs/ab/{PACK}"), receive, slow))
        while files.long.taken == 0:
            await asyncio.sleep(0.01)
        with pytest.raises(RequestRefused, match="Many desktops fetch now"):
            await files(scope(f"einstein/packs/ab/{PACK}"), receive, send)
        await files(scope("metadata/timestamp.json"), receive, send)
        assert sent[0] == "200"
        going.set()
        await first
        assert files.long.taken == 0
        files.close()

    asyncio.run(story())


def test_many_at_once_get_what_they_asked_for(here: Service, lab: Lab) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path, wanted = f"einstein/packs/ab/{PACK}", hashlib.sha256(big(lab)).hexdigest()

    def fetch(number: int) -> bool:
        answer = get(here, path)
        return answer.status == 200 and hashlib.sha256(answer.data).hexdigest() == wanted

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(fetch, range(24)))


class Wire:
    """A connection to a client that takes nothing."""

    def __init__(self) -> None:
        self.cut = False

    def is_closing(self) -> bool:
        return self.cut

    def abort(self) -> None:
        self.cut = True


def test_a_client_that_takes_nothing_is_cut_off_and_its_place_is_free_again(lab: Lab) -> None:
    async def story() -> None:
        files, wire, parts = RepositoryFiles(lab.web, part_seconds=0.05), Wire(), list[object]()

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.body":
                parts.append(message)
                await asyncio.Event().wait()

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        scope = {"path": f"/repository/einstein/packs/ab/{PACK}", "method": "GET", "headers": [], TRANSPORT: wire}
        await files(scope, receive, send)
        assert (wire.cut, len(parts), files.long.taken) == (True, 1, 0)
        await files(scope, receive, send)  # a connection that is closed already gets nothing
        assert (len(parts), files.long.taken) == (1, 0)
        files.close()

    asyncio.run(story())


def test_a_repository_that_cannot_be_read_is_503(lab: Lab, tmp_path: Path) -> None:
    async def story() -> None:
        files = RepositoryFiles(tmp_path / ("x" * 300))

        async def nobody(*said: object) -> dict[str, object]:
            raise AssertionError

        with pytest.raises(RequestRefused) as refused:
            await files({"path": "/repository/metadata/x.json", "method": "GET", "headers": []}, nobody, nobody)
        assert refused.value.status == 503
        files.close()

    asyncio.run(story())


def test_without_a_repository_nothing_is_there(tmp_path: Path) -> None:
    with service(tmp_path / "state") as here:
        answer = get(here, "metadata/timestamp.json")
        assert problem((answer.status, answer.data)) == (404, "not-found")
