"""What comes into the agent's inbox: inputs to its decisions as they are, and what must be looked at first."""

from typing import TypeAlias

import msgspec

from deskgrid.core.desktop.inputs import Finishing, HandingOver, Ticked, Wished
from deskgrid.core.events import Happened
from deskgrid.model.inventory import Inventory
from deskgrid.wire.messages import Answer


class Sense(msgspec.Struct, frozen=True):
    """Look at the owner now: a driver saw a sign, or it is time."""


class Answered(msgspec.Struct, frozen=True):
    """The coordinator answered."""

    answer: Answer


class LinkDown(msgspec.Struct, frozen=True):
    """The coordinator could not be asked, or refused. to: the report's sequence."""

    to: int
    sentence: str


class Looked(msgspec.Struct, frozen=True):
    """What this computer is made of; None: it could not be found out."""

    inventory: Inventory | None


Item: TypeAlias = Sense | Answered | LinkDown | Looked | Happened | Wished | Finishing | HandingOver | Ticked
