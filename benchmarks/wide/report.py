"""The table of the wide study, made from its stored lines alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.coverage.intervals import difference, estimate
from benchmarks.coverage.store import Record

from . import instead
from .problems import PROBLEMS

OURS = "preset, sampler, from log-odds"
PLAIN = "preset, from log-odds"
SHOWN = {
    "BCE, from log-odds": "BCE",
    "BCE, class-weighted": "BCE, class-weighted",
    "BCE, gentle sampler, from log-odds": "BCE, gentle sampler",
    "BCE, sampler, from log-odds": "BCE, sampler",
    "BCE, sampler of the top 2 %, from log-odds": "BCE, sampler of the top 2 %",
    PLAIN: "`for_budget`",
    OURS: "**`for_budget`, sampler**",
}
CHOSEN = "sampler or not by validation rows: minus it"
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]  # by arm and seed


def table(records: Sequence[Record]) -> str:
    """Return the table of all arms: a row for each problem, TPR at an FPR of 0.5 % (0.1 %)."""
    head = [
        "problem",
        *SHOWN.values(),
        "best BCE",
        "minus the best BCE",
        CHOSEN,
        "seeds",
        "instead",
    ]
    found = _problems(records)
    rows = [[*_row(name, found[name]), _instead(found[instead.shared(name)])] for name in found]
    return markdown(head, rows)


def summary(records: Sequence[Record]) -> str:
    """Return the short table: BCE, the best BCE, ours, the difference, what one takes instead."""
    head = ["problem", "BCE", "best BCE", "**`for_budget` with `BandSampler`**", "minus best BCE"]
    head += [CHOSEN, "seeds", "instead"]
    rows, found = [], _problems(records)
    for name, results in found.items():
        best = best_bce(results)
        short = [_mean(results[arm]) for arm in ("BCE, from log-odds", best, OURS)]
        rows.append([name, *short, *_differences(results, best)])
        rows[-1].append(_instead(found[instead.shared(name)]))
    return markdown(head, rows)


def _problems(records: Sequence[Record]) -> dict[str, Results]:
    found: dict[str, dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        config = record["config"]
        if config["lr_factor"] == 1:
            found[config["problem"]][config["arm"]][config["seed"]] = record["result"]
    return {name: _same_seeds(found[name]) for name in PROBLEMS if OURS in found[name]}


def _same_seeds(results: Results) -> Results:
    """Return the results with the seeds that all shown arms have, or else one would mislead."""
    seeds = set.intersection(*(set(results.get(arm, {})) for arm in SHOWN))
    return {
        arm: {seed: of[seed] for seed in seeds} if arm in SHOWN else of
        for arm, of in results.items()
    }


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table whose first column alone is of words."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _row(name: str, results: Results) -> list[str]:
    best = best_bce(results)
    cells = [_cell(results[arm]) for arm in SHOWN]
    return [name, *cells, SHOWN[best], *_differences(results, best)]


def _instead(results: Results) -> str:
    """Return what validation rows prefer among what one would take instead, and its name."""
    tried = {arm: results[arm] for arm in instead.ARMS if arm in results}
    if not tried:
        return ""
    seeds = set.intersection(*(set(of) for of in tried.values()))
    best = max(tried, key=lambda arm: sum(tried[arm][seed]["chosen_by"] for seed in seeds))
    return f"{_mean(tried[best])} ({best})"


def _differences(results: Results, best: str) -> list[str]:
    """Return ours minus the best BCE, that of ours which validation rows prefer, and the seeds."""
    theirs = of_seeds(results[best], "0.005")
    chosen = _preferred(results, [OURS, PLAIN])
    found = [difference(of_seeds(results[arm], "0.005"), theirs) for arm in (OURS, chosen)]
    return [*(minus.signed for minus in found if minus is not None), str(len(theirs))]


def _mean(by_seed: Mapping[int, Mapping[str, Any]]) -> str:
    return f"{estimate(of_seeds(by_seed, '0.005')).mean:.3f}"


def best_bce(results: Results) -> str:
    """Return the arm without this library's loss that validation rows prefer."""
    return _preferred(results, [arm for arm in SHOWN if arm not in (OURS, PLAIN)])


def _preferred(results: Results, arms: Sequence[str]) -> str:
    return max(arms, key=lambda arm: sum(run["chosen_by"] for run in results[arm].values()))


def _cell(by_seed: Mapping[int, Mapping[str, Any]]) -> str:
    at_budget, below = (estimate(of_seeds(by_seed, fpr)).mean for fpr in ("0.005", "0.001"))
    return f"{at_budget:.3f} ({below:.3f})"


def of_seeds(by_seed: Mapping[int, Mapping[str, Any]], fpr: str) -> dict[int, float]:
    """Return the TPR at an FPR by seed."""
    return {seed: result["tpr"][fpr] for seed, result in by_seed.items()}
