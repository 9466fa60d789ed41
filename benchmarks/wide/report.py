"""The table of the wide study, made from its stored lines alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.coverage.intervals import difference, estimate
from benchmarks.coverage.store import Record

OURS = "preset, sampler, from log-odds"
SHOWN = {
    "BCE, from log-odds": "BCE",
    "BCE, class-weighted": "BCE, class-weighted",
    "BCE, gentle sampler, from log-odds": "BCE, gentle sampler",
    "BCE, sampler, from log-odds": "BCE, sampler",
    "BCE, sampler of the top 2 %, from log-odds": "BCE, sampler of the top 2 %",
    "preset, from log-odds": "`for_budget`",
    OURS: "**`for_budget`, sampler**",
}
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]  # by arm and seed


def table(records: Sequence[Record]) -> str:
    """Return the Markdown table: a row for each problem, TPR at an FPR of 0.5 % (0.1 %)."""
    problems: dict[str, dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        config = record["config"]
        if config["lr_factor"] == 1:
            problems[config["problem"]][config["arm"]][config["seed"]] = record["result"]
    head = ["problem", *SHOWN.values(), "minus the best BCE arm", "seeds"]
    rule = ["---", *["--:"] * (len(head) - 1)]
    rows = [_row(name, results) for name, results in problems.items() if OURS in results]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _row(name: str, results: Results) -> list[str]:
    best = best_bce(results)
    ours, theirs = (_tpr(results[arm], "0.005") for arm in (OURS, best))
    found = difference(ours, theirs)
    assert found is not None
    cells = [_cell(results.get(arm, {})) for arm in SHOWN]
    return [name, *cells, f"{found.signed} ({SHOWN[best]})", str(found.n)]


def best_bce(results: Results) -> str:
    """Return the arm without this library's loss that validation rows prefer."""
    others = [arm for arm in SHOWN if arm in results and not arm.startswith("preset")]
    seeds = set(results[OURS]).intersection(*(results[arm] for arm in others))
    return max(others, key=lambda arm: sum(results[arm][seed]["chosen_by"] for seed in seeds))


def _cell(by_seed: Mapping[int, Mapping[str, Any]]) -> str:
    if not by_seed:
        return "not run"
    at_budget, below = (estimate(_tpr(by_seed, fpr)).mean for fpr in ("0.005", "0.001"))
    return f"{at_budget:.3f} ({below:.3f})"


def _tpr(by_seed: Mapping[int, Mapping[str, Any]], fpr: str) -> dict[int, float]:
    return {seed: result["tpr"][fpr] for seed, result in by_seed.items()}
