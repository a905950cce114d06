"""What the demo measured: to build/demo.json, and as a table with the goals beside."""

from pathlib import Path

import msgspec

from deskgrid.host.system.files import write_atomic


class Figures(msgspec.Struct, omit_defaults=False):
    """The figures of one run; None: not measured.

    submit_to_order_s: from condor_submit of a job that names the image until a desktop was told to start.
    start_to_join_s: from the start of the first QEMU until its startd was in the collector.
    owner_to_pause_ms: from the owner's return until all CPUs of the VM stood still.
    owner_to_gone_ms: from the owner's return until the QEMU process had ended, its memory back.
    evict_to_idle_s: from the owner's return until HTCondor showed the job idle again.
    evict_to_rerun_s: from the owner's return until the job ran again on another desktop.
    idle_to_rerun_s: from when HTCondor showed the job idle again until it ran there.
    join_to_job_s: from when the first startd was in the collector until the first job ran.
    """

    submit_to_order_s: float | None = None
    start_to_join_s: float | None = None
    owner_to_pause_ms: float | None = None
    owner_to_gone_ms: float | None = None
    evict_to_idle_s: float | None = None
    evict_to_rerun_s: float | None = None
    idle_to_rerun_s: float | None = None
    join_to_job_s: float | None = None
    accelerator: str = ""
    jobs_done: int = 0
    total_s: float = 0.0
    prepare_s: float = 0.0
    faults: list[str] = []


GOALS = {
    "submit_to_order_s": "< 15",
    "start_to_join_s": "< 40",
    "owner_to_pause_ms": "< 250",
    "owner_to_gone_ms": "< 3000",
    "evict_to_idle_s": "< 3",
    "evict_to_rerun_s": "",
    "idle_to_rerun_s": "< 10",
    "join_to_job_s": "< 5",
    "accelerator": "",
    "jobs_done": "3",
    "total_s": "",
    "prepare_s": "",
}


def rows(figures: Figures) -> list[tuple[str, str, str]]:
    """Name, value and goal of each figure, for a table."""
    values = msgspec.structs.asdict(figures)
    return [(name, _text(values[name]), goal) for name, goal in GOALS.items()]


def write(figures: Figures, path: Path) -> None:
    """Write the figures as JSON. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


def _text(value: object) -> str:
    if value is None:
        return "not measured"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
