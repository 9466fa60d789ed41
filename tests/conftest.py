"""Settings that every test shares: one torch thread and two Hypothesis profiles.

HYPOTHESIS_PROFILE=long runs 10,000 fresh examples a test; the default runs the same 150 examples
each time, so that a failure in CI is a failure of the commit and not of the draw.
"""

import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

settings.register_profile(
    "default", max_examples=150, derandomize=True, deadline=None, print_blob=True
)
settings.register_profile(
    "long",
    max_examples=10_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
