"""Build an image from a recipe.

    image = build(Path("recipes/demo.toml"), progress=bar)       # image.ref, image.folder

Rules:
- Whole or not there: everything is made in a work folder beside its place, synced, and renamed.
- A lock for each name: the builder that comes second waits and finds the first one's image.
- What was built from the same recipe, files and guest programs is taken from the cache, unless `rebuild`.
- An interrupted or failed build leaves at most its work folder. When its root tree was whole, which takes longest, the
  next build of the same tree goes on from there, for six hours, unless `rebuild`: so a disk that was too small, or too
  little room in the cache, costs seconds.
- The work folder is ours alone. The account that makes the disk gets the few files that it reads and writes, and when
  they are taken back, nobody has them open any more.
- Two builds with the same package versions give the same bytes.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from deskgrid import guest
from deskgrid.host.system.files import make_folder, take_back
from deskgrid.host.system.locks import Locked, locked
from deskgrid.host.system.paths import cache_folder
from deskgrid.host.trees import trees
from deskgrid.host.trees.debstrap import BuildFailed, Progress, quiet
from deskgrid.host.trees.entry import NoWay
from deskgrid.images.build import contents, disk, kernel, sbom, work_folder
from deskgrid.images.build.roottar import RULES, RootTar
from deskgrid.images.build.tree import (
    DPKG_OPTIONS,
    FACTS,
    FACTS_LIST,
    HOOK,
    SOURCES,
    USERS,
    make_tree,
    wanted_packages,
)
from deskgrid.images.build.work_folder import TREE
from deskgrid.images.contract import ImageError
from deskgrid.images.format import manifest
from deskgrid.images.format.manifest import Manifest, Package
from deskgrid.images.format.recipe import GIB, LoadedRecipe, load
from deskgrid.model.image import ImageRef

NEEDED_BYTES = 3 << 29
"""Free space that a build needs at least: the smallest tree twice, and the disk's content."""

CMDLINE = "console=ttyS0 quiet loglevel=3 panic=1 no_timer_check random.trust_cpu=on cryptomgr.notests"


class Built(msgspec.Struct, frozen=True):
    """An image that is there. fresh: it was built now, not found in the cache."""

    ref: ImageRef
    folder: Path
    manifest: Manifest
    fresh: bool


def images_folder(cache: Path | None = None) -> Path:
    """Return the folder in which built images are."""
    return (cache or cache_folder()) / "images"


def build(recipe: Path, cache: Path | None = None, progress: Progress = quiet, rebuild: bool = False) -> Built:
    """Build the image of a recipe, or find it in the cache.

    Args:
        recipe: the recipe's TOML file.
        cache: folder to build in and to keep images in; the user's own cache if None.
        progress: called with the part that is done (0 to 1) and a sentence.
        rebuild: build also when it is in the cache.

    Raises:
        ImageError: in one sentence what is wrong and what to do (BadRecipe: all faults of the recipe).
    """
    loaded = load(recipe)
    images = images_folder(cache)
    try:
        make_folder(images)
        with alone(images / f".{loaded.recipe.name}.lock", progress):
            found = None if rebuild else find(loaded, images)
            built = found or _build(loaded, images, cache, progress, rebuild)
    except (BuildFailed, NoWay) as error:
        raise ImageError(f"image {loaded.recipe.name}: {error}") from error
    except OSError as error:
        raise ImageError(
            f"image {loaded.recipe.name}: {error.strerror or error} ({error.filename or images}); "
            "check space and rights there"
        ) from error
    progress(1.0, f"image {built.ref.name} is ready")
    return built


def find(loaded: LoadedRecipe, images: Path) -> Built | None:
    """Return the image that was built from just this, if it is there."""
    wanted = inputs(loaded)
    for folder in sorted((images / loaded.recipe.name).glob("*"), key=lambda path: path.stat().st_mtime, reverse=True):
        ref = ImageRef(loaded.recipe.name, folder.name)
        try:
            held = manifest.read(folder, ref)
        except ImageError:
            continue
        if held.inputs == wanted and all((folder / name).is_file() for name in held.files()):
            return Built(ref, folder, held, fresh=False)
    return None


def inputs(loaded: LoadedRecipe) -> str:
    """Return a SHA-256 over all that we put into the image ourselves (not the packages' versions)."""
    parts = [
        loaded.recipe,
        *loaded.files,
        *loaded.scripts,
        wanted_packages(loaded.recipe),
        DPKG_OPTIONS,
        CMDLINE,
        manifest.FORMAT,
        RULES,
    ]
    programs = (guest.PREPARE, guest.INITRD_INIT, HOOK, SOURCES, USERS, FACTS)
    parts += [program.read_bytes() for program in programs]
    parts += [(path, mode, source.read_bytes()) for path, (source, mode) in sorted(guest.FILES.items())]
    return hashlib.sha256(msgspec.msgpack.encode(parts, order="deterministic")).hexdigest()


