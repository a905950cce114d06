"""`deskgrid pool`: HTCondor's side, on an existing pool or embedded."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from deskgrid.cli.output import CommandFailed, Exit, progress, show_json, tell
from deskgrid.host.system.paths import cache_folder
from deskgrid.host.trees import trees
from deskgrid.pool.config import PoolSettings, dropins, install
from deskgrid.pool.contract import PoolRefused
from deskgrid.pool.doctor import PROBE_OFTEN, must_be_fit, probe_seconds, too_late, too_short
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.pool.embedded.place import job_folders
from deskgrid.pool.embedded.pool import EmbeddedPool
from deskgrid.pool.tools.reach import Reach

app = typer.Typer(help="HTCondor's side: configure an existing pool, or run an embedded one.", no_args_is_help=True)

Folder = Annotated[Path | None, typer.Option("--run", help="The embedded pool's folder.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def configure(
    output: Annotated[Path, typer.Option("--output", help="HTCondor's configuration folder.")] = Path(
        "/etc/condor/config.d"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, write nothing.")] = False,
    trust_domain: Annotated[str, typer.Option(help="HTCondor's TRUST_DOMAIN of this pool.")] = "deskgrid",
    key: Annotated[str, typer.Option(help="Name of the signing key for the tokens of VMs.")] = "deskgrid",
    lease_seconds: Annotated[
        int, typer.Option(help="How long a job and its VM wait for each other, over a pause or a restart.")
    ] = PoolSettings().lease_seconds,
    ended: Annotated[str, typer.Option(help="The coordinator's file of VMs that have ended.")] = PoolSettings().ended,
    as_json: Json = False,
) -> None:
    """Write configuration drop-ins for the central manager and submit servers of an existing pool.

    A pool whose collector or negotiator is of a version that can't work with it is refused.
    """
    try:
        files = dropins(PoolSettings(trust_domain, key, lease_seconds, ended=ended))
    except ValueError as error:
        raise CommandFailed(Exit.WRONG, str(error)) from None
    try:
        must_be_fit(Reach(timeout_seconds=10))
    except PoolRefused as error:
        raise CommandFailed(Exit.REFUSED, str(error)) from None
    if as_json:
        show_json([{"path": str(output / file.path), "why": file.why, "text": file.text} for file in files])
    tells = _silent if as_json else tell
    if dry_run:
        for file in files:
            tells(f"# ---- {output / file.path}\n{file.text}")
        return
    try:
        changed = install(files, output)
    except OSError as error:
        raise CommandFailed(
            Exit.REFUSED, f"{error.filename}: {error.strerror}; run as root or choose --output"
        ) from None
    if (short := too_short(lease_seconds)) is not None:
        tells(short)
    if (late := too_late(probe_seconds() or 0)) is not None:
        tells(f"{late} As root: {'; '.join(PROBE_OFTEN)}")
    for path in changed:
        tells(f"written {path}")
    tells("Run condor_reconfig on the central manager and the submit servers." if changed else "Nothing to change.")


def _silent(_: str) -> None:
    """Say nothing: a program reads what is printed."""


@app.command()
def start(
    run: Folder = None,
    port: Annotated[int, typer.Option(help="Port of everything; 0: the one it had, or a free one.")] = 0,
    bind: Annotated[
        list[Path] | None,
        typer.Option("--bind", help="A folder for jobs. Repeatable. Default: your home and this one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start an embedded pool: central manager and submit server, on this machine only, without root."""
    tree = provide_tree()
    pool = EmbeddedPool.start(tree, _folder(run), HeadSettings(port=port), job_folders(tree, bind))
    _describe(pool, as_json)


@app.command()
def stop(run: Folder = None) -> None:
    """Stop the embedded pool."""
    pool = find_pool(run)
    pool.stop()
    tell("stopped")


@app.command()
def status(run: Folder = None, as_json: Json = False) -> None:
    """Say where the embedded pool is and which of its daemons run."""
    _describe(find_pool(run), as_json)


@app.command(context_settings={"ignore_unknown_options": True})
def tool(
    argv: Annotated[list[str], typer.Argument(help="Such as: condor_q -all")],
    run: Folder = None,
) -> None:
    """Run one of HTCondor's programs against the embedded pool, such as `deskgrid pool tool condor_q`.

    It works in this folder if HTCondor sees it, and else in a folder of the pool's.
    """
    pool = find_pool(run)
    here = Path.cwd()
    if not pool.sees(here):
        if named := next((word for word in argv[1:] if not word.startswith(("-", "/")) and Path(word).exists()), None):
            seen = ", ".join(map(str, pool.binds)) or "none of yours"
            raise CommandFailed(
                Exit.WRONG,
                f"{named} in {here}: HTCondor sees other folders only ({seen}); go there, or start the pool "
                f"with `deskgrid pool start --bind {here}`",
            )
        here = pool.jobs
    finished = pool.command(argv, cwd=here, timeout_seconds=60)
    tell((finished.stdout + finished.stderr).rstrip(), soft_wrap=True)
    raise typer.Exit(finished.code if finished.code >= 0 else Exit.NO)


def provide_tree() -> trees.Tree:
    """The root tree that holds HTCondor, built with a progress bar if it is not in the cache."""
    found = trees.find()
    if found is not None:
        return found
    with progress() as bar:
        task = bar.add_task("Debian root tree with HTCondor", total=1.0)
        return trees.provide(progress=lambda part, text: bar.update(task, completed=part, description=text))


def _inline(table: dict[str, object]) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"


def _folder(run: Path | None) -> Path:
    return run or cache_folder() / "pool"


def find_pool(run: Path | None) -> EmbeddedPool:
    """The embedded pool that runs. Raises: CommandFailed."""
    tree = trees.find()
    pool = EmbeddedPool.find(tree, _folder(run)) if tree else None
    if pool is None:
        raise CommandFailed(
            Exit.ABSENT, f"no embedded pool runs in {_folder(run)}; start one with `deskgrid pool start`"
        )
    return pool


def _describe(pool: EmbeddedPool, as_json: bool) -> None:
    daemons = pool.daemon_pids()
    reach = {key: value for key, value in msgspec.to_builtins(pool.reach()).items() if value not in (None, "")}
    facts = {
        "collector": pool.collector,
        "guest_collector": pool.guest_collector,
        "run": str(pool.folders.run),
        "daemons": daemons,
        "reach": reach,
    }
    if as_json:
        show_json(facts)
        return
    tell(f"collector {pool.collector} (guests see {pool.guest_collector}), folder {pool.folders.run}")
    tell("running: " + ", ".join(f"{name} ({pid})" for name, pid in sorted(daemons.items())))
    tell("try: deskgrid pool tool condor_status -any\n\nfor coordinator.toml:\n\n[guest]")
    tell(f'collector = "{pool.guest_collector}"\ntrust_domain = "{pool.state.trust_domain}"\n\n[pool]')
    for key, value in reach.items():
        tell(f"{key} = {json.dumps(value)}" if not isinstance(value, dict) else f"{key} = {_inline(value)}")
