"""Keys: private ones in encrypted files or on a PKCS#11 token, public ones as small files to hand around.

Rules:
- A private key never touches a disk in the clear: scrypt stretches the password, AES-256-GCM seals
  the key.
- A password comes from a prompt or a file, never from the command line or the environment.
- A key file is readable by its owner alone (0600); one that others can read is refused.
- What is handed around is the public half, `<key file>.pub`: whose key it is, and the key.
- A key on a token is a key file too: it holds no secret, only where the token is; its password is the token's PIN.
"""

import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as make_ecdsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from deskgrid.host.system.files import write_atomic
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.roles import OWNER, key_bytes
from deskgrid.images.trust.tufapi import CryptoSigner, HSMSigner, Key, Signer, SSlibKey
from deskgrid.model.values.names import Name
from deskgrid.model.values.outside import read_json
from deskgrid.model.values.text import counted

Kind = Literal["ed25519", "ecdsa"]
Ask = Callable[[str], str]
"""Asks a person for a secret; its argument says which."""

SCRYPT = 1 << 17
"""Work of a password: 128 MiB and about 0.4 s."""
SHORTEST_PASSWORD = 8
_MOST_SCRYPT = 1 << 20
_FILE_BYTES = 64 << 10


class PublicKey(msgspec.Struct, frozen=True):
    """The public half as it is handed around. keyid: its id in metadata. key: as TUF writes it."""

    owner: Name
    keyid: Annotated[str, msgspec.Meta(min_length=8, max_length=128)]
    key: dict[str, Any]


class _Sealed(msgspec.Struct, frozen=True):
    public: PublicKey
    scrypt: Annotated[int, msgspec.Meta(ge=2, le=_MOST_SCRYPT)] = SCRYPT
    salt: str = ""
    nonce: str = ""
    sealed: str = ""
    token: str = ""
    module: str = ""


def make_key(path: Path, owner: str, password: str, kind: Kind = "ed25519", scrypt: int = SCRYPT) -> Key:
    """Make a key: the private half in `path`, encrypted, the public half beside it in `<path>.pub`.

    Raises: TrustError when the password is too short or the file is there.
    """
    if len(password) < SHORTEST_PASSWORD:
        raise TrustError(
            Duty.REQUEST,
            "short-password",
            f"password: got {counted(len(password), 'letter')}, expected {SHORTEST_PASSWORD} or more",
        )
    private = Ed25519PrivateKey.generate() if kind == "ed25519" else make_ecdsa(SECP256R1())
    public = _public(SSlibKey.from_crypto(private.public_key()), owner)
    plain = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    sealed = AESGCM(_stretch(password, salt, scrypt)).encrypt(nonce, plain, public.keyid.encode())
    _write(path, _Sealed(public, scrypt, _text(salt), _text(nonce), _text(sealed)))
    return key_of(public)


def take_token_key(path: Path, owner: str, library: str, key_number: int, label: str | None, ask: Ask) -> Key:
    """Write a key file for an ECDSA key that is on a PKCS#11 token.

    Args:
        library: the token's PKCS#11 library. key_number: the key's id on the token. label: the token's, if there
            is more than one.

    Raises: TrustError when the token or its key is not found.
    """
    use_module(library)
    try:
        uri, found = HSMSigner.import_(key_number, label, ask)
    except Exception as error:  # python-pkcs11 has as many kinds of errors as there are tokens
        raise _token_error(path, error) from None
    public = _public(found, owner)
    _write(path, _Sealed(public, token=uri, module=library))
    return key_of(public)


def open_signer(path: Path, ask: Ask) -> Signer:
    """Open a key file for signing. ask: gives its password, or the token's PIN. Raises: TrustError."""
    sealed = _read(path)
    key = key_of(sealed.public)
    if sealed.token:
        use_module(sealed.module)
        pin = ask(f"PIN of {path}")
        return _TokenSigner(path, HSMSigner.from_priv_key_uri(sealed.token, key, lambda _: pin))
    try:
        plain = AESGCM(_stretch(ask(f"password of {path}"), b64decode(sealed.salt), sealed.scrypt)).decrypt(
            b64decode(sealed.nonce), b64decode(sealed.sealed), sealed.public.keyid.encode()
        )
        private = load_der_private_key(plain, None)
    except (InvalidTag, ValueError):
        raise TrustError(
            Duty.REQUEST, "wrong-password", f"key file {path}: can't be opened: wrong password, or it is damaged"
        ) from None
    assert isinstance(private, Ed25519PrivateKey | EllipticCurvePrivateKey)
    return CryptoSigner(private, cast(SSlibKey, key))


