"""What is ordered for a VM: one class each, from the table of `core/desktop/vm.py` to its keeper."""

from typing import TypeAlias

import msgspec

from deskgrid.model.lease import Lease


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """Get its image, and ask whether it may start. Comes back: Fetched or FetchFailed."""

    lease: Lease


class CancelFetch(msgspec.Struct, frozen=True, tag="cancel-fetch"):
    """Its image is not needed any more; what was fetched stays in the store for the next time."""


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Start it. Comes back: Started, then Alive and Joined; or StartFailed."""

    lease: Lease


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Stop its processors; memory is kept. Comes back: Paused."""


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Let its processors go on."""


class Vacate(msgspec.Struct, frozen=True, tag="vacate"):
    """Let it run confined while the guest ends its jobs fast. Comes back: GuestLeft."""


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """End it now. Comes back: Gone."""


class Renew(msgspec.Struct, frozen=True, tag="renew"):
    """Give its guest a pool token that is valid for longer. SECRET. May come again with the same token."""

    token: str

    def __repr__(self) -> str:
        return "Renew(token=<secret>)"


class Prove(msgspec.Struct, frozen=True, tag="prove"):
    """A guest has lived on this accelerator: remember it."""

    accelerator: str


class Distrust(msgspec.Struct, frozen=True, tag="distrust"):
    """This accelerator shows no sign of life: do not use it again here."""

    accelerator: str


ToVm: TypeAlias = Pause | Resume | Vacate | Kill | Renew
"""What a hypervisor's driver passes on to the VM as it is."""
Command: TypeAlias = Fetch | CancelFetch | Start | Prove | Distrust | ToVm
