"""Logging to standard error, set up in one way by whatever process logs.

Rules:
- One record is one line, but for a traceback. What comes from outside can neither end a line nor steer a terminal.
"""

import logging
import sys
import threading
import traceback
from types import TracebackType

from deskgrid.model.values.text import plain

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class PlainFormatter(logging.Formatter):
    """Makes lines that a terminal and a log can take."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line."""
        return plain(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback if there is one."""
        return plain(super().format(record), lines=True)


def set_up(level: int) -> None:
    """Log to standard error, and so what nobody has caught; a second time does nothing."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter(FORMAT))
    logging.basicConfig(level=level, handlers=[handler])
    sys.excepthook = _untold
    threading.excepthook = lambda args: _untold(args.exc_type, args.exc_value, args.exc_traceback)


def _untold(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """What nobody caught."""
    if not issubclass(kind, SystemExit):
        sys.stderr.write(plain("".join(traceback.format_exception(kind, error, trace)), lines=True))
