"""Exact ROC metrics over a band of false-positive rates, computed in torch from raw scores.

Arguments common to every function:

- ``scores``: ``[N]`` or ``[N, 1]``, any real dtype (integers, fp16 and bf16 included). A higher
  score means "more positive". Only the order matters: scores are used as they are, never read as
  logits or probabilities. Infinities are ordered like any other value; nan is an error.
- ``targets``: ``[N]`` or ``[N, 1]`` of 0 and 1 in any real dtype, on the scores' device.
- ``ignore_index``: rows with this target are dropped first (a nan score there is harmless).

Multi-label scores and targets are both ``[N, C]``: each column is measured by itself, on the rows
whose target in that column is not ignored, and ``C`` is the first dimension of the result. Only
``roc_curve_in_band`` takes one column at a time, since the curves of columns differ in length.

Rates (FPR, TPR, budgets) are fractions in [0, 1]. A threshold ``t`` flags every row with
``score >= t``, so tied rows are flagged together. Counts are int64 and results float64, which the
device must support (CPU and CUDA do, MPS does not). Nothing is differentiable.

Errors name the argument, what was expected and what came. Every function raises ``TypeError`` for
an argument of the wrong type or dtype, and ``ValueError`` for a wrong shape or device, nan scores,
a target other than 0, 1 and ``ignore_index``, a single class, or a rate or option out of range.
"""

from pauc.metrics.roc import (
    ROCBand,
    coverage_at_budget,
    partial_auc,
    roc_curve_in_band,
    tpr_at_fpr,
)

__all__ = ["ROCBand", "coverage_at_budget", "partial_auc", "roc_curve_in_band", "tpr_at_fpr"]
