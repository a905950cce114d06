"""The Windows driver keeps the contract of all presence drivers: the very tests of `tests/contracts/test_presence.py`."""

import sys
import types
from collections.abc import Iterator

import pytest

from deskgrid.presence.windows import WindowsPresence
from deskgrid.presence.windows_events import UNLOCK, What
from tests.windows.inside import hands

# The suite makes benches of Linux' drivers too, whose modules Windows can't import; only its tests are wanted here.
_POSIX = types.ModuleType("pty")
_LINUX = types.ModuleType("deskgrid.presence.linux")
_LINUX.LinuxPresence = _LINUX.Roots = None  # type: ignore[attr-defined]
for _module in (_POSIX, _LINUX):
    if sys.platform == "win32":
        sys.modules.setdefault(_module.__name__, _module)

from tests.contracts import test_presence as suite  # noqa: E402

globals().update({name: test for name, test in vars(suite).items() if name.startswith("test_")})


def in_a_session() -> suite.Bench:
    """The owner moves the mouse in our own session. Whatever happens, this session's last input is known."""
    driver = WindowsPresence()
    return suite.Bench(driver, hands.move_mouse, lambda: pytest.skip("its own session never is unknown"), driver.close)


def as_a_service() -> suite.Bench:
    """Windows tells by messages, as it tells a service of all sessions."""
    driver = WindowsPresence(own_session=0)
    hands.setting(driver, What.GLOBAL_PRESENCE, 2)
    return suite.Bench(
        driver,
        lambda: hands.session(driver, UNLOCK) and None,
        lambda: hands.setting(driver, What.GLOBAL_PRESENCE, 3) and None,
        driver.close,
    )


@pytest.fixture(params=[in_a_session, as_a_service])
def bench(request: pytest.FixtureRequest) -> Iterator[suite.Bench]:
    made = request.param()
    yield made
    made.close()
