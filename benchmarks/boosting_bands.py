"""What the recipe of the boosted trees rests on: the width of the band, and leaves that explode.

    python -m benchmarks.boosting_bands run       # two hours on one core; may be broken off
    python -m benchmarks.boosting_bands report    # docs/boosting.md, from the lines alone

Three questions to LightGBM; a run is a line of `results/boosting-bands.jsonl`. Bands of several
widths on FARS, where the classes overlap, with the trials of `boosting_study.py`. The same on all
rows of covertype, where they can be told apart, with two settings that nothing chooses. And the
largest leaf on the thinned covertype, of trees whose leaves may have any Hessian and of others.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from benchmarks._report import replace_in_readme
from benchmarks.boosting_report import BySeed, ByTrial, by_cell, chosen, small
from benchmarks.boosting_study import (
    ARMS,
    FPRS,
    MOST_ROUNDS,
    PAGE,
    TRIALS,
    Cell,
    needed,
    rows_of,
    run_one,
    tpr_of,
)
from benchmarks.boosting_trees import Settings, Training, train_lightgbm
from benchmarks.coverage.store import Config, Record, Store
from benchmarks.wide.problems import data_of
from benchmarks.wide.report import markdown

RESULTS = Path(__file__).resolve().parent / "results" / "boosting-bands.jsonl"
LOG_LOSSES = ("log-loss", "log-loss, sqrt weights")
BANDS = (
    "band 2 %",
    "band 2 %, pairs of weight 3",
    "band 3.5 %",
    "band 5 %",
    "band 10 %",
    "for_budget",
)
# All rows of covertype: a trial of the study each, and its rounds. `for_budget` has 2 % there.
WHOLE = {1: 300, 0: 200}
WHOLE_ARMS = (*LOG_LOSSES, "band 10 %", "for_budget", "band 2 %, pairs of weight 3")
ALL_ROWS = 400_000
LEAST_HESSIANS = (1e-3, 1.0, 10.0)
RARE_ARMS = ("log-loss", "for_budget")
RARE_ROUNDS = 100
SEEDS = {"fars": range(5), "covertype": range(3), "covertype-thin": range(3)}


def configurations(store: Store) -> Iterator[Config]:
    """Yield all runs; those of FARS after the trials depend on what these gave."""
    for arm in (*LOG_LOSSES, *BANDS):
        cell = Cell("fars", "lightgbm", arm)
        yield from needed(cell, store, rounds=MOST_ROUNDS, seeds=SEEDS["fars"], count=len(TRIALS))
    for seed in SEEDS["covertype"]:
        for arm in WHOLE_ARMS:
            for trial, rounds in WHOLE.items():
                yield Cell("covertype", "lightgbm", arm).config(trial, seed, rounds, ALL_ROWS)
    for seed in SEEDS["covertype-thin"]:
        for arm in RARE_ARMS:
            for hessian in LEAST_HESSIANS:
                settings = Settings(leaves=63, rate=0.1, least_hessian=hessian)
                yield {
                    "table": "covertype-thin", "engine": "lightgbm", "arm": arm, "seed": seed,
                    "settings": settings._asdict(), "rounds": RARE_ROUNDS, "most_rows": ALL_ROWS,
                }  # fmt: skip


def run_rare(config: Config, threads: int) -> dict[str, Any]:
    """Train without validation rows, and return the TPR on test rows and the largest leaf."""
    data = data_of(config["table"], config["seed"])
    train, test = (rows_of(data, rows, 0, config["most_rows"]) for rows in (data.train, data.test))
    rows, positives = len(train.targets), int(train.targets.sum())
    objective = ARMS[config["arm"]].objective
    training = Training(train, objective=objective and objective(rows, positives), threads=threads)
    trees = train_lightgbm(training, Settings(**config["settings"]), config["rounds"])
    # Each leaf has training rows, so that the largest step of a row in a round is its largest leaf.
    steps = (trees.margins(train.features, k, k + 1) for k in range(config["rounds"]))
    return {
        "rows": rows,
        "positives": positives,
        "largest_leaf": round(max(float(abs(step).max()) for step in steps), 4),
        "tpr": tpr_of(trees.margins(test.features, 0, config["rounds"]), test.targets),
    }


def run(args: argparse.Namespace) -> None:
    store = Store(args.results)
    for config in (bar := tqdm(configurations(store), unit="run")):
        bar.set_postfix_str(f"{config['table']}, {config['arm']}, {config['seed']}")
        if store.find(config) is None:
            take = run_one if "trial" in config else run_rare
            store.add(config, take(config, args.threads))


def report(args: argparse.Namespace) -> None:
    records = Store(args.results).records.values()
    replace_in_readme("boosting-bands-fars", fars_table(records), PAGE)
    replace_in_readme("boosting-bands-covertype", whole_table(records), PAGE)
    replace_in_readme("boosting-bands-rare", rare_table(records), PAGE)


def fars_table(records: Iterable[Record]) -> str:
    """Return a line for each objective: the trial that validation rows choose, and 31 leaves."""
    arms = _arms(records, "fars")
    lines = []
    for arm in (*LOG_LOSSES, *BANDS):
        picked = [pick("fars", arms[arm]) for pick in (chosen, small)]
        lines.append([arm, *(_tpr(runs) for runs in picked), str(len(picked[0]))])
    return markdown(["trained with", "chosen trial", "31 leaves", "seeds"], lines)


def whole_table(records: Iterable[Record]) -> str:
    """Return a line for each objective: both settings, after all of their rounds."""
    arms = _arms(records, "covertype")
    lines = []
    for arm in WHOLE_ARMS:
        runs = [_last(arms[arm].get(trial, {})) for trial in WHOLE]
        seeds = " and ".join(sorted({str(len(of)) for of in runs}, reverse=True))
        lines.append([arm, *(_tpr(of) for of in runs), seeds])
    heads = ["63 leaves, at most 300 rounds", "31 leaves, 200 rounds"]
    return markdown(["trained with", *heads, "seeds"], lines)


def rare_table(records: Iterable[Record]) -> str:
    """Return a line for each least Hessian: the TPR, and the largest leaf of any seed."""
    runs: dict[tuple[float, str], BySeed] = defaultdict(dict)
    for record in records:
        config = record["config"]
        if config["table"] == "covertype-thin":
            at = config["settings"]["least_hessian"], config["arm"]
            runs[at][config["seed"]] = record["result"]
    lines = []
    for hessian in LEAST_HESSIANS:
        cells = [f"{hessian:g}"]
        for arm in RARE_ARMS:
            of = runs[hessian, arm]
            leaves = [run["largest_leaf"] for run in of.values()]
            cells += [_tpr(of), f"{max(leaves):,.2f}" if leaves else ""]
        lines.append([*cells, str(min(len(runs[hessian, arm]) for arm in RARE_ARMS))])
    heads = [head for arm in RARE_ARMS for head in (arm, "largest leaf")]
    return markdown(["least sum of the Hessian in a leaf", *heads, "seeds"], lines)


def _arms(records: Iterable[Record], table: str) -> dict[str, ByTrial]:
    return by_cell(r for r in records if r["config"]["table"] == table)[table, "lightgbm"]


def _last(runs: BySeed) -> BySeed:
    return {seed: {**run, "tpr": run["tpr"][-1]} for seed, run in runs.items()}


def _tpr(runs: BySeed) -> str:
    """Return the mean TPR at an FPR of 0.5 %, and in brackets that at 0.1 %."""
    if not runs:
        return ""
    low, middle = (FPRS.index(fpr) for fpr in (0.001, 0.005))
    at = [fmean(run["tpr"][k] for run in runs.values()) for k in (middle, low)]
    return f"{at[0]:.3f} ({at[1]:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boosting_bands")
    parser.add_argument("--results", type=Path, default=RESULTS)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.set_defaults(command=run)
    command.add_argument("--threads", type=int, default=1)
    commands.add_parser("report").set_defaults(command=report)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.command(args)


if __name__ == "__main__":
    main()
