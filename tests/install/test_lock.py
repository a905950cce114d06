"""The lock is whole, and what a registry adds later changes nothing: neither what is installed nor whether.

The registry is a folder of small wheels under the names, versions and dependencies of the real lock. Beside each it has
what it may have tomorrow: a newer version, another file of the same version, and sources, which would have to be built.
"""

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
RUN, TESTS = "requirements.txt", "requirements-tests.txt"
NEWER = "99999"
HANG_SECONDS = 900
OF_TESTS = {"pytest", "mypy", "ruff", "coverage", "hypothesis", "import-linter"}


class Pin(msgspec.Struct, frozen=True):
    """A line of the lock."""

    name: str
    version: str
    marker: str

    @property
    def here(self) -> bool:
        """Whether it is meant for this system."""
        return Requirement(f"{self.name}{self.marker}").marker is None or bool(
            Requirement(f"{self.name}{self.marker}").marker.evaluate()  # type: ignore[union-attr]
        )


def pins(file: str) -> list[Pin]:
    """What a file of the lock names; every entry has hashes."""
    found = []
    for block in re.split(r"\n(?=[A-Za-z0-9])", (ROOT / file).read_text()):
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)\s*(;[^\\\n]*)?", block)
        assert match is not None and "--hash=sha256:" in block, block[:80]
        found.append(Pin(canonicalize_name(match[1]), match[2], (match[3] or "").strip()))
    return found


