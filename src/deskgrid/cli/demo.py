"""`deskgrid demo`: the main job on real parts."""

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.desktop.doctor import missing_for_demo
from deskgrid.cli.grid.pool import provide_tree
from deskgrid.cli.image.image import build_with_bar
from deskgrid.cli.image.store import tried
from deskgrid.cli.output import CommandFailed, Exit, show, tell
from deskgrid.demo import figures as figuring
from deskgrid.demo.cast import Cast, DemoError
from deskgrid.demo.jobs import JOBS
from deskgrid.demo.play import Play
from deskgrid.demo.stage import Stage
from deskgrid.images.publish.publish import source_of

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
RECIPE = Path(__file__).parents[1] / "recipes/demo.toml"


def demo(
    output: Annotated[Path, typer.Option("--output", help="Where the figures go.")] = Path("build/demo.json"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the logs of all parts, and say where.")] = False,
) -> None:
    """Show the main job: two idle desktops, three jobs, one owner who comes back. All parts are real."""
    started = time.monotonic()
    for line in missing_for_demo():
        raise CommandFailed(Exit.NO, line)
    tree = provide_tree()
    image = build_with_bar(RECIPE)
    _take_signals()
    tried(source_of(image.folder), None, True, tell)
    prepared = time.monotonic()

    def say(who: str, what: str) -> None:
        tell(f"{time.monotonic() - prepared:7.1f} s  {who:<12} {what}")

    cast = Cast(keep)
    play: Play | None = None
    try:
        stage = Stage(cast, tree, image.folder)
        say("demo", "signing the image; starting HTCondor, the coordinator and two agents")
        stage.set()
        play = Play(stage, say)
        play.run()
        _end(play, prepared - started, time.monotonic() - started, output)
    except DemoError as error:
        if play is not None:
            play.figures.faults.append(str(error))
            figuring.write(play.figures, output)
        keep_hint = f"; logs are in {cast.folder}" if keep else "; run `deskgrid demo --keep` to keep the logs"
        raise CommandFailed(Exit.NO, f"{error}{keep_hint}") from None
    finally:
        _ignore_signals()
        tell("putting everything away")
        cast.close()
    if play.figures.faults:
        raise CommandFailed(Exit.NO, "; ".join(play.figures.faults))


def _end(play: Play, prepare_seconds: float, total_seconds: float, output: Path) -> None:
    play.figures.prepare_s, play.figures.total_s = round(prepare_seconds, 1), round(total_seconds, 1)
    for job in JOBS:
        tell(f"\noutput of job {play.ids[job.key]} ({job.key}):", style="bold")
        tell(play.output(job).rstrip() or "(nothing)")
    tell("")
    show(play.figures, False, ("figure", "measured", "goal"), figuring.rows(play.figures))
    figuring.write(play.figures, output)
    tell(f"figures in {output}")


def _take_signals() -> None:
    """Ctrl-C and SIGTERM put everything away, once: an impatient second one does not leave half running."""

    def interrupt(number: int, frame: object) -> None:
        _ignore_signals()
        raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, interrupt)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
