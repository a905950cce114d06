"""For all tests. How deep Hypothesis looks: quick by default, HYPOTHESIS_PROFILE=deep or brief else."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests import condor

# A shell in the background ignores Ctrl-C, and what it starts inherits that: the tests' own children must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "quick", max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("brief", parent=settings.get_profile("quick"), max_examples=40, stateful_step_count=15)
settings.register_profile("deep", parent=settings.get_profile("quick"), max_examples=3000, stateful_step_count=80)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this one, if any, what was used here."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["used"] = condor.USED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Hear it."""
    condor.USED.extend(getattr(node, "workeroutput", {}).get("used", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which versions of HTCondor the tests have run on."""
    for line in sorted(set(condor.USED)):
        terminalreporter.write_line(line)
