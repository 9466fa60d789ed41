"""The tables of the study of boosted trees, made from its stored lines alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.boosting_study import FPRS, OWN_TRIALS, STUDIED, TABLES, best_trial
from benchmarks.boosting_trees import NAMES
from benchmarks.coverage.intervals import difference, estimate
from benchmarks.coverage.store import Record

OURS = "for_budget"
SMALL_ROUNDS = 200
AT = {fpr: k for k, fpr in enumerate(FPRS)}
Result = dict[str, Any]
ByTrial = dict[int, dict[int, Result]]  # results by seed, by trial
BySeed = dict[int, Result]


def by_cell(records: Iterable[Record]) -> dict[tuple[str, str], dict[str, ByTrial]]:
    """Return the results by table and engine, then by arm, trial and seed."""
    cells: dict[tuple[str, str], dict[str, ByTrial]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for record in records:
        config = record["config"]
        arms = cells[config["table"], config["engine"]]
        arms[config["arm"]][config["trial"]][config["seed"]] = record["result"]
    return cells


def tables(records: Iterable[Record]) -> str:
    """Return the tables: chosen trials, the small model, and the trees that are saved."""
    cells = by_cell(records)
    parts = [("Trials chosen on validation rows", chosen), ("31 leaves, at most 200 rounds", small)]
    return "\n\n".join(_table(title, cells, pick) for title, pick in parts)


def chosen(table: str, trials: ByTrial) -> BySeed:
    """Return what the trial reaches that the first seed's validation rows, or a fold's, choose."""
    found = {}
    for seed in trials[0]:
        by = seed if table in OWN_TRIALS else min(trials[0])
        # A seed without the trial that is chosen has not been run to its end.
        best = best_trial({k: runs[by] for k, runs in trials.items() if by in runs})
        if seed in trials[best]:
            found[seed] = _at(trials[best][seed], len(trials[best][seed]["tpr"]) - 1)
    return found


def small(_: str, trials: ByTrial) -> BySeed:
    """Return what the first trial reaches, with rounds up to 200 chosen on validation rows."""
    found = {}
    for seed, result in trials[0].items():
        few = result["validation"][: SMALL_ROUNDS // result["every"]]
        found[seed] = _at(result, max(range(len(few)), key=few.__getitem__))
    return found


def _at(result: Result, stage: int) -> Result:
    rounds = min((stage + 1) * result["every"], result["rounds"])
    return {**result, "tpr": result["tpr"][stage], "validation": result["validation"][stage],
            "rounds": rounds, "curve": result["tpr"]}  # fmt: skip


def _table(title: str, cells: Any, pick: Callable[[str, ByTrial], BySeed]) -> str:
    rates = [f"{100 * fpr:g} %" for fpr in FPRS]
    minus = [f"minus best log-loss, {100 * fpr:g} %" for fpr in FPRS[:2]]
    head = ["table", "engine", "trained with", *rates, *minus, "rounds", "rounds to equal", "seeds"]
    lines = [f"**{title}**", "", f"| {' | '.join(head)} |", "|---|---|---|" + "--:|" * 8]
    for (table, engine), arms in sorted(cells.items(), key=lambda item: _place(*item[0])):
        picked = {arm: pick(table, arms[arm]) for arm in STUDIED if 0 in arms.get(arm, {})}
        for arm, runs in picked.items():
            cells_of_row = [table, NAMES[engine], arm, *_row(arm, runs, picked)]
            lines.append(f"| {' | '.join(cells_of_row)} |")
    return "\n".join(lines)


def _place(table: str, engine: str) -> tuple[str, int]:
    return engine, TABLES.index(table)


def _row(arm: str, runs: BySeed, picked: dict[str, BySeed]) -> list[str]:
    if not runs:
        return ["not run to its end"] + [""] * 7
    shown = [f"{estimate(_tpr(runs, fpr)).mean:.3f}" for fpr in FPRS]
    rounds = f"{estimate({seed: run['rounds'] for seed, run in runs.items()}).mean:.0f}"
    others = {name: of for name, of in picked.items() if name != OURS and of}
    if arm != OURS or not others:
        return [*shown, "", "", rounds, "", str(len(runs))]
    best = max(others.values(), key=lambda of: _mean_choice(of, runs))
    gains = [difference(_tpr(runs, fpr), _tpr(best, fpr)) for fpr in FPRS[:2]]
    signed = ["" if gain is None else gain.signed for gain in gains]
    return [*shown, *signed, rounds, _rounds_to_equal(runs, best), str(len(runs))]


def _mean_choice(of: BySeed, runs: BySeed) -> float:
    values = [of[seed]["validation"] for seed in of if seed in runs]
    return sum(values) / len(values) if values else -1.0


def _rounds_to_equal(runs: BySeed, best: BySeed) -> str:
    """Return the mean rounds until the TPR at 0.5 % is the other's, of all; "not" if one never."""
    found = []
    for seed in set(runs) & set(best):
        goal, curve = best[seed]["tpr"][AT[0.005]], runs[seed]["curve"]
        reached = [k for k, tpr in enumerate(curve) if tpr[AT[0.005]] >= goal]
        if not reached:
            return "not in all seeds"
        found.append((reached[0] + 1) * runs[seed]["every"])
    theirs = [best[seed]["rounds"] for seed in set(runs) & set(best)]
    return f"{sum(found) / len(found):.0f} of {sum(theirs) / len(theirs):.0f}" if found else ""


def _tpr(runs: BySeed, fpr: float) -> dict[int, float]:
    return {seed: run["tpr"][AT[fpr]] for seed, run in runs.items()}
