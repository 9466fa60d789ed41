"""The synthetic part: no tuning, documented parameters, one population a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from .arms import ARMS, Arm
from .store import Record, Store
from .synthetic import Population, draw, log_likelihood_ratio
from .training import Run, Training, fit, make_run, measure, score

TRAINING = Training(epochs=15, batch_size=4096, widths=(64, 64))
QUEUE_SIZE = 8192
# Edges of the band sweep, as multiples of the budget.
SWEEP_FROM, SWEEP_TO = (0.0, 0.25, 0.5), (1.0, 2.5, 5.0)
SWEEP_ARM = ARMS["pauc logistic, iqr"]


def plan(
    arms: Sequence[Arm],
    cues: Sequence[str],
    seeds: Sequence[int],
    budget_bps: float,
    queue_size: int,
    study: str = "arms",
) -> Iterator[Run]:
    """Seeds outside, arms inside: a study that is cut off has the same seeds for all arms."""
    for cue in cues:
        for seed in seeds:
            for arm in arms:
                yield make_run(
                    arm,
                    {"set": "synthetic", "cue": cue},
                    TRAINING,
                    seed=seed,
                    budget_bps=budget_bps,
                    queue_size=queue_size,
                    study=study,
                )


def sweep_arms() -> list[Arm]:
    """One arm for each band of the sweep."""
    return [
        SWEEP_ARM._replace(
            name=f"band {low:g} to {high:g}",
            params={**SWEEP_ARM.params, "band_from": low, "band": high},
        )
        for low in SWEEP_FROM
        for high in SWEEP_TO
    ]


def run_one(run: Run, store: Store) -> Record:
    """From the store if it is there, else computed and stored."""
    found = store.find(run.config)
    if found is not None:
        return found
    population = _population(run.data["cue"], run.seed)
    model, facts = fit(run, population.train)
    measured = measure(score(model, population.test.features), population.test.targets)
    limit = _limit(run.data["cue"], run.seed)
    return store.add(run.config, {**measured, **facts, "limit": limit})


@lru_cache(maxsize=1)
def _population(cue: str, seed: int) -> Population:
    return draw(cue, seed)


@lru_cache(maxsize=1)
def _limit(cue: str, seed: int) -> dict[str, Any]:
    test = _population(cue, seed).test
    return measure(log_likelihood_ratio(test.features, cue), test.targets)
