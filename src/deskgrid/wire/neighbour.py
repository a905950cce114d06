"""What an agent and the process that serves its neighbours say to each other. Both are on one desktop, of one account.

Rules, told first
- The agent writes `Serving` to its standard input, then, a line each, a `Command` (`wire/disk.py`): pause, resume,
  rate (value: bytes per second), status. The process lives until its standard input ends.
- It answers with `Word`s (`wire/disk.py`): ready has the port; then what it reports, and answers.
"""

import msgspec


class Serving(msgspec.Struct, frozen=True):
    """What to serve, and where. store: its folder. address: of this computer; empty: all of them.

    port: 0: a free one. bytes_per_second: for all neighbours together. paused: until it is told to go on.
    """

    store: str
    bytes_per_second: int
    address: str = ""
    port: int = 0
    paused: bool = False
