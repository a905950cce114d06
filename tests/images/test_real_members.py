"""Machines of the scientific and the BOINC image in a real pool: what a researcher asks for works in them."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deskgrid.host import trees
from deskgrid.host.account import service_account
from deskgrid.host.files import own_folder
from deskgrid.host.paths import cache_folder
from deskgrid.images.build import build
from deskgrid.model.instance import InstanceData
from deskgrid.pool.embedded import EmbeddedPool
from deskgrid.pool.head import HeadSettings
from deskgrid.pool.tools import CondorPool
from deskgrid.wire.guest import Joined, Leave, Left

from .machine import Machine

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]

RECIPES = Path(__file__).parents[2] / "recipes"
SUBMIT = """\
executable = job.sh
output = out
error = err
log = log
request_memory = 256
request_disk = 100M
+vm_name = "scientific"
queue
"""
JOB = """\
#!/bin/sh
set -e
export HOME=$PWD OMPI_MCA_plm_rsh_agent=
cat > x.f90 << END
program x
use mpi
integer :: code, rank
call mpi_init(code)
call mpi_comm_rank(mpi_comm_world, rank, code)
print *, 'fortran with mpi, rank', rank
call mpi_finalize(code)
end program
END
mpifort x.f90 -o x
mpirun --oversubscribe -n 2 ./x
echo 'int main(){ return 0; }' > y.cc && g++ y.cc -o y && ./y && echo 'c++'
python3 -c 'import numpy, scipy.linalg; print("scipy", scipy.linalg.det(numpy.eye(3)))'
Rscript -e 'cat("R", solve(2), "\\n")'
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the unprivileged account can reach."""
    place = cache_folder() / "images/.members.work"
    own_folder(place, service_account())
    yield place
    subprocess.run(["rm", "-rf", str(place)], check=True)


@contextmanager
def member(name: str, folder: Path) -> Iterator[tuple[Machine, EmbeddedPool]]:
    """A machine of a ready recipe that has joined a pool of its own."""
    built = build(RECIPES / f"{name}.toml")
    with EmbeddedPool.start(trees.provide(), folder / "pool", HeadSettings(cycle_seconds=1)) as pool:
        own_folder(pool.jobs, service_account())
        machine = Machine(built, direct=True, console=folder / "console")
        try:
            told = InstanceData(
                vm_id="vm-real",
                vm_name=name,
                desktop="desk-1",
                collector=pool.guest_collector,
                token=CondorPool(pool.reach()).mint_token("vm-real", 3600),
                trust_domain=pool.state.trust_domain,
                cpus=2,
                memory_mb=900,
            )
            machine.join(told)
            machine.hear(Joined)
            yield machine, pool
        finally:
            machine.close()


def test_a_job_compiles_and_calculates_in_the_scientific_image(open_folder: Path) -> None:
    with member("scientific", open_folder) as (machine, pool):
        for name, text in (("job.sh", JOB), ("job.sub", SUBMIT)):
            (pool.jobs / name).write_text(text)
            (pool.jobs / name).chmod(0o755)
        assert pool.command(["condor_submit", "job.sub"], cwd=pool.jobs).ok
        until(lambda: not pool.command(["condor_q", "-af", "JobStatus"]).stdout.split(), 600)
        out, err = ((pool.jobs / name).read_text() for name in ("out", "err"))
        for expected in ("fortran with mpi, rank           1", "c++", "scipy 1.0", "R 0.5"):
            assert expected in out, (out, err)
        machine.say(Leave())
        assert machine.hear(Left).cause == "asked"


def test_the_startd_of_the_boinc_image_starts_the_filler_which_says_that_it_has_no_project(open_folder: Path) -> None:
    with member("boinc", open_folder) as (machine, pool):
        argv = ["condor_status", "-af", "Name", "boinc_state"]
        until(lambda: "no project" in pool.command(argv).stdout, 120)
        machine.say(Leave())
        assert machine.hear(Left).cause == "asked"


def until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not so within {seconds} s"
        time.sleep(0.5)
