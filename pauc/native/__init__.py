"""The step of the partial AUC as one native call on a CPU; ``csrc`` holds the C++.

The numbers are those of :mod:`pauc.core.partial_auc`, with the gradient computed beside the loss.
"""

from pauc.native import extension
from pauc.native.extension import state
from pauc.native.options import NativeOptions, native_options
from pauc.native.step import fitting, take_step
from pauc.native.watched import has_operator, take_watched_step

__all__ = [
    "NativeOptions",
    "extension",
    "fitting",
    "has_operator",
    "native_options",
    "state",
    "take_step",
    "take_watched_step",
]
