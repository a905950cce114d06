"""A job and its machine wait for each other as long as each should, on real HTCondor."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deskgrid.host.trees import trees
from deskgrid.pool.config import YOUNG_SECONDS, PoolSettings
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.pool.embedded.pool import EmbeddedPool
from deskgrid.pool.tools.driver import CondorPool
from tests import waiting
from tests.pool.execute_node import ExecuteNode, NodeIdentity

pytestmark = pytest.mark.real
LEASE = PoolSettings().lease_seconds
CHECKPOINTS = """\
#!/bin/sh
seen=$(cat state 2>/dev/null || echo 0)
echo "begins at $seen" >> story
[ "$seen" -ge 1 ] && grep -q '"vm-diesaaaaaa"' .machine.ad && exec sleep 1000
echo $((seen + 1)) > state
[ "$seen" -ge 2 ] && exit 0
exit 85
"""
eventually = partial(waiting.eventually, step_seconds=0.2)


class Pool:
    """An embedded pool with machines that die."""

    def __init__(self, embedded: EmbeddedPool, folder: Path) -> None:
        self.embedded, self._folder = embedded, folder
        self.driver = CondorPool(embedded.reach(20), settle_seconds=5)
        self.nodes: dict[str, ExecuteNode] = {}

    def join(self, vm_id: str) -> ExecuteNode:
        token = self.driver.mint_token(vm_id, 3600)
        member = NodeIdentity(vm_id, "img-a", "desk-1", token, extra=("STARTD_DEBUG = D_FULLDEBUG",))
        node = ExecuteNode.start(self.embedded.tree, self._folder / vm_id, member, self.embedded.collector)
        self.nodes[vm_id] = node
        return node

    def die(self, vm_id: str) -> None:
        self.nodes.pop(vm_id).die()
        self.driver.forget_vm(vm_id)

    def submit(self, *lines: str) -> str:
        base = ["executable = /bin/sleep", "arguments = 1000", "transfer_executable = false", "request_memory = 64"]
        base += ["should_transfer_files = yes", "request_disk = 10MB", '+vm_name = "img-a"', *lines, "queue", ""]
        text = "\n".join(base).encode()
        said = self.embedded.command(["condor_submit", "-terse", "-"], self.embedded.jobs, stdin=text)
        assert said.ok, said.stdout + said.stderr
        return said.stdout.split()[0]

    def value(self, job_id: str, expression: str) -> str:
        return self.embedded.command(["condor_q", job_id, "-af", expression]).stdout.strip()


@pytest.fixture
def pool() -> Iterator[Pool]:
    folder = Path(tempfile.mkdtemp(prefix="dglease-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with EmbeddedPool.start(trees.provide(), folder / "pool", HeadSettings(cycle_seconds=2)) as embedded:
            made = Pool(embedded, folder)
            try:
                yield made
            finally:
                for node in made.nodes.values():
                    node.die()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_restarted_schedd_finds_its_job_again_and_the_machine_keeps_it_for_longer_than_a_pause(pool: Pool) -> None:
    node = pool.join("vm-restartsaa")
    job = pool.submit("log = job.log")
    eventually(lambda: pool.value(job, "JobStatus") == "2")
    eventually(lambda: time.time() - int(pool.value(job, "JobCurrentStartDate")) > YOUNG_SECONDS + 2)
    assert f"JobLeaseDuration defined in job ClassAd: {LEASE}" in (node.folder / "log/StartLog").read_text()
    os.kill(pool.embedded.daemon_pids()["condor_schedd"], signal.SIGKILL)
    log = pool.embedded.jobs / "job.log"
    eventually(lambda: "Job reconnected to" in log.read_text())
    assert log.read_text().count("Job executing on host") == 1, "it was not begun again"


def test_a_job_that_checkpoints_itself_goes_on_from_its_checkpoint_after_its_machine_has_died(pool: Pool) -> None:
    script, log = pool.embedded.jobs / "steps.sh", pool.embedded.jobs / "steps.log"
    script.write_text(CHECKPOINTS)
    script.chmod(0o755)
    pool.join("vm-diesaaaaaa")
    files = "transfer_checkpoint_files = state, story", "transfer_output_files = state, story"
    lines = "executable = steps.sh", "transfer_executable = true", "arguments =", "checkpoint_exit_code = 85"
    job = pool.submit(*lines, *files, f"log = {log.name}")
    eventually(lambda: log.exists() and "Finished transferring output files" in log.read_text())
    pool.die("vm-diesaaaaaa")
    eventually(lambda: pool.value(job, "JobStatus") == "1")
    pool.join("vm-followsaaa")
    story = pool.embedded.jobs / "story"
    eventually(story.exists)
    told = story.read_text().splitlines()
    assert told[0] == "begins at 0" and told[-2:] == ["begins at 1", "begins at 2"]
    assert told.count("begins at 0") == 1, "what was done before the checkpoint was not done again"
