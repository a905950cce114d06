"""`python -m deskgrid.agent SETTINGS`: the agent as a process of its own, with nothing of the command line in memory.

`deskgrid agent run` becomes this. Exit codes as everywhere (cli/output.py): 0 done, 2 wrong settings, 4 refused.
"""

from deskgrid.agent.lean import settle  # isort: skip  # first, before msgspec

import logging
import sys
from pathlib import Path

from deskgrid.agent.run import AgentError, run
from deskgrid.agent.settings import AgentSettings
from deskgrid.host.system import logs
from deskgrid.host.system.toml import BadSettings, read
from deskgrid.model.values.text import plain


def main(argv: list[str]) -> int:
    """Run until told to stop; return the exit code."""
    path, *flags = argv
    level = logging.INFO if "--verbose" in flags else logging.WARNING
    logs.set_up(level)
    try:
        run(read(Path(path), AgentSettings), Path(path), settled=settle)
    except BadSettings as error:
        return _say(error, 2)
    except AgentError as error:
        return _say(error, 4)
    return 0


def _say(error: Exception, code: int) -> int:
    sys.stderr.write(plain(f"deskgrid: {error}\n", lines=True))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
