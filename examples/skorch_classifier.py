"""scikit-learn: a network with this loss as an estimator, tuned by `GridSearchCV`, with skorch.

    pip install ".[examples,integrations]"
    python examples/skorch_classifier.py [--quick]

`criterion=PAUCAtBudgetLoss` with its options as `criterion__beta` and so on, which a grid can vary;
the search is scored by the TPR at the budget. Each `fit` makes a new loss with an empty queue, and
skorch puts it in `eval()` on validation rows, so that the queue holds training rows only.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from covertype import load, mlp
from numpy.typing import NDArray
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EpochScoring
from torch import Tensor
from tqdm import tqdm

from pauc import PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

BUDGET = 0.005
GRID = {"criterion__beta": [2 * BUDGET, 6 * BUDGET], "criterion__bce_weight": [0.1, 1.0]}


def tpr_at_budget(targets: NDArray[np.int64], scores: NDArray[np.float32]) -> float:
    return tpr_at_fpr(torch.from_numpy(scores), torch.from_numpy(targets), BUDGET).item()


# scikit-learn hands the second column of `predict_proba` to a metric of two classes.
SCORER = make_scorer(tpr_at_budget, response_method="predict_proba")


def both_probabilities(logits: Tensor) -> Tensor:
    """`[N, 1]` logits to the `[N, 2]` that a classifier owes scikit-learn.

    In float64, where large scores, the ones that matter, do not all round to a probability of 1.
    """
    return torch.cat([-logits, logits], dim=1).double().sigmoid()


class Bar(Callback):  # type: ignore[misc]
    """A progress bar over the epochs of a fit, with the loss and the TPR at the budget."""

    def on_train_begin(self, net: NeuralNetClassifier, **_: Any) -> None:
        self.bar_ = tqdm(total=net.max_epochs, unit="epoch", leave=False)

    def on_epoch_end(self, net: NeuralNetClassifier, **_: Any) -> None:
        last = net.history[-1]
        self.bar_.set_postfix(loss=f"{last['train_loss']:.3f}", val_tpr=f"{last['val_tpr']:.3f}")
        self.bar_.update()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.bar_.close()
        del self.bar_  # an open bar cannot be pickled, a fitted estimator should be


def make_net(epochs: int) -> NeuralNetClassifier:
    return NeuralNetClassifier(
        mlp,
        criterion=PAUCAtBudgetLoss,
        criterion__num_classes=1,
        criterion__surrogate="pairwise",
        criterion__link="logistic",
        criterion__gradient_scale="live",
        criterion__tau_scale="unit",
        criterion__temperature=1.0,
        criterion__queue_size=8192,
        predict_nonlinearity=both_probabilities,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        max_epochs=epochs,
        batch_size=1024,
        iterator_train__shuffle=True,
        callbacks=[
            ("val_tpr", EpochScoring(SCORER, name="val_tpr", lower_is_better=False)),
            ("bar", Bar()),
        ],
        callbacks__print_log=None,
        callbacks__valid_acc=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 1 epoch a fit")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = load(quick=args.quick)
    rows, targets = data.train.features.numpy(), data.train.targets.numpy()
    search = GridSearchCV(
        make_net(epochs=1 if args.quick else 5),
        GRID,
        scoring=SCORER,
        cv=StratifiedKFold(2 if args.quick else 3, shuffle=True, random_state=0),
    )
    search.fit(rows, targets)
    results = search.cv_results_
    for options, score in zip(results["params"], results["mean_test_score"], strict=True):
        print(f"TPR {score:.3f} with {options}")
    tpr = SCORER(search, data.test.features.numpy(), data.test.targets.numpy())
    print(f"TPR at FPR {BUDGET:.1%} on held-out rows, refitted with the best: {tpr:.3f}")


if __name__ == "__main__":
    main()
