"""What options the losses have, and their defaults: the one list of them."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict

from torch import Tensor

from pauc._public import public

Surrogate = Literal["trapezoid", "pairwise"]
TauScale = Literal["iqr", "band", "unit"]
RankTauScale = Literal["iqr", "unit"]  # where there is no band
PosNumerator = Literal["pool", "live"]
BudgetBasis = Literal["fpr", "population", "precision"]
Reduction = Literal["mean", "sum", "none"]
Interpolation = Literal["linear", "lower", "higher", "nearest", "midpoint"]
Link = Literal["sigmoid", "logistic"]
GradientScale = Literal["pool", "live"]
WeightScale = Literal["unit", "explained"]
EdgeGradient = Literal["detached", "implicit"]
Number = float | Tensor  # a tensor: 0-dim, floating, of any device that the logits can meet


@public
class PAUCConfig(NamedTuple):
    """Options of :func:`pauc.pauc_loss_fn` and :class:`pauc.PAUCAtBudgetLoss`, with their defaults.

    A number that changes from call to call can be given to a function as a 0-dim tensor (float64,
    lest an edge's position be rounded): one compiled graph, or a captured one, then serves all its
    values. Tensors are read, and checked, by the native step of a compiled graph alone. Modules
    take numbers, which :class:`pauc.PAUCSchedule` moves in the same way.

    Attributes:
        alpha, beta: the band of false-positive rate, as fractions, ``0 <= alpha < beta <= 1``.
        surrogate: ``"trapezoid"`` integrates a soft TPR over fixed thresholds (gradient reaches
            positives only); ``"pairwise"`` compares positives with the negatives in the band
            (both sides receive gradient).
        n_knots: thresholds of the trapezoid, evenly spaced in FPR over the band, at least 2.
        tau_scale: what ``temperature`` is a multiple of. ``"iqr"``: the interquartile range of the
            reference scores; ``"band"``: ``t_alpha - t_beta``; ``"unit"``: 1, raw logit units.
        pos_numerator: ``"pool"`` averages over the positives of batch and queue, ``"live"`` over
            those of the batch.
        budget_basis: what the band's FPR is a share of. ``"fpr"``: iid negatives;
            ``"population"``: all iid rows (an alert rate); ``"precision"``: iid negatives, and
            the band ends at ``beta`` or, if that is further down, at the highest FPR of a
            threshold that has the ``precision`` at the ``base_rate``. For that, the TPR is that
            of all positives of batch and queue, by weight.
        temperature: width of the sigmoid in units of the scale, above 0.
        reduction: over valid classes, ``"mean"`` or ``"sum"``; ``"none"`` gives ``[C]``, nan where
            invalid.
        ignore_index: target of rows that are to be treated as absent.
        quantile_interpolation: between order statistics, as in :func:`torch.quantile`.
        max_pool_size: cap on the rows that enter the surrogate (multi-label: on those of the
            negatives, and on the positives of all classes); edges and scale always see all.
        link: pairwise only. ``"sigmoid"`` scores a pair ``sigmoid(u)`` with
            ``u = (s_i - s_j) / tau``; ``"logistic"`` scores it ``1 - softplus(-u) / log 2``, a
            lower bound of the 0-1 score that does not saturate when a positive trails.
        gradient_scale: ``"pool"`` is the plain gradient, in which a live row counts as one of all
            pool rows; ``"live"`` scales each side by its weight in the pool over its weight in the
            batch (rows, for negatives), so that the expected gradient does not shrink as the queue
            grows. The loss value is the same.
        edge_gradient: trapezoid only. ``"detached"`` holds the thresholds fixed in the gradient;
            ``"implicit"`` lets each move with the reference rows near it, so that raising every
            score at once gains nothing. The loss value is the same.
        bce_weight: factor of a binary cross-entropy over the batch's present rows that is added to
            the loss: of each class against the rest, over all classes, reduced as the loss is; 0
            leaves it out.
        pauc_weight: factor of the partial AUC part beside it, in units of ``weight_scale``.
        weight_scale: ``"unit"``: 1. ``"explained"``: for each class the cube of the share of the
            entropy of the pool's labels that its scores explain as logits, at least 0; needs a
            ``bce_weight``. Then the part waits until the BCE has found where the positives are, and
            keeps away where it cannot tell them apart.
        max_beta: bound on a ``beta`` that is a tensor; the rows that it reaches are put in order,
            and a ``beta`` beyond it is an index error. None: 1, all of them.
            :class:`pauc.PAUCSchedule` sets it.
        precision: share of the alerts that is to be right, ``base_rate < precision < 1``; with
            ``budget_basis="precision"`` alone.
        base_rate: share of positives among the rows to come, in (0, 1); with ``precision``. That
            of the batches plays no part.
    """

    alpha: Number = 0.0
    beta: Number = 0.005
    surrogate: Surrogate = "trapezoid"
    n_knots: int = 2
    tau_scale: TauScale = "iqr"
    pos_numerator: PosNumerator = "pool"
    budget_basis: BudgetBasis = "fpr"
    temperature: Number = 0.1
    reduction: Reduction = "mean"
    ignore_index: int = -100
    quantile_interpolation: Interpolation = "higher"
    max_pool_size: int | None = None
    link: Link = "sigmoid"
    gradient_scale: GradientScale = "pool"
    edge_gradient: EdgeGradient = "detached"
    bce_weight: Number = 0.0
    pauc_weight: Number = 1.0
    weight_scale: WeightScale = "unit"
    max_beta: float | None = None
    precision: float | None = None
    base_rate: float | None = None


_PAUC = PAUCConfig()  # the owner of the defaults that the losses share


@public
class RecallAtQuantileConfig(NamedTuple):
    """Options of :func:`pauc.recall_at_quantile_loss_fn` and :class:`pauc.RecallAtQuantileLoss`.

    Attributes:
        quantile: share of the reference rows above the threshold, ``0 < quantile <= 1``.
        budget_basis: what ``quantile`` is a share of. ``"population"``: all iid rows (an alert
            rate); ``"fpr"``: iid negatives; ``"precision"``: iid negatives, and the threshold is
            at ``quantile`` or, if that is lower, where the ``precision`` still holds: the recall at
            a precision. As in :class:`PAUCConfig`, with ``quantile`` for ``beta``.
        tau_scale: as in :class:`PAUCConfig`, for the band ``[0, quantile]``.
        edge_gradient: as in :class:`PAUCConfig`, of the one threshold.
        pauc_weight: factor of the recall part beside the BCE; named as in :class:`PAUCConfig`, so
            that :class:`pauc.PAUCSchedule` finds it.

    The other fields are those of :class:`PAUCConfig`.
    """

    quantile: float = float(_PAUC.beta)
    budget_basis: BudgetBasis = "population"
    tau_scale: TauScale = _PAUC.tau_scale
    temperature: Number = _PAUC.temperature
    pos_numerator: PosNumerator = _PAUC.pos_numerator
    reduction: Reduction = _PAUC.reduction
    ignore_index: int = _PAUC.ignore_index
    quantile_interpolation: Interpolation = _PAUC.quantile_interpolation
    max_pool_size: int | None = _PAUC.max_pool_size
    gradient_scale: GradientScale = _PAUC.gradient_scale
    edge_gradient: EdgeGradient = _PAUC.edge_gradient
    bce_weight: Number = _PAUC.bce_weight
    pauc_weight: Number = _PAUC.pauc_weight
    weight_scale: WeightScale = _PAUC.weight_scale
    precision: float | None = _PAUC.precision
    base_rate: float | None = _PAUC.base_rate


@public
class SmoothAPConfig(NamedTuple):
    """Options of :func:`pauc.smooth_ap_loss_fn` and :class:`pauc.SmoothAPLoss`.

    Attributes:
        tau_scale: what ``temperature`` is a multiple of. ``"iqr"``: the interquartile range of the
            iid negatives' scores; ``"unit"``: 1, raw logit units.
        temperature: width of the sigmoid in units of the scale, above 0. Brown et al. (2020) use
            0.01 raw units (``tau_scale="unit"``) for cosine similarities in [-1, 1]; logits have
            no such unit.
        pos_numerator: which positives' precisions are averaged; the ranks are those in the whole
            pool.
        gradient_scale: as in :class:`PAUCConfig`. ``"live"`` scales a positive by weight where its
            precision enters the average, and by rows where it counts in another one's rank.
        pauc_weight: factor of the AP part beside the BCE; named as in :class:`PAUCConfig`, so that
            :class:`pauc.PAUCSchedule` finds it.

    The other fields are those of :class:`PAUCConfig`; ``quantile_interpolation`` is that of the
    interquartile range.
    """

    tau_scale: RankTauScale = "iqr"
    temperature: Number = _PAUC.temperature
    pos_numerator: PosNumerator = _PAUC.pos_numerator
    reduction: Reduction = _PAUC.reduction
    ignore_index: int = _PAUC.ignore_index
    quantile_interpolation: Interpolation = _PAUC.quantile_interpolation
    gradient_scale: GradientScale = _PAUC.gradient_scale
    bce_weight: Number = _PAUC.bce_weight
    pauc_weight: Number = _PAUC.pauc_weight
    weight_scale: WeightScale = _PAUC.weight_scale


LossConfig = PAUCConfig | RecallAtQuantileConfig | SmoothAPConfig


class SharedOptions(TypedDict, total=False):
    """The fields that every configuration has, as keyword arguments, for type checkers."""

    temperature: Number
    pos_numerator: PosNumerator
    reduction: Reduction
    ignore_index: int
    quantile_interpolation: Interpolation
    gradient_scale: GradientScale
    bce_weight: Number
    pauc_weight: Number
    weight_scale: WeightScale


class _BandOptions(SharedOptions, total=False):
    tau_scale: TauScale
    budget_basis: BudgetBasis
    precision: float | None
    base_rate: float | None
    max_pool_size: int | None
    edge_gradient: EdgeGradient


@public
class PAUCOptions(_BandOptions, total=False):
    """The fields of :class:`PAUCConfig` as keyword arguments, for type checkers."""

    alpha: Number
    beta: Number
    max_beta: float | None
    surrogate: Surrogate
    n_knots: int
    link: Link


@public
class RecallAtQuantileOptions(_BandOptions, total=False):
    """The fields of :class:`RecallAtQuantileConfig` as keyword arguments, for type checkers."""

    quantile: float


@public
class SmoothAPOptions(SharedOptions, total=False):
    """The fields of :class:`SmoothAPConfig` as keyword arguments, for type checkers."""

    tau_scale: RankTauScale
