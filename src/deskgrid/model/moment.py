"""Points in time: always with a zone, checked where they come in, so that no comparison can fail later."""

from datetime import datetime
from typing import Annotated

import msgspec

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""An aware datetime, for use as a msgspec field type: a message that names a time without its zone is refused."""
