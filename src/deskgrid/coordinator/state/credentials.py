"""Who is it? Secrets are 256 random bits; only their SHA-256 is kept, and comparing takes the same time for all.

Rules:
- An enrolment token is `dgt_<id>_<secret>`: its id finds it, its secret proves it.
- A desktop says `<desktop>:<credential>`, the operator `dgo_<secret>`; both as a bearer token.
- The right secret passes, whoever guesses from the same address and however often: a look costs one hash, and 256 bits
  are not guessed. Who is refused too often gets no reason but that; the log has it.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from pathlib import Path

from deskgrid.host.system.files import write_atomic
from deskgrid.model.values.bucket import TokenBucket

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
    """Bounds the answers to an address after refusals: `burst` at once, then one in `refill_seconds`."""

    def __init__(self, burst: int = 20, refill_seconds: float = 3.0) -> None:
        self._burst, self._refill = burst, refill_seconds
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def refused(self, address: str, clock_seconds: float) -> bool:
        """Count a refusal. Returns: whether there were too many. clock_seconds: a steady clock."""
        bucket = self._buckets.pop(address, None) or TokenBucket(1 / self._refill, self._burst, clock_seconds)
        too_many = bucket.wait_seconds(clock_seconds) > -self._refill  # not a whole one is left
        bucket.spend(1.0, clock_seconds, debt=0.0)
        self._buckets[address] = bucket
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return too_many
