"""Differentiable partial AUC at a fixed, low false-alarm budget."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Without `plot`, `sklearn` and `torchmetrics`: `from pauc import *` must not fail where an extra is
# missing.
__all__ = [
    "BandEdges",
    "BandLoader",
    "BandSampler",
    "BandStream",
    "FPRMonitor",
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
    "StreamBatch",
    "band_edges",
    "boosting",
    "budgets",
    "distributed",
    "enqueue",
    "functional",
    "init_queue",
    "intervals",
    "metrics",
    "monitor",
    "pairwise_pauc",
    "pauc_loss_fn",
    "pauc_loss_terms",
    "queue_rows",
    "recall_at_quantile_loss_fn",
    "recall_at_quantile_terms",
    "recommend_queue_size",
    "report",
    "reporting",
    "resize_queue",
    "robust_scale",
    "schedule_at",
    "select_threshold",
    "show_config",
    "smooth_ap_loss_fn",
    "smooth_ap_terms",
    "thresholds",
    "trapezoid_pauc",
]

# Type checkers read the imports; at run time each name is imported when it is first used (PEP 562),
# so that an evaluation with `pauc.metrics` does not wait for the losses to load. The two branches
# exclude each other: a type checker that saw `__getattr__` would accept any misspelt name.
if TYPE_CHECKING:
    from pauc import (
        boosting,
        budgets,
        distributed,
        functional,
        intervals,
        metrics,
        monitor,
        reporting,
        thresholds,
    )
    from pauc import plot as plot
    from pauc import sklearn as sklearn
    from pauc import torchmetrics as torchmetrics
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
    from pauc.monitor.fpr import FPRMonitor
    from pauc.presets import recommend_queue_size
    from pauc.reporting.report import report
    from pauc.sampling.loader import BandLoader
    from pauc.sampling.sampler import BandSampler
    from pauc.sampling.stream import BandStream, StreamBatch
    from pauc.thresholds.point import OperatingPoint
    from pauc.thresholds.select import select_threshold
else:
    _NEED_AN_EXTRA = ("plot", "sklearn", "torchmetrics")
    _SUBMODULES = {
        "boosting",
        "budgets",
        "distributed",
        "functional",
        "intervals",
        "metrics",
        "monitor",
        "reporting",
        "thresholds",
    }
    _SUBMODULES.update(_NEED_AN_EXTRA)
    _NAMES_OF = {
        "pauc.backends": ("show_config",),
        "pauc.config": (
            "PAUCConfig",
            "PAUCOptions",
            "RecallAtQuantileConfig",
            "RecallAtQuantileOptions",
            "SmoothAPConfig",
            "SmoothAPOptions",
        ),
        "pauc.core.band": ("BandEdges", "band_edges", "robust_scale"),
        "pauc.core.enqueue": ("enqueue",),
        "pauc.core.outcome": ("PAUCTerms",),
        "pauc.core.queue": ("QueueState", "init_queue", "queue_rows", "resize_queue"),
        "pauc.core.surrogates": ("pairwise_pauc", "trapezoid_pauc"),
        "pauc.functional": (
            "pauc_loss_fn",
            "pauc_loss_terms",
            "recall_at_quantile_loss_fn",
            "recall_at_quantile_terms",
            "smooth_ap_loss_fn",
            "smooth_ap_terms",
        ),
        "pauc.modules.companions": ("RecallAtQuantileLoss", "SmoothAPLoss"),
        "pauc.modules.partial_auc": ("PAUCAtBudgetLoss",),
        "pauc.modules.schedule": (
            "PAUCSchedule",
            "ScheduleConfig",
            "ScheduleValues",
            "schedule_at",
        ),
        "pauc.monitor.fpr": ("FPRMonitor",),
        "pauc.presets": ("recommend_queue_size",),
        "pauc.reporting.report": ("report",),
        "pauc.sampling.loader": ("BandLoader",),
        "pauc.sampling.sampler": ("BandSampler",),
        "pauc.sampling.stream": ("BandStream", "StreamBatch"),
        "pauc.thresholds.point": ("OperatingPoint",),
        "pauc.thresholds.select": ("select_threshold",),
    }
    _HOME = {name: module for module, names in _NAMES_OF.items() for name in names}

    def __getattr__(name):
        """Import the module of a public name, and keep the name for the next use."""
        if name in _NEED_AN_EXTRA:
            return _with_extra(name)
        if name in _SUBMODULES:
            return importlib.import_module(f"pauc.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'pauc' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
        return value

    def _with_extra(name):
        try:
            return importlib.import_module(f"pauc.{name}")
        except ImportError as error:
            # `help(pauc)` and completion ask for each name in `dir(pauc)`, and pass over one that
            # raises an AttributeError alone. `import pauc.plot` raises the ImportError.
            raise AttributeError(str(error)) from error

    def __dir__():
        return sorted({*__all__, *_NEED_AN_EXTRA, "__version__"})
