"""The step of the partial AUC as one native call on a CPU; ``csrc`` holds the C++.

The numbers are those of :mod:`pauc.core.partial_auc`, with the gradient computed beside the loss.
"""

from pauc.native.extension import state
from pauc.native.options import NativeOptions, native_options
from pauc.native.step import take_step

__all__ = ["NativeOptions", "native_options", "state", "take_step"]
