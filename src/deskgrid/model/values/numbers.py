"""Numbers that come from outside: bounded by their types where they come in, so that no sum or time fails later.

msgspec refuses a message whose number lies outside (NaN too). No bound here is a wish: each is far above what there
is, and far below what breaks arithmetic, a database or a calendar.
"""

from typing import Annotated

import msgspec

Whole = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
"""A number that grows, such as of a report: exact in every reader of JSON."""

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
"""How many there are of something."""

Cpus = Annotated[int, msgspec.Meta(ge=0, le=65_536)]
"""Processors."""

Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
"""A size."""

AnyInt = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
AnyFloat = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
"""Of no known meaning, and still a number."""

Span = Annotated[float, msgspec.Meta(ge=0, le=10 * 366 * 86_400)]
"""Seconds that pass: ten years at most."""

Total = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
"""A sum of seconds over many."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
"""Of TCP; 0: none, or a free one."""

Pid = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]
"""A process; 0: none."""
