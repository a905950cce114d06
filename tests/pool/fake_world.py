"""What the fake pool is made of: jobs, machines, and the faults that it can have."""

from datetime import datetime

import msgspec

IDLE, RUNNING, REMOVED, COMPLETED = 1, 2, 3, 4

Group = tuple[str | None, int, int]
"""What makes jobs the same to the negotiator: image, cores, memory in MiB."""


class FakeJob(msgspec.Struct):
    """One job in the fake's queue. run_seconds: how long it must run in one piece; None: until it is ended."""

    id: str
    vm_name: str | None
    cpus: int
    memory_mb: int
    run_seconds: float | None
    status: int = IDLE
    vm_id: str | None = None
    last_vm: str | None = None
    started_at: datetime | None = None
    matched_at: datetime | None = None
    starts: int = 0

    @property
    def group(self) -> Group:
        """What makes it the same as others to the negotiator."""
        return self.vm_name, self.cpus, self.memory_mb


class FakeSlot(msgspec.Struct):
    """A machine of ours. silent_since: it died without a word then. forgotten: its ads are out of the collector."""

    vm_id: str
    image: str
    desktop: str
    cpus: int
    memory_mb: int
    joined_at: datetime
    jobs: dict[str, FakeJob] = {}
    silent_since: datetime | None = None
    forgotten: bool = False

    def has_room(self, task: FakeJob) -> bool:
        """Whether the job fits in beside those that run."""
        return (
            task.vm_name in (None, self.image)
            and task.cpus <= self.cpus - sum(job.cpus for job in self.jobs.values())
            and task.memory_mb <= self.memory_mb - sum(job.memory_mb for job in self.jobs.values())
        )


class Faults(msgspec.Struct):
    """What goes wrong at present. unreachable: no daemon answers. schedd_down: idle jobs are unknown."""

    unreachable: bool = False
    schedd_down: bool = False
    refused: bool = False
