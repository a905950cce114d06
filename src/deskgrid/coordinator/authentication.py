"""Who asks? A desktop proves itself with its own credential, the operator with the token from the state folder.

Rules, told first:
- The hot path is one SHA-256 and one comparison; nobody is looked up in the database.
- A wrong secret and an unknown name get the same answer; too many from one address are not looked at any more.
"""

import time

from deskgrid.coordinator import membership
from deskgrid.coordinator.coordinator import Coordinator
from deskgrid.coordinator.credentials import Guard, digest, proves
from deskgrid.coordinator.problems import Refusal

_BEARER = b"Bearer "
OPERATOR = "operator"
_NOBODY = digest("nobody")


class Authentication:
    """Proves who sends a request."""

    def __init__(self, office: Coordinator, operator_token: str, guard: Guard) -> None:
        self._office, self._guard = office, guard
        self._operator = digest(operator_token)

    async def desktop(self, header: bytes, address: str) -> str:
        """Return the desktop's name. Raises: Refusal."""
        name, _, credential = _secret(header).partition(":")
        member = self._office.members.get(name)
        self._check(address, name, credential, member.credential_hash if member else _NOBODY)
        if member is None:
            raise _wrong()
        if member.revoked_at is not None:
            raise Refusal(403, "desktop-revoked", f"{name} was revoked: {member.revoked_reason}; ask the operator.")
        if not member.used:
            used = await self._office.recorder.call(lambda c: membership.first_use(c, member))
            if self._office.members.get(name) is member:
                self._office.members[name] = used
        return name

    def operator(self, header: bytes, address: str) -> None:
        """Let the operator pass. Raises: Refusal."""
        self._check(address, OPERATOR, _secret(header), self._operator)

    def may_guess(self, address: str, who: str) -> None:
        """Refuse an address that has been wrong too often. Raises: Refusal."""
        if not self._guard.may_try(address, who, time.monotonic()):
            raise Refusal(429, "too-many-failures", "Too many wrong secrets came from this address; wait a minute.")

    def guessed_wrong(self, address: str, who: str) -> None:
        """Count a wrong secret."""
        self._guard.failed(address, who, time.monotonic())

    def _check(self, address: str, who: str, secret: str, kept: str) -> None:
        self.may_guess(address, who)
        if not proves(secret, kept):
            self.guessed_wrong(address, who)
            raise _wrong()
        self._guard.succeeded(address, who)


def _secret(header: bytes) -> str:
    if not header.startswith(_BEARER):
        raise Refusal(401, "no-credential", "This request needs 'Authorization: Bearer …'; enrol this desktop first.")
    return header[len(_BEARER) :].decode("latin-1").strip()


def _wrong() -> Refusal:
    return Refusal(401, "credential-wrong", "The credential is not right; enrol again with a token of the operator.")