@contextmanager
def alone(lock: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a name; say so when another build has it."""
    try:
        with locked(lock, wait=False):
            yield
            return
    except Locked:
        progress(0.0, "waiting for another build of this image")
    with locked(lock):
        yield


def _build(loaded: LoadedRecipe, images: Path, cache: Path | None, progress: Progress, rebuild: bool) -> Built:
    """Build in a work folder and rename. The caller holds the lock."""
    name = loaded.recipe.name
    work = images / f".{name}.work"
    key = _tree_key(loaded)
    kept = work_folder.clean(work, "" if rebuild else key)
    free = shutil.disk_usage(images).free
    if free < NEEDED_BYTES:
        raise ImageError(
            f"image {name}: {images} has {free >> 20} MiB free, expected at least {NEEDED_BYTES >> 20} MiB; "
            "free some space or set another cache"
        )
    tools = trees.provide(trees.TOOL_TREE, _part(progress, 0.0, 0.3), cache=cache)
    try:
        make_folder(work, 0o711)  # ours: who makes the disk may reach its files there, and put none beside them
        if not kept:
            make_tree(loaded, work / TREE, _part(progress, 0.3, 0.8))
            work_folder.tree_is_whole(work, key)
        content = _make(loaded, tools, work, _part(progress, 0.8, 0.98))
        work_folder.finish(work)
        return publish(content, work, images)
    finally:
        work_folder.leave(work, key)


def _tree_key(loaded: LoadedRecipe) -> str:
    """What the root tree depends on: all that the image does but its sizes."""
    sizes = msgspec.structs.replace(loaded.recipe, disk_bytes=GIB, memory_bytes=GIB)
    return inputs(msgspec.structs.replace(loaded, recipe=sizes))


def _make(loaded: LoadedRecipe, tools: trees.Tree, work: Path, progress: Progress) -> Manifest:
    """Turn the tree's tar into the image's files in `work`."""
    recipe = loaded.recipe
    given = inputs(loaded)
    who = disk.identity(f"{recipe.name} {given}", recipe.source_date)
    cmdline = f"{CMDLINE} deskgrid.root={who.uuid}"
    wanted = {file.to.lstrip("/") for file in recipe.files}
    progress(0.0, "making kernel and initial RAM disk")
    with RootTar(work / TREE) as tree:
        packed = kernel.vmlinuz(tree)
        initrd = kernel.initrd(tree, guest.INITRD_INIT.read_bytes())
        (work / manifest.KERNEL).write_bytes(kernel.unpacked(packed))
        (work / manifest.INITRD).write_bytes(initrd)
        debs = sbom.installed(tree, FACTS_LIST)
        (work / manifest.SBOM).write_bytes(sbom.document(recipe.name, recipe.suite, debs))
        progress(0.15, "sorting the tree")
        boot = {"boot/vmlinuz": packed, "boot/initrd": initrd}
        written = tree.write_normal(work / "root.tar", recipe.source_date, boot, wanted)
        (work / manifest.CONTENTS).write_bytes(contents.encode(written))
    progress(0.35, "making the disk")
    disk.build(tools, work / "root.tar", work / manifest.DISK, recipe.disk_bytes, who, cmdline)
    take_back(work / manifest.DISK)
    (work / "root.tar").unlink()
    progress(0.6, "taking the sums")
    return Manifest(
        name=recipe.name,
        memory_bytes=recipe.memory_bytes,
        disk_bytes=recipe.disk_bytes,
        cmdline=cmdline,
        disk=manifest.measure(work / manifest.DISK),
        kernel=manifest.measure(work / manifest.KERNEL),
        initrd=manifest.measure(work / manifest.INITRD),
        sbom=manifest.measure(work / manifest.SBOM),
        contents=manifest.measure(work / manifest.CONTENTS),
        packages=tuple(sorted({Package(deb.name, deb.version) for deb in debs})),
        recipe=recipe,
        inputs=given,
    )


def publish(content: Manifest, work: Path, images: Path) -> Built:
    """Give the finished files in `work` their place among the images. The caller holds the name's lock."""
    name = content.name
    encoded = manifest.encode(content)
    ref = ImageRef(name, manifest.digest(encoded))
    (work / manifest.FILE).write_bytes(encoded)
    for file in (*content.files(), manifest.FILE):
        take_back(work / file, 0o644)
        _sync(work / file)
    place = images / name / ref.digest
    make_folder(place.parent)
    work.chmod(0o755)
    if _whole(place, content):
        return Built(ref, place, content, fresh=True)
    if place.exists():
        shutil.rmtree(place)
    work.rename(place)
    _sync(place)
    _sync(place.parent)
    return Built(ref, place, content, fresh=True)


def _whole(place: Path, content: Manifest) -> bool:
    """Whether the same image is there already, undamaged: a machine may be reading it."""
    try:
        same = (place / manifest.FILE).read_bytes() == manifest.encode(content)
        return same and all(manifest.measure(place / name) == facts for name, facts in content.files().items())
    except OSError:
        return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _part(progress: Progress, start: float, end: float) -> Progress:
    """Return progress for a step that goes from `start` to `end` of the whole."""
    return lambda fraction, sentence: progress(start + (end - start) * fraction, sentence)