def read_public(path: Path) -> Key:
    """Read a public key from `<key file>.pub`, or from a key file. Raises: TrustError."""
    content = _content(path)
    try:
        try:
            public = read_json(content, type=PublicKey)
        except msgspec.ValidationError:
            public = read_json(content, type=_Sealed).public
        return key_of(public)
    except (msgspec.DecodeError, ValueError, KeyError):
        raise TrustError(
            Duty.REQUEST,
            "bad-key",
            f"public key {path}: it is none; expected a `.pub` file of `deskgrid trust new-key`",
        ) from None


def key_of(public: PublicKey) -> Key:
    """The key for metadata, with its owner's name. Raises: TrustError for kinds that we don't take."""
    key = Key.from_dict(public.keyid, {**public.key, "keyval": dict(public.key["keyval"])})
    key.unrecognized_fields[OWNER] = public.owner
    key_bytes(key)
    return key


def use_module(library: str) -> None:
    """Tell securesystemslib which PKCS#11 library to use: it reads that from the environment. Not a secret."""
    if library:
        os.environ["PYKCS11LIB"] = library


class _TokenSigner(Signer):
    """Signs on a token, and says in a sentence what went wrong there."""

    def __init__(self, path: Path, inner: HSMSigner) -> None:
        self._path, self._inner = path, inner

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: Ask | None = None) -> Signer:
        return HSMSigner.from_priv_key_uri(priv_key_uri, public_key, secrets_handler)

    @property
    def public_key(self) -> Key:
        return self._inner.public_key

    def sign(self, payload: bytes) -> Any:
        try:
            return self._inner.sign(payload)
        except Exception as error:
            raise _token_error(self._path, error) from None


def _public(key: SSlibKey, owner: str) -> PublicKey:
    try:
        return msgspec.convert({"owner": owner, "keyid": key.keyid, "key": key.to_dict()}, PublicKey)
    except msgspec.ValidationError:
        raise TrustError(
            Duty.REQUEST,
            "bad-name",
            f"owner of a key: got {owner!r}, expected a name of letters, digits, '.', '_', '-'",
        ) from None


def _token_error(path: Path, error: Exception) -> TrustError:
    return TrustError(
        Duty.REQUEST,
        "token",
        f"key {path} on a PKCS#11 token: {type(error).__name__} {error}".rstrip()
        + ": is the token in, its PIN right and its library installed?",
    )


def _write(path: Path, sealed: _Sealed) -> None:
    public = path.with_name(path.name + ".pub")
    for file in (path, public):
        if file.exists():
            raise TrustError(Duty.REQUEST, "key-exists", f"key file {file}: it is there; choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.format(msgspec.json.encode(sealed)), 0o600)
        write_atomic(public, msgspec.json.format(msgspec.json.encode(sealed.public)), 0o644)
    except OSError as error:
        raise TrustError(Duty.DESKTOP, "disk", f"key file {path}: can't be written: {error.strerror}") from None


def _read(path: Path) -> _Sealed:
    content = _content(path)
    if path.stat().st_mode & 0o077:
        raise TrustError(
            Duty.REQUEST,
            "open-key",
            f"key file {path}: others may read it; `chmod 600 {path}`, and think of a new key",
        )
    try:
        return read_json(content, type=_Sealed)
    except msgspec.DecodeError:
        raise TrustError(
            Duty.REQUEST, "bad-key", f"key file {path}: it is none; expected a file of `deskgrid trust new-key`"
        ) from None


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES)
    except OSError as error:
        raise TrustError(Duty.REQUEST, "no-key", f"key file {path}: can't be read: {error.strerror}") from None


def _stretch(password: str, salt: bytes, work: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=work, r=8, p=1).derive(password.encode())


def _text(content: bytes) -> str:
    return b64encode(content).decode()
