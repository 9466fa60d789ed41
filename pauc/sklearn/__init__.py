"""Budgets in scikit-learn: scorers for a search, and a classifier with a threshold by budget.

Needs scikit-learn: ``pip install 'torch-pauc[sklearn]'``.

scikit-learn has no register for the names of other packages' scorers, so that a string such as
``scoring="tpr_at_fpr"`` cannot work. A scorer object can: ``scoring=tpr_at_fpr_scorer(0.005)``.
Where names are wanted, in the columns of ``cv_results_`` or for ``refit``, give the dict that
:func:`budget_scorers` returns.
"""

try:
    import sklearn as _installed  # noqa: F401
except ImportError as error:
    raise ImportError(
        "pauc.sklearn needs scikit-learn 1.6 or later, which is not installed. Cure: "
        "pip install 'torch-pauc[sklearn]'"
    ) from error

from pauc.sklearn.classifier import BudgetClassifier
from pauc.sklearn.scorers import budget_scorers, partial_auc_scorer, tpr_at_fpr_scorer

__all__ = ["BudgetClassifier", "budget_scorers", "partial_auc_scorer", "tpr_at_fpr_scorer"]
