"""What to look at while a model trains, and afterwards: `pauc.plot`, on covertype.

    python examples/pictures.py [--quick] [--out pictures.png]

Keeps the loss's diagnostics of every 30th step and draws five pictures into one figure: where the
scores of both classes lie and the band among them, the band's edges, the partial AUC of the pool,
the rows that the edges rest on, and the share of new negatives that the queue's edge really lets
by, averaged over the 30 steps. Where that one leaves `beta`, the queue lags behind the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from covertype import Part, load, mlp
from PIL import Image  # comes with matplotlib
from torch import Tensor, nn
from tqdm import trange

from pauc import PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

matplotlib.use("Agg")  # a file is written; no display is needed
import matplotlib.pyplot as plt

from pauc import plot

BUDGET = 0.005
BAND = 0.03
BATCH_SIZE = 1024
EVERY = 30  # steps between two entries of the history


@torch.no_grad()
def score(model: nn.Module, part: Part) -> Tensor:
    return model(part.features)[:, 0]


def train(
    model: nn.Module, train_set: Part, validation: Part, n_steps: int
) -> list[dict[str, Tensor]]:
    """Train the model and return the history of its diagnostics."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    rate = train_set.targets.float().mean().item()
    pauc_loss = PAUCAtBudgetLoss.for_budget(
        BUDGET, batch_size=BATCH_SIZE, positive_rate=rate, beta=BAND
    )
    history, passed = [], []
    with trange(n_steps, unit="step") as steps:
        for step in steps:
            rows = torch.randint(len(train_set.targets), (BATCH_SIZE,))
            logits, targets = model(train_set.features[rows]), train_set.targets[rows]
            loss, stats = pauc_loss(logits, targets, return_diagnostics=True)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            passed.append(stats["realised_fpr"])
            if step % EVERY == EVERY - 1:
                # Of one batch, some 30 rows; nan in the first step, before there was a queue.
                stats["realised_fpr"] = torch.stack(passed).nanmean()
                history.append(stats)
                passed.clear()
                tpr = tpr_at_fpr(score(model, validation), validation.targets, BUDGET)
                steps.set_postfix(loss=f"{loss.detach():.3f}", val_tpr=f"{tpr:.3f}")
    return history


def draw(history: list[dict[str, Tensor]], scores: Tensor, targets: Tensor, path: Path) -> None:
    figure = plt.figure(figsize=(9.6, 7.8), layout="constrained")
    axes = figure.subplot_mosaic([["scores", "scores"], ["edges", "pauc"], ["rows", "fpr"]])
    plot.score_histogram(scores, targets, BAND, bins=400, ax=axes["scores"])
    axes["scores"].set(xlim=(-15, None), title="Covertype, aspen or not: held-out rows")
    at = range(EVERY, EVERY * len(history) + 1, EVERY)
    plot.training(history, "edges", steps=at, ax=axes["edges"])
    plot.training(history, "pauc", steps=at, ax=axes["pauc"])
    plot.training(history, "band_neg_count", steps=at, ax=axes["rows"])
    plot.training(history, "realised_fpr", steps=at, beta=BAND, ax=axes["fpr"])
    axes["fpr"].set(ylim=(0, 3 * BAND))
    figure.savefig(path, dpi=80)
    # 64 colours are enough for lines, and make the file a third as large.
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 100 steps")
    parser.add_argument("--out", type=Path, default=Path("pictures.png"), help="the picture")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = load(quick=args.quick)
    model = mlp()
    history = train(model, data.train, data.validation, 100 if args.quick else 3000)
    scores = score(model, data.test)
    draw(history, scores, data.test.targets, args.out)
    tpr = tpr_at_fpr(scores, data.test.targets, BUDGET)
    print(f"TPR at FPR {BUDGET:.1%} on held-out rows: {tpr:.3f}. Picture: {args.out}")


if __name__ == "__main__":
    main()
