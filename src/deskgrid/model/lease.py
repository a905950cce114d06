"""A lease: the coordinator's permission to one agent to run one VM of one image until a time."""

from typing import Annotated

import msgspec

from deskgrid.model.image import ImageRef
from deskgrid.model.reason import Reason
from deskgrid.model.values.moment import Moment, check_moments
from deskgrid.model.values.names import Name


class Size(msgspec.Struct, frozen=True, order=True):
    """How large a VM is: virtual CPUs and memory in bytes."""

    cpus: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    memory_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 50)]

    @property
    def odd(self) -> bool:
        """Whether no machine is of such a size: less than nothing, or more than can be."""
        return not (1 <= self.cpus <= 4096 and 1 <= self.memory_bytes <= 1 << 50)


class Lease(msgspec.Struct, frozen=True):
    """Permission to run one VM.

    vm_id: unique for ever; goes with the VM from demand to its end (`deskgrid story VM_ID`).
    desktop: the desktop's name. until: end of the permission (aware UTC); renewed by later answers.
    granted_at: when the plan gave it. reason: why this desktop and this image.
    """

    vm_id: Name
    desktop: Name
    image: ImageRef
    size: Size
    granted_at: Moment
    until: Moment
    reason: Reason

    def __post_init__(self) -> None:
        check_moments(self.granted_at, self.until)
