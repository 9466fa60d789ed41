"""The band as an objective of boosted trees, for LightGBM and XGBoost, and metrics to stop by.

Neither engine is needed to import this. ``pip install 'torch-pauc[boosting]'`` installs those that
it was tried with.

- :class:`BandObjective`: the objective, in the forms that engines call.
- :func:`band_objective`: the same as a pure function of scores and targets.
- :func:`log_odds`: the margin to start from, which engines leave out for such objectives.
- :class:`TPRMetric`, :class:`PartialAUCMetric`: what to stop by, also in CatBoost.

Rates are fractions. Scores are raw margins. Arrays are NumPy's; tensors are taken too.
"""

from pauc.boosting.derivatives import band_objective, log_odds
from pauc.boosting.metrics import PartialAUCMetric, TPRMetric
from pauc.boosting.objective import BandObjective

__all__ = ["BandObjective", "PartialAUCMetric", "TPRMetric", "band_objective", "log_odds"]
