"""`python -m deskgrid.session SOCKET… [-- PAGE COMMAND…]`: the helper as a process with nothing of the command line in
memory. `deskgrid session` becomes this. The command after `--` opens the page from the tray; without it, no tray."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deskgrid.agent.clock import local_now
from deskgrid.session.helper import Helper, sign_of_this_session


def main(argv: Sequence[str]) -> int:
    """Run until the session ends; return the exit code."""
    end = argv.index("--") if "--" in argv else len(argv)
    tried, page = [Path(word) for word in argv[:end]], argv[end + 1 :]
    beside = sign_of_this_session(tried, local_now, lambda: _start(page)) if page else []
    helper = Helper(tried, beside=beside)
    try:
        helper.run()
    except KeyboardInterrupt:
        return 130
    finally:
        helper.close()
    return 0


def _start(argv: Sequence[str]) -> None:
    subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
