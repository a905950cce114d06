"""What this computer is made of, for the coordinator: `python -m deskgrid.host.doctor.inventory [STATE-FOLDER]` prints
JSON.

Rules:
- It is made in a short child process, which runs at the lowest priority, so that the agent stays small and the owner
  does not feel it: `read_inventory` starts the child and reads what it prints.
- It says what the doctor found, as values and stable names; sentences with names of people, folders and addresses stay
  on the computer.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deskgrid.host.system.process import run
from deskgrid.host.system.programs import python
from deskgrid.model.inventory import Inventory
from deskgrid.model.values.outside import read_json
from deskgrid.model.values.text import printable

READ_SECONDS = 60.0
_TRIAL_SECONDS = 20.0
_TEXT_CHARS = 240
_PRIVATE = ("rights",)


def read_inventory(state: Path | None = None, seconds: float = READ_SECONDS) -> Inventory | None:
    """Have a child look at this computer; waits for it, at most `seconds`.

    Args:
        state: the agent's folder.

    Returns:
        None when that did not work.
    """
    argv = python("deskgrid.host.doctor.inventory", [str(state)] if state is not None else [])
    said = run(argv, seconds)
    try:
        return read_json(said.stdout, type=Inventory) if said.ok else None
    except msgspec.DecodeError:
        return None


def look(state: Path | None) -> Inventory:
    """Look at this computer, in this process."""
    # Here, because the agent imports this module and never gets this far.
    from deskgrid.host.doctor.desktop import virtualisation
    from deskgrid.host.doctor.facts import GIB, AgentFacts, Level
    from deskgrid.host.doctor.findings import examine
    from deskgrid.host.doctor.gather import gather

    facts = gather(agent=AgentFacts(state) if state is not None else None, trial_seconds=_TRIAL_SECONDS)
    problems = [one.name for one in examine(facts, desktop=True) if one.level is not Level.OK]
    return Inventory(
        system=_text(facts.system),
        kernel=_text(facts.kernel),
        processor=_text(facts.processor),
        cpus=facts.cpus,
        memory_bytes=facts.memory_bytes,
        disk_free_gib=facts.disk_free_bytes // GIB,
        virtualisation=virtualisation(facts),
        hypervised=facts.hypervised,
        trials=tuple(msgspec.structs.replace(one, sentence=_text(one.sentence)) for one in facts.trials),
        qemu=_text((facts.qemu or "").removeprefix("QEMU emulator version ")),
        virtualbox=_text(facts.virtualbox),
        maker=_text(facts.maker),
        product=_text(facts.product),
        firmware=_text(facts.firmware),
        problems=tuple(name for name in problems if name not in _PRIVATE),
    )


def _text(words: str) -> str:
    """What firmware says of itself may hold anything."""
    return printable(words, _TEXT_CHARS)


def main(argv: Sequence[str]) -> None:
    """Print it."""
    os.nice(19)
    found = look(Path(argv[0]) if argv else None)
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
