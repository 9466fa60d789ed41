"""Boosted trees on real tables: log-loss against the band, with the same number of trials each.

    python -m benchmarks.boosting_study run --tables covertype fars --seeds 0 1 2 3 4
    python -m benchmarks.boosting_study run --tables covertype --engines lightgbm --trials 2 --quick
    python -m benchmarks.boosting_study show

A run is a table, an engine, an arm, a trial and a seed. Its line is appended to
`results/boosting.jsonl`, and a line that is there is never run again. All arms have the same trials
(leaves, rate, least Hessian in a leaf, L2), drawn once; rounds come from early stopping by the
partial AUC on validation rows, whose best value is in the line: a trial is to be chosen by it.
`show` prints the means over seeds of the TPR on test rows, trial by trial; the choice and paired
intervals are still to come.

The tables are those of `benchmarks/coverage`, which says where they come from.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.coverage.datasets import SOURCES, Part, Split, split
from benchmarks.coverage.store import Config, Store
from pauc.boosting import BandObjective, PartialAUCMetric, log_odds
from pauc.metrics import partial_auc, tpr_at_fpr

RESULTS = Path(__file__).resolve().parent / "results" / "boosting.jsonl"
BUDGET = 0.005
FPRS = (0.001, 0.005, 0.01)
STOP_BY = PartialAUCMetric(0.02)
PATIENCE = 50
MOST_ROUNDS = 2000

Weights = Callable[[np.ndarray], np.ndarray | None]


class Arm(NamedTuple):
    """What a training is told; `objective` None is the engine's log-loss."""

    objective: Callable[[int, int], BandObjective] | None  # of rows and positives
    weights: Weights = lambda _: None


def balanced(power: float) -> Weights:
    """Weights of the positives: the ratio of negatives to positives, to a power."""

    def weights(targets: np.ndarray) -> np.ndarray:
        ratio = (targets == 0).sum() / (targets == 1).sum()
        return np.where(targets == 1, ratio**power, 1.0)

    return weights


ARMS = {
    "log-loss": Arm(None),
    "log-loss, sqrt weights": Arm(None, balanced(0.5)),
    "log-loss, full weights": Arm(None, balanced(1.0)),
    "for_budget": Arm(lambda n, p: BandObjective.for_budget(BUDGET, rows=n, positives=p)),
    "band 5 %, BCE 0.1": Arm(lambda *_: BandObjective(0.05, bce_weight=0.1)),
    "band 2 %, pairs 5": Arm(lambda *_: BandObjective(0.02, pauc_weight=5.0)),
    "band 10 %": Arm(lambda *_: BandObjective(0.1)),
}


def trial(index: int) -> dict[str, float]:
    """The settings of a trial; the first is the small model that has to be fast."""
    if index == 0:
        return {"leaves": 31, "rate": 0.1, "least_hessian": 1e-3, "l2": 0.0}
    rng = np.random.default_rng(index)
    return {
        "leaves": int(rng.choice([15, 31, 63, 127, 255])),
        "rate": float(rng.choice([0.03, 0.05, 0.1])),
        "least_hessian": float(10 ** rng.uniform(-3, 1)),
        "l2": float(rng.choice([0.0, 1.0, 10.0])),
    }


def arrays(part: Part) -> tuple[np.ndarray, np.ndarray]:
    return part.features.numpy(), part.targets.numpy()


def objective_of(arm: Arm, targets: np.ndarray) -> BandObjective | None:
    return arm.objective and arm.objective(len(targets), int(targets.sum()))


