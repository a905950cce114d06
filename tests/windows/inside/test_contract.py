"""The Windows driver keeps the contract of all presence drivers: by the very tests of tests/contracts."""

import sys
import types
from collections.abc import Iterator

import pytest

from deskgrid.model.presence import Ending
from deskgrid.presence.windows.calls import own_session
from deskgrid.presence.windows.events import (
    LOCK,
    PBT_APMRESUMEAUTOMATIC,
    PBT_APMSUSPEND,
    UNLOCK,
    WM_ENDSESSION,
    WM_POWERBROADCAST,
    WM_QUERYENDSESSION,
    What,
)
from deskgrid.presence.windows.presence import WindowsPresence
from tests.windows.inside import hands

# The suite makes benches of other drivers too, whose modules Windows can't import; only its tests are wanted here.
_ELSEWHERE = {
    "pty": (),
    "deskgrid.presence.fake": ("AWAY", "PRESENT", "FakePresence", "Has", "Owner", "set_presence"),
    "deskgrid.presence.linux.presence": ("LinuxPresence", "Roots"),
    "tests.presence.bus_with_services": ("MANAGER", "NETWORK", "SESSION", "BusWithServices"),
}
for _name, _things in _ELSEWHERE.items():
    _module = types.ModuleType(_name)
    _module.__dict__.update(dict.fromkeys(_things))
    sys.modules.setdefault(_name, _module)


sys.modules["tests.presence.bus_with_services"].__dict__.update(needs_bus=pytest.mark.skip)

from tests.contracts import test_presence as suite  # noqa: E402

_NOT_HERE = {
    "test_what_keeps_the_computer_awake_is_told_and_named": "Wine lets no program keep the screen on",
    "test_a_paced_driver_still_reads_all": "the same",
    "test_a_metered_network_is_known": "Wine's network never is metered",
}
for _name, _test in vars(suite).items():
    if _name.startswith("test_"):
        globals()[_name] = pytest.mark.skip(_NOT_HERE[_name])(_test) if _name in _NOT_HERE else _test


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


class WindowsSystem(suite.System):
    """What Windows tells of a session, the lid and the end, said by messages."""

    def __init__(self) -> None:
        self.driver = self._windows = WindowsPresence()
        self._own = own_session()
        self.lock(False)
        hands.setting(self._windows, What.LID, 1)

    def lock(self, locked: bool) -> None:
        hands.session(self._windows, LOCK if locked else UNLOCK, self._own)

    def lid(self, closed: bool) -> None:
        hands.setting(self._windows, What.LID, int(not closed))

    def end(self, ending: Ending, begins: bool) -> None:
        if ending is Ending.SLEEP:
            hands.send(self._windows, WM_POWERBROADCAST, PBT_APMSUSPEND if begins else PBT_APMRESUMEAUTOMATIC)
        else:
            hands.send(self._windows, WM_QUERYENDSESSION if begins else WM_ENDSESSION)


@pytest.fixture
def system() -> Iterator[WindowsSystem]:
    made = WindowsSystem()
    yield made
    made.close()
