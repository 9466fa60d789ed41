"""The objective of boosted trees: its share of a boosting round, and its own time by the rows.

    python benchmarks/boosting.py                    # two minutes on two cores, 3 GB
    python benchmarks/boosting.py --threads 1 --rounds 20 --most-rows 1000000

First a round of LightGBM and of XGBoost with 350,000 rows of the examples' table, covertype, and
trees of 63 leaves. The share is the objective's wall time over that of whole rounds, in the best of
the rounds. Then the objective alone on drawn margins, up to 10 million rows: the time must grow as
the rows do. It is the thread's own CPU time, the best of several, since other processes change that
least; `--alone` measures nothing else. The last column is the greatest memory in use beyond the
caller's arrays, in float64 arrays of the rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _allocated import allocated_peak
from _memory import keep_freed_memory
from _report import Table, describe, machine_facts
from tqdm import tqdm

from pauc.boosting import BandObjective, band_objective, log_odds

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from covertype import load

ROWS = 350_000
LEAVES = 63
BETA = 0.02  # of for_budget(0.005) with this many rows
SIZES = (100_000, 350_000, 1_000_000, 3_000_000, 10_000_000)

# LightGBM copies what it is given, so that the times stand outside of the objective.
TIMES: list[float] = []


class Timed(BandObjective):
    """The objective, and how long each of its calls took."""

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> Any:
        begin = time.perf_counter()
        found = super().__call__(first, second, sample_weight)
        TIMES.append(time.perf_counter() - begin)
        return found


def covertype_rows() -> tuple[np.ndarray, np.ndarray]:
    data = load(0)
    features, targets = (np.concatenate([part[k].numpy() for part in data])[:ROWS] for k in (0, 1))
    return features, targets


def lightgbm_rounds(features: np.ndarray, targets: np.ndarray, threads: int) -> Callable[..., Any]:
    import lightgbm

    start = np.full(len(targets), log_odds(targets))
    data = lightgbm.Dataset(features, targets, init_score=start).construct()
    settings = {"num_leaves": LEAVES, "num_threads": threads, "verbose": -1}
    return lambda rounds, report, objective: lightgbm.train(
        {**settings, "objective": objective or "binary"},
        data,
        rounds,
        callbacks=[lambda env: report(env.iteration)],
    )


def xgboost_rounds(features: np.ndarray, targets: np.ndarray, threads: int) -> Callable[..., Any]:
    import xgboost

    data = xgboost.QuantileDMatrix(features, targets, nthread=threads)
    settings = {
        "tree_method": "hist",
        "grow_policy": "lossguide",
        "max_leaves": LEAVES,
        "max_depth": 0,
        "nthread": threads,
    }
    own = {"objective": "binary:logistic"}
    ours = {"base_score": log_odds(targets)}

    class Clock(xgboost.callback.TrainingCallback):
        def __init__(self, report: Callable[[int], None]) -> None:
            self.report = report

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            del model, evals_log
            self.report(epoch)
            return False

    return lambda rounds, report, objective: xgboost.train(
        {**settings, **(ours if objective else own)},
        data,
        rounds,
        obj=objective,
        callbacks=[Clock(report)],
    )


def round_times(train: Callable[..., Any], rounds: int, objective: Timed | None) -> np.ndarray:
    """Return the seconds of each round after the first ones.

    Those differ: all scores tie, and memory is touched for the first time.
    """
    ends: list[float] = []
    with tqdm(total=rounds, leave=False, disable=None) as bar:

        def report(_: int) -> None:
            ends.append(time.perf_counter())
            bar.update()

        train(rounds, report, objective)
    return np.diff(ends)[skipped(rounds) :]


def skipped(rounds: int) -> int:
    return min(5, rounds // 4)


def drawn(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = (rng.random(rows) < 0.016).astype(np.float32)
    return rng.normal(size=rows) * 2 - 4 + 3 * targets, targets


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of the engine")
    parser.add_argument("--torch-threads", type=int, default=1, help="of the objective")
    parser.add_argument("--most-rows", type=int, default=SIZES[-1])
    parser.add_argument("--alone", action="store_true", help="no engine")
    args = parser.parse_args()
    torch.set_num_threads(args.torch_threads)
    keep_freed_memory()
    print(describe(machine_facts("cpu", ["pauc", "lightgbm", "xgboost"])), "\n")

    if not args.alone:
        shares(args)
    alone(args)


def shares(args: argparse.Namespace) -> None:
    columns = {
        "engine": 10,
        "its log-loss: round ms": 23,
        "band: round ms": 15,
        "times": 6,
        "of that the objective ms": 25,
        "share": 6,
    }
    table = Table(columns, markdown=True)
    print(table.header())
    features, targets = covertype_rows()
    for name, make in (("LightGBM", lightgbm_rounds), ("XGBoost", xgboost_rounds)):
        train = make(features, targets, args.threads)
        plain = np.median(round_times(train, args.rounds, None))
        TIMES.clear()
        whole = np.median(round_times(train, args.rounds, Timed(BETA)))
        own = np.median(TIMES[skipped(args.rounds) :])
        figures = [f"{1e3 * plain:.1f}", f"{1e3 * whole:.1f}", f"{whole / plain:.2f}"]
        figures += [f"{1e3 * own:.1f}", f"{own / whole:.0%}"]
        print(table.row([name, *figures]), flush=True)


def alone(args: argparse.Namespace) -> None:
    columns = {"rows": 12, "ms": 10, "ns a row": 10, "arrays": 8}
    table = Table(columns, markdown=True)
    print(f"\n{table.header()}")
    found: dict[int, float] = {}
    for rows in (size for size in SIZES if size <= args.most_rows):
        scores, labels = drawn(rows)
        times = []
        for _ in tqdm(range(args.repeats), leave=False, disable=None):
            begin = time.thread_time()
            band_objective(scores, labels, beta=BETA)
            times.append(time.thread_time() - begin)
        peak = allocated_peak(lambda: band_objective(scores, labels, beta=BETA))  # noqa: B023
        best = found[rows] = min(times)
        figures = [f"{1e3 * best:.1f}", f"{1e9 * best / rows:.0f}", f"{peak / (8 * rows):.1f}"]
        print(table.row([f"{rows:,}", *figures]), flush=True)
    if len(found) > 1:
        exponent = np.polyfit(np.log([*found]), np.log([*found.values()]), 1)[0]
        print(f"\nTime grows as the rows to the power {exponent:.2f}.")


if __name__ == "__main__":
    main()
