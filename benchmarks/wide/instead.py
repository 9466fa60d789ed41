"""What a user would take instead of a network: boosted trees on tables, TF-IDF on texts.

Each is tried a few times and chosen by the partial AUC on validation rows, as the networks are.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.boosting_trees import ENGINES, NAMES, Rows, Settings, Training, staged
from pauc.metrics import partial_auc

from . import glosses
from .fashion import CLASSES
from .problems import Data
from .training import CHOICE_BAND, tpr_on_test

ENGINE_OF = {name: engine for engine, name in NAMES.items()}
REGRESSION = "logistic regression"
ARMS = (*ENGINE_OF, REGRESSION)

LEAVES = (31, 127)
ROUNDS, EVERY = 600, 25
INVERSE_PENALTIES = (1.0, 10.0, 100.0)


class Trial(NamedTuple):
    label: str
    validation: Tensor  # scores
    test: Tensor


def arms_of(problem: str) -> tuple[str, ...]:
    """Return what is tried: nothing on images, where one would take a network."""
    if problem == shared(problem) and ", " in problem:
        return (REGRESSION,)
    return () if ", " in problem or problem in CLASSES else tuple(ENGINE_OF)


def shared(problem: str) -> str:
    """Return the problem that stands for all models of the same texts."""
    return f"{problem.split(', ')[0]}, bag" if ", " in problem else problem


def run(arm: str, data: Data) -> dict[str, Any]:
    """Return what the best trial reaches on the test rows."""
    started = time.process_time()
    trials = _regressions(data) if arm == REGRESSION else _trees(ENGINE_OF[arm], data)
    best: dict[str, Any] = {"chosen_by": -1.0}
    for trial in trials:
        targets = data.targets[data.validation]
        reached = partial_auc(trial.validation, targets, beta=CHOICE_BAND).item()
        if reached > best["chosen_by"]:
            tpr = tpr_on_test(trial.test, data)
            best = {"chosen_by": reached, "trial": trial.label, "tpr": tpr}
    return {**best, "cpu_seconds": round(time.process_time() - started, 1)}


def _trees(engine: str, data: Data) -> Iterator[Trial]:
    """An engine with its log-loss; the number of rounds is tried from 25 on."""
    inputs, targets = data.inputs.numpy(), data.targets.numpy()
    train = Rows(*(values[data.train.numpy()] for values in (inputs, targets)))
    for leaves in LEAVES:
        trees = ENGINES[engine](Training(train), Settings(leaves, rate=0.05), ROUNDS)
        stages = [
            staged(trees.margins, inputs[rows.numpy()], ROUNDS, EVERY)
            for rows in (data.validation, data.test)
        ]
        for stage, margins in enumerate(zip(*stages, strict=True)):
            scores = (torch.from_numpy(np.asarray(of, dtype=np.float64)) for of in margins)
            yield Trial(f"{leaves} leaves, {(stage + 1) * EVERY} rounds", *scores)


def _regressions(data: Data) -> Iterator[Trial]:
    """A logistic regression on TF-IDF of words and pairs of words, with and without weights."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # optional
    from sklearn.linear_model import LogisticRegression

    texts, targets = np.array(glosses.glosses().texts, dtype=object), data.targets.numpy()
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    rows = data.train.numpy()
    train = vectorizer.fit_transform(texts[rows])
    others = [vectorizer.transform(texts[of.numpy()]) for of in (data.validation, data.test)]
    for class_weight in (None, "balanced"):
        for inverse in INVERSE_PENALTIES:
            model = LogisticRegression(C=inverse, class_weight=class_weight, max_iter=300)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(train, targets[rows])
            scores = (torch.from_numpy(model.decision_function(of)) for of in others)
            yield Trial(f"C={inverse:g}, class_weight={class_weight}", *scores)
