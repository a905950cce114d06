"""`deskgrid image`: from a recipe to a bootable disk."""

from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.connect import Json
from deskgrid.cli.image import begin, compare, store
from deskgrid.cli.output import CommandFailed, Exit, progress, show, show_json, show_text, size, tell
from deskgrid.images.build.build import Built, build, images_folder
from deskgrid.images.build.listing import find_image, listed
from deskgrid.images.format import manifest
from deskgrid.model.values.text import counted, plain_json

app = typer.Typer(help="Images: what virtual machines boot from.", no_args_is_help=True)
app.command("init")(begin.init)
app.command("import")(begin.import_disk)
app.command("diff")(compare.diff)
app.command("publish")(store.publish)
app.add_typer(store.app, name="store")
Folder = Annotated[Path | None, typer.Option("--images", help="Folder of images; the cache's if not given.")]


@app.command("build")
def build_image(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build also when it is in the cache.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Build twice from nothing and compare; exit code 1 when not equal.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build the image of a recipe."""
    if verify:
        compare.verify(recipe, as_json)
        return
    built = build_with_bar(recipe, rebuild)
    if as_json:
        show_json(
            {"name": built.ref.name, "digest": built.ref.digest, "folder": str(built.folder), "fresh": built.fresh}
        )
        return
    tell(f"{built.ref.name} {built.ref.digest[:12]} {'built' if built.fresh else 'was built before'}: {built.folder}")
    tell(f"to offer it to jobs, publish and sign it: deskgrid image publish {built.folder} … (docs/trust.md)")


@app.command("list")
def images(folder: Folder = None, as_json: Json = False) -> None:
    """List the images in a folder, also those that can't be used, with the reason."""
    found = listed(folder or images_folder())
    rows = [
        (
            one.ref.name,
            one.ref.digest[:12],
            size(one.manifest.memory_bytes) if one.manifest else "",
            size(one.manifest.disk_bytes) if one.manifest else "",
            size(one.used_bytes),
            one.built_at,
            one.fault or "whole",
        )
        for one in found
    ]
    facts = [
        {"ref": one.ref, "folder": str(one.folder), "used_bytes": one.used_bytes, "fault": one.fault} for one in found
    ]
    show(facts, as_json, ("image", "digest", "memory", "disk", "used", "built", "state"), rows)


@app.command("inspect")
def inspect_image(
    image: Annotated[str, typer.Argument(help="The image's folder, or name or name@digest of one in the cache.")],
    sbom: Annotated[
        bool, typer.Option("--sbom", help="Print its packages with their sums, as a CycloneDX document.")
    ] = False,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Show what is in an image: its recipe, files and packages."""
    one = find_image(image, folder or images_folder())
    assert one.manifest is not None
    if sbom:
        if one.manifest.sbom is None:
            raise CommandFailed(Exit.ABSENT, f"image {image}: it was imported, what packages are in it is not known")
        show_text(plain_json((one.folder / manifest.SBOM).read_text().rstrip()))
        return
    if as_json:
        show_json(one.manifest)
        return
    held = one.manifest
    tell(f"{held.name} {one.ref.digest}", style="bold")
    tell(f"memory at least {size(held.memory_bytes)}, disk {size(held.disk_bytes)}, takes {size(one.used_bytes)} here")
    tell(_made_of(held))
    show(held, False, ("file", "bytes", "SHA-256"), [(n, f.size_bytes, f.sha256) for n, f in held.files().items()])
    show(held, False, ("package", "version"), [(package.name, package.version) for package in held.packages])


def _made_of(held: manifest.Manifest) -> str:
    if held.recipe is not None:
        asked = " ".join(held.recipe.packages) or "-"
        return f"Debian {held.recipe.suite}, {counted(len(held.packages), 'package')}; asked for: {asked}"
    assert held.imported is not None
    installs = f"; cloud-init installs {' '.join(held.imported.packages)}" if held.imported.packages else ""
    return f"imported from {held.imported.form} {held.imported.source.sha256}; boots by BIOS with cloud-init{installs}"


def build_with_bar(recipe: Path, rebuild: bool = False) -> Built:
    """Build with a progress bar; without one when the image is there."""
    with progress() as bar:
        task = bar.add_task(f"image of {recipe}", total=1.0)
        return build(
            recipe, progress=lambda part, text: bar.update(task, completed=part, description=text), rebuild=rebuild
        )
