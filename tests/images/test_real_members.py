"""Machines of the scientific and the BOINC image in a real pool: what a researcher asks for works in them."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deskgrid.core.events import GuestLeft, Joined
from deskgrid.host.system.account import service_account
from deskgrid.host.system.files import own_folder
from deskgrid.host.system.paths import cache_folder
from deskgrid.host.trees import trees
from deskgrid.images.build.build import build
from deskgrid.model.instance import InstanceData
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.pool.embedded.pool import EmbeddedPool
from deskgrid.pool.tools.driver import CondorPool
from deskgrid.wire.guest import Leave

from .machine import Machine
from .promised import assert_kept

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
def member(recipe: Path, folder: Path) -> Iterator[tuple[Machine, EmbeddedPool]]:
    """A machine of a recipe that has joined a pool of its own."""
    built = build(recipe)
    name = built.ref.name
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
            there = ["condor_status", "-af", "deskgrid_vm_id"]
            until(lambda: "vm-real" in pool.command(there).stdout, 120)
            assert_kept(built, pool, told.cpus, told.memory_mb)
            yield machine, pool
        finally:
            machine.close()


def test_a_job_compiles_and_calculates_in_the_scientific_image(open_folder: Path) -> None:
    with member(RECIPES / "scientific.toml", open_folder) as (machine, pool):
        for name, text in (("job.sh", JOB), ("job.sub", SUBMIT)):
            (pool.jobs / name).write_text(text)
            (pool.jobs / name).chmod(0o755)
        assert pool.command(["condor_submit", "job.sub"], cwd=pool.jobs).ok
        until(lambda: not pool.command(["condor_q", "-af", "JobStatus"]).stdout.split(), 600)
        out, err = ((pool.jobs / name).read_text() for name in ("out", "err"))
        for expected in ("fortran with mpi, rank           1", "c++", "scipy 1.0", "R 0.5"):
            assert expected in out, (out, err)
        machine.say(Leave())
        assert machine.hear(GuestLeft).cause == "asked"


@pytest.mark.long
def test_the_boinc_client_works_in_its_image_and_is_held_while_a_job_runs(open_folder: Path, tmp_path: Path) -> None:
    """Its project is nobody's address: what can be tried without the internet."""
    recipe = tmp_path / "filler.toml"
    place = os.path.relpath(RECIPES.resolve() / "boinc.toml", tmp_path)
    words = [f'from = "{place}"', 'name = "filler"', "[[files]]", 'source = "project"']
    recipe.write_text("\n".join([*words, 'to = "/etc/deskgrid-boinc/project"', ""]))
    (tmp_path / "project").write_text('URL="http://10.0.2.2:1/nobody/"\nKEY="0123456789abcdef"\n')
    with member(recipe, open_folder) as (machine, pool):
        seen = ["condor_status", "-af", "Name", "boinc_state"]
        until(lambda: "works" in pool.command(seen).stdout, 120)
        for name, text in (("job.sh", "#!/bin/sh\nsleep 300\n"), ("job.sub", SUBMIT.replace("scientific", "filler"))):
            (pool.jobs / name).write_text(text)
            (pool.jobs / name).chmod(0o755)
        assert pool.command(["condor_submit", "job.sub"], cwd=pool.jobs).ok
        until(lambda: "held for a job" in pool.command(seen).stdout, 120)
        assert pool.command(["condor_rm", "-all"]).ok
        until(lambda: "works" in pool.command(seen).stdout, 120)
        machine.say(Leave())
        assert machine.hear(GuestLeft).cause == "asked"


def until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not so within {seconds} s"
        time.sleep(0.5)
