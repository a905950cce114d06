"""The root tree of an image: Debian's packages by mmdebstrap, then the recipe's files and scripts.

Rules:
- mmdebstrap is given one program to call in the finished tree (`hook`), with a tar beside it, and one to call before it
  reads package lists (`in_tree/sources`), with the suites beside it: never a shell string.
- Files are unpacked inside the tree, so that a link in it can't lead one of them to the host.
- Scripts run inside the tree as root, in the recipe's order; the first that fails ends the build.
"""

import io
import os
import re
import tarfile
import tempfile
from pathlib import Path

from deskgrid import guest
from deskgrid.host.trees.debstrap import BuildFailed, Progress, bootstrap
from deskgrid.images.contract import ImageError
from deskgrid.images.format.recipe import LoadedRecipe, Recipe, address

HOOK = Path(__file__).with_name("hook")
"""What mmdebstrap calls."""

_IN_TREE = Path(__file__).with_name("in_tree")
SOURCES, USERS, FACTS = _IN_TREE / "sources", _IN_TREE / "users", _IN_TREE / "facts"
"""What is called before the lists are read; what makes accounts; what writes down where packages came from."""

_BUILD = f"{guest.FOLDER}/build"
FACTS_LIST = f"{_BUILD}/facts.list".lstrip("/")
"""Where in the tree is what APT says of the installed packages; it does not get into the image."""

DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "force-unsafe-io",
    "path-exclude=/etc/kernel/postinst.d/initramfs-tools",
)
"""No manuals and translations, no syncing to disk, and no initial RAM disk of Debian's: we make our own."""


