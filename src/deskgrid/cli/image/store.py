"""`deskgrid image publish` and `deskgrid image store`: images in encrypted chunks, and the desktop's store of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from deskgrid.cli.connect import Json
from deskgrid.cli.output import CommandFailed, Exit, progress, show, show_json, size, tell
from deskgrid.images.build.listing import inspect
from deskgrid.images.contract import ImageError
from deskgrid.model.values.outside import read_json
from deskgrid.model.values.text import counted

if TYPE_CHECKING:
    from deskgrid.images.publish.publish import Publication

app = typer.Typer(help="The desktop's store of encrypted chunks.", no_args_is_help=True)
Store = Annotated[Path, typer.Argument(help="The store's folder.")]
Budget = Annotated[int, typer.Option("--budget", help="The most that it may take, in MiB.")]
Floor = Annotated[int, typer.Option("--floor", help="So many MiB of the disk stay free.")]


def publish(
    folder: Annotated[Path, typer.Argument(help="The image's folder, as `image build` made it.")],
    to: Annotated[Path, typer.Argument(help="The folder that a web server serves.")],
    project: Annotated[str, typer.Option("--project", help="The project whose key encrypts it.")],
    version: Annotated[str, typer.Option("--version", help="The version; it never changes once it is published.")],
    key_file: Annotated[Path, typer.Option("--key", help="File with the project's key, mode 600.")],
    new_key: Annotated[bool, typer.Option("--new-key", help="Make the key file.")] = False,
    first_reads: Annotated[
        Path | None, typer.Option("--first-reads", help="JSON list of offsets that a boot reads, in order.")
    ] = None,
    trial: Annotated[
        bool | None,
        typer.Option(
            "--trial/--no-trial",
            help="Boot the image once, to learn what a boot reads first and what its machines say of themselves to "
            "HTCondor; unsaid: once, where QEMU is installed.",
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="Where the manifest to be signed goes; beside the image if not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish an image in encrypted chunks. It goes on where an interrupted publication stopped."""
    from deskgrid.host.system.files import write_atomic
    from deskgrid.images.format.keys import ProjectKey, make_key, read_key
    from deskgrid.images.format.published import digest, encode
    from deskgrid.images.publish.publish import publish as publish_image
    from deskgrid.images.publish.publish import source_of
    from deskgrid.images.trust.signing.covered import words_of

    one = inspect(folder)
    assert one.manifest is not None
    where = folder.resolve()
    key = ProjectKey(make_key(key_file) if new_key else read_key(key_file))
    source = source_of(where, _offsets(first_reads))
    source = tried(source, trial, first_reads is None, (lambda sentence: None) if as_json else tell)
    with progress() as bar:
        task = bar.add_task(f"{project}/{one.ref.name} {version}", total=1.0, visible=not as_json)
        made = publish_image(
            source, to, (project, one.ref.name, version), key, lambda part: bar.update(task, completed=part)
        )
    content = encode(made.manifest)  # not what lies in the folder now: others may write there
    own = manifest or where / f"{project}-{version}.manifest.json"
    try:
        write_atomic(own, content)
    except OSError as error:
        raise ImageError(
            f"manifest {own}: can't be written: {error.strerror}; say with --manifest where it may go"
        ) from None
    if as_json:
        facts = {
            name: getattr(made, name) for name in ("raw_bytes", "new_bytes", "new_packs", "new_chunks", "wrong_chunks")
        }
        show_json({"manifest": str(own), "sha256": digest(content), **facts})
        return
    tell(
        f"{project}/{one.ref.name} {version}: {size(made.raw_bytes)} of content, {size(made.new_bytes)} of it new, in "
        f"{counted(made.new_packs, 'pack')}"
    )
    if made.wrong_chunks:
        tell(
            f"stored anew: {counted(made.wrong_chunks, 'chunk')} in {to}, found damaged or not what the name says; "
            f"see who may write to that folder, and who has the key of {project}"
        )
    tell(f"to be signed: {own}, SHA-256 {digest(content)}")
    tell(f"in words, for its approver: {words_of(digest(content))}")


