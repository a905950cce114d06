"""No answer without a reason: what every decision returns beside its yes or no."""

import msgspec

from deskgrid.model.values.moment import Moment, check_moments


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something was decided.

    name: stable, machine-readable, kebab-case; scripts and tests may rely on it.
    sentence: one sentence for the person concerned.
    reading: the value that caused it, as text ("idle 12 s of 300 s").
    until: when it is expected to end, if that can be known (aware UTC).
    """

    name: str
    sentence: str
    reading: str = ""
    until: Moment | None = None

    def __post_init__(self) -> None:
        check_moments(self.until)
