"""The sign in the tray says what the agent says, and its menu asks what the page's buttons ask."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, new_method_call
from jeepney.io.blocking import open_dbus_connection
from jeepney.wrappers import DBusErrorResponse, unwrap_msg

from deskgrid.session.tray import ITEM, ITEM_PATH, MENU, MENU_PATH, WATCHER, Sign, Tray
from tests.waiting import eventually

from .desktop_bus import Peer, SessionBus, needs_bus

pytestmark = needs_bus
IDLE = Sign("Nothing runs here now.", "In use.", "computer", False)
BUSY = Sign("1 virtual machine runs here.", "", "system-run", True)


class Panel:
    """A tray that shows items, as panels do: it asks them over the bus."""

    def __init__(self, bus: SessionBus) -> None:
        self.link = open_dbus_connection(f"unix:path={bus.path}")
        self.watcher = Peer(bus)
        self.watcher.answers["RegisterStatusNotifierItem"] = lambda name: ("", ())

    def come(self) -> None:
        from jeepney.bus_messages import message_bus

        self.watcher.link.send(message_bus.RequestName(WATCHER))

    @property
    def items(self) -> list[str]:
        return [body[0] for member, body in self.watcher.calls if member == "RegisterStatusNotifierItem"]

    def ask(self, path: str, interface: str, member: str, signature: str = "", *body: object) -> tuple[Any, ...]:
        address = DBusAddress(path, self.items[-1], interface)
        answer = self.link.send_and_get_reply(new_method_call(address, member, signature or None, body), timeout=30)
        return unwrap_msg(answer)  # type: ignore[no-any-return]

    def get(self, path: str, interface: str, name: str) -> object:
        return self.ask(path, "org.freedesktop.DBus.Properties", "Get", "ss", interface, name)[0][1]

    def close(self) -> None:
        self.watcher.close()
        self.link.close()


class Tended:
    """A sign, tended by a thread as the helper does."""

    def __init__(self, bus: SessionBus) -> None:
        self.sign = IDLE
        self.done: list[str] = []
        wishes = [(text, self._do(text)) for text in ("Page", "Pause_it", "Resume")]
        self.tray = Tray(bus.path, lambda: self.sign, wishes)
        self.stopping = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _do(self, text: str) -> Any:
        return lambda: self.done.append(text)

    def _run(self) -> None:
        while not self.stopping and not self.tray.over:
            self.tray.tend()
            self.tray.look()
            threading.Event().wait(0.01)

    def close(self) -> None:
        self.stopping = True
        self.thread.join(30)
        self.tray.close()


@pytest.fixture
def panel(bus: SessionBus) -> Iterator[Panel]:
    made = Panel(bus)
    yield made
    made.close()


@pytest.fixture
def tended(bus: SessionBus, panel: Panel) -> Iterator[Tended]:
    panel.come()
    made = Tended(bus)
    eventually(lambda: panel.items)
    yield made
    made.close()


def test_the_sign_says_what_runs_and_why(tended: Tended, panel: Panel) -> None:
    known = panel.ask(ITEM_PATH, "org.freedesktop.DBus.Properties", "GetAll", "s", ITEM)[0]
    assert known["Id"] == ("s", "deskgrid")
    assert known["Status"] == ("s", "Passive")
    assert known["ToolTip"] == ("(sa(iiay)ss)", ("computer", [], "Nothing runs here now.", "In use."))
    tended.sign = BUSY
    eventually(lambda: panel.get(ITEM_PATH, ITEM, "Status") == "Active")
    assert panel.get(ITEM_PATH, ITEM, "IconName") == "system-run"


def test_the_menu_has_the_sentence_and_the_wishes(tended: Tended, panel: Panel) -> None:
    revision, (root, _, children) = panel.ask(MENU_PATH, MENU, "GetLayout", "iias", 0, -1, [])
    assert root == 0
    labels = [child[1][1]["label"][1] for child in children if "label" in child[1][1]]
    assert labels == ["Nothing runs here now.", "Page", "Pause__it", "Resume"]
    tended.sign = BUSY
    eventually(lambda: panel.ask(MENU_PATH, MENU, "GetLayout", "iias", 0, -1, [])[0] > revision)
    entries = dict(panel.ask(MENU_PATH, MENU, "GetGroupProperties", "aias", [1], [])[0])
    assert entries[1]["label"] == ("s", BUSY.headline)


def test_a_click_does_what_it_says(tended: Tended, panel: Panel) -> None:
    panel.ask(MENU_PATH, MENU, "Event", "isvu", 4, "clicked", ("s", ""), 0)
    panel.ask(MENU_PATH, MENU, "Event", "isvu", 4, "hovered", ("s", ""), 0)
    panel.ask(MENU_PATH, MENU, "Event", "isvu", 77, "clicked", ("s", ""), 0)
    panel.ask(ITEM_PATH, ITEM, "Activate", "ii", 5, 5)
    assert tended.done == ["Pause_it", "Page"]


def test_a_panel_that_comes_later_gets_the_sign(bus: SessionBus, panel: Panel) -> None:
    tended = Tended(bus)
    try:
        panel.come()
        eventually(lambda: panel.items)
        assert panel.get(ITEM_PATH, ITEM, "IconName") == "computer"
    finally:
        tended.close()


@pytest.mark.parametrize(
    ("path", "interface", "member", "signature", "body"),
    [
        (ITEM_PATH, ITEM, "Explode", "", ()),
        (ITEM_PATH, ITEM, "Activate", "s", ("here",)),
        (ITEM_PATH, "org.freedesktop.DBus.Properties", "Get", "ss", (ITEM, "Nothing")),
        (ITEM_PATH, "org.freedesktop.DBus.Properties", "Set", "ssv", (ITEM, "Status", ("s", "x"))),
        (MENU_PATH, MENU, "GetLayout", "", ()),
    ],
)
def test_what_is_not_known_is_answered_with_an_error(
    tended: Tended, panel: Panel, path: str, interface: str, member: str, signature: str, body: tuple[object, ...]
) -> None:
    with pytest.raises(DBusErrorResponse):
        panel.ask(path, interface, member, signature, *body)
    assert panel.get(ITEM_PATH, ITEM, "Id") == "deskgrid"


def test_without_a_bus_there_is_no_sign(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Tray(tmp_path / "none", lambda: IDLE, ())


def test_a_bus_that_ends_ends_the_sign(bus: SessionBus) -> None:
    tended = Tended(bus)
    bus.close()
    eventually(lambda: tended.tray.over)
    tended.close()
