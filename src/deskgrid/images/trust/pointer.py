"""`latest.json`: which version of an image is the latest, and why it never goes backwards by accident.

Rules:
- Each pointer has a serial that counts up. A serial that was seen with other content, or a lower one, is refused.
- The version's number never goes down, unless the pointer was signed as a step back. Later pointers go on naming the
  serial of that step, so that a desktop that missed it accepts what followed. What is named so can only be the step
  that was known, or one since.
"""

import msgspec

from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.values import Pointer
from deskgrid.model.values.outside import read_json


def next_pointer(before: Pointer | None, version: str, number: int, back: bool = False) -> Pointer:
    """The pointer that follows. back: the step to an older version is meant. Raises: TrustError when it isn't."""
    if before is None:
        return Pointer(version, number, 1)
    serial = before.serial + 1
    if number < before.number and not back:
        raise TrustError(
            Duty.REQUEST,
            "backwards",
            f"latest: got version {version} (number {number}), expected one after {before.version} (number "
            f"{before.number}); say so explicitly if the step back is meant",
        )
    return Pointer(version, number, serial, serial if number < before.number else before.back_at)


def check_pointer(where: str, seen: Pointer | None, found: Pointer) -> None:
    """Raises: TrustError when `found` may not follow what was seen before."""
    if seen is None or found == seen:
        return
    if found.serial <= seen.serial:
        raise TrustError(
            Duty.REPOSITORY,
            "pointer-rolled-back",
            f"pointer {where}: got serial {found.serial}, expected one after {seen.serial}, which was seen before; "
            "somebody serves an old pointer: tell the grid's administrators",
        )
    if found.number < seen.number and found.back_at <= seen.serial:
        raise TrustError(
            Duty.SIGNERS,
            "backwards",
            f"pointer {where}: got version {found.version} (number {found.number}), expected one after {seen.version} "
            f"(number {seen.number}); nobody signed a step back: researcher and approver must sign it as one",
        )
    if found.back_at != seen.back_at and not seen.serial < found.back_at:
        raise TrustError(
            Duty.SIGNERS,
            "bad-pointer",
            f"pointer {where}: got a step back at serial {found.back_at}, expected {seen.back_at} as before, or one "
            f"after serial {seen.serial}; it was not made by deskgrid: sign a new one",
        )


def steps_back(before: Pointer | None, after: Pointer) -> bool:
    """Whether desktops that follow `before` could come to an older version by `after`, or by what it says of a step."""
    if before is None:
        return after.back_at > 0
    return after.back_at != before.back_at or after.number < before.number


def decode(where: str, content: bytes) -> Pointer:
    """Read a pointer. Raises: TrustError."""
    try:
        found = read_json(content, type=Pointer)
        if found.back_at > found.serial:
            raise msgspec.ValidationError(f"got a step back at serial {found.back_at}, after its own {found.serial}")
    except msgspec.DecodeError as error:
        raise TrustError(
            Duty.SIGNERS, "bad-pointer", f"pointer {where}: {error}; it was not made by deskgrid: sign a new one"
        ) from None
    return found
