"""Who asks? A desktop proves itself with its own credential, the operator with the token from the state folder.

Rules:
- The hot path is one SHA-256 and one comparison; nobody is looked up in the database.
- A wrong secret and an unknown name get the same answer.
- A right secret is never refused for what others sent from the same address. All refusals of those who have proved
  nothing count, whatever was wrong; after too many only that is said.
- Revocation wins: what was proved is asked again after every wait (`still`).
"""

import logging
import time

from deskgrid.coordinator.coordinator import Coordinator
from deskgrid.coordinator.db.values import Member
from deskgrid.coordinator.problems import RequestRefused
from deskgrid.coordinator.state import membership
from deskgrid.coordinator.state.credentials import Guard, digest, proves

log = logging.getLogger(__name__)

_BEARER = b"Bearer "
OPERATOR = "operator"
_NOBODY = digest("nobody")
_SAID_SECONDS = 60.0


class Authentication:
    """Proves who sends a request."""

    def __init__(self, coordinator: Coordinator, operator_token: str, guard: Guard) -> None:
        self._coordinator, self._guard = coordinator, guard
        self._operator = digest(operator_token)
        self._said_at = -_SAID_SECONDS

    async def desktop(self, header: bytes, address: str) -> Member:
        """Return the desktop. Raises: RequestRefused."""
        name, _, credential = self._secret(header, address).partition(":")
        member = self._coordinator.members.get(name)
        if not proves(credential, member.credential_hash if member else _NOBODY) or member is None:
            raise self.counted(address, _wrong())
        self.still(member)
        if not member.used:
            used = await self._coordinator.recorder.call(lambda c: membership.first_use(c, member))
            if used is not None and self._coordinator.members.get(name) is member:
                self._coordinator.members[name] = used
            self.still(member)
        self._coordinator.whereabouts.note(name, address)
        return member

    def still(self, proved: Member) -> None:
        """Whether who proved itself is a member now, by the same credential. Raises: RequestRefused."""
        member = self._coordinator.members.get(proved.name)
        if member is None or member.credential_hash != proved.credential_hash:
            raise _wrong()
        if member.revoked_at is not None:
            raise RequestRefused(
                403, "desktop-revoked", f"{member.name} was revoked: {member.revoked_reason}; ask the operator."
            )

    def operator(self, header: bytes, address: str) -> None:
        """Let the operator pass. Raises: RequestRefused."""
        if not proves(self._secret(header, address), self._operator):
            raise self.counted(address, _wrong())

    def counted(self, address: str, refusal: RequestRefused) -> RequestRefused:
        """Count a refusal of somebody who has proved nothing. Returns: what to answer."""
        now = time.monotonic()
        if not self._guard.refused(address, now):
            return refusal
        if now - self._said_at >= _SAID_SECONDS:
            self._said_at = now
            log.warning("authentication: many refusals for %s, the last one %s", address, refusal.code)
        return RequestRefused(429, "too-many-failures", "Too many refusals for this address; wait a minute.")

    def _secret(self, header: bytes, address: str) -> str:
        if not header.startswith(_BEARER):
            sentence = "This request needs 'Authorization: Bearer …'; enrol this desktop first."
            raise self.counted(address, RequestRefused(401, "no-credential", sentence))
        return header[len(_BEARER) :].decode("latin-1").strip()


def _wrong() -> RequestRefused:
    return RequestRefused(
        401, "credential-wrong", "The credential is not right; enrol again with a token of the operator."
    )
