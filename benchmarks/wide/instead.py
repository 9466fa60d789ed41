"""What a user would take instead of a network: boosted trees on tables, TF-IDF on texts.

Each is tried a few times and chosen by the partial AUC on validation rows, as the networks are.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pauc.metrics import partial_auc, tpr_at_fpr

from . import glosses
from .problems import Data
from .training import CHOICE_BAND, FPRS

LEAVES = (31, 127)
ROUNDS, EVERY = 600, 25
INVERSE_PENALTIES = (1.0, 10.0, 100.0)
Scores = Callable[[Tensor], Tensor]


def run(name: str, data: Data) -> dict[str, Any]:
    """Return what the best trial reaches on the test rows."""
    started = time.process_time()
    trials = _regressions(data) if ", " in name else _trees(data)
    best: dict[str, Any] = {"chosen_by": -1.0}
    for label, scores in trials:
        reached = partial_auc(
            scores(data.validation), data.targets[data.validation], beta=CHOICE_BAND
        ).item()
        if reached > best["chosen_by"]:
            tpr = tpr_at_fpr(scores(data.test), data.targets[data.test], FPRS).tolist()
            of_fpr = dict(zip(map(str, FPRS), tpr, strict=True))
            best = {"chosen_by": reached, "trial": label, "tpr": of_fpr}
    return {**best, "cpu_seconds": round(time.process_time() - started, 1)}


def _trees(data: Data) -> Iterator[tuple[str, Scores]]:
    """LightGBM with its log-loss; the number of rounds is tried from 25 on."""
    import lightgbm  # optional

    inputs, targets = data.inputs.numpy(), data.targets.numpy()
    rows = data.train.numpy()
    for leaves in LEAVES:
        options = {"objective": "binary", "num_leaves": leaves, "learning_rate": 0.05}
        options |= {"verbose": -1, "num_threads": 1, "seed": 0}
        train = lightgbm.Dataset(inputs[rows], targets[rows])
        model = lightgbm.train(options, train, num_boost_round=ROUNDS)
        for rounds in range(EVERY, ROUNDS + 1, EVERY):

            def scores(of: Tensor, rounds: int = rounds, model: Any = model) -> Tensor:
                margins = model.predict(inputs[of.numpy()], num_iteration=rounds, raw_score=True)
                return torch.from_numpy(np.asarray(margins))

            yield f"{leaves} leaves, {rounds} rounds", scores


def _regressions(data: Data) -> Iterator[tuple[str, Scores]]:
    """A logistic regression on TF-IDF of words and pairs of words, with and without weights."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # optional
    from sklearn.linear_model import LogisticRegression

    texts, targets = np.array(glosses.glosses().texts, dtype=object), data.targets.numpy()
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    rows = data.train.numpy()
    train = vectorizer.fit_transform(texts[rows])
    for class_weight in (None, "balanced"):
        for inverse in INVERSE_PENALTIES:
            model = LogisticRegression(C=inverse, class_weight=class_weight, max_iter=300)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(train, targets[rows])

            def scores(of: Tensor, model: Any = model) -> Tensor:
                margins = model.decision_function(vectorizer.transform(texts[of.numpy()]))
                return torch.from_numpy(margins)

            yield f"C={inverse:g}, class_weight={class_weight}", scores
