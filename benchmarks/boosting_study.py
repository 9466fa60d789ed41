"""Boosted trees on real tables: log-loss against the band, with the same number of trials each.

    python -m benchmarks.boosting_study run                          # all, hours on one core
    python -m benchmarks.boosting_study run --tables fars --engines lightgbm --quick
    python -m benchmarks.boosting_study report          # docs/boosting.md, from the lines alone

A run is a table, an engine, an arm, a trial and a seed. Its line is appended to
`results/boosting.jsonl`, and a line that is there is never run again. All arms have the same trials
(leaves, rate, least Hessian in a leaf). They are made on the first seed and compared by the partial
AUC on validation rows; the best one and the first, the small model that has to be fast, are then
trained on the other seeds. On KDD 2004 the validation rows of a fold are the test rows of another,
so that each fold has trials of its own. Rounds come from early stopping.

A line has the partial AUC on validation rows and the TPR on test rows after every 20 rounds.
Training rows and test rows are capped (`MOST_ROWS`), for a study that one core can run.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks._report import replace_in_readme
from benchmarks.boosting_trees import ENGINES, Rows, Settings, Stop, Training, staged
from benchmarks.coverage.store import Config, Store
from benchmarks.wide.problems import Data, data_of
from pauc.boosting import BandObjective, PartialAUCMetric
from pauc.metrics import partial_auc, tpr_at_fpr

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS / "results" / "boosting.jsonl"
PAGE = BENCHMARKS.parent / "docs" / "boosting.md"
BUDGET = 0.005
FPRS = (0.001, 0.005, 0.01)
CHOICE_BAND = 0.02  # of the partial AUC that trials and rounds are chosen by
PATIENCE = 50
MOST_ROUNDS = 300
MOST_ROWS = 100_000
EVERY = 20  # rounds between two figures of a line
TABLES = ("covertype", "covertype-thin", "kdd2004", "fars", "flights")
OWN_TRIALS = ("kdd2004",)  # a fold is tested on what another is chosen by
TRIALS = (
    Settings(leaves=31, rate=0.1, least_hessian=1e-3),  # small, with LightGBM's own defaults
    Settings(leaves=63, rate=0.1, least_hessian=1.0),
    Settings(leaves=127, rate=0.1, least_hessian=10.0),
    Settings(leaves=15, rate=0.05, least_hessian=1.0),
)


class Arm(NamedTuple):
    """What a training is told; without an objective it is the engine's log-loss."""

    objective: Callable[[int, int], BandObjective] | None  # of rows and positives
    power: float = 0.0  # positives weigh this power of the ratio of negatives to positives


def band(beta: float, pauc_weight: float = 1.0) -> Arm:
    return Arm(lambda _rows, _positives: BandObjective(beta, pauc_weight=pauc_weight))


ARMS = {
    "log-loss": Arm(None),
    "log-loss, sqrt weights": Arm(None, 0.5),
    "log-loss, full weights": Arm(None, 1.0),
    "for_budget": Arm(lambda n, p: BandObjective.for_budget(BUDGET, rows=n, positives=p)),
    "band 2 %": band(0.02),
    "band 2 %, pairs of weight 3": band(0.02, 3.0),
    "band 3.5 %": band(0.035),
    "band 5 %": band(0.05),
    "band 10 %": band(0.1),
}
STUDIED = ("log-loss", "log-loss, sqrt weights", "for_budget")


def rows_of(data: Data, rows: Tensor, seed: int, most: int) -> Rows:
    """Return at most so many of the rows, drawn by the seed."""
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]
    rows = rows[drawn]
    return Rows(data.inputs[rows].numpy(), data.targets[rows].numpy())


def training_of(arm: Arm, train: Rows, validation: Rows, threads: int) -> Training:
    positive = train.targets == 1
    positives = int(positive.sum())
    ratio = (len(positive) - positives) / positives
    weight = np.where(positive, ratio**arm.power, 1.0) if arm.power else None
    objective = arm.objective and arm.objective(len(positive), positives)
    stop = Stop(validation, PartialAUCMetric(CHOICE_BAND), PATIENCE)
    return Training(train, weight, objective, stop, threads)


