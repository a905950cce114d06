"""Which unprivileged account runs HTCondor, the coordinator, agents and QEMU.

Root never runs them: a caller who is root uses uid 61999, which needs no line in the host's passwd; anybody else
uses the own account.
"""

import os

import msgspec

SERVICE_ID = 61999
SERVICE_NAME = "deskgrid"


class Account(msgspec.Struct, frozen=True):
    """A numeric user and group."""

    uid: int
    gid: int


def service_account() -> Account:
    """Return the account that runs what needs no privilege: 61999 when the caller is root, else the caller."""
    if os.geteuid() == 0:
        return Account(SERVICE_ID, SERVICE_ID)
    return Account(os.getuid(), os.getgid())


def become(account: Account | None) -> list[str]:
    """Return what goes before an argv so that it runs as `account` and gains nothing; [] if the caller is not root."""
    if account is None or os.geteuid() != 0:
        return []
    identity = [f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
    return ["setpriv", *identity, "--no-new-privs", "--bounding-set=-all", "--"]
