"""The coordinator's own certificate authority, made at its first start and pinned by agents.

Rules:
- Keys are made here, are readable by the service alone (0600), are written whole or not at all, and never leave.
- Agents trust this CA and no other: they are given its fingerprint together with their enrolment token.
- The server's certificate is made again when its names change or a third of its life is left; the CA stays, so no
  agent has to learn anything.
- Certificates are valid since ever: a desktop whose clock is slow, or a coordinator whose clock was ahead when it made
  them, makes nobody a stranger. One that ends too late or too early for the clock as it is now is made again; a CA that
  ended only while the clock was wrong comes back, and with it all who pinned it.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deskgrid.host.system.files import write_atomic

CA_DAYS = 3650
SERVER_DAYS = 365
_EVER = datetime(1970, 1, 2, tzinfo=UTC)
_LEFT = timedelta(days=SERVER_DAYS // 3)


class AuthorityError(Exception):
    """A key or certificate in the state folder can't be used. The message says which and what to do."""


class Authority(msgspec.Struct, frozen=True):
    """The files of the CA and of the server, all in the state folder.

    certificate: the CA's, as agents pin it. chain: the server's certificate followed by the CA's.
    fingerprint: SHA-256 of the CA's certificate in lower-case hexadecimal.
    """

    certificate: Path
    chain: Path
    key: Path
    fingerprint: str

    def pem(self) -> bytes:
        """The CA's certificate in PEM."""
        return self.certificate.read_bytes()


def prepare(state: Path, names: Sequence[str], now: datetime) -> Authority:
    """Make the CA and the server's certificate where they are missing or due; idempotent.

    Args:
        state: the state folder, already there. names: host names and IP addresses of the server.

    Raises:
        AuthorityError: when a file that is there can't be read as what it should be.
    """
    ca_key = _key(state / "ca.key")
    ca_path, key_path, chain_path = state / "ca.pem", state / "server.key", state / "server.pem"
    _keep_ca(ca_path, state / "ca-before.pem", ca_key, now)
    ca = _certificate(ca_path)
    if ca.public_key() != ca_key.public_key():
        raise AuthorityError(f"{ca_path}: does not belong to {state / 'ca.key'}; restore both from the same backup")
    server_key = _key(key_path)
    if not _serves(chain_path, server_key, ca, names, now):
        server = _server_certificate(server_key, ca_key, ca, names, now)
        write_atomic(chain_path, _pem(server) + _pem(ca), 0o644)
    return Authority(ca_path, chain_path, key_path, fingerprint(ca_path.read_bytes()))


def _keep_ca(path: Path, before: Path, key: ec.EllipticCurvePrivateKey, now: datetime) -> None:
    """Make the CA's certificate if there is none or it is over; one that was over only by a wrong clock comes back."""
    if before.exists() and _certificate(before).not_valid_after_utc > now:
        before.replace(path)
    if path.exists() and _certificate(path).not_valid_after_utc <= now:
        path.replace(before)
    if not path.exists():
        write_atomic(path, _pem(_ca_certificate(key, now)), 0o644)


def fingerprint(pem: bytes) -> str:
    """SHA-256 of a PEM certificate's DER form, in lower-case hexadecimal, as `openssl x509 -fingerprint` shows it."""
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        content = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomic(path, content, 0o600)
        return made
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise AuthorityError(
            f"{path}: got no private key ({error}), expected one in PEM; restore it from a backup"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorityError(f"{path}: got another kind of key, expected an elliptic curve key")
    return key


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise AuthorityError(f"{path}: got no certificate ({error}), expected one in PEM; restore it") from None


def _ca_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "deskgrid coordinator CA")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(name, name, now, CA_DAYS)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    key: ec.EllipticCurvePrivateKey,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    names: Sequence[str],
    now: datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "deskgrid coordinator")])
    return (
        _builder(subject, ca.subject, now, SERVER_DAYS)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(subject: x509.Name, issuer: x509.Name, now: datetime, days: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_EVER)
        .not_valid_after(now + timedelta(days=days))
    )


def _serves(
    chain: Path, key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, names: Sequence[str], now: datetime
) -> bool:
    """Whether the certificate that is there still does."""
    if not chain.exists():
        return False
    try:
        found = x509.load_pem_x509_certificate(chain.read_bytes())
        told = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    left = found.not_valid_after_utc - now
    return (
        found.issuer == ca.subject
        and found.public_key() == key.public_key()
        and set(told) == {_general(name) for name in names}
        and found.not_valid_before_utc <= now
        and _LEFT < left <= timedelta(days=SERVER_DAYS)
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
