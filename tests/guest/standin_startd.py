"""Stands in for condor_startd: a real process that does what the file `behaviour` beside it says.

quiet: run until SIGQUIT.  busy: the same with a child, as a startd has that runs a job.  dies: end with code 3.
stubborn: ignore SIGQUIT. SIGHUP is noted in `again`, with the token that is there then.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

here = Path(__file__).parent
behaviour = (here / "behaviour").read_text().strip()
run = Path(os.environ["CONDOR_CONFIG"]).parent
(here / "seen").write_text(f"{os.environ}\n{sys.argv[1:]}\n{os.getpid()}\n")
with (run / "log/StartLog").open("w") as log:
    log.write("it begins\nERROR: something is missing\n")

if behaviour == "dies":
    sys.exit(3)

child = subprocess.Popen(["sleep", "60"]) if behaviour == "busy" else None


def quit_fast(_number: int, _frame: object) -> None:
    if child is not None:
        child.kill()
        child.wait()
    (here / "quit").write_text("SIGQUIT")
    sys.exit(0)


def again(_number: int, _frame: object) -> None:
    (here / "again").write_text((run / "tokens.d/pool").read_text())


signal.signal(signal.SIGHUP, again)
signal.signal(signal.SIGQUIT, signal.SIG_IGN if behaviour == "stubborn" else quit_fast)
(here / "ready").write_text("")
while True:
    time.sleep(0.05)
