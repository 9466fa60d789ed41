"""The real part: every arm gets the same number of tuning trials, chosen on validation rows.

A trial draws a learning rate, a weight decay (both the same for all arms) and a value of the arm's
own parameter. The first trial is what is documented. Every run keeps its best epoch, by TPR at the
budget on validation rows. Test rows are scored in the final runs only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from .arms import Arm
from .datasets import SOURCES, Split, split
from .store import Record, Store
from .training import Run, Training, fit, make_run, measure, score

TRAININGS = {
    "covertype": Training(epochs=20, batch_size=1024, widths=(128, 64)),
    "covertype-thin": Training(epochs=20, batch_size=1024, widths=(128, 64)),
    "kdd2004": Training(epochs=20, batch_size=2048, widths=(128, 64)),
    "fars": Training(epochs=15, batch_size=1024, widths=(128, 64)),
}
QUEUE_SIZE = 16_384  # 82 rows in a band of 0.5 %
BUDGET_BPS = 50
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
WEIGHT_DECAYS = (0.0, 1e-4, 1e-2)


class Trial(NamedTuple):
    arm: Arm
    training: Training


def trials(arm: Arm, training: Training, number: int) -> Iterator[Trial]:
    """The documented parameters, then `number - 1` draws."""
    yield Trial(arm, training)
    draws = random.Random(0)  # the same for each arm, so that none has the luckier rates
    for _ in range(number - 1):
        name, values = arm.own
        lr, weight_decay = draws.choice(RATES), draws.choice(WEIGHT_DECAYS)
        value = values[int(draws.random() * len(values))]
        drawn = replace(training, lr=lr, weight_decay=weight_decay)
        if name == "decay":
            yield Trial(arm, replace(drawn, decay=value))
        else:
            yield Trial(arm._replace(params={**arm.params, name: value}), drawn)


def tuned(
    arm: Arm, name: str, seed: int, number: int, training: Training, store: Store
) -> Iterator[Record]:
    """Runs the trials and then the final run; the last record is the final one."""
    tuning_seed = 0 if SOURCES[name].fixed_test else seed
    best, best_tpr = None, -1.0
    for trial in trials(arm, training, number):
        record = run_one(_run(trial, name, tuning_seed, "tuning"), store)
        yield record
        tpr = record["result"]["validation"]["tpr"][str(BUDGET_BPS)]
        if tpr > best_tpr:  # a tie goes to the earlier trial
            best, best_tpr = trial, tpr
    assert best is not None
    yield run_one(_run(best, name, seed, "arms"), store)


def _run(trial: Trial, name: str, seed: int, study: str) -> Run:
    return make_run(
        trial.arm,
        {"set": name, "epoch": "best on validation rows"},
        trial.training,
        seed=seed,
        budget_bps=BUDGET_BPS,
        queue_size=QUEUE_SIZE,
        study=study,
    )


def run_one(run: Run, store: Store) -> Record:
    """From the store if it is there, else computed and stored."""
    found = store.find(run.config)
    if found is not None:
        return found
    data = _split(run.data["set"], run.seed)
    model, facts = fit(run, data.train, data.validation)
    parts = ("validation",) if run.study == "tuning" else ("validation", "test")
    measured: dict[str, Any] = {}
    for part in parts:
        features, targets = getattr(data, part)
        measured[part] = measure(score(model, features), targets)
    return store.add(run.config, {**measured, **facts})


@lru_cache(maxsize=1)
def _split(name: str, seed: int) -> Split:
    return split(SOURCES[name], seed)
