"""What an agent says to the process that gives parts of images to neighbours. Both are on one desktop, of one account.

Rules:
- The agent writes `NeighbourTask` to its standard input, one line of JSON; then `DiskCommand`s (`wire/disk.py`), a line
  each: rate (value: bytes per second) or status. The process lives until its standard input ends.
- It answers with `DiskMessage`s: ready holds its port; what it said is why it can not serve; `NeighbourCount` answers a
  command.
"""

import msgspec

from deskgrid.model.values.numbers import Bytes, Count, Port


class NeighbourTask(msgspec.Struct, frozen=True):
    """What to serve, and where. store: its folder. bytes_per_second: for all neighbours together.

    address: of this computer; empty: all that it has. port: 0: a free one.
    """

    store: str
    bytes_per_second: Bytes
    address: str = ""
    port: Port = 0


class NeighbourCount(msgspec.Struct, frozen=True):
    """What was given since the start. connections: now. Nothing is kept of who they are."""

    given_bytes: Bytes
    connections: Count
