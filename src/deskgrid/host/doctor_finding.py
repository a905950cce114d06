"""What a doctor says: findings with a level, a sentence and the commands that mend them."""

import shlex
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from deskgrid.host.doctor_facts import Facts


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. mend: commands for a shell, in order; empty: nothing to do, or nothing to type."""

    name: str
    level: Level
    sentence: str
    mend: tuple[str, ...] = ()


def worst(findings: Sequence[Finding]) -> Level:
    """The level of the worst finding."""
    return max((one.level for one in findings), key=tuple(Level).index, default=Level.OK)


def sudo(facts: Facts) -> str:
    """What goes before a command that needs root."""
    return "sudo " if facts.uid != 0 and "sudo" in facts.programs else ""


def as_root(facts: Facts, *commands: str) -> tuple[str, ...]:
    """Commands that need root."""
    return tuple(f"{sudo(facts)}{command}" for command in commands)


def join_group(facts: Facts, group: str) -> tuple[str, ...]:
    """How the account that runs the agent gets into a group."""
    return as_root(facts, f"usermod -aG {group} {shlex.quote(facts.account)}  # then log in again")
