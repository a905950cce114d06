"""What a keeper and the process that serves its VM's disk say to each other. Both are on one desktop, of one account.

Rules:
- The keeper starts `argv` with three more arguments: the path of the Unix socket to be made, and the numbers of two
  inherited memory files, for kernel and initrd ("-": there is none).
- It writes `opening` to the standard input, which holds a SECRET and means nothing to the keeper; then, a JSON line
  each, a `DiskCommand`. The process lives until its standard input ends, and dies with its keeper.
- It fills the memory files, then says `ready`; or it says why not (`said`) and ends with another exit code than 0.
  What it says later are faults that it met, in sentences. One JSON line each.
- It obeys commands from the start, while it still fills the memory files too. `status` is answered with an object in
  which `away` says why it waits for a source, "" when it does not. Paused, it asks no source for anything.
- It serves an NBD export "disk", and with `seed` one "seed" (for cloud-init), read only. A guest may have to wait, but
  gets no error because a source is away.
"""

from pathlib import Path
from typing import Any

import msgspec

from deskgrid.model.image import ImageRef
from deskgrid.model.values.numbers import Bytes
from deskgrid.model.values.outside import JsonReader


class DiskServer(msgspec.Struct, frozen=True):
    """How to start one. argv: without the three arguments. opening: SECRET. size_bytes: the disk's length."""

    argv: tuple[str, ...]
    opening: bytes
    size_bytes: Bytes
    kernel: bool = True
    initrd: bool = True
    seed: bool = False

    def __repr__(self) -> str:
        return f"DiskServer(argv={self.argv!r}, size_bytes={self.size_bytes}, opening=<secret>)"


class OpenedImage(msgspec.Struct, frozen=True):
    """What a VM boots from, for as long as it lives: files, or a program that serves them. All read only.

    disk: file of the raw disk (bootable by BIOS). kernel, initrd: files for who can boot a kernel directly.
    served: in place of the three files. Holds a SECRET.
    """

    ref: ImageRef
    cmdline: str = ""
    disk: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    served: DiskServer | None = None

    def without_secret(self) -> "OpenedImage":
        """The same without what opens it."""
        if self.served is None:
            return self
        return msgspec.structs.replace(self, served=msgspec.structs.replace(self.served, opening=b""))


class DiskCommand(msgspec.Struct, frozen=True):
    """A line to it. do: pause, resume (fetching), rate (value: bytes per second, 0: no limit), status, order."""

    do: str
    value: Bytes = 0


class DiskMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line from it: one of them. ready: it serves. said: a fault, in a sentence. answer: to a command."""

    ready: dict[str, Any] | None = None
    said: str = ""
    answer: Any = None


LINE_BYTES = 256 * 1024
COMMANDS = JsonReader[DiskCommand](DiskCommand)
MESSAGES = JsonReader[DiskMessage](DiskMessage)
