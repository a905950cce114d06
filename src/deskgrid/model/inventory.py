"""What a desktop is made of, as its doctor found it: small, for programs, and the same for a whole fleet."""

from enum import StrEnum
from typing import Annotated

import msgspec

from deskgrid.model.values.names import Name
from deskgrid.model.values.numbers import Bytes, Cpus

Text = Annotated[str, msgspec.Meta(max_length=240)]


class Virtualisation(StrEnum):
    """What is known of the processor's hardware virtualisation."""

    ON = "on"
    OFF = "off-in-firmware"
    ABSENT = "absent"  # the processor has none
    HIDDEN = "hidden"  # this computer is a virtual one, and its hypervisor hides it
    HELD = "held"  # on, but another hypervisor holds it
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """What a trial of an accelerator has proved."""

    WORKS = "works"
    SLOW = "slow"  # guests run, but slower than under software emulation
    HANGS = "hangs"
    FAILS = "fails"


class Trial(msgspec.Struct, frozen=True):
    """One accelerator, tried with a guest of our own. milliseconds: until the guest ended, or was ended."""

    accelerator: Name
    verdict: Verdict
    milliseconds: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]
    sentence: Text = ""


class Inventory(msgspec.Struct, frozen=True, omit_defaults=True):
    """One desktop.

    system, kernel: names with versions. processor: its model. hypervised: this computer is itself a virtual one.
    trials: of accelerators. qemu, virtualbox: versions, empty: not there. maker, product: of the computer; firmware:
    its maker's name and version. problems: stable names of what its doctor does not like.
    """

    system: Text = ""
    kernel: Text = ""
    processor: Text = ""
    cpus: Cpus = 0
    memory_bytes: Bytes = 0
    disk_free_gib: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)] = 0
    virtualisation: Virtualisation = Virtualisation.UNKNOWN
    hypervised: bool = False
    trials: tuple[Trial, ...] = ()
    qemu: Text = ""
    virtualbox: Text = ""
    maker: Text = ""
    product: Text = ""
    firmware: Text = ""
    problems: tuple[Name, ...] = ()

    @property
    def proven(self) -> tuple[str, ...]:
        """The accelerators on which a guest ran as it should."""
        return tuple(trial.accelerator for trial in self.trials if trial.verdict is Verdict.WORKS)
