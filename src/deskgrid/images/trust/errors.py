"""What went wrong with trust, sorted by whose fault it is, in a sentence that says what to do."""

from enum import StrEnum

from deskgrid.images.contract import ImageError
from deskgrid.model import desktop


class Duty(StrEnum):
    """Who has to do something about it."""

    REQUEST = "request"
    """Whoever asked: a wrong name, an image that is not there."""
    SIGNERS = "signers"
    """Researcher, approver or administrators: a signature lacks, or they say different things."""
    REPOSITORY = "repository"
    """Whoever runs the repository, or somebody who poses as it: what it serves is not what was signed, or is old."""
    NETWORK = "network"
    """Nobody in particular: the repository can't be reached or is slow."""
    DESKTOP = "desktop"
    """This computer: its clock, its disk, its files."""


EXPIRED_TIMESTAMP = "expired-timestamp"


class TrustError(ImageError):
    """An image, a key or a piece of metadata is not trusted.

    fault: who has to do something. code: a stable name of what is wrong.
    """

    def __init__(self, fault: Duty, code: str, sentence: str) -> None:
        self.fault, self.code = fault, code
        # Else it is so on every desktop: leave the image alone for a while. The coordinator does not offer what it sees
        # expire: where it offers, this desktop's clock is wrong, or news are held back from it alone.
        here = fault in (Duty.NETWORK, Duty.DESKTOP) or code == EXPIRED_TIMESTAMP
        super().__init__(f"{sentence} [{code}]", desktop.Fault.DESKTOP if here else desktop.Fault.IMAGE)
