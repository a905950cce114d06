"""For all tests. How deep Hypothesis looks: quick by default, HYPOTHESIS_PROFILE=deep for a long look."""

import os
import signal

from hypothesis import HealthCheck, settings

# A shell in the background ignores Ctrl-C, and what it starts inherits that: the tests' own children must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "quick", max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", parent=settings.get_profile("quick"), max_examples=3000, stateful_step_count=80)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
