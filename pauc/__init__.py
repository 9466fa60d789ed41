"""Differentiable partial AUC at a fixed, low false-alarm budget."""

from pauc import intervals, metrics
from pauc.config import (
    PAUCConfig,
    PAUCOptions,
    RecallAtQuantileConfig,
    RecallAtQuantileOptions,
    SmoothAPConfig,
    SmoothAPOptions,
)
from pauc.core.quantiles import BandEdges, band_edges, robust_scale
from pauc.core.queue import (
    QueueState,
    enqueue,
    init_queue,
    queue_rows,
    recommend_queue_size,
    resize_queue,
)
from pauc.core.recall import (
    RecallAtQuantileLoss,
    recall_at_quantile_loss_fn,
    recall_at_quantile_terms,
)
from pauc.core.smooth_ap import SmoothAPLoss, smooth_ap_loss_fn, smooth_ap_terms
from pauc.core.step import PAUCTerms
from pauc.core.surrogates import pairwise_pauc, trapezoid_pauc
from pauc.functional import pauc_loss_fn, pauc_loss_terms
from pauc.modules.partial_auc import PAUCAtBudgetLoss
from pauc.modules.schedule import PAUCSchedule, ScheduleConfig, ScheduleValues, schedule_at
from pauc.sampling.sampler import BandSampler
from pauc.thresholds import OperatingPoint, select_threshold

__version__ = "0.1.0"

__all__ = [
    "BandEdges",
    "BandSampler",
    "OperatingPoint",
    "PAUCAtBudgetLoss",
    "PAUCConfig",
    "PAUCOptions",
    "PAUCSchedule",
    "PAUCTerms",
    "QueueState",
    "RecallAtQuantileConfig",
    "RecallAtQuantileLoss",
    "RecallAtQuantileOptions",
    "ScheduleConfig",
    "ScheduleValues",
    "SmoothAPConfig",
    "SmoothAPLoss",
    "SmoothAPOptions",
    "band_edges",
    "enqueue",
    "init_queue",
    "intervals",
    "metrics",
    "pairwise_pauc",
    "pauc_loss_fn",
    "pauc_loss_terms",
    "queue_rows",
    "recall_at_quantile_loss_fn",
    "recall_at_quantile_terms",
    "recommend_queue_size",
    "resize_queue",
    "robust_scale",
    "schedule_at",
    "select_threshold",
    "smooth_ap_loss_fn",
    "smooth_ap_terms",
    "trapezoid_pauc",
]
