"""Exact ROC metrics over a band of false-positive rates, computed in torch from raw scores.

Arguments common to every function:

- ``scores``: ``[N]``, ``[N, 1]`` or ``[N, C]``, any real dtype (integers, fp16 and bf16 included).
  A higher score means "more positive". Only the order matters: scores are used as they are, never
  read as logits or probabilities. Infinities are ordered like any other value; nan is an error.
- ``targets``: for one column ``[N]`` or ``[N, 1]`` of 0 and 1. For ``C`` columns class indices
  ``[N]`` or ``[N, 1]``, of which each column takes its own against the rest; or ``[N, C]`` of 0 and
  1, one-hot or multi-label.
- ``sample_weight``: ``[N]`` or ``[N, 1]``, finite and not negative: amounts, or inverse sampling
  rates. Rates are then shares of weight. A row of weight 0 is as good as absent. None: each row
  counts once.
- ``ignore_index``: entries with this target are dropped first (a nan score there is harmless).

All of these are tensors, or arrays, columns and frames (NumPy, pandas, polars, pyarrow), or lists.
Tensors stay on their device, and the others follow them there. The answer is a tensor where the
scores are one, and otherwise a float, or a NumPy array if it is more than one number.

Each of ``C`` columns is measured by itself, on the rows whose target in that column is not ignored,
and ``C`` is the first dimension of the result. A column whose rows do not define the metric, since
a class is missing, is nan there, with a ``UserWarning`` that names it.

Rates (FPR, TPR, budgets) are fractions in [0, 1]. A threshold ``t`` flags every row with
``score >= t``, so tied rows are flagged together. Counts are int64 (sums of weights float64) and
results float64, which the device must support (CPU and CUDA do, MPS does not). Nothing is
differentiable.

Errors name the argument, what was expected and what came. Every function raises ``TypeError`` for
an argument of the wrong type or dtype, and ``ValueError`` for a wrong shape or device, nan scores,
a target that is neither legal nor ``ignore_index``, a single class in the only column, or a rate or
option out of range.
"""

from pauc.metrics.roc import (
    ROCBand,
    coverage_at_budget,
    fpr_at_tpr,
    partial_auc,
    roc_curve_in_band,
    tpr_at_fpr,
)

__all__ = [
    "ROCBand",
    "coverage_at_budget",
    "fpr_at_tpr",
    "partial_auc",
    "roc_curve_in_band",
    "tpr_at_fpr",
]
