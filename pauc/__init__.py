"""Differentiable partial AUC at a fixed, low false-alarm budget."""

from pauc import intervals, metrics
from pauc.config import PAUCConfig, PAUCOptions
from pauc.functional import PAUCTerms, pauc_loss_fn, pauc_loss_terms
from pauc.module import PAUCAtBudgetLoss
from pauc.queue import (
    QueueState,
    enqueue,
    init_queue,
    queue_rows,
    recommend_queue_size,
    resize_queue,
)
from pauc.sampler import BandSampler
from pauc.schedule import PAUCSchedule, ScheduleConfig, ScheduleValues, schedule_at
from pauc.selection import BandEdges, band_edges, robust_scale
from pauc.surrogates import pairwise_pauc, trapezoid_pauc
from pauc.thresholds import OperatingPoint, select_threshold

__version__ = "0.1.0.dev0"

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
    "ScheduleConfig",
    "ScheduleValues",
    "band_edges",
    "enqueue",
    "init_queue",
    "intervals",
    "metrics",
    "pairwise_pauc",
    "pauc_loss_fn",
    "pauc_loss_terms",
    "queue_rows",
    "recommend_queue_size",
    "resize_queue",
    "robust_scale",
    "schedule_at",
    "select_threshold",
    "trapezoid_pauc",
]
