"""Training for a precision from a cold start: where the band ends, and what is caught at the end.

    python benchmarks/precision.py [--seeds 1] [--arms ...] [--batches small large]

The contested population of `benchmarks/coverage`, 0.15 % positives, in fresh rows at each step:
1,000 negatives and 60 positives for 1,000 steps, or 8,000 and 200 for 300. What counts is the
recall at a precision of 1/2 on 220,000 other rows. No BCE is beside the pairs; the arm `bce` has
nothing else.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.coverage import synthetic
from pauc import PAUCAtBudgetLoss
from pauc.budgets import fpr_at_precision, fpr_from_precision
from pauc.metrics import tpr_at_fpr

RATE, PRECISION = synthetic.POSITIVE_RATE, 0.5
WIDEST = fpr_from_precision(PRECISION, base_rate=RATE, tpr=1.0)
BATCHES = {"small": ((1000, 60), 1000), "large": ((8000, 200), 300)}


def draw(negatives: int, positives: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return rows of both classes, positives with the cue `radial`."""
    x = torch.randn(negatives, synthetic.N_FEATURES, generator=g)
    decoy = torch.rand(negatives, generator=g) < synthetic.DECOY_RATE
    x[:, synthetic.DECOYED] += synthetic.SHIFT * decoy[:, None]
    y = torch.randn(positives, synthetic.N_FEATURES, generator=g)
    y[:, synthetic.DECOYED] += synthetic.SHIFT
    y[:, synthetic.CUED] *= 1 + synthetic.CUE_SIZE
    return torch.cat([x, y]), torch.cat([torch.zeros(negatives), torch.ones(positives)]).long()


def recall(scores: Tensor, targets: Tensor) -> float:
    fpr = float(fpr_at_precision(scores, targets, PRECISION, base_rate=RATE))
    return float(tpr_at_fpr(scores, targets, fpr))


def make_loss(**options: object) -> PAUCAtBudgetLoss:
    return PAUCAtBudgetLoss(
        1,
        surrogate="pairwise",
        link="logistic",
        gradient_scale="live",
        pos_numerator="live",
        tau_scale="unit",
        temperature=1.0,
        queue_size=32_768,
        **options,  # type: ignore[arg-type]
    )


def for_precision(precision: float, least_tpr: float) -> PAUCAtBudgetLoss:
    least = fpr_from_precision(precision, base_rate=RATE, tpr=least_tpr)
    basis = {"budget_basis": "precision", "precision": precision, "base_rate": RATE}
    return make_loss(beta=least, **basis)


ARMS: dict[str, Callable[[], PAUCAtBudgetLoss | None]] = {
    "precision 1/2": lambda: for_precision(PRECISION, 0.3),
    "precision 1/2, least 1e-6": lambda: for_precision(PRECISION, 1e-6),
    "precision 1/2, least 0.6": lambda: for_precision(PRECISION, 0.6),
    "precision 1/6": lambda: for_precision(1 / 6, 0.3),
    "fpr 1": lambda: make_loss(beta=WIDEST),
    "fpr 5": lambda: make_loss(beta=5 * WIDEST),
    "bce": lambda: None,
}


def train(
    loss: PAUCAtBudgetLoss | None, rows: tuple[int, int], steps: int, seed: int
) -> tuple[torch.nn.Module, list[float]]:
    """Return the model, and five times on the way the band's end as a share of `WIDEST`."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    sizes = [synthetic.N_FEATURES, 64, 64, 1]
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
    relu = torch.nn.ReLU()
    model = torch.nn.Sequential(layers[0], relu, layers[1], relu, layers[2])
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    ends = []
    for step in range(1, steps + 1):
        x, y = draw(*rows, g)
        logits = model(x)
        optimizer.zero_grad()
        if loss is None:
            value = binary_cross_entropy_with_logits(logits[:, 0], y.float())
        elif step % (steps // 5):
            value = loss(logits, y)
        else:
            value, stats = loss(logits, y, return_diagnostics=True)
            ends.append(float(stats["band_neg_count"] / stats["ref_count"]) / WIDEST)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
    return model, ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--batches", nargs="+", choices=list(BATCHES), default=list(BATCHES))
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # narrow bands starve, which is the point
    x, y = draw(200_000, 20_000, torch.Generator().manual_seed(99))
    best = recall(synthetic.log_likelihood_ratio(x, "radial"), y)
    print(f"widest band {WIDEST:.5f}, best possible recall {best:.3f}")
    for size in chosen.batches:
        rows, steps = BATCHES[size]
        for arm in chosen.arms:
            for seed in range(chosen.seeds):
                model, ends = train(ARMS[arm](), rows, steps, seed)
                with torch.no_grad():
                    caught = recall(model(x)[:, 0], y)
                print(
                    f"{size}, {arm}, seed {seed}: {caught:.4f}, ends", *(f"{e:.2f}" for e in ends)
                )


if __name__ == "__main__":
    main()
