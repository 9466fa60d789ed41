"""Pictures of a model at its budget: ROC curves, scores, training, a deployed threshold.

Needs matplotlib: ``pip install 'torch-pauc[plot]'``. ``import pauc`` does not import this module.

A function that draws one picture draws it into ``ax``, or into a new figure, and returns the
``Axes``: titles, limits and files are the caller's. One that draws several returns a new
``Figure``. No function shows a figure or changes matplotlib's global style. Colours are those of
Okabe and Ito (2008), and neighbouring lines differ in their dashes too, so that a reader who is
colour-blind, or has a grey print, can tell the lines apart.

Several classes: scores are ``[N, C]``, and targets are class indices ``[N]``, each class against
all others, or multi-label ``[N, C]``. A class of which one of the two sides has no row is left out
with a warning.
"""

try:
    import matplotlib  # noqa: F401 - here, so that the modules below may import it as they like
except ImportError as error:
    raise ImportError(
        "pauc.plot needs matplotlib, which is not installed. Cure: pip install 'torch-pauc[plot]'"
    ) from error

from pauc.plot.curves import roc
from pauc.plot.histograms import classes, score_histogram
from pauc.plot.history import dashboard, monitoring, training

__all__ = ["classes", "dashboard", "monitoring", "roc", "score_histogram", "training"]
