"""What tests share: one torch thread, three Hypothesis profiles, and both ways to take a step.

The default profile runs the same 150 examples each time, so that a failure in CI is a failure of
the commit and not of the draw. HYPOTHESIS_PROFILE=quick runs 15 of them, for the loop in which one
writes code; HYPOTHESIS_PROFILE=long runs 10,000 fresh examples a test.
"""

import os
import sys

import pytest
import torch
from hypothesis import HealthCheck, settings

from pauc.native import extension

torch.set_num_threads(1)

settings.register_profile(
    "default", max_examples=150, derandomize=True, deadline=None, print_blob=True
)
settings.register_profile(
    "quick", max_examples=15, derandomize=True, deadline=None, print_blob=True
)
settings.register_profile(
    "long",
    max_examples=10_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def set_may_look(patch, looks):
    """Let every module of the package take the devices for a CPU, or for an accelerator."""
    for name, module in list(sys.modules.items()):
        if name.startswith("pauc.") and hasattr(module, "may_look"):
            patch.setattr(module, "may_look", lambda _: looks)


@pytest.fixture(scope="module", params=["native", "composed"])
def each_path(request):
    """Run a module's tests with the native code and without; for `pytest.mark.usefixtures`."""
    if request.param == "native" and extension.ext is None:
        pytest.skip("installed without a compiler")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "composed":
            patch.setattr(extension, "ext", None)
        yield
