"""What native code measures of each class, by the names of ``stats``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import RecallAtQuantileConfig
from pauc.native.options import NativeOptions

# The numbers and the counts in the order of `Measured` and `Counted` in csrc/batch.h.
_OF_BAND = ("t_alpha", "t_beta", "tau_eff", "pauc", "pauc_var", "realised_fpr")
_OF_RECALL = ("top", "threshold", "tau_eff", "recall", "recall_var", "realised_fpr")
_COUNTS_OF_BAND = ("band_neg_count", "grad_pos_count")
_COUNTS_OF_RECALL = ("false_alert_count", "grad_pos_count")


class Measures(NamedTuple):
    """What native code writes beside the loss; ``C`` classes. None: it is not wanted."""

    numbers: Tensor | None  # [6, C], nan where a class is invalid
    counts: Tensor | None  # [2, C] int64, 0 there


def new_measures(like: Tensor) -> Measures:
    """Return room for measures of the columns of ``like``."""
    classes = like.shape[1]
    numbers = like.new_empty(len(_OF_BAND), classes)
    return Measures(numbers, like.new_empty(len(_COUNTS_OF_BAND), classes, dtype=torch.int64))


def stats_of(measures: Measures, ref_count: Tensor, options: NativeOptions) -> dict[str, Tensor]:
    """Return the ``stats`` of a step, ``[C]`` each."""
    numbers, counts = measures
    if numbers is None or counts is None:
        return {}
    is_recall = isinstance(options.config, RecallAtQuantileConfig)
    names = _OF_RECALL if is_recall else _OF_BAND
    names_of_counts = _COUNTS_OF_RECALL if is_recall else _COUNTS_OF_BAND
    stats = dict(zip(names, numbers.unbind(), strict=True))
    stats.update(zip(names_of_counts, counts.unbind(), strict=True))
    stats["ref_count"] = ref_count
    if is_recall:
        del stats["top"], stats["realised_fpr"]
    return stats
