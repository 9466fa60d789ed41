"""The threshold to ship: chosen on held-out rows so that it keeps what was promised."""

from pauc.thresholds.point import OperatingPoint
from pauc.thresholds.select import select_threshold

__all__ = ["OperatingPoint", "select_threshold"]
