"""Who is it? Secrets are 256 random bits; only their SHA-256 is kept, and comparing takes the same time for all.

Rules, told first:
- An enrolment token is `dgt_<id>_<secret>`: its id finds it, its secret proves it.
- A desktop says `<desktop>:<credential>`, the operator `dgo_<secret>`; both as a bearer token.
- Guessing is bounded for each address. Who has proved itself from an address before is not locked out by others
  that guess from there.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from pathlib import Path

from deskgrid.host.files import write_atomic

TOKEN_PREFIX = "dgt"  # noqa: S105 (a prefix, no secret)
OPERATOR_PREFIX = "dgo"
_ID = "abcdefghijklmnopqrstuvwxyz234567"
_REMEMBERED = 20_000


def new_secret() -> str:
    """256 random bits in hexadecimal."""
    return secrets.token_hex(32)


def new_id(length: int = 10) -> str:
    """Random letters and digits, for names that must not repeat."""
    return "".join(secrets.choice(_ID) for _ in range(length))


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def proves(secret: str, kept: str) -> bool:
    """Whether `secret` is the one whose digest is kept; takes the same time whatever the answer."""
    return hmac.compare_digest(digest(secret), kept)


def token_parts(token: str) -> tuple[str, str] | None:
    """Split `dgt_<id>_<secret>` into id and secret; None when it is no enrolment token."""
    parts = token.split("_")
    if len(parts) != 3 or parts[0] != TOKEN_PREFIX or not parts[1].isalnum() or not parts[2]:
        return None
    return parts[1], parts[2]


def operator_token(state: Path) -> str:
    """The operator's token from the state folder, made at the first start (0600)."""
    path = state / "operator.token"
    if not path.exists():
        write_atomic(path, f"{OPERATOR_PREFIX}_{new_secret()}\n".encode(), 0o600)
    return path.read_text(encoding="ascii").strip()


class Guard:
    """Bounds failed authentications: `burst` at once for each address, then one in `refill_seconds`."""

    def __init__(self, burst: int = 20, refill_seconds: float = 3.0) -> None:
        self._burst, self._refill = burst, refill_seconds
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def may_try(self, address: str, who: str, clock_seconds: float) -> bool:
        """Whether a secret may be looked at now.

        Args:
            who: whom the secret claims to prove. clock_seconds: a steady clock.
        """
        return (address, who) in self._proven or self._level(address, clock_seconds) + 1.0 <= self._burst

    def succeeded(self, address: str, who: str) -> None:
        """A secret was right."""
        key = (address, who)
        if key not in self._proven:
            self._proven[key] = None
            if len(self._proven) > _REMEMBERED:
                self._proven.popitem(last=False)

    def failed(self, address: str, who: str, clock_seconds: float) -> None:
        """A secret was wrong: it no longer counts that another was right."""
        self._proven.pop((address, who), None)
        self._spent[address] = (self._level(address, clock_seconds) + 1.0, clock_seconds)
        self._spent.move_to_end(address)
        if len(self._spent) > _REMEMBERED:
            self._spent.popitem(last=False)

    def _level(self, address: str, clock_seconds: float) -> float:
        level, at = self._spent.get(address, (0.0, clock_seconds))
        return max(0.0, level - (clock_seconds - at) / self._refill)
