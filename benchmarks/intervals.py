"""How often the intervals of `pauc.intervals` hold the truth, on scores whose ROC curve is known.

    python benchmarks/intervals.py                # some minutes on one core
    python benchmarks/intervals.py --samples 50 --pauc-samples 200

Negatives are standard normal, positives normal around `shift`. Each cell draws many samples, takes
the 95 % interval of each and counts those that hold the true value. The sampling error of a
coverage is 1.1 points with 400 samples, 0.7 with
1,000.
"""

from __future__ import annotations

import argparse
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from pauc.intervals import fpr_at_tpr_interval, partial_auc_interval, tpr_at_fpr_interval

NORMAL = NormalDist()


class Cell(NamedTuple):
    shift: float
    negatives: int
    positives: int
    fpr: float  # the budget, and the upper edge of the band


TPR = 0.8  # of `fpr_at_tpr_interval`

CELLS = [
    Cell(shift, negatives, positives, fpr)
    for negatives, positives, fpr in (
        (200, 200, 0.05),
        (1000, 50, 0.01),
        (1000, 50, 0.05),
        (5000, 200, 0.005),
    )
    for shift in (1.0, 2.0, 3.0)
]


def true_tpr(shift: float, fpr: float) -> float:
    return NORMAL.cdf(shift - NORMAL.inv_cdf(1 - fpr)) if fpr > 0 else 0.0


def true_mean_tpr(shift: float, fpr: float) -> float:
    """The mean TPR over [0, fpr], by the midpoint rule on 10,000 panels."""
    panels = 10_000
    return sum(true_tpr(shift, fpr * (k + 0.5) / panels) for k in range(panels)) / panels


def draw(cell: Cell, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    scores = torch.randn(cell.negatives + cell.positives, generator=generator)
    targets = (torch.arange(len(scores)) < cell.positives).long()
    return scores + cell.shift * targets, targets


def tpr_coverage(cell: Cell, samples: int, n_resamples: int) -> float:
    """Return how often the bootstrap interval of the TPR holds the true one."""
    generator, truth, held = torch.Generator().manual_seed(0), true_tpr(cell.shift, cell.fpr), 0
    for _ in tqdm(range(samples), leave=False):
        rows = draw(cell, generator)
        found = tpr_at_fpr_interval(*rows, cell.fpr, n_resamples=n_resamples, seed=generator)
        held += bool(found.low <= truth <= found.high)
    return held / samples


def fpr_coverage(cell: Cell, samples: int, n_resamples: int) -> float:
    """Return how often the bootstrap interval of the FPR at a TPR of 0.8 holds the true one."""
    generator, held = torch.Generator().manual_seed(0), 0
    truth = 1 - NORMAL.cdf(NORMAL.inv_cdf(1 - TPR) + cell.shift)
    for _ in tqdm(range(samples), leave=False):
        rows = draw(cell, generator)
        found = fpr_at_tpr_interval(*rows, TPR, n_resamples=n_resamples, seed=generator)
        held += bool(found.low <= truth <= found.high)
    return held / samples


def pauc_coverage(cell: Cell, samples: int) -> float:
    """Return how often the closed-form interval of the partial AUC holds the true one."""
    generator, held = torch.Generator().manual_seed(7), 0
    truth = true_mean_tpr(cell.shift, cell.fpr)
    for _ in range(samples):
        found = partial_auc_interval(*draw(cell, generator), beta=cell.fpr)
        held += bool(found.low <= truth <= found.high)
    return held / samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=600)
    parser.add_argument("--pauc-samples", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| shift | negatives | positives | FPR | TPR at FPR | partial AUC | FPR at TPR 0.8 |")
    print("|---|---|---|---|---|---|---|")
    for cell in CELLS:
        tpr = tpr_coverage(cell, arguments.samples, arguments.resamples)
        pauc = pauc_coverage(cell, arguments.pauc_samples)
        fpr = fpr_coverage(cell, arguments.samples, arguments.resamples)
        shown = f"{cell.shift:g} | {cell.negatives:,} | {cell.positives} | {cell.fpr:g}"
        print(f"| {shown} | {tpr:.3f} | {pauc:.3f} | {fpr:.3f} |", flush=True)


if __name__ == "__main__":
    main()
