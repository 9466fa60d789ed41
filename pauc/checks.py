"""Checks of single arguments, shared by every entry and free of everything else in the package.

An error names the argument, what was expected and what came.
"""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``allowed``: TypeError for no string, else ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {allowed}, got {value!r}")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {value!r}")


def check_int(name: str, value: object, minimum: int | None = None) -> None:
    """Raise unless ``value`` is an integer (no bool) of at least ``minimum``."""
    bound = "" if minimum is None else f" of at least {minimum}"
    # torch.SymInt is not a numbers.Integral; under torch.compile Python ints are what arrives here.
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer{bound}, got {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be an integer{bound}, got {value!r}")


def check_ignore_index(value: object) -> None:
    """Raise unless ``ignore_index`` is an integer that targets, which become int64, can hold."""
    check_int("ignore_index", value)
    if not -(2**63) <= value < 2**63:  # type: ignore[operator]
        raise ValueError(f"ignore_index must fit into int64, got {value!r}")


def check_number(name: str, value: object) -> None:
    """Raise unless ``value`` is a real number (no bool)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__} {value!r}")


def check_real(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite real number (no bool)."""
    check_number(name, value)
    # Not math.isfinite, which torch.compile cannot trace for a value that changes between calls.
    if not -math.inf < value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name} must be finite, got {value!r}")


def check_band(alpha: object, beta: object) -> None:
    """Raise unless ``0 <= alpha < beta <= 1``."""
    check_number("alpha", alpha)
    check_number("beta", beta)
    if not 0 <= alpha < beta <= 1:  # type: ignore[operator]
        raise ValueError(
            f"alpha and beta must satisfy 0 <= alpha < beta <= 1, got alpha={alpha}, beta={beta}"
        )


def check_moving_band(alpha: object, beta: object, max_beta: object) -> None:
    """As :func:`check_band`, of edges that may be tensors, and raise unless ``max_beta`` bounds."""
    low = 0.0 if is_unread("alpha", alpha) else alpha
    unread = is_unread("beta", beta)
    check_band(low, 1.0 if unread else beta)
    if max_beta is None:
        return
    check_number("max_beta", max_beta)
    if unread and not low < max_beta <= 1:  # type: ignore[operator]
        raise ValueError(f"max_beta must be in (alpha, 1] = ({low}, 1], got {max_beta!r}")
    if not unread and not beta <= max_beta <= 1:  # type: ignore[operator]
        raise ValueError(f"max_beta must be in [beta, 1] = [{beta}, 1], got {max_beta!r}")


def widest_fpr(precision: float, base_rate: float) -> float:
    """Return the highest FPR that a precision allows: that of a model that catches everything."""
    return base_rate * (1 - precision) / ((1 - base_rate) * precision)


def check_precision(precision: object, base_rate: object) -> None:
    """Raise unless ``0 < base_rate < precision < 1``."""
    for name, value in (("precision", precision), ("base_rate", base_rate)):
        if value is None:
            raise TypeError(f'{name} must be a number with budget_basis="precision", got None')
        check_number(name, value)
    if not 0 < base_rate < 1:  # type: ignore[operator]
        raise ValueError(f"base_rate must be above 0 and below 1, got {base_rate!r}")
    if not base_rate < precision < 1:  # type: ignore[operator]
        raise ValueError(
            f"precision must be above base_rate={base_rate}, the precision of an alert on every "
            f"row, and below 1, got {precision!r}"
        )


def check_no_precision(basis: str, precision: object, base_rate: object) -> None:
    """Raise unless both are None, where the basis of the budget is another."""
    for name, value in (("precision", precision), ("base_rate", base_rate)):
        if value is not None:
            raise ValueError(
                f'{name} must be None unless budget_basis="precision", got {value!r} with '
                f"budget_basis={basis!r}"
            )


def check_least_end(name: str, least: object, precision: float, base_rate: float) -> None:
    """Raise unless a band that ends no earlier than ``least`` leaves room for the precision."""
    widest = widest_fpr(precision, base_rate)
    if is_unread(name, least) or least < widest:  # type: ignore[operator]
        return
    raise ValueError(
        f"{name} must be below {widest:.4g}, the FPR that precision={precision} allows at "
        f"base_rate={base_rate} if every positive is caught, got {least!r}: with "
        f'budget_basis="precision" the band never ends before {name}, so that the precision would '
        "not count. Cure: a smaller one, as budgets.fpr_from_precision gives for a TPR that the "
        'model surely reaches, or budget_basis="fpr"'
    )


def is_unread(name: str, value: object) -> bool:
    """Return whether ``value`` is a 0-dim floating tensor, which is not read; others raise.

    To read one would make the host wait, and its value a constant of a compiled graph.
    """
    if not isinstance(value, Tensor):
        return False
    if value.ndim > 0 or not value.is_floating_point():
        raise TypeError(
            f"{name} must be a real number or a 0-dim floating tensor, "
            f"got {value.dtype} {tuple(value.shape)}"
        )
    return True


def check_targets(
    targets: Tensor,
    num_classes: int,
    ignore_index: int,
    *,
    absent: Tensor | None = None,
    wait: bool = True,
) -> None:
    """Raise unless every target is ``ignore_index`` or a class index; 0 or 1 if ``[N, C]``.

    ``absent`` says which are ``ignore_index``, where the caller knows. Without ``wait`` the host
    does not: see :func:`require`.
    """
    largest = 1 if targets.ndim == 2 else max(num_classes - 1, 1)
    # int64 first: in a narrow dtype ignore_index would wrap around and match a wrong target.
    index = targets.to(torch.int64)
    absent = index == ignore_index if absent is None else absent
    legal = (index.clamp(0, largest) == index) | absent
    if targets.dtype.is_floating_point:
        legal = legal & (index == targets)
    expected = f"targets must be whole numbers in 0..{largest} or ignore_index={ignore_index}"
    if wait and not bool(legal.all()):
        raise ValueError(f"{expected}, got {_offenders(targets, ~legal)}")
    if not wait:
        require(legal, expected)


def check_weights(sample_weight: Tensor, present: Tensor, *, wait: bool = True) -> None:
    """Raise unless the weight of every present row is finite and not negative.

    ``present`` is ``[N]``, or ``[N, C]`` for rows that are present where any entry is. Without
    ``wait`` the host does not: see :func:`require`.
    """
    present = present.any(dim=1) if present.ndim == 2 else present
    legal = ((sample_weight >= 0) & (sample_weight < math.inf)) | ~present
    expected = "sample_weight must be finite and non-negative"
    if wait and not bool(legal.all()):
        raise ValueError(f"{expected}, got {_offenders(sample_weight, ~legal)}")
    if not wait:
        require(legal, expected)


def require(legal: Tensor, expected: str) -> None:
    """Let the device refuse what is not all ``legal``, without the host waiting for the answer.

    The device writes ``expected`` to stderr, and the next call that waits raises a RuntimeError. It
    cannot say what came: that takes the host, which says it where the tensors are on a CPU.
    """
    torch._assert_async(legal.all(), expected)


def _offenders(values: Tensor, bad: Tensor) -> str:
    """Return a few of the bad values with their rows, for an error message."""
    places = bad.nonzero()
    shown = ", ".join(
        f"{value} in row " + ", column ".join(map(str, place))
        for value, place in zip(values[bad][:3].tolist(), places[:3].tolist(), strict=True)
    )
    kind = "rows" if values.ndim == 1 else "entries"
    return f"{shown} ({len(places)} such {kind})" if len(places) > 3 else shown
