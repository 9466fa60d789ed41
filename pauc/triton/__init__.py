"""The step of the partial AUC on CUDA in at most twelve launches, written in Triton.

The numbers are those of :mod:`pauc.core.partial_auc`, with the gradient computed beside the loss.
Importing this imports no triton: that is done by the first step.
"""

from pauc.triton.choice import runs_on, state
from pauc.triton.options import TritonOptions, triton_options

__all__ = ["TritonOptions", "runs_on", "state", "triton_options"]
