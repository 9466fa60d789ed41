"""Differentiable partial AUC at a fixed, low false-alarm budget."""

from pauc import intervals, metrics
from pauc.backends import show_config
from pauc.config import (
    PAUCConfig,
    PAUCOptions,
    RecallAtQuantileConfig,
    RecallAtQuantileOptions,
    SmoothAPConfig,
    SmoothAPOptions,
)
from pauc.core.band import BandEdges, band_edges, robust_scale
from pauc.core.enqueue import enqueue
from pauc.core.outcome import PAUCTerms
from pauc.core.queue import QueueState, init_queue, queue_rows, resize_queue
from pauc.core.surrogates import pairwise_pauc, trapezoid_pauc
from pauc.functional import (
    pauc_loss_fn,
    pauc_loss_terms,
    recall_at_quantile_loss_fn,
    recall_at_quantile_terms,
    smooth_ap_loss_fn,
    smooth_ap_terms,
)
from pauc.modules.companions import RecallAtQuantileLoss, SmoothAPLoss
from pauc.modules.partial_auc import PAUCAtBudgetLoss
from pauc.modules.schedule import PAUCSchedule, ScheduleConfig, ScheduleValues, schedule_at
from pauc.presets import recommend_queue_size
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
    "show_config",
    "smooth_ap_loss_fn",
    "smooth_ap_terms",
    "trapezoid_pauc",
]
