"""Rates that a caller asks for, and how many rows each of them is."""

from __future__ import annotations

import torch
from torch import Tensor

from pauc.arrays import ArrayLike, as_tensor


def check_rates(rates: ArrayLike, name: str) -> tuple[Tensor, float]:
    """Return the rates as float64 in their shape, and their relative uncertainty, ``4 * eps``.

    The ``eps`` is that of the dtype in which they came; float64 for Python numbers and integers.

    Raises:
        TypeError: no real numbers.
        ValueError: a rate outside [0, 1], or nan.
    """
    # Not after `as_tensor`, which makes float32 of the narrower floats: their eps would be lost.
    dtype = rates.dtype if isinstance(rates, Tensor) else None
    given = as_tensor(rates, name)
    if given.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {rates!r}")
    exact = given.double()
    wrong = exact[~((exact >= 0) & (exact <= 1))]  # and not `< 0 | > 1`, which nan would pass
    if wrong.numel():
        raise ValueError(f"{name} must be in [0, 1], got {wrong[:5].tolist()}")
    dtype = given.dtype if dtype is None else dtype
    return exact, 4 * torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps


def allowed_rows(budgets: Tensor, total: Tensor, slack: float) -> Tensor:
    """Return what each budget allows of ``total``, in the shape of ``budgets`` and total's dtype.

    ``total`` is a number of rows (int64) or a sum of weights (float64), 0-dim.
    """
    # Without the slack a product that should be whole, such as 0.29 * 100, loses a row to rounding.
    # Contiguous, or torch.searchsorted warns of its speed.
    allowed = budgets * total * (1 + slack)
    return (allowed if total.is_floating_point() else allowed.floor().long()).contiguous()


def needed_rows(rates: Tensor, total: Tensor, slack: float) -> Tensor:
    """Return what each rate asks for at least, as :func:`allowed_rows` what it allows at most."""
    needed = rates * total * (1 - slack)
    return (needed if total.is_floating_point() else needed.ceil().long()).contiguous()