def make_tree(loaded: LoadedRecipe, tar: Path, progress: Progress) -> None:
    """Write the tar of the root tree with all packages, files and what the scripts did.

    Raises:
        ImageError: with what the recipe did wrong.
        BuildFailed: when it was not the recipe.
    """
    recipe = loaded.recipe
    with tempfile.TemporaryDirectory(prefix="deskgrid-hook-") as folder:
        hook = write_hook(loaded, Path(folder))
        options = [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
        options += [f"--components={','.join(recipe.components)}", f"--customize-hook={hook}"]
        options += _archive_options(recipe, hook.parent)
        packages = wanted_packages(recipe)
        try:
            bootstrap(
                recipe.suite,
                packages,
                tar,
                progress,
                options,
                mirror=address(recipe, recipe.suite),
                source_date_epoch=recipe.source_date,
            )
        except BuildFailed as error:
            if sentence := in_plain_words(str(error), loaded):
                raise ImageError(f"image {recipe.name}: {sentence}") from error
            raise


def wanted_packages(recipe: Recipe) -> tuple[str, ...]:
    """Return all packages that are asked for: the guest's, the recipe's, and a kernel if the recipe names none."""
    own_kernel = any(package.startswith("linux-image-") for package in recipe.packages)
    kernel = () if own_kernel else (guest.KERNEL,)
    accounts = ("passwd",) if recipe.users else ()
    return tuple(dict.fromkeys((*guest.PACKAGES, *kernel, *accounts, *recipe.packages)))


def suites(recipe: Recipe, mirror_is_given: bool) -> str | None:
    """Return the suites for `in_tree/sources`, with their archives' addresses; None to leave the choice to mmdebstrap.

    mirror_is_given: by the environment, so that the recipe's is not asked.
    """
    if recipe.extra_suites is None:
        return None
    wanted = (recipe.suite, *recipe.extra_suites)
    return "".join(f"{suite} {'' if mirror_is_given else address(recipe, suite)}".rstrip() + "\n" for suite in wanted)


def preferences(recipe: Recipe) -> str:
    """APT's preferences for suites' priorities (apt_preferences(5))."""
    pins = (f"Package: *\nPin: release n={suite}\nPin-Priority: {much}\n" for suite, much in recipe.priorities.items())
    return "\n".join(pins)


def _archive_options(recipe: Recipe, folder: Path) -> list[str]:
    options = ['--aptopt=Acquire::Check-Valid-Until "false"'] if recipe.snapshot else []
    listed = suites(recipe, bool(os.environ.get("DESKGRID_MIRROR")))
    if listed is not None:
        (folder / "suites").write_text(listed)
        (folder / "suites").chmod(0o644)
        (folder / "preferences").write_text(preferences(recipe))
        (folder / "preferences").chmod(0o644)
        hook = folder / "sources"
        hook.write_bytes(SOURCES.read_bytes())
        hook.chmod(0o755)
        options.append(f"--setup-hook={hook}")
    return options


def write_hook(loaded: LoadedRecipe, folder: Path) -> Path:
    """Write what mmdebstrap calls in the finished tree: a program and a tar with the files that it puts there.

    The folder is made readable to all: in a user namespace mmdebstrap is somebody else.
    """
    contents = [(path, mode, source.read_bytes()) for path, (source, mode) in guest.FILES.items()]
    programs = {"prepare": guest.PREPARE, "users": USERS, "facts": FACTS}
    contents += [(f"{_BUILD}/{name}", 0o755, path.read_bytes()) for name, path in programs.items()]
    contents.append((f"{_BUILD}/users.list", 0o644, _users(loaded.recipe).encode()))
    for file, data in zip(loaded.recipe.files, loaded.files, strict=True):
        contents.append((file.to, int(file.mode, 8), data))
    for number, data in enumerate(loaded.scripts):
        contents.append((f"{_BUILD}/{_script_name(loaded, number)}", 0o755, data))
    with tarfile.open(folder / "files.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for path, mode, data in contents:
            member = tarfile.TarInfo(path.lstrip("/"))
            member.mode, member.size, member.mtime = mode, len(data), loaded.recipe.source_date
            tar.addfile(member, io.BytesIO(data))
    hook = folder / "hook"
    hook.write_bytes(HOOK.read_bytes())
    hook.chmod(0o755)
    (folder / "files.tar").chmod(0o644)
    folder.chmod(0o755)
    return hook


def _users(recipe: Recipe) -> str:
    return "".join(f"{user.name}:{user.uid}:{user.shell}:{','.join(user.groups)}\n" for user in recipe.users)


def _script_name(loaded: LoadedRecipe, number: int) -> str:
    shown = "".join(char if char.isalnum() else "-" for char in Path(loaded.recipe.scripts[number]).name)
    return f"script-{number:03}-{shown}"


def in_plain_words(said: str, loaded: LoadedRecipe) -> str | None:
    """Say what the recipe did wrong, where mmdebstrap's words tell; else None."""
    if match := re.search(r"E: script-(\d+)\S* (ended with exit code .*?); E: ", said):
        number = int(match[1])
        return f"scripts[{number}] ({loaded.recipe.scripts[number]}) {match[2]}; mend the script"
    if match := re.search(r"E: (users: .*?); E: ", said):
        return match[1]
    if unknown := re.findall(r"Unable to locate package ([^\s;]+)", said):
        packages = ", ".join(dict.fromkeys(unknown))
        return f"packages: got {packages}, expected packages of Debian {loaded.recipe.suite}; correct {loaded.where}"
    if unmet := re.search(r"(\S+) : Depends: (\S+) (.*?)(;|$)", said):
        return (
            f"packages: {unmet[1]} depends on {unmet[2]} {unmet[3].strip()}; if another suite has the right one, "
            f"name it too, such as {unmet[2]}/{loaded.recipe.suite}-backports, or give that suite priority 500 "
            "(priorities)"
        )
    if absent := re.search(r"Release '(\S+)' for '(\S+)' was not found", said):
        return f"packages: got {absent[2]}/{absent[1]}, which is not there; correct {loaded.where}"
    if missing := re.search(r"The repository '\S+ (\S+) Release' does not have a Release file", said):
        if missing[1] in (loaded.recipe.extra_suites or ()):
            return f"extra_suites: got {missing[1]!r}, which the mirror does not have"
        return f"suite: got {loaded.recipe.suite!r}, which the mirror does not have; expected one like 'trixie'"
    if re.search("No space left|enough free space", said):
        return f"no space left in {tempfile.gettempdir()} or the cache; the tree needs 1 GiB: free some, or set TMPDIR"
    if unreachable := re.search(r"Failed to fetch (\S+)\s+(.*?); ", said):
        return f"Debian's archive: {unreachable[1]}: {unreachable[2]}; check the network, or the mirror in the recipe"
    return None
