"""What a computer says of itself, as far as it can be asked here; and the way to a coordinator, open or not."""

import http.server
import platform
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import msgspec
import pytest

from deskgrid.coordinator.authority import Authority, prepare
from deskgrid.host.doctor.contact import contact
from deskgrid.host.doctor.inventory import read_inventory
from deskgrid.host.doctor.machine import cpuid, look
from deskgrid.model.inventory import Inventory


@pytest.mark.skipif(platform.machine() != "x86_64", reason="CPUID is an instruction of x86")
def test_the_processor_answers_for_itself() -> None:
    _, ebx, ecx, edx = cpuid(0)
    name = b"".join(number.to_bytes(4, "little") for number in (ebx, edx, ecx)).decode()
    assert name == look().vendor


def test_maker_product_and_firmware_are_read_where_the_kernel_shows_them(tmp_path: Path) -> None:
    for name, words in {
        "sys_vendor": "Dell Inc.\n",
        "product_name": "OptiPlex 7090\n",
        "bios_version": "1.2.3\n",
    }.items():
        (tmp_path / name).write_text(words)
    found = look(tmp_path)
    assert (found.maker, found.product, found.firmware) == ("Dell Inc.", "OptiPlex 7090", "1.2.3")
    assert found.cpus > 0
    assert look(tmp_path / "missing").product == ""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A coordinator's certificates."""
    return prepare(tmp_path_factory.mktemp("head"), ["localhost"], datetime.now(UTC))


@pytest.fixture
def certificate(authority: Authority, tmp_path: Path) -> Path:
    """What enrolment leaves on a desktop."""
    (tmp_path / "ca.pem").write_bytes(authority.pem())
    return tmp_path / "ca.pem"


class Head(http.server.BaseHTTPRequestHandler):
    """Answers with the time that it believes in."""

    behind = timedelta()
    status = 200

    def do_GET(self) -> None:
        self.send_response_only(type(self).status)
        self.send_header("Date", format_datetime(datetime.now(UTC) - type(self).behind, usegmt=True))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.fixture
def head(authority: Authority) -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Head)
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secure.load_cert_chain(authority.chain, authority.key)
    server.socket = secure.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()
    Head.behind, Head.status = timedelta(), 200


def test_a_coordinator_that_answers_tells_how_far_the_clocks_are_apart(head: str, certificate: Path) -> None:
    Head.behind = timedelta(hours=1)
    found = contact(head, certificate)
    assert found.error == ""
    assert found.ahead_seconds == pytest.approx(3600, abs=5)


def test_a_coordinator_with_another_certificate_is_not_believed(head: str, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_bytes(prepare(tmp_path, ["localhost"], datetime.now(UTC)).pem())
    found = contact(head, tmp_path / "other.pem")
    assert "its certificate is not accepted" in found.error
    assert "is missing: this computer is not enrolled" in contact(head, tmp_path / "missing.pem").error


def test_a_coordinator_that_refuses_or_is_silent_or_absent_is_one_sentence(head: str, certificate: Path) -> None:
    Head.status = 503
    assert contact(head, certificate).error == "it answers with status 503"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        assert "no answer in time" in contact(f"https://localhost:{port}", certificate, 0.5).error
    assert "refused" in contact(f"https://localhost:{port}", certificate).error


def test_the_inventory_is_made_by_a_child_and_holds_no_names_of_people_or_folders(tmp_path: Path) -> None:
    found = read_inventory(tmp_path)
    assert found is not None
    assert found.cpus > 0 and found.memory_bytes > 0 and found.system and found.kernel
    assert str(tmp_path) not in msgspec.json.encode(found).decode()
    assert "rights" not in found.problems


def test_an_inventory_that_takes_too_long_is_none() -> None:
    assert read_inventory(seconds=0.01) is None


def test_reading_an_inventory_loads_nothing_that_the_agent_does_not_have() -> None:
    code = (
        "import sys, deskgrid.host.doctor.inventory; "
        "print([m for m in sys.modules if m.startswith('deskgrid.host.doctor.') or m == 'ctypes'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout == "['deskgrid.host.doctor.inventory']\n"


def test_what_was_proven_is_what_works() -> None:
    assert Inventory().proven == ()