def lightgbm_scores(
    rows: Split, arm: Arm, settings: dict[str, float], rounds: int, threads: int
) -> tuple[int, float, np.ndarray]:
    """Return the best number of rounds, its value on validation rows, the test rows' scores."""
    import lightgbm

    features, targets = arrays(rows.train)
    weight, objective = arm.weights(targets), objective_of(arm, targets)
    start = np.full(len(targets), log_odds(targets, sample_weight=weight))
    data = lightgbm.Dataset(features, targets, weight=weight, init_score=start)
    params = {
        "objective": objective or "binary",
        "num_leaves": settings["leaves"],
        "learning_rate": settings["rate"],
        "min_sum_hessian_in_leaf": settings["least_hessian"],
        "lambda_l2": settings["l2"],
        "metric": "None",
        "num_threads": threads,
        "verbose": -1,
    }
    booster = lightgbm.train(
        params,
        data,
        rounds,
        valid_sets=[data.create_valid(*arrays(rows.validation))],
        feval=STOP_BY,
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    scores = booster.predict(rows.test.features.numpy(), raw_score=True)
    return booster.best_iteration, booster.best_score["valid_0"][STOP_BY.name], scores


def xgboost_scores(
    rows: Split, arm: Arm, settings: dict[str, float], rounds: int, threads: int
) -> tuple[int, float, np.ndarray]:
    """Return the best number of rounds, its value on validation rows, the test rows' scores."""
    import xgboost

    features, targets = arrays(rows.train)
    weight, objective = arm.weights(targets), objective_of(arm, targets)
    start = log_odds(targets, sample_weight=weight)
    # A probability for its own objective, a margin for others.
    own = {"objective": "binary:logistic", "base_score": 1 / (1 + np.exp(-start))}
    params = {
        **({"base_score": start} if objective else own),
        "tree_method": "hist",
        "grow_policy": "lossguide",
        "max_depth": 0,
        "max_leaves": settings["leaves"],
        "eta": settings["rate"],
        "min_child_weight": settings["least_hessian"],
        "lambda": settings["l2"],
        "disable_default_eval_metric": 1,
        "nthread": threads,
    }
    stop = xgboost.callback.EarlyStopping(rounds=PATIENCE, maximize=True)
    booster = xgboost.train(
        params,
        xgboost.DMatrix(features, targets, weight=weight, nthread=threads),
        rounds,
        obj=objective,
        evals=[(xgboost.DMatrix(*arrays(rows.validation), nthread=threads), "validation")],
        custom_metric=STOP_BY,
        callbacks=[stop],
        verbose_eval=False,
    )
    best = booster.best_iteration + 1
    test = xgboost.DMatrix(rows.test.features.numpy(), nthread=threads)
    scores = booster.predict(test, output_margin=True, iteration_range=(0, best))
    return best, booster.best_score, scores


ENGINES = {"lightgbm": lightgbm_scores, "xgboost": xgboost_scores}


def run_one(rows: Split, config: Config, threads: int) -> dict[str, Any]:
    """Train as the configuration says, and return what is kept of it."""
    begin = time.perf_counter()
    engine, arm = ENGINES[config["engine"]], ARMS[config["arm"]]
    rounds, validation, scores = engine(
        rows, arm, trial(config["trial"]), config["rounds"], threads
    )
    test = torch.from_numpy(np.asarray(scores, dtype=np.float64))
    return {
        "rounds": rounds,
        "validation": validation,
        "tpr": tpr_at_fpr(test, rows.test.targets, FPRS).tolist(),
        "pauc": float(partial_auc(test, rows.test.targets, beta=BUDGET)),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def run(args: argparse.Namespace) -> None:
    store, rounds = Store(args.results), 20 if args.quick else MOST_ROUNDS
    cells = list(
        itertools.product(args.tables, args.seeds, args.engines, args.arms, range(args.trials))
    )
    loaded: tuple[tuple[str, int], Split] | None = None
    for table, seed, engine, arm, index in tqdm(cells, unit="run"):
        config = {"table": table, "seed": seed, "engine": engine, "arm": arm, "trial": index,
                  "settings": trial(index), "rounds": rounds}  # fmt: skip
        if store.find(config):
            continue
        if loaded is None or loaded[0] != (table, seed):
            loaded = (table, seed), split(SOURCES[table], seed)
        store.add(config, run_one(loaded[1], config, args.threads))


def show(args: argparse.Namespace) -> None:
    """Print the means over the seeds that are there."""
    records = Store(args.results).records.values()
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        config = record["config"]
        key = config["table"], config["engine"], config["trial"], config["arm"]
        cells.setdefault(key, []).append(record["result"])
    for key, results in sorted(cells.items()):
        tpr = [mean(result["tpr"][k] for result in results) for k in range(len(FPRS))]
        figures = " ".join(f"{value:.3f}" for value in tpr)
        print(*key, f"{len(results)} seeds, TPR {figures}", sep=" | ")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boosting_study")
    parser.add_argument("--results", type=Path, default=RESULTS)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.set_defaults(command=run)
    command.add_argument("--tables", nargs="+", default=[*SOURCES], choices=SOURCES)
    command.add_argument("--engines", nargs="+", default=[*ENGINES], choices=ENGINES)
    command.add_argument("--arms", nargs="+", default=[*ARMS], choices=ARMS)
    command.add_argument("--seeds", nargs="+", type=int, default=[*range(5)])
    command.add_argument("--trials", type=int, default=8)
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--quick", action="store_true", help="20 rounds, to see that it runs")
    commands.add_parser("show").set_defaults(command=show)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.command(args)


if __name__ == "__main__":
    main()
