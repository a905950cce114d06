"""What an X server tells: how long there was no input (MIT-SCREEN-SAVER), and whether a window fills the screen (EWMH).

Needs python-xlib (`pip install deskgrid[x11]`). While there is input nothing is asked for but every 20 s; once it has
been quiet, the next raw input event (XInput 2) wakes us. No key or position is looked at.
"""

from contextlib import suppress
from typing import Any

from Xlib import X, display  # type: ignore[import-untyped]
from Xlib.error import ConnectionClosedError, DisplayError, XError  # type: ignore[import-untyped]
from Xlib.ext import xinput  # type: ignore[import-untyped]

from deskgrid.model.presence import SessionReading
from deskgrid.session.eyes import QUIET_SECONDS, Say

_GONE = (ConnectionClosedError, DisplayError, OSError)
_RAW = xinput.RawKeyPressMask | xinput.RawButtonPressMask | xinput.RawMotionMask
GENERIC_EVENT = 35


class X11Eye:
    """Listens to an X server. Raises: OSError: it can't be reached, or lacks the extension."""

    def __init__(self, name: str, say: Say) -> None:
        self._say = say
        self.over = False
        try:
            self._display = display.Display(name)
        except (DisplayError, XError, OSError) as error:
            raise OSError(f"X server {name}: {error}") from None
        self._number = int(self._display.fileno())  # a closed display would not tell it
        self._root: Any = self._display.screen().root
        if not self._display.has_extension("MIT-SCREEN-SAVER"):
            self._display.close()
            raise OSError(f"X server {name}: got no MIT-SCREEN-SAVER, expected it for the time without input")
        self._raw = self._display.has_extension("XInputExtension")
        self._waits_for_input = False
        names = ("_NET_SUPPORTING_WM_CHECK", "_NET_ACTIVE_WINDOW", "_NET_WM_STATE", "_NET_WM_STATE_FULLSCREEN")
        self._manager, self._active, self._state, self._full = (self._display.intern_atom(name) for name in names)
        self._window: Any = None
        self._full_screen: bool | None = None
        self._root.change_attributes(event_mask=X.PropertyChangeMask)

    def fileno(self) -> int:
        """See Eye."""
        return self._number

    def tend(self) -> None:
        """See Eye."""
        with_input = changed = False
        try:
            while self._display.pending_events():
                event = self._display.next_event()
                with_input |= event.type == GENERIC_EVENT
                changed |= event.type == X.PropertyNotify and event.atom in (self._active, self._state)
            if with_input and self._waits_for_input:
                self._wait_for_input(False)
                self._say(SessionReading("x11", 0.0, full_screen=self._full_screen))
            if changed and self._look_at_window():
                self.look()
        except _GONE:
            self.over = True

    def look(self) -> None:
        """See Eye."""
        if self.over:
            return
        try:
            idle_seconds = self._idle_seconds()
            self._look_at_window()
            if idle_seconds >= QUIET_SECONDS and self._raw and not self._waits_for_input:
                self._wait_for_input(True)
                idle_seconds = self._idle_seconds()  # input that came before the server heard our wish
        except _GONE:
            self.over = True
            return
        self._say(SessionReading("x11", idle_seconds, full_screen=self._full_screen))

    def close(self) -> None:
        """See Eye."""
        with suppress(*_GONE):
            self._display.close()

    def _idle_seconds(self) -> float:
        return float(self._root.screensaver_query_info().idle) / 1000

    def _wait_for_input(self, wait: bool) -> None:
        self._waits_for_input = wait
        self._root.xinput_select_events([(xinput.AllMasterDevices, _RAW if wait else 0)])
        self._display.flush()

    def _look_at_window(self) -> bool:
        """See which window is active and whether it fills the screen. Returns whether that has changed."""
        before = self._full_screen
        try:
            self._full_screen = self._fills_the_screen()
        except XError:  # it went away between two questions
            self._full_screen = False
        return before is not self._full_screen

    def _fills_the_screen(self) -> bool | None:
        active = self._root.get_full_property(self._active, X.AnyPropertyType)
        if active is None and self._root.get_full_property(self._manager, X.AnyPropertyType) is None:
            return None  # no window manager that would tell
        number = int(active.value[0]) if active is not None and len(active.value) else 0
        if number == 0:
            return False
        if self._window is None or self._window.id != number:
            self._window = self._display.create_resource_object("window", number)
            self._window.change_attributes(event_mask=X.PropertyChangeMask)
        state = self._window.get_full_property(self._state, X.AnyPropertyType)
        return state is not None and self._full in state.value
