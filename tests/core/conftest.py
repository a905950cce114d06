"""How deep Hypothesis looks: quick by default, HYPOTHESIS_PROFILE=deep for a long look."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick", max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", parent=settings.get_profile("quick"), max_examples=3000, stateful_step_count=80)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
