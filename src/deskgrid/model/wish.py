"""What the owner of a desktop asks of the grid: never more than the policy allows, always less if they like."""

from enum import StrEnum

import msgspec

from deskgrid.model.values.moment import Moment, check_moments


class Ask(StrEnum):
    """What can be asked."""

    PAUSE = "pause"  # nothing runs: running VMs leave as if the owner had come back
    FINISH = "finish"  # no new VM starts; those that run may end their work
    RESUME = "resume"  # take either back


class Wish(msgspec.Struct, frozen=True):
    """One wish, as it was said. by: the account that said it. until: when it ends by itself; None: when taken back."""

    ask: Ask
    by: str
    at: Moment
    until: Moment | None = None

    def __post_init__(self) -> None:
        check_moments(self.at, self.until)
