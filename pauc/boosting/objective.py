"""The band as a custom objective that LightGBM and XGBoost call in each boosting round."""

from __future__ import annotations

from typing import Any

from pauc._public import public_in
from pauc.arrays import ArrayLike, as_tensor, in_kind
from pauc.boosting.derivatives import MAX_STEP, Options, derivatives
from pauc.boosting.engines import Call, read_call
from pauc.boosting.parameters import Parameters
from pauc.boosting.rows import Rows, make_rows
from pauc.boosting.workers import Alone, workers_now
from pauc.checks import check_int, check_real
from pauc.config import Interpolation, Link

# Trees part training rows further than new ones, most of all where classes overlap: a band of few
# training negatives is learned by heart. A wide one costs where the classes can be told apart.
_WIDER = 4.0
_LEAST_NEGATIVES = 5_000


@public_in("pauc.boosting")
class BandObjective(Parameters):
    """Log-loss and pairs in the band, as an objective of boosted trees.

    Give it to ``lightgbm.train`` as ``params["objective"]``, to ``xgboost.train`` as ``obj``, or to
    ``LGBMClassifier`` or ``XGBClassifier`` as ``objective``. Weights of the data set, or
    ``sample_weight`` of ``fit``, are those of :func:`band_objective`. With several classes give the
    engine ``num_class``; each class has a band against the rest.

    It remembers nothing from round to round. It can be pickled, compared, and cloned by
    scikit-learn, which also chooses among objectives:
    ``{"objective": [BandObjective(0.01), BandObjective(0.05)]}``.

    In XGBoost's distributed training, band and pairs are those of all workers' rows, the same as
    in one process. LightGBM on several machines gives an objective no way to see other rows; that
    is refused where ``lightgbm.train`` shows it, and cannot be seen from ``DaskLGBMClassifier``,
    where each machine has its own band: do not use it there. CatBoost shows an objective blocks of
    a thousand rows, from which no band can be told: refused.

    Args:
        beta, alpha, bce_weight, pauc_weight, link, interpolation, max_step: as in
            :func:`band_objective`.

    Raises:
        TypeError, ValueError: an option out of its range; at a call as :func:`band_objective`.
        RuntimeError: on the other workers of a distributed training, where one refused its rows.
    """

    def __init__(
        self,
        beta: float,
        *,
        alpha: float = 0.0,
        bce_weight: float = 1.0,
        pauc_weight: float = 1.0,
        link: Link = "logistic",
        interpolation: Interpolation = "higher",
        max_step: float = MAX_STEP,
    ) -> None:
        self.beta = beta
        self.alpha = alpha
        self.bce_weight = bce_weight
        self.pauc_weight = pauc_weight
        self.link = link
        self.interpolation = interpolation
        self.max_step = max_step
        self._options().check()

    def _options(self) -> Options:
        return Options(**self._arguments())

    @classmethod
    def for_budget(cls, budget: float, *, rows: int, positives: int) -> BandObjective:
        """Return the recipe for a budget of false alarms.

        The band goes from 0 to four times the budget, or further until 5,000 of the training
        negatives lie in it; log-loss and pairs have equal weights.

        Args:
            budget: the false-positive rate to train for, a fraction in (0, 1].
            rows: training rows.
            positives: how many of them are positives; with several classes, of the rarest.

        Raises:
            TypeError, ValueError: a bad argument, named with what was expected and what came.
        """
        check_real("budget", budget)
        if not 0 < budget <= 1:
            raise ValueError(f"budget must be a fraction in (0, 1], got {budget!r}")
        check_int("rows", rows, 2)
        check_int("positives", positives, 1)
        if positives >= rows:
            raise ValueError(f"positives must be fewer than rows={rows}, got {positives!r}")
        return cls(min(1.0, max(_WIDER * budget, _LEAST_NEGATIVES / (rows - positives))))

    def __call__(
        self, first: Any, second: Any, sample_weight: ArrayLike | None = None
    ) -> tuple[ArrayLike, ArrayLike]:
        """Return gradient and Hessian diagonal in the shape of the scores.

        Args:
            first, second: scores ``[N]`` or ``[N, K]`` and the engine's data set, or targets
                ``[N]`` and scores, as the estimators of scikit-learn's kind have it.
            sample_weight: ``[N]``, beside targets and scores.
        """
        call, workers = read_call(first, second, sample_weight), workers_now()
        rows = _agreed_rows(call, workers)
        shape = as_tensor(call.scores, "scores").shape
        gradient, hessian = derivatives(rows, self._options(), workers)
        found = gradient.reshape(shape), hessian.reshape(shape)
        return in_kind(found[0], call.scores), in_kind(found[1], call.scores)

    def calc_ders_range(self, *_: Any) -> Any:
        """Refuse: CatBoost calls this with a block of rows, and a band takes all of them."""
        raise NotImplementedError(
            "CatBoost shows a Python objective blocks of 1,000 rows, and the band is one of all "
            "rows: train with LightGBM or XGBoost. Metrics work in CatBoost too."
        )


def _agreed_rows(call: Call, workers: Alone) -> Rows:
    """Return the checked rows; no worker goes on where one of them has refused its rows."""
    try:
        rows = make_rows(call.scores, call.targets, call.sample_weight)
    except (TypeError, ValueError) as error:
        workers.agree(error)
        raise
    workers.agree(None)
    return rows
