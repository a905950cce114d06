"""The demo's three jobs: what they run, how they are submitted, what they must print."""

import re
from pathlib import Path

import msgspec

IMAGE = "demo"
LONG_SECONDS = 25
"""How long the second job works: long enough to be evicted in the middle."""

_LOOK = """#!/bin/sh
echo "hello from $(hostname), $(nproc) CPU, kernel $(uname -r)"
grep -E '^(vm_name|deskgrid_vm_id|deskgrid_desktop|CondorVersion|TotalMemory) =' .machine.ad
id -un
awk '/MemTotal/ { print $2 " KiB of memory" }' /proc/meminfo
echo "look: done"
"""
_LONG = f"""#!/bin/sh
grep -E '^deskgrid_(desktop|vm_id) =' .machine.ad
i=0
while [ $i -lt {LONG_SECONDS} ]; do i=$((i + 1)); sleep 1; done
echo "long: counted to $i"
"""
_PLAIN = """#!/bin/sh
grep -E '^(vm_name|deskgrid_desktop) =' .machine.ad
echo "plain: done"
"""


class DemoJob(msgspec.Struct, frozen=True):
    """One job. title: for people. named: whether it names the image. expected: patterns that its output must hold."""

    key: str
    title: str
    script: str
    named: bool
    expected: tuple[str, ...]

    @property
    def submit(self) -> str:
        """The submit file: what a researcher writes."""
        lines = [
            f"executable = {self.key}.sh",
            f"output = {self.key}.out",
            f"error = {self.key}.err",
            f"log = {self.key}.log",
            "request_cpus = 1",
            "request_memory = 256MB",
            "request_disk = 64MB",
            "should_transfer_files = yes",
            "when_to_transfer_output = on_exit",
        ]
        if self.named:
            lines.append(f'+vm_name = "{IMAGE}"')
        return "\n".join([*lines, "queue", ""])

    def wrong(self, output: str) -> str:
        """What is wrong with the output, or nothing."""
        missing = [pattern for pattern in self.expected if not re.search(pattern, output, re.MULTILINE)]
        return f"{self.key}: the output lacks {', '.join(missing)}" if missing else ""


LOOK = DemoJob(
    "look",
    f'names the image (+vm_name = "{IMAGE}") and prints what it sees',
    _LOOK,
    True,
    (f'^vm_name = "{IMAGE}"$', '^deskgrid_vm_id = "', "^look: done$"),
)
LONG = DemoJob(
    "long",
    f"names the image and works for {LONG_SECONDS} s: it will be evicted once",
    _LONG,
    True,
    ('^deskgrid_desktop = "', f"^long: counted to {LONG_SECONDS}$"),
)
PLAIN = DemoJob(
    "plain",
    "names no image: may use a running machine, starts none",
    _PLAIN,
    False,
    (f'^vm_name = "{IMAGE}"$', "^plain: done$"),
)
JOBS = (PLAIN, LOOK, LONG)


def write_jobs(folder: Path, owner: tuple[int, int] | None) -> None:
    """Write scripts and submit files. owner: uid and gid that they shall have, when the caller is root."""
    import os

    for job in JOBS:
        for name, text, mode in ((f"{job.key}.sh", job.script, 0o755), (f"{job.key}.sub", job.submit, 0o644)):
            path = folder / name
            path.write_text(text)
            path.chmod(mode)
            if owner is not None:
                os.chown(path, *owner)
