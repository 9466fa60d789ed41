"""LightGBM on covertype: its log-loss against the band as objective, with the same trees.

Two trainings with the same settings, each stopped early by the same metric on validation rows. Then
a threshold is chosen for the better one, with a promise on the false alarms to come.

    pip install ".[examples,boosting]"
    python examples/boosted_trees.py             # a minute on 2 CPU cores, no download
    python examples/boosted_trees.py --quick     # a few seconds; too short to compare
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import lightgbm as lgb
import matplotlib
import numpy as np
import torch
from covertype import Part, load
from tqdm import tqdm

from pauc import select_threshold
from pauc.boosting import BandObjective, PartialAUCMetric, TPRMetric, log_odds
from pauc.metrics import partial_auc, tpr_at_fpr

matplotlib.use("Agg")  # a file is written; no display is needed
import matplotlib.pyplot as plt

from pauc import plot

BUDGET = 0.005  # of the negatives, at most this share may raise an alarm
FPRS = (0.001, 0.005, 0.01)
CONFIDENCE = 0.95
PATIENCE = 50  # rounds without a better band before a training stops


def arrays(part: Part) -> tuple[np.ndarray, np.ndarray]:
    return part.features.numpy(), part.targets.numpy()


def train(
    name: str, objective: Any, train: Part, validation: Part, *, leaves: int, rounds: int
) -> tuple[lgb.Booster, float]:
    """Return the trees and what their raw scores start from."""
    features, targets = arrays(train)
    # LightGBM starts at the log-odds for objectives of its own alone, and leaves `init_score` out
    # of its predictions.
    start = log_odds(targets)
    data = lgb.Dataset(features, targets, init_score=np.full(len(targets), start))
    held_out = data.create_valid(*arrays(validation))
    settings = {"objective": objective, "num_leaves": leaves, "learning_rate": 0.1,
                "metric": "None", "seed": 0, "verbose": -1}  # fmt: skip
    with tqdm(total=rounds, desc=f"{name:<9}", unit="round") as bar:

        def show(env: Any) -> None:
            bar.update()
            bar.set_postfix({metric: f"{value:.3f}" for _, metric, value, _ in
                             env.evaluation_result_list})  # fmt: skip

        stop = lgb.early_stopping(PATIENCE, first_metric_only=True, verbose=False)
        booster = lgb.train(
            settings, data, rounds, valid_sets=[held_out], valid_names=["validation"],
            feval=[PartialAUCMetric(4 * BUDGET), TPRMetric(BUDGET)], callbacks=[show, stop],
        )  # fmt: skip
    return booster, start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 20 rounds")
    parser.add_argument("--leaves", type=int, default=63)
    parser.add_argument("--rounds", type=int, help="at most; default 300, with --quick 20")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--out", type=Path, default=Path("boosted_trees.png"), help="the picture")
    args = parser.parse_args()
    rounds = args.rounds if args.rounds is not None else (20 if args.quick else 300)
    # LightGBM has threads of its own. The objective's work is short: torch's threads would only
    # wait for them.
    torch.set_num_threads(1)
    started = time.perf_counter()

    data = load(args.seed, quick=args.quick)
    rows = len(data.train.targets)
    objective = BandObjective.for_budget(BUDGET, rows=rows, positives=int(data.train.targets.sum()))
    print(objective)
    # The threshold is chosen on rows that chose nothing else, and tried on others.
    half = len(data.test.targets) // 2
    chosen_on = Part(data.test.features[:half], data.test.targets[:half])
    tried_on = Part(data.test.features[half:], data.test.targets[half:])

    scores: dict[str, torch.Tensor] = {}
    models = {}
    for name, given in (("log-loss", "binary"), ("band", objective)):
        booster, start = train(
            name, given, data.train, data.validation, leaves=args.leaves, rounds=rounds
        )
        models[name] = booster, start
        raw = start + booster.predict(tried_on.features.numpy(), raw_score=True)
        scores[name] = torch.from_numpy(raw)

    print(f"\nTest rows: {len(tried_on.targets):,}, of which {int(tried_on.targets.sum()):,} aspen")
    heads = ["trees", *(f"TPR@{fpr:.1%}" for fpr in FPRS), f"pAUC<{BUDGET:.1%}"]
    print(f"{'trained with':<14}" + "".join(f"{head:>11}" for head in heads))
    for name, values in scores.items():
        figures = tpr_at_fpr(values, tried_on.targets, FPRS).tolist()
        figures.append(partial_auc(values, tried_on.targets, beta=BUDGET).item())
        trees = models[name][0].best_iteration
        print(f"{name:<14}{trees:>11}" + "".join(f"{figure:>11.3f}" for figure in figures))

    booster, start = models["band"]
    held_out = start + booster.predict(chosen_on.features.numpy(), raw_score=True)
    point = select_threshold(
        torch.from_numpy(held_out), chosen_on.targets, BUDGET, confidence=CONFIDENCE
    )
    alarm, aspen = scores["band"] > point.threshold, tried_on.targets == 1
    print(
        f"\nAlert above {point.threshold:.3f}. The promise, at {CONFIDENCE:.0%}: an FPR of at most "
        f"{BUDGET:.1%}.\nOn test rows {alarm[~aspen].float().mean():.2%} of the negatives alert, "
        f"and {alarm[aspen].float().mean():.1%} of the aspen are caught."
    )
    figure, axes = plt.subplots(figsize=(6.4, 5.0), layout="constrained")
    plot.roc(scores, tried_on.targets, BUDGET, ax=axes)
    axes.set(xlim=(1e-4, 1), title=f"Covertype, aspen or not: trees of {args.leaves} leaves")
    axes.grid(alpha=0.3)
    figure.savefig(args.out, dpi=100, format="png")
    print(f"\nPicture: {args.out} ({time.perf_counter() - started:.0f} s in all)")


if __name__ == "__main__":
    main()