def needs(distribution: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """What a package asks for here, with these extras."""
    for line in distribution.requires or ():
        asked = Requirement(line)
        if asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield asked


def closure(roots: list[Requirement]) -> dict[str, list[Requirement]]:
    """All that these need, extras included, by name: as it is installed here."""
    asked: dict[str, list[Requirement]] = {}
    waiting, seen = list(roots), set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        asked.setdefault(name, []).append(one)
        waiting += needs(distribution(name), set(one.extras))
    return asked


@pytest.mark.parametrize(
    ("files", "extras"),
    [((RUN,), {"x11", "tokens", "build"}), ((RUN, TESTS), {"dev"})],
    ids=["what running needs", "what tests need"],
)
def test_the_lock_names_all_that_is_needed_and_nothing_else(files: tuple[str, ...], extras: set[str]) -> None:
    locked = {pin.name: pin.version for file in files for pin in pins(file) if pin.here}
    asked = closure(list(needs(distribution("deskgrid"), extras)))
    asked.pop("deskgrid", None)
    assert sorted(locked) == sorted(asked), "run `make lock`"
    for name, requirements in asked.items():
        assert all(one.specifier.contains(locked[name], prereleases=True) for one in requirements), name


def test_a_package_is_in_one_of_the_two_sets_and_running_needs_nothing_of_the_tests() -> None:
    run, tests = {pin.name for pin in pins(RUN)}, {pin.name for pin in pins(TESTS)}
    assert run & tests == set()
    assert tests >= OF_TESTS
    assert {"hatchling", "editables"} <= run, "what installs the project itself"


def test_what_is_installed_here_is_what_the_lock_names() -> None:
    locked = {pin.name: pin.version for file in (RUN, TESTS) for pin in pins(file)}
    here = {canonicalize_name(one.name): one.version for one in distributions()}
    assert {name: version for name, version in here.items() if name in locked and locked[name] != version} == {}


class Registry:
    """A folder as pip reads it: simple/NAME/index.html and files beside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "simple"
        self.url = self.folder.as_uri()

    def add(self, pin: Pin, version: str, summary: str, build: str = "") -> str:
        """A wheel. summary: what tells it from others. Returns: its sum."""
        stem = pin.name.replace("-", "_")
        info = f"{stem}-{version}.dist-info"
        try:
            asked = "".join(f"Requires-Dist: {line}\n" for line in distribution(pin.name).requires or ())
            extras = "".join(f"Provides-Extra: {one}\n" for one in self._extras(pin.name))
        except PackageNotFoundError:
            asked = extras = ""
        about = f"Metadata-Version: 2.1\nName: {pin.name}\nVersion: {version}\nSummary: {summary}\n{extras}{asked}"
        wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        record = "".join(f"{info}/{name},,\n" for name in ("METADATA", "WHEEL", "RECORD"))
        path = self._place(pin) / f"{stem}-{version}{build}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as file:
            for name, text in (("METADATA", about), ("WHEEL", wheel), ("RECORD", record)):
                file.writestr(zipfile.ZipInfo(f"{info}/{name}"), text)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def add_sources(self, pin: Pin, version: str) -> str:
        """What would have to be built. Returns: its sum."""
        path = self._place(pin) / f"{pin.name.replace('-', '_')}-{version}.tar.gz"
        path.write_bytes(b"to be built")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def open(self) -> None:
        """Write the pages that pip reads."""
        for place in self.folder.iterdir():
            links = "".join(
                f'<a href="{file.name}#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}">{file.name}</a>\n'
                for file in sorted(place.iterdir())
            )
            (place / "index.html").write_text(f"<!DOCTYPE html>\n<html><body>\n{links}</body></html>\n")

    def _place(self, pin: Pin) -> Path:
        place = self.folder / pin.name
        place.mkdir(parents=True, exist_ok=True)
        return place

    @staticmethod
    def _extras(name: str) -> list[str]:
        return distribution(name).metadata.get_all("Provides-Extra") or []


class Rig(msgspec.Struct, frozen=True):
    """A registry, and a folder with a lock of its files."""

    folder: Path
    url: str

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "MFLAGS"))}
        return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": self.url, "PIP_NO_CACHE_DIR": "1"}

    def make(self, *targets: str) -> None:
        """Run the project's own rules on this lock."""
        python = getattr(sys, "_base_executable", sys.executable)
        words = ["make", "-f", str(ROOT / "Makefile"), "VENV=venv", f"PYTHON={python}", *targets]
        done = self._run(words)
        assert done.returncode == 0, done.stdout + done.stderr

    def pip(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self._run(["venv/bin/pip", "--disable-pip-version-check", "install", "--quiet", *words])

    def installed(self, where: str = "venv/lib/python*/site-packages") -> dict[str, tuple[str, str]]:
        """Version and summary of each package but pip's own."""
        (place,) = self.folder.glob(where)
        found = {canonicalize_name(one.name): one for one in distributions(path=[str(place)])}
        return {
            name: (one.version, one.metadata["Summary"])
            for name, one in found.items()
            if name not in ("pip", "setuptools", "wheel")
        }

    def _run(self, words: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    folder = tmp_path_factory.mktemp("lock")
    registry = Registry(folder)
    (folder / "src").mkdir()
    for file in (RUN, TESTS):
        lines = []
        for pin in pins(file):
            locked = registry.add(pin, pin.version, "locked")
            registry.add(pin, pin.version, "another file of this version", build="-1")
            registry.add(pin, NEWER, "newer")
            registry.add_sources(pin, pin.version)
            registry.add_sources(pin, NEWER)
            lines.append(f"{pin.name}=={pin.version} {pin.marker} --hash=sha256:{locked}\n")
        (folder / file).write_text("".join(lines))
    registry.open()
    return Rig(folder, registry.url)


@pytest.mark.slow
@pytest.mark.timeout(HANG_SECONDS)
def test_what_a_registry_adds_changes_nothing_and_running_gets_nothing_of_the_tests(rig: Rig) -> None:
    rig.make("venv/.dependencies")
    assert rig.installed() == {pin.name: (pin.version, "locked") for pin in pins(RUN) if pin.here}
    rig.make("venv/.tests")
    both = [pin for file in (RUN, TESTS) for pin in pins(file) if pin.here]
    assert rig.installed() == {pin.name: (pin.version, "locked") for pin in both}

    resolved = rig.pip("--require-hashes", "--target", "resolved", "-r", RUN, "-r", TESTS)
    assert resolved.returncode != 0 and "coverage" in resolved.stderr, "the control: resolving looks beyond the lock"
    (rig.folder / "names.txt").write_text("".join(f"{pin.name}=={pin.version}\n" for pin in pins(RUN) if pin.here))
    assert rig.pip("--no-deps", "--target", "unhashed", "-r", "names.txt").returncode == 0
    assert {told for _, told in rig.installed("unhashed").values()} == {"another file of this version"}
    (rig.folder / "unpinned.txt").write_text("".join(f"{pin.name}\n" for pin in pins(RUN) if pin.here))
    assert rig.pip("--no-deps", "--target", "unpinned", "-r", "unpinned.txt").returncode == 0
    assert {version for version, _ in rig.installed("unpinned").values()} == {NEWER}, "the registry has them"


@pytest.mark.slow
@pytest.mark.timeout(HANG_SECONDS)
def test_a_locked_version_of_which_only_sources_are_left_is_refused_not_built(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    (tmp_path / "src").mkdir()
    pin = Pin("only-sources", "1.0", "")
    digest = registry.add_sources(pin, pin.version)
    registry.open()
    (tmp_path / RUN).write_text(f"{pin.name}=={pin.version} --hash=sha256:{digest}\n")
    with pytest.raises(AssertionError, match="No matching distribution found for only-sources"):
        Rig(tmp_path, registry.url).make("venv/.dependencies")
