"""Confidence intervals for what :mod:`pauc.metrics` measures on a sample of held-out rows.

Scores, targets, weights, rates, columns, kinds of answer and errors are those of
:mod:`pauc.metrics`. Every function takes a ``confidence``, above 0 and below 1. The rows of each
class are taken for independent draws; the numbers of positives and of negatives are taken as given.

An interval covers the sampling of the held-out rows alone. It says nothing of how much another seed
of the training would change, and it is too narrow where the model was chosen by the same rows.
"""

from pauc.intervals.analytic import partial_auc_interval
from pauc.intervals.bootstrap import bootstrap_interval
from pauc.intervals.interval import Interval
from pauc.intervals.proportion import wilson_interval
from pauc.intervals.rates import fpr_at_tpr_interval, tpr_at_fpr_interval

__all__ = [
    "Interval",
    "bootstrap_interval",
    "fpr_at_tpr_interval",
    "partial_auc_interval",
    "tpr_at_fpr_interval",
    "wilson_interval",
]
