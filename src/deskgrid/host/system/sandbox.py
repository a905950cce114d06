"""What holds a QEMU whose guest has broken out of it, on each system.

Rules:
- On Linux it is QEMU's own filter of system calls (seccomp). A QEMU that was built without it is not used.
- Elsewhere QEMU has none. What stands in its place has a name, which `deskgrid doctor` and `deskgrid status` say.

Source: qemu(1), -sandbox.
"""

import sys

from deskgrid.model.reason import Reason

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
SECCOMP = Reason(
    "seccomp",
    "A guest that breaks out of QEMU meets QEMU's filter of system calls (seccomp): it starts no program and gains no "
    "rights.",
)
JOB = Reason(
    "job-object",
    "This system has no filter of system calls for QEMU: a guest that breaks out may do what the agent's account may, "
    "within the limits of its job object.",
)
ACCOUNT = Reason(
    "account-only",
    "This system has no filter of system calls for QEMU: a guest that breaks out may do what the agent's account may.",
)


def wall(system: str = sys.platform) -> Reason:
    """Return what holds a QEMU here."""
    return SECCOMP if system == "linux" else JOB if system == "win32" else ACCOUNT


def words(system: str = sys.platform) -> tuple[str, ...]:
    """Return QEMU's first arguments."""
    return ("-sandbox", SANDBOX) if wall(system) is SECCOMP else ()
