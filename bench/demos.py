"""The demo, several times: the figures that it writes itself, taken together."""

import subprocess
import sys
from pathlib import Path

import msgspec

from bench.figure import Figure, Load, measured, missing
from bench.ground import Ground
from deskgrid.demo.figures import Figures

NAMES = (
    *("submit_to_order_s", "start_to_join_s", "owner_to_pause_ms", "owner_to_gone_ms", "evict_to_idle_s"),
    *("idle_to_rerun_s", "join_to_job_s"),
)
_MOST_SECONDS = 600.0


def run(ground: Ground, load: Load, runs: int = 3) -> list[Figure]:
    """Run the demo so often; a demo that failed counts with what it had measured."""
    found, faults = [], []
    for number in range(1, runs + 1):
        ground.say(f"demo {number} of {runs}, its output in {ground.output}/demo-{number}.log")
        figures, fault = _once(ground.output, number)
        if figures is not None:
            found.append(figures)
        if fault:
            faults.append(fault)
            ground.say(f"demo {number}: {fault}")
    return together(found, faults, load)


def together(found: list[Figures], faults: list[str], load: Load) -> list[Figure]:
    """The medians over the demos."""
    accelerators = ", ".join(sorted({each.accelerator for each in found if each.accelerator}))
    note = f"demo on {accelerators}" if accelerators else "demo"
    if faults:
        note += f"; {len(faults)} failed: {faults[0]}"
    figures = []
    for name in NAMES:
        runs = [value for each in found if (value := getattr(each, name)) is not None]
        if runs:
            figures.append(measured(name, runs, note=note, load=load))
        else:
            figures.append(missing(name, faults[0] if faults else "the demo did not tell", load))
    return figures


def _once(folder: Path, number: int) -> tuple[Figures | None, str]:
    output = folder / f"demo-{number}.json"
    output.unlink(missing_ok=True)
    with (folder / f"demo-{number}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deskgrid", "demo", "--output", str(output)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it once, by us: a second signal would disturb its putting away
        )
        fault = _await(process)
    try:
        figures = msgspec.json.decode(output.read_bytes(), type=Figures)
    except (OSError, msgspec.DecodeError) as error:
        return None, fault or f"{output}: {error}"
    return figures, "; ".join(figures.faults) or fault


def _await(process: "subprocess.Popen[bytes]") -> str:
    """Wait for a demo's end; it puts itself away on SIGTERM. Returns: what was wrong."""
    try:
        code = process.wait(_MOST_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(60)
        return f"the demo did not end in {_MOST_SECONDS:.0f} s"
    except BaseException:
        process.terminate()
        process.wait(60)
        raise
    return f"the demo ended with code {code}" if code else ""
