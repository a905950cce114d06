"""Run the benchmarks, write build/bench.json, print the table.

    python -m bench                       everything, less than 30 minutes (45 when images must be built and packed)
    python -m bench owner rest            some of: owner, demo, reports, rest, images, killed, canaries, memory, beside
    python -m bench --short memory        few runs of it, to try it
    python -m bench --minutes 15          what fits into so much time; what is left out is said before it begins

Exit code 0: measured; 1: something failed, and its figures say why.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import beside, canaries, demos, images, killed, memory, owner, reports, rest
from bench.figure import ELSEWHERE, Figure, complete, encode, missing, reached, spread, text
from bench.ground import ground
from bench.machine import QUIET_PERCENT, CannotMeasure, await_quiet
from bench.schedule import Part, fit
from deskgrid.cli.demo import RECIPE
from deskgrid.cli.grid.pool import provide_tree
from deskgrid.cli.image.image import build_with_bar
from deskgrid.demo.cast import DemoError
from deskgrid.host.system.files import write_atomic
from deskgrid.pool.embedded.pool import EmbeddedError

MINUTES, FIRST_MINUTES = 30.0, 45.0
FRESH = ("make_demo_fresh_s", "make_demo_again_s", "make_test_s")
PARTS = (
    Part("owner", owner.NAMES, owner.run, {"pauses": 5, "ends": 1, "stubborn": 1}, 240),
    Part("demo", demos.NAMES, demos.run, {"runs": 1}, 300),
    Part("reports", reports.NAMES, reports.run, {"seconds": 3.0, "times": 1, "updates": 400}, 90),
    Part("rest", rest.NAMES, rest.run, {"seconds": 10.0, "settle_seconds": 2.0}, 360),
    Part("images", images.NAMES, images.run, {"boots": 1, "small": True}, 240, 600),
    Part("killed", killed.NAMES, killed.run, {"kills": 1, "disk_mib": 64}, 120),
    Part("canaries", canaries.NAMES, canaries.run, {"victims": ("serve",)}, 120),
    Part("memory", memory.NAMES, memory.run, {"count": 1, "memory_mib": 512}, 150),
    Part("beside", beside.NAMES, beside.run, {"with_vm": 1, "with_agent": 1, "turn_seconds": 1.0}, 180),
)
"""In the order in which they are measured; what does not fit into the time is left out from the end."""
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def main() -> int:
    """Measure what is asked for. Returns: the exit code."""
    asked = _arguments()
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f} s  {line}", markup=False, soft_wrap=True)

    def tell(part: str, line: str) -> None:
        say(f"{part:<8} {line}")

    signal.signal(signal.SIGTERM, _interrupt)
    first = not images.built_before()
    limit = 60 * (asked.minutes or (FIRST_MINUTES if first else MINUTES))
    wanted = [part for part in PARTS if part.name in asked.only]
    schedule = fit(wanted, None if asked.short else limit, first)
    say(schedule.told)
    tree, image = provide_tree(), build_with_bar(RECIPE)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    figures = [missing(name, ELSEWHERE) for name in FRESH]
    figures += [missing(name, f"left out: {why}") for part, why in schedule.left_out for name in part.names]
    failed = False
    for part in schedule.taken:
        if not asked.short and time.monotonic() - began + part.seconds > limit:
            say(f"{part.name}: no time is left for it")
            figures += [missing(name, "no time was left for it") for name in part.names]
            continue
        load = await_quiet(asked.wait_quiet, say)
        try:
            with ground(tree, image, partial(tell, part.name), asked.output.parent) as place:
                figures += part.run(place, load, **(part.short if asked.short else {}))
        except (CannotMeasure, DemoError, EmbeddedError) as error:
            figures += [missing(name, str(error), load) for name in part.names]
        except Exception as error:
            failed = True
            say(f"{part.name}: {type(error).__name__}: {error}")
            figures += [missing(name, f"it failed: {error}", load) for name in part.names]
        write_atomic(asked.output, encode(complete(figures)))
    whole = complete(figures)
    write_atomic(asked.output, encode(whole))
    _show(whole)
    console.print(f"figures in {asked.output}, after {(time.monotonic() - began) / 60:.0f} minutes", markup=False)
    return int(failed)


def _arguments() -> argparse.Namespace:
    parts = [part.name for part in PARTS]
    parser = argparse.ArgumentParser("python -m bench", description="Measure deskgrid on real parts.")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"), help="where the figures go")
    parser.add_argument("--minutes", type=float, help="take no longer; what does not fit is left out, and that is said")
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(parts)}; all if none is named")
    parser.add_argument("--only", type=_some_of(parts), help="the same, with commas")
    parser.add_argument("--short", action="store_true", help="few runs of each: figures to try it, not to keep")
    parser.add_argument("--wait-quiet", type=float, default=30.0, help="wait so many seconds for a quiet machine")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.parts) - set(parts)):
        parser.error(f"got {', '.join(unknown)}, expected some of {', '.join(parts)}")
    asked.only = asked.only or asked.parts or parts
    return asked


def _some_of(parts: list[str]) -> Callable[[str], list[str]]:
    def read(words: str) -> list[str]:
        chosen = words.split(",")
        if not set(chosen) <= set(parts):
            raise argparse.ArgumentTypeError(f"got {words!r}, expected some of {','.join(parts)}")
        return chosen

    return read


def _show(figures: tuple[Figure, ...]) -> None:
    columns = ("figure", "measured", "unit", "goal", "", "runs", "peer's", "others' load")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for each in figures:
        met = reached(each.goal, each.value, each.peer_value)
        table.add_row(
            each.name,
            "–" if each.value is None else text(each.value),
            each.unit,
            each.goal,
            "" if met is None else "reached" if met else "[bold]missed[/bold]",
            spread(each.runs),
            text(each.peer_value),
            "" if each.load is None else f"{each.load.busy_percent:.0f} %",
        )
    console.print(table)
    for each in figures:
        peer = f"peer: {each.peer}" if each.peer_value is not None else ""
        told = "; ".join(word for word in (each.reason, peer, each.note) if word)
        if told:
            console.print(f"{each.name}: {told}", markup=False, soft_wrap=True)
    loads = [each.load.busy_percent for each in figures if each.load is not None]
    if loads and max(loads) > QUIET_PERCENT:
        told = f"Others used up to {max(loads):.0f} % of this machine just before: measure again when it is quiet."
        console.print(told, soft_wrap=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