def run_one(config: Config, threads: int) -> dict[str, Any]:
    """Train as the configuration says, and return what is kept of it."""
    begin, seed = time.process_time(), config["seed"]
    data = data_of(config["table"], seed)
    # Test rows are the same for all seeds, so that they are drawn by one.
    parts = ((data.train, seed), (data.validation, seed), (data.test, 0))
    train, validation, test = (rows_of(data, *part, config["most_rows"]) for part in parts)
    training = training_of(ARMS[config["arm"]], train, validation, threads)
    train_trees = ENGINES[config["engine"]]
    trees = train_trees(training, Settings(**config["settings"]), config["rounds"])
    curve = []
    for rows, of in ((validation, _chosen_by), (test, tpr_of)):
        steps = staged(trees.margins, rows.features, trees.rounds, EVERY)
        curve.append([of(scores, rows.targets) for scores in steps])
    return {
        "rounds": trees.rounds,
        "every": EVERY,  # the last figure is after all rounds
        "validation": curve[0],
        "tpr": curve[1],
        "rows": len(train.targets),
        "positives": int(train.targets.sum()),
        "objective": repr(training.objective),
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


def _chosen_by(scores: np.ndarray, targets: np.ndarray) -> float:
    return round(float(partial_auc(*_tensors(scores, targets), beta=CHOICE_BAND)), 5)


def tpr_of(scores: np.ndarray, targets: np.ndarray) -> list[float]:
    return [round(x, 5) for x in tpr_at_fpr(*_tensors(scores, targets), FPRS).tolist()]


def _tensors(scores: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.asarray(scores, dtype=np.float64)), torch.from_numpy(targets)


class Cell(NamedTuple):
    """The runs that share a choice of the trial."""

    table: str
    engine: str
    arm: str

    def config(self, trial: int, seed: int, rounds: int, most_rows: int = MOST_ROWS) -> Config:
        return {
            **self._asdict(), "trial": trial, "settings": TRIALS[trial]._asdict(), "seed": seed,
            "rounds": rounds, "most_rows": most_rows,
        }  # fmt: skip


def best_trial(results: dict[int, dict[str, Any]]) -> int:
    """Return the trial whose rounds were best on validation rows."""
    return max(results, key=lambda trial: results[trial]["validation"][-1])


def needed(
    cell: Cell, store: Store, *, rounds: int, seeds: Sequence[int], count: int
) -> Iterator[Config]:
    """Yield the configurations of a cell; those after the trials depend on what these gave."""
    first, *others = seeds
    trials = [cell.config(trial, first, rounds) for trial in range(count)]
    yield from trials
    for seed in others:
        if cell.table in OWN_TRIALS:
            yield from (cell.config(trial, seed, rounds) for trial in range(count))
            continue
        found = {config["trial"]: store.find(config) for config in trials}
        chosen = best_trial({trial: record["result"] for trial, record in found.items() if record})
        yield from (cell.config(trial, seed, rounds) for trial in sorted({0, chosen}))


def run(args: argparse.Namespace) -> None:
    store = Store(args.results)
    rounds = EVERY if args.quick else MOST_ROUNDS
    cells = itertools.product(args.tables, args.engines, args.arms)
    for cell in (bar := tqdm([Cell(*names) for names in cells], unit="cell")):
        for config in needed(cell, store, rounds=rounds, seeds=args.seeds, count=args.trials):
            bar.set_postfix_str(f"{', '.join(cell)}, trial {config['trial']}, {config['seed']}")
            if store.find(config) is None:
                store.add(config, run_one(config, args.threads))


def report(args: argparse.Namespace) -> None:
    from benchmarks.boosting_report import tables

    replace_in_readme("boosting-study", tables(Store(args.results).records.values()), PAGE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boosting_study")
    parser.add_argument("--results", type=Path, default=RESULTS)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.set_defaults(command=run)
    command.add_argument("--tables", nargs="+", default=[*TABLES], choices=TABLES)
    command.add_argument("--engines", nargs="+", default=[*ENGINES], choices=ENGINES)
    command.add_argument("--arms", nargs="+", default=[*STUDIED], choices=ARMS)
    command.add_argument("--seeds", nargs="+", type=int, default=[*range(5)])
    command.add_argument("--trials", type=int, default=len(TRIALS))
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--quick", action="store_true", help="20 rounds, to see that it runs")
    commands.add_parser("report").set_defaults(command=report)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.command(args)


if __name__ == "__main__":
    main()
