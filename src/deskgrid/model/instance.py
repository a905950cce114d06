"""Instance data: what one VM must know to become a member of the pool.

Holds a secret: never logged, never on a disk.
"""

from typing import Annotated

import msgspec

from deskgrid.model.values.names import Name
from deskgrid.model.values.numbers import Cpus


class InstanceData(msgspec.Struct, frozen=True):
    """Given to a guest over its second serial port, and to nobody else.

    vm_id: the id that goes with the VM from demand to its end.
    vm_name: the image's name, as jobs ask for it.
    desktop: the desktop's name, advertised in the slot.
    collector: "host:port" of the pool's collector as seen from the guest.
    token: an IDTOKEN that can advertise a startd and read, for a limited time. SECRET.
    trust_domain: HTCondor's TRUST_DOMAIN of the pool.
    cpus, memory_mb: what the startd offers (memory in MiB).
    unused_seconds: a machine without a claim for this time leaves by itself.
    trial: this is the boot before an image is published: the guest says what its slot's ad says before it leaves.
    """

    vm_id: Name
    vm_name: Name
    desktop: Name
    collector: str
    token: str
    trust_domain: str
    cpus: Cpus
    memory_mb: Annotated[int, msgspec.Meta(ge=0, le=1 << 26)]
    unused_seconds: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] = 600
    trial: bool = False

    def __repr__(self) -> str:
        return f"InstanceData(vm_id={self.vm_id!r}, vm_name={self.vm_name!r}, token=<secret>)"
