"""Stands for a VM's keeper: joins a job, starts a child that starts a grandchild, says who they are, and waits.

Arguments: the job's name, then how deep to go.
"""

import os
import subprocess
import sys
import time

from deskgrid.host.system.windows_job import JobObject

name, depth = sys.argv[1], int(sys.argv[2])
if name:
    job = JobObject(name)
    job.join()
print(os.getpid(), flush=True)
if depth:
    subprocess.Popen([sys.executable, __file__, "", str(depth - 1)])
if "busy" in sys.argv:
    end = time.process_time() + 1.0
    while time.process_time() < end:
        pass
time.sleep(120)
