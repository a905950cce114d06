"""A sign in the tray, where there is one: what the grid does here, and the same four wishes as on the page.

Rules:
- It is a picture of what the agent says and a way to ask it; it knows and decides nothing.
- No tray, no sign, no fault: it registers when a StatusNotifierWatcher comes, and waits for one as long as it lasts.

Sources: freedesktop.org, StatusNotifierItem; libdbusmenu, dbus-menu.xml (com.canonical.dbusmenu).
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageFlag,
    MessageType,
    new_error,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.bus_messages import MatchRule, message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.wrappers import DBusErrorResponse

ITEM, WATCHER = "org.kde.StatusNotifierItem", "org.kde.StatusNotifierWatcher"
MENU = "com.canonical.dbusmenu"
ITEM_PATH, MENU_PATH = "/StatusNotifierItem", "/MenuBar"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_MESSAGES_AT_ONCE = 100
_GONE = (OSError, ConnectionError, ValueError, DBusErrorResponse)
Variant = tuple[str, Any]


class Sign(msgspec.Struct, frozen=True):
    """What the tray shows. headline, because: one sentence each. icon: of the icon theme. active: machines are here."""

    headline: str
    because: str
    icon: str
    active: bool


class Tray:
    """The sign; an `Eye` that sees nothing. Raises: OSError: no bus.

    Args:
        sign: what to show now. wishes: what the menu offers: (text, what to do).
    """

    def __init__(self, path: Path, sign: Callable[[], Sign], wishes: Sequence[tuple[str, Callable[[], None]]]) -> None:
        self._sign, self._wishes = sign, wishes
        self._now = Sign("", "", "computer", False)
        self._revision = 1
        self.over = False
        try:
            self._link: DBusConnection = open_dbus_connection(f"unix:path={path}")
            self.name = f"{ITEM}-{os.getpid()}-1"
            self._link.send_and_get_reply(message_bus.RequestName(self.name), timeout=3)
            rule = MatchRule(type="signal", sender="org.freedesktop.DBus", member="NameOwnerChanged")
            rule.add_arg_condition(0, WATCHER)
            self._link.send_and_get_reply(message_bus.AddMatch(rule), timeout=3)
            there = self._link.send_and_get_reply(message_bus.NameHasOwner(WATCHER), timeout=3).body[0]
        except _GONE as error:
            raise OSError(f"tray: {error}") from None
        self._shown(bool(there))

    def fileno(self) -> int:
        """See Eye."""
        return int(self._link.sock.fileno())

    def tend(self) -> None:
        """See Eye."""
        try:
            for _ in range(_MESSAGES_AT_ONCE):
                self._take(self._link.receive(timeout=0))
        except TimeoutError:
            return
        except _GONE:
            self.over = True

    def look(self) -> None:
        """Show what is so now, if it is something else."""
        if not self._there or self.over:
            return
        before, self._now = self._now, self._sign()
        if before == self._now:
            return
        self._revision += 1
        with suppress(*_GONE):
            for member in ("NewToolTip", "NewIcon", "NewTitle"):
                self._link.send(new_signal(DBusAddress(ITEM_PATH, interface=ITEM), member))
            status = ("s", (self._status(),))
            self._link.send(new_signal(DBusAddress(ITEM_PATH, interface=ITEM), "NewStatus", *status))
            layout = ("ui", (self._revision, 0))
            self._link.send(new_signal(DBusAddress(MENU_PATH, interface=MENU), "LayoutUpdated", *layout))

    def close(self) -> None:
        """See Eye."""
        with suppress(*_GONE):
            self._link.close()

    # -- messages -------------------------------------------------------------------------------------------------

    def _shown(self, there: bool) -> None:
        """A tray has come or gone."""
        self._there = there
        if not there:
            return
        self._now = self._sign()
        watcher = DBusAddress("/StatusNotifierWatcher", WATCHER, WATCHER)
        call = new_method_call(watcher, "RegisterStatusNotifierItem", "s", (self.name,))
        call.header.flags |= MessageFlag.no_auto_start | MessageFlag.no_reply_expected
        with suppress(*_GONE):
            self._link.send(call)

    def _take(self, message: Message) -> None:
        fields, kind = message.header.fields, message.header.message_type
        member = fields.get(HeaderFields.member, "")
        if kind is MessageType.signal and member == "NameOwnerChanged" and message.body[0] == WATCHER:
            self._shown(bool(message.body[2]))
        elif kind is MessageType.method_call:
            self._link.send(self._answer(message, fields.get(HeaderFields.interface, ""), member))

    def _answer(self, message: Message, interface: str, member: str) -> Message:
        try:
            if interface == _PROPERTIES:
                return new_method_return(message, *self._property(member, message.body))
            answers: dict[str, Callable[..., tuple[str, tuple[Any, ...]]]] = {
                "Activate": self._activate,
                "GetLayout": self._layout,
                "GetGroupProperties": lambda ids, names: (
                    "a(ia{sv})",
                    ([(i, self._entry(i)) for i in ids or self._ids()],),
                ),
                "AboutToShow": lambda number: ("b", (False,)),
                "Event": self._event,
            }
            return new_method_return(message, *answers[member](*message.body))
        except (LookupError, TypeError, ValueError):
            return new_error(message, "org.freedesktop.DBus.Error.UnknownMethod")

    def _activate(self, x: int, y: int) -> tuple[str, tuple[Any, ...]]:
        self._wishes[0][1]()
        return "", ()

    def _property(self, member: str, body: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        known = self._menu_properties() if body[0] == MENU else self._item_properties()
        if member == "GetAll":
            return "a{sv}", (known,)
        if member == "Get":
            return "v", (known[body[1]],)
        raise LookupError(member)

    def _status(self) -> str:
        return "Active" if self._now.active else "Passive"

    def _item_properties(self) -> dict[str, Variant]:
        now = self._now
        return {
            "Category": ("s", "SystemServices"),
            "Id": ("s", "deskgrid"),
            "Title": ("s", "deskgrid"),
            "Status": ("s", self._status()),
            "IconName": ("s", now.icon),
            "ToolTip": ("(sa(iiay)ss)", (now.icon, [], now.headline, now.because)),
            "ItemIsMenu": ("b", False),
            "Menu": ("o", MENU_PATH),
        }

    def _menu_properties(self) -> dict[str, Variant]:
        return {
            "Version": ("u", 3),
            "Status": ("s", "normal"),
            "TextDirection": ("s", "ltr"),
            "IconThemePath": ("as", []),
        }

    # -- the menu: 0 is the root, 1 the headline, 2 a line, from 3 on the wishes --------------------------------------

    def _ids(self) -> list[int]:
        return list(range(3 + len(self._wishes)))

    def _entry(self, number: int) -> dict[str, Variant]:
        if number == 0:
            return {"children-display": ("s", "submenu")}
        if number == 1:
            return {"label": ("s", _label(self._now.headline)), "enabled": ("b", False)}
        if number == 2:
            return {"type": ("s", "separator")}
        return {"label": ("s", _label(self._wishes[number - 3][0])), "enabled": ("b", True)}

    def _layout(self, parent: int, depth: int, names: list[str]) -> tuple[str, tuple[Any, ...]]:
        children = self._ids()[1:] if parent == 0 and depth != 0 else []
        inner: list[Variant] = [("(ia{sv}av)", (number, self._entry(number), [])) for number in children]
        return "u(ia{sv}av)", (self._revision, (parent, self._entry(parent), inner))

    def _event(self, number: int, kind: str, data: Variant, at: int) -> tuple[str, tuple[Any, ...]]:
        if kind == "clicked" and 3 <= number < 3 + len(self._wishes):
            self._wishes[number - 3][1]()
            self.look()
        return "", ()


def _label(text: str) -> str:
    return text.replace("_", "__")  # a single one would mark the next letter
