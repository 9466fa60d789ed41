"""A step of the partial AUC or of Smooth-AP as one native call; ``csrc`` holds the C++.

The numbers are those of :mod:`pauc.core`, with the gradient computed beside the loss.
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
