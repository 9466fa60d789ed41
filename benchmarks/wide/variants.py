"""Two more tables of the wide study: a rate that validation rows choose, averages and ensembles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.coverage.intervals import difference, estimate
from benchmarks.coverage.store import Record

from .problems import PROBLEMS
from .report import OURS, PLAIN, SHOWN, markdown, of_seeds

RATES = (1.0, 4.0)  # times the problem's own
# What may be done to a training with either loss, and the suffix of its arm.
DONE = {"one": "", "EMA": ", EMA", "ensemble": ", ensemble"}
LOSSES = {"BCE": "BCE, sampler", "`for_budget`": "preset, sampler"}
ARMS = [arm for arm in SHOWN if arm != PLAIN]
BySeed = dict[int, dict[str, Any]]
Key = tuple[str, float]  # an arm and a rate
Runs = Mapping[Key, BySeed]


def rates(records: Sequence[Record]) -> str:
    """Return a row for each problem of which all arms were trained with all rates."""
    head = ["problem", "best BCE", "its rate", "**`for_budget`, sampler**", "its rate", "minus"]
    rows = []
    for name, runs in _runs(records).items():
        tried = {key: of for key, of in runs.items() if key[0] in ARMS and key[1] in RATES}
        seeds = set.intersection(*map(set, tried.values())) if tried else set()
        if len(tried) == len(ARMS) * len(RATES) and seeds:
            ours, best = _preferred(tried, RATES, seeds)
            fast = _preferred(tried, RATES[1:], seeds)
            cells = [f"{_mean(_part(tried[best], seeds))} ({SHOWN[best[0]]})", f"{best[1]:g}"]
            cells += [_mean(_part(tried[ours], seeds)), f"{ours[1]:g}"]
            minus = [_minus(tried[a], tried[b], seeds) for a, b in ((ours, best), fast)]
            rows.append([name, *cells, *minus, str(len(seeds))])
    return markdown([*head, "minus, all at four times the rate", "seeds"], rows)


def averages(records: Sequence[Record]) -> str:
    """Return a row for each problem with an average or an ensemble: TPR at 0.5 %, seed 0 alone.

    A seed is other rows on some tables, so that all cells of a row are of the same.
    """
    head = [f"{loss}: {what}" for loss in LOSSES for what in DONE]
    rows = []
    for name, runs in _runs(records).items():
        arms = [f"{arm}{suffix}" for arm in LOSSES.values() for suffix in DONE.values()]
        found = [runs.get((f"{arm}, from log-odds", 1.0), {}) for arm in [*arms, "focal"]]
        if found[1] or found[2]:
            rows.append([name, *(_mean({s: of[s] for s in {0} & set(of)}) for of in found)])
    return markdown(["problem", *head, "focal"], rows)


def _runs(records: Iterable[Record]) -> dict[str, Runs]:
    found: dict[str, dict[Key, BySeed]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        config = record["config"]
        by_seed = found[config["problem"]][config["arm"], config["lr_factor"]]
        by_seed[config["seed"]] = record["result"]
    return {name: found[name] for name in PROBLEMS}


def _preferred(runs: Runs, rates: Sequence[float], seeds: set[int]) -> tuple[Key, Key]:
    """Return our arm and the best BCE, each with the rate that validation rows prefer."""

    def choice(key: Key) -> float:
        return sum(runs[key][seed]["chosen_by"] for seed in seeds)

    allowed = [key for key in runs if key[1] in rates]
    ours, others = ([key for key in allowed if (key[0] == OURS) == mine] for mine in (True, False))
    return max(ours, key=choice), max(others, key=choice)


def _minus(ours: BySeed, theirs: BySeed, seeds: set[int]) -> str:
    found = difference(*(of_seeds(_part(of, seeds), "0.005") for of in (ours, theirs)))
    assert found is not None
    return found.signed


def _part(of: BySeed, seeds: set[int]) -> BySeed:
    return {seed: of[seed] for seed in seeds}


def _mean(of: BySeed) -> str:
    return f"{estimate(of_seeds(of, '0.005')).mean:.3f}" if of else ""
