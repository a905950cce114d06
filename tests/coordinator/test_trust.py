"""The coordinator's own CA: made once, kept, and its server certificate made again in time."""

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from deskgrid.coordinator.authority import SERVER_DAYS, AuthorityError, fingerprint, prepare

from .values import START

NAMES = ("localhost", "127.0.0.1")


def served(state: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((state / "server.pem").read_bytes())


def test_what_was_made_is_kept(tmp_path: Path) -> None:
    first = prepare(tmp_path, NAMES, START)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert prepare(tmp_path, NAMES, START + timedelta(days=100)) == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_servers_certificate_is_made_again_near_its_end_and_the_ca_stays(tmp_path: Path) -> None:
    first = prepare(tmp_path, NAMES, START)
    number = served(tmp_path).serial_number
    later = START + timedelta(days=SERVER_DAYS * 0.7)
    assert prepare(tmp_path, NAMES, later).fingerprint == first.fingerprint
    assert served(tmp_path).serial_number != number
    assert served(tmp_path).not_valid_after_utc > later + timedelta(days=SERVER_DAYS - 1)


def test_other_names_make_another_certificate(tmp_path: Path) -> None:
    prepare(tmp_path, NAMES, START)
    prepare(tmp_path, ("grid.example.org", "::1"), START)
    names = served(tmp_path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["grid.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["::1"]


def test_the_chain_is_one_that_a_client_accepts(tmp_path: Path) -> None:
    authority = prepare(tmp_path, NAMES, START)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.chain, authority.key)
    assert fingerprint(authority.pem()) == authority.fingerprint


def test_a_clock_that_is_an_hour_slow_finds_the_certificates_valid(tmp_path: Path) -> None:
    prepare(tmp_path, NAMES, START)
    assert served(tmp_path).not_valid_before_utc <= START - timedelta(hours=1)


def test_a_key_that_others_could_read_is_closed_again(tmp_path: Path) -> None:
    prepare(tmp_path, NAMES, START)
    (tmp_path / "ca.key").chmod(0o644)
    prepare(tmp_path, NAMES, START)
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["ca.key", "ca.pem", "server.key"])
def test_a_file_that_is_damaged_is_said_not_replaced(tmp_path: Path, name: str) -> None:
    prepare(tmp_path, NAMES, START)
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(AuthorityError, match=name):
        prepare(tmp_path, NAMES, START)
    assert (tmp_path / name).read_bytes() == b"nonsense"


def test_a_damaged_server_certificate_is_made_again(tmp_path: Path) -> None:
    prepare(tmp_path, NAMES, START)
    (tmp_path / "server.pem").write_bytes(b"nonsense")
    prepare(tmp_path, NAMES, START)
    assert served(tmp_path).subject.rfc4514_string() == "CN=deskgrid coordinator"


def test_a_ca_certificate_that_is_not_of_its_key_is_said(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    prepare(tmp_path, NAMES, START)
    prepare(other, NAMES, START)
    (other / "ca.pem").replace(tmp_path / "ca.pem")
    with pytest.raises(AuthorityError, match=r"does not belong to .*ca\.key"):
        prepare(tmp_path, NAMES, START)
