"""A threshold with what it does, and where among the scores it is put."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc._public import public
from pauc.arrays import Answer, ArrayLike, as_tensor

# How torch and NumPy call the dtypes that are computed with as float32.
_NARROW = {
    "float16": torch.float16,
    "torch.float16": torch.float16,
    "torch.bfloat16": torch.bfloat16,
}


@public
class OperatingPoint(NamedTuple):
    """A threshold and what it does on the held-out rows, as plain numbers for a configuration.

    Of several columns each field is ``[C]`` float64: a tensor if the scores are one, else a NumPy
    array.
    """

    threshold: Answer  # alert where score >= threshold
    fpr: Answer  # share of the negatives that alert; nan without negatives
    tpr: Answer  # share of the positives that alert; nan without positives
    alert_share: Answer  # share of all rows that alert
    precision: Answer  # share of positives among the rows that alert; nan without an alert
    risk: Answer  # bound on the chance that a promise does not hold; nan where none is known

    def predict(self, scores: ArrayLike) -> Answer:
        """Return which rows alert: bool in the shape of ``scores``, a tensor or a NumPy array.

        Args:
            scores: ``[N]`` or ``[N, 1]``; of several columns ``[N, C]``.

        Raises:
            TypeError: scores that are no numbers.
            ValueError: nan scores, or not ``C`` columns.
        """
        given = as_tensor(scores, "scores")
        if bool(given.isnan().any()):
            raise ValueError(f"scores must not be nan, got {int(given.isnan().sum())} nan")
        threshold = torch.as_tensor(self.threshold, dtype=torch.float64, device=given.device)
        if threshold.ndim and (given.ndim != 2 or given.shape[1] != len(threshold)):
            raise ValueError(
                f"scores must be [N, C] = [N, {len(threshold)}], got shape {list(given.shape)}"
            )
        alerts = given.double() >= threshold
        return alerts if isinstance(scores, Tensor) else alerts.cpu().numpy()


def between(below: float, above: float, dtype: torch.dtype) -> float:
    """Return a threshold with ``below < threshold <= above``: strictly between if there is room.

    Strictly between two neighbouring scores, ``>=`` and ``>`` say the same of every row. The value
    is the next float32 above ``below`` (the next of the scores' dtype if that is narrower), which
    stays above ``below`` if somebody rounds it to that dtype. Where it reaches ``above``, it is the
    middle of float64 scores, and ``above`` itself of others: a comparison in their dtype would
    round the middle, perhaps to ``below``. Between integers it is a half.

    Args:
        below: the highest score that must not alert.
        above: the lowest score that must alert; +inf if there is none.
        dtype: of the scores.
    """
    if below == math.inf:
        return math.nan  # a threshold that no score reaches: inf >= inf would alert
    first = _next_up(below, dtype) if dtype.is_floating_point else below + 0.5
    middle = below / 2 + above / 2 if dtype == torch.float64 else above
    for value in (first, middle):
        if below < value < above:
            return value
    # Integers above 2**53 that differ may be the same float64.
    return max(above, math.nextafter(below, math.inf))


def dtype_of(given: ArrayLike, scores: Tensor) -> torch.dtype:
    """Return the dtype of the scores as they were given, which may be narrower than ``scores``."""
    return _NARROW.get(str(getattr(given, "dtype", "")), scores.dtype)


def _next_up(value: float, dtype: torch.dtype) -> float:
    """Return the next number above ``value`` of float32, or of ``dtype`` if that is narrower.

    Above 0 it is the smallest normal one: a denormal is 0 where a processor flushes them, and ties
    at 0 would alert.
    """
    dtype = dtype if dtype.itemsize < 4 else torch.float32
    rounded = torch.tensor(value, dtype=dtype, device="cpu")
    if float(rounded) > value:
        return float(rounded)
    if float(rounded) == 0:
        return torch.finfo(dtype).tiny
    # The numbers of a sign are ordered as their bits are.
    bits = rounded.view(torch.int32 if dtype == torch.float32 else torch.int16)
    return float((bits + (1 if value > 0 else -1)).view(dtype))
