"""A client of the repository, from the place that says where everything is."""

import ssl
from pathlib import Path

from deskgrid.images.trust.client import Trusted
from deskgrid.images.trust.errors import Fault, TrustError
from deskgrid.images.trust.place import Place
from deskgrid.images.trust.source import FolderSource, HttpSource, Source

_WAIT_SECONDS = 30.0


def opened(place: Place) -> Trusted:
    """A client of this place; enter it before use. Raises: TrustError."""
    try:
        bootstrap = place.bootstrap.read_bytes()
    except OSError as error:
        raise TrustError(
            Fault.DESKTOP,
            "no-root",
            f"root {place.bootstrap}: can't be read: {error.strerror}; install the agent again",
        ) from None
    return Trusted(place.folder, bootstrap, source_of(place), _WAIT_SECONDS)


def source_of(place: Place) -> Source:
    """The source that a place names. Raises: TrustError."""
    if place.repository.startswith("/"):
        return FolderSource(Path(place.repository))
    try:
        context = ssl.create_default_context(cafile=str(place.certificates)) if place.certificates else None
    except OSError as error:
        raise TrustError(
            Fault.DESKTOP, "no-certificates", f"certificates {place.certificates}: can't be read: {error.strerror}"
        ) from None
    return HttpSource(place.repository, place.seconds, context)