@app.command("status")
def status(store: Store, budget: Budget = 20480, floor: Floor = 5120, as_json: Json = False) -> None:
    """Show what a store holds, and what uses it."""
    from deskgrid.images.store import upkeep
    from deskgrid.images.store.store import ChunkStore, StoreLimits

    found = upkeep.status(ChunkStore(_there(store), StoreLimits(budget << 20, floor << 20)))
    rows = [
        (
            f"{one.image.project}/{one.image.name}",
            one.image.version,
            one.image.digest[:12],
            size(one.held_bytes),
            size(one.image.bytes),
            "in use" if one.in_use else "",
        )
        for one in found.images
    ]
    show(found, as_json, ("image", "version", "digest", "held", "whole", ""), rows)
    if not as_json:
        tell(
            f"{size(found.used_bytes)} of {size(found.budget_bytes)} used; the disk has {size(found.free_bytes)} free, "
            f"{size(found.floor_bytes)} of it stay free"
        )


@app.command("verify")
def verify(store: Store, as_json: Json = False) -> None:
    """Read and check all that a store holds; what is damaged is thrown away and fetched again when it is needed."""
    from deskgrid.images.store import upkeep
    from deskgrid.images.store.store import ChunkStore, StoreLimits

    opened = ChunkStore(_there(store), StoreLimits(1 << 62, 0))
    with progress() as bar:
        task = bar.add_task(f"checking {store}", total=1.0, visible=not as_json)
        found = upkeep.verify(opened, lambda part: bar.update(task, completed=part))
    if as_json:
        show_json(found)
    else:
        for fault in found.faults:
            tell(fault)
        tell(f"{counted(found.blobs, 'chunk')} checked, {size(found.bytes)}; {found.damaged} damaged")
    if found.damaged or found.faults:
        raise typer.Exit(Exit.NO)


@app.command("gc")
def gc(store: Store, as_json: Json = False) -> None:
    """Remove what no image needs."""
    from deskgrid.images.store import upkeep
    from deskgrid.images.store.store import ChunkStore, StoreLimits

    done = upkeep.gc(ChunkStore(_there(store), StoreLimits(1 << 62, 0)))
    if as_json:
        show_json(done)
        return
    tell(
        f"{counted(done.packs, 'pack')}, {counted(done.blobs, 'chunk')} and {counted(done.files, 'other file')} "
        f"removed: {size(done.bytes)}"
    )


def tried(source: "Publication", wanted: bool | None, order: bool, say: Callable[[str], None]) -> "Publication":
    """What is published, with what a trial boot tells, made now or kept from before. order: take its first reads."""
    from deskgrid.core.fleet.promise import Promise
    from deskgrid.images.publish import trial, trial_boot

    if wanted is False:
        return source
    folder = source.disk.parent
    reads, promise = trial.kept_reads(folder), trial.kept_promise(folder)
    if wanted or ((not reads or promise is None) and trial_boot.possible()):
        say("booting the image once, to learn what a boot reads first and what its machines say of themselves")
        try:
            told = trial_boot.try_out(source, say)
            reads, promise = told.first_reads, told.promise or Promise()
            trial.keep_reads(folder, reads)
            trial.keep_promise(folder, promise)
        except ImageError as error:
            if wanted:
                raise
            say(f"{error}; it is published without a boot order")
    if promise is None or not promise.says:
        say("its machine did not say what it is: jobs that ask for more than a size will not be matched with it")
    source = msgspec.structs.replace(source, promise=promise or Promise())
    return msgspec.structs.replace(source, first_reads=reads) if order else source


def _there(store: Path) -> Path:
    if not (store / "packs").is_dir():
        raise CommandFailed(Exit.ABSENT, f"store {store}: there is none; give the folder of an agent's store")
    return store


def _offsets(path: Path | None) -> list[int]:
    if path is None:
        return []
    try:
        return read_json(path.read_bytes(), type=list[int])
    except (OSError, msgspec.MsgspecError) as error:
        raise ImageError(f"first reads {path}: {error}; expected a JSON list of offsets") from None
