"""The lowest threshold that keeps every promise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.arrays import ArrayLike, in_kind
from pauc.checks import check_number
from pauc.metrics.inputs import Column, UndefinedError, by_column, table_of
from pauc.metrics.vertices import Vertices, count_vertices
from pauc.thresholds.point import OperatingPoint, between, dtype_of
from pauc.thresholds.promises import Trials, last_within, precise_vertices

_EPS = torch.finfo(torch.float64).eps


class Bounds(NamedTuple):
    """What is promised; None: nothing."""

    budget: float | None  # the FPR is at most this
    alert_share: float | None  # the share of all rows that alert is at most this
    precision: float | None  # the precision is at least this
    tpr: float | None  # the TPR is at least this

    @property
    def groups(self) -> int:
        """How many groups of promises share the chance of a mistake, see `select_threshold`."""
        upper = self.budget is not None or self.alert_share is not None
        return upper + (self.precision is not None) + (self.tpr is not None)


def select_threshold(
    scores: ArrayLike,
    targets: ArrayLike,
    budget: float | None = None,
    *,
    alert_share: float | None = None,
    precision: float | None = None,
    tpr: float | None = None,
    confidence: float | None = None,
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> OperatingPoint:
    """Return the lowest threshold that keeps what is promised, on held-out rows.

    Promised is any of: an FPR of at most ``budget``, alerts on at most ``alert_share`` of all rows,
    a ``precision`` and a ``tpr`` of at least so much; together if there are several.

    The rule that goes with it is **alert where score >= threshold**, as for the thresholds of
    :mod:`pauc.metrics` and scikit-learn; :meth:`OperatingPoint.predict` applies it. The threshold
    lies strictly above the highest score that must not alert, so that no tie can break the promise,
    and strictly below the lowest that does, so that ``>`` gives the same. Only where two scores are
    neighbours in float64 (or in a narrower dtype in which they are given) it is the upper one, and
    ``>`` then alerts on fewer rows. It is nan, which no score reaches, where a score of +inf must
    not alert.

    Without ``confidence``, the sample's own rates count: at most ``floor(budget * n)`` of its ``n``
    negatives alert, and ``tpr`` is that of :func:`pauc.metrics.tpr_at_fpr`. On new rows such a
    threshold is over the budget about every second time, as ``risk`` says.

    With ``confidence``, all promises hold for new rows with at least this probability, over the
    draw of the held-out rows. The guarantee holds for any score, provided that the held-out rows
    come from the same population as the rows to come, and took no part in training or in the choice
    of the model; for a budget alone that is asked of the negatives only.

    - FPR: at most ``k`` of ``n`` negatives alert, the largest ``k`` with ``P(Binomial(n, budget) <=
      k) <= 1 - confidence`` (Tong, Feng and Li 2018, the umbrella algorithm); ties can only make
      the FPR smaller. The share of alerts and the TPR are counted likewise, of all rows and of the
      positives. Both FPR and share fall as the threshold rises: the higher of their two thresholds
      keeps both at the same confidence.
    - Precision: it need not rise with the threshold. It is tested by the same binomial tail at
      numbers of alerts that lie 15 % apart, each at ``1 - confidence`` divided by the number
      of tests (Angelopoulos et al. 2021, learn then test, with Bonferroni's correction).
    - FPR or share, precision, and TPR each take an equal part of ``1 - confidence``.

    With ``sample_weight`` the shares are of weight. No count is binomial then: the p-values are
    Hoeffding-Bentkus bounds (Bates et al. 2021), which need more rows, the more the weights differ.
    They hold if no row to come has a larger weight than the largest of the held-out rows, and
    weights belong to rows (inverse sampling rates, amounts), not to a fit on the same rows.

    Args:
        scores, targets: held-out rows and columns, see :mod:`pauc.metrics`. New rows are to be
            scored in the same precision.
        budget: FPR as a fraction, above 0 and below 1, read to within ``4 * eps`` as in
            :func:`pauc.metrics.tpr_at_fpr`.
        alert_share, precision, tpr: fractions, above 0 and below 1.
        confidence: at least 0.5 and below 1, or None.
        sample_weight, ignore_index: see :mod:`pauc.metrics`.

    Returns:
        ``OperatingPoint(threshold, fpr, tpr, alert_share, precision, risk)``, floats; of several
        columns ``[C]`` each, with a point for each column. ``risk`` bounds the chance that a
        promise does not hold. It is nan without ``confidence`` where a precision was promised or
        weights are given: no bound is known.

    Raises:
        TypeError: an argument of the wrong type or dtype; nothing promised.
        ValueError: wrong shapes, devices or values (see :mod:`pauc.metrics`), no negatives for a
            budget or positives for a TPR, no threshold that keeps all promises, or fewer rows than
            ``confidence`` needs. The error says how many: at 95 % a budget of 5, 1, 0.1 and 0.01 %
            needs 59, 299, 2,995 and 29,956 negatives. Of several columns, such a one is nan, with a
            warning.
    """
    bounds = Bounds(budget, alert_share, precision, tpr)
    _check_bounds(bounds)
    if confidence is not None:
        _check_share("confidence", confidence, 0.5)
    table = table_of(scores, targets, sample_weight, ignore_index)
    dtype = dtype_of(scores, table.scores)

    def measure(column: Column) -> Tensor:
        vertices = count_vertices(column)
        vertex, risk = _select(vertices, column, bounds, confidence)
        threshold = _threshold_at(vertices, vertex, dtype)
        point = [threshold, *_rates_at(vertices, vertex), risk]
        return torch.tensor(point, dtype=torch.float64, device=column.scores.device)

    found = by_column(measure, table, (6,))
    if table.is_single:
        return OperatingPoint(*found.tolist())
    return OperatingPoint(*(in_kind(part, scores) for part in found.unbind(1)))


def _select(
    vertices: Vertices, column: Column, bounds: Bounds, confidence: float | None
) -> tuple[int, float]:
    """Return the last vertex that keeps every promise, and the chance that it does not in truth."""
    level = None if confidence is None else (1 - confidence) / bounds.groups
    last, risk = _last(vertices, column, bounds, level)
    first, of_tpr = _first(vertices, column, bounds, level)
    if bounds.precision is not None:
        fits, of_precision = precise_vertices(vertices, column, bounds.precision, level)
        fits = fits[(fits >= first) & (fits <= last)]
        last, risk = int(fits.max()) if len(fits) else -1, risk + of_precision
    if last < first:
        raise UndefinedError(
            f"no threshold keeps {_shown(bounds)} together on these rows"
            + ("" if confidence is None else f" with confidence={confidence}")
        )
    return last, min(risk + of_tpr, 1.0) if not math.isnan(risk) else risk


def _last(
    vertices: Vertices, column: Column, bounds: Bounds, level: float | None
) -> tuple[int, float]:
    """Return the last vertex within budget and share of alerts, and the larger of their risks."""
    found = [(len(vertices.fp) - 1, 0.0)]
    if bounds.budget is not None:
        negatives = _trials(vertices.fp, column, ~column.positive, "negatives")
        found.append(last_within(negatives, bounds.budget, level, "budget"))
    if bounds.alert_share is not None:
        rows = _trials(vertices.fp + vertices.tp, column, torch.ones_like(column.positive), "rows")
        found.append(last_within(rows, bounds.alert_share, level, "alert_share"))
    lasts, risks = zip(*found, strict=True)
    return min(lasts), float(
        torch.tensor(risks, dtype=torch.float64, device="cpu").max()
    )  # nan if one is


def _first(
    vertices: Vertices, column: Column, bounds: Bounds, level: float | None
) -> tuple[int, float]:
    """Return the first vertex that reaches the TPR, and the risk; 0 if none is promised."""
    if bounds.tpr is None:
        return 0, 0.0
    # From all rows flagged to none, the missed positives rise as false alarms do in `_last`.
    missed = (vertices.tp[-1] - vertices.tp).flip(0)
    trials = _trials(missed, column, column.positive, "positives")
    rate = 1 - bounds.tpr
    last, risk = last_within(trials, rate, level, "tpr", slack=4 * _EPS / rate)
    return len(missed) - 1 - last, risk


def _trials(wrong: Tensor, column: Column, members: Tensor, name: str) -> Trials:
    rows = int(members.sum())
    if rows == 0:
        of_weight = "" if column.weight is None else " with a sample_weight above 0"
        raise UndefinedError(
            f"targets must hold {name}{of_weight}, got 0 in {len(column.scores)} rows"
        )
    largest = None if column.weight is None else float(column.weight[members].max())
    return Trials(wrong, rows, largest)


def _threshold_at(vertices: Vertices, vertex: int, dtype: torch.dtype) -> float:
    """Return a threshold that flags the rows of a vertex and no other."""
    around = vertices.thresholds[vertex : vertex + 2].tolist()
    if len(around) == 1:  # every row alerts
        return float(around[0])
    return between(below=around[1], above=around[0], dtype=dtype)


def _rates_at(vertices: Vertices, vertex: int) -> list[float]:
    """Return FPR, TPR, share of alerts and precision at a vertex; nan where there is no row."""
    fp, tp = vertices.fp[vertex].item(), vertices.tp[vertex].item()
    negatives, positives = vertices.fp[-1].item(), vertices.tp[-1].item()
    shares = ((fp, negatives), (tp, positives), (fp + tp, negatives + positives), (tp, fp + tp))
    return [part / whole if whole else math.nan for part, whole in shares]


def _shown(bounds: Bounds) -> str:
    """Return the promises as an error shows them."""
    given = bounds._asdict().items()
    return ", ".join(f"{name}={value}" for name, value in given if value is not None)


def _check_bounds(bounds: Bounds) -> None:
    """Raise unless something is promised, and every share is one."""
    if not bounds.groups:
        raise TypeError(
            f"at least one of {', '.join(Bounds._fields)} must be given, got none of them"
        )
    for name, value in bounds._asdict().items():
        if value is not None:
            _check_share(name, value, 0.0)


def _check_share(name: str, value: object, least: float) -> None:
    """Raise unless ``value`` is a number above 0 and below 1, and at least ``least``."""
    check_number(name, value)
    if not (0 < value < 1 and value >= least):  # type: ignore[operator]
        expected = "above 0" if least == 0 else f"at least {least}"
        raise ValueError(f"{name} must be {expected} and below 1, got {value!r}")
