"""The Windows driver and the portable part of the suite on a Windows Python, under Wine.

Each test here takes some tests to Windows and tells what came of them.
"""

import time
from collections.abc import Iterator

import pytest

from tests.windows.wine import WHEELS, NoWine, Wine, lock, pinned

SECONDS = 240


@pytest.fixture(scope="session")
def wine() -> Iterator[Wine]:
    try:
        made = Wine()
    except NoWine as error:
        pytest.skip(f"no Windows Python here: {error}")
    made.take("src", "tests", "docs", "pyproject.toml", "requirements.txt", "requirements-tests.txt")
    yield made
    made.close()


@pytest.mark.real
@pytest.mark.parametrize(
    "tests",
    [
        ("tests/windows/inside/test_presence.py",),
        ("tests/windows/inside/test_contract.py",),
        ("tests/windows/inside/test_job.py",),
        ("tests/windows/inside/test_machine.py",),
        ("tests/windows/inside/test_imports.py",),
        ("tests/presence/test_windows_pure.py", "tests/presence/test_macos_pure.py", "tests/presence/test_notifier.py"),
        ("tests/core", "tests/model"),
        ("tests/agent/test_loop.py", "tests/agent/test_loop_owner.py", "tests/agent/test_loop_stories.py"),
    ],
    ids=lambda tests: " ".join(name.rsplit("/", 1)[1].removesuffix(".py") for name in tests),
)
def test_it_holds_on_windows(wine: Wine, tests: tuple[str, ...]) -> None:
    started = time.monotonic()
    done = wine.run(["-X", "faulthandler=0", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-rsx",
                     "-s", "--durations=3", "--color=no", "-m", "not real", *tests], SECONDS)  # fmt: skip
    print(done.stdout[-6000:])
    print(f"{time.monotonic() - started:.1f} s; the prefix took {wine.seconds['prefix']:.1f} s")
    assert not done.timed_out, f"no end in {SECONDS} s"
    assert done.ok, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_wheels_are_those_of_the_requirements_with_their_hashes_and_without_markers() -> None:
    lines = pinned(lock()).splitlines()
    assert [line.split("==")[0] for line in lines] == list(WHEELS)
    assert all(" --hash=sha256:" in line and ";" not in line for line in lines)
    with pytest.raises(NoWine, match="got no msgspec, "):
        pinned("colorama==1 \\\n    --hash=sha256:00\n")
