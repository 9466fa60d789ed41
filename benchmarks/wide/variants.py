"""Two more tables of the wide study: a rate that validation rows choose, averages and ensembles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.coverage.intervals import difference, estimate
from benchmarks.coverage.store import Record

from .problems import PROBLEMS
from .report import OURS, SHOWN, markdown, of_seeds

RATES = (1.0, 4.0)  # times the problem's own
# What may be done to a training with either loss, and the suffix of its arm.
DONE = {"one": "", "EMA": ", EMA", "ensemble": ", ensemble"}
LOSSES = {"BCE": "BCE, sampler", "`for_budget`": "preset, sampler"}
BySeed = dict[int, dict[str, Any]]
Runs = Mapping[tuple[str, float], BySeed]  # by arm and rate


def rates(records: Sequence[Record]) -> str:
    """Return a row for each problem of which all arms were trained with all rates."""
    head = ["problem", "best BCE", "its rate", "**`for_budget`, sampler**", "its rate"]
    rows = []
    for name, runs in _runs(records).items():
        tried = {arm: _of_arm(runs, arm) for arm in SHOWN if not arm.startswith("preset, from")}
        everywhere = [set(of) for by_rate in tried.values() for of in by_rate.values()]
        seeds = set.intersection(*everywhere) if everywhere else set()
        if not seeds or not all(len(by_rate) == len(RATES) for by_rate in tried.values()):
            continue
        best = {arm: _preferred(by_rate, seeds) for arm, by_rate in tried.items()}
        ours, others = best.pop(OURS), best
        arm = max(others, key=lambda arm: _choice(tried[arm][others[arm]], seeds))
        mine = _tpr(tried[OURS][ours], seeds)
        theirs = _tpr(tried[arm][others[arm]], seeds)
        minus = difference(mine, theirs)
        assert minus is not None
        cells = [f"{estimate(theirs).mean:.3f} ({SHOWN[arm]})", f"{others[arm]:g}"]
        cells += [f"{estimate(mine).mean:.3f}", f"{ours:g}"]
        signed = minus.signed if minus.n > 1 else f"{minus.mean:+.3f}"
        rows.append([name, *cells, signed, str(minus.n)])
    return markdown([*head, "minus", "seeds"], rows)


def averages(records: Sequence[Record]) -> str:
    """Return a row for each problem with an average or an ensemble: mean TPR at 0.5 %."""
    head = [f"{loss}: {what}" for loss in LOSSES for what in DONE]
    rows = []
    for name, runs in _runs(records).items():
        arms = [f"{arm}{suffix}" for arm in LOSSES.values() for suffix in DONE.values()]
        found = [runs.get((f"{arm}, from log-odds", 1.0), {}) for arm in [*arms, "focal"]]
        if all(found[1:3]):
            rows.append([name, *map(_mean, found)])
    return markdown(["problem", *head, "focal"], rows)


def _runs(records: Iterable[Record]) -> dict[str, Runs]:
    found: dict[str, dict[tuple[str, float], BySeed]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        config = record["config"]
        by_seed = found[config["problem"]][config["arm"], config["lr_factor"]]
        by_seed[config["seed"]] = record["result"]
    return {name: found[name] for name in PROBLEMS}


def _of_arm(runs: Runs, arm: str) -> dict[float, BySeed]:
    return {rate: runs[arm, rate] for rate in RATES if (arm, rate) in runs}


def _preferred(by_rate: Mapping[float, BySeed], seeds: set[int]) -> float:
    return max(by_rate, key=lambda rate: _choice(by_rate[rate], seeds))


def _choice(of: BySeed, seeds: set[int]) -> float:
    return sum(of[seed]["chosen_by"] for seed in seeds) / len(seeds)


def _tpr(of: BySeed, seeds: set[int]) -> dict[int, float]:
    return {seed: of_seeds(of, "0.005")[seed] for seed in seeds}


def _mean(of: BySeed) -> str:
    return f"{estimate(of_seeds(of, '0.005')).mean:.3f}" if of else ""
