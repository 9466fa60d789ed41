"""Seven cover types, one-vs-rest: what the loss says of each class, and what it skips.

    python examples/multiclass.py [--quick]

One module serves all classes at once. `return_per_class` gives the loss of each with a mask of the
valid ones, `return_diagnostics` says where each class's band lies and how many rows carry it.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from covertype import Part, load, mlp
from torch import Tensor, nn
from tqdm import tqdm

from pauc import PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

NAMES = ("spruce/fir", "lodgepole", "ponderosa", "cottonwood", "aspen", "douglas-fir", "krummholz")
BUDGET = 0.01
BATCH_SIZE = 1024


def report(per_class: Tensor, valid: Tensor, stats: dict[str, Tensor], tpr: Tensor) -> None:
    columns = ("class", "valid", "loss", "t_beta", "in band", "live pos", "test TPR")
    print(("\n{:<12}" + "{:>10}" * 6).format(*columns))
    for c, name in enumerate(NAMES):
        print(
            f"{name:<12}{bool(valid[c])!s:>10}{per_class[c]:>10.3f}{stats['t_beta'][c]:>10.2f}"
            f"{int(stats['band_neg_count'][c]):>10}{int(stats['grad_pos_count'][c]):>10}"
            f"{tpr[c]:>10.3f}"
        )


@torch.no_grad()
def tpr_of_each(model: nn.Module, part: Part) -> Tensor:
    scores = model(part.features)
    return torch.stack(
        [tpr_at_fpr(scores[:, c], part.targets == c, BUDGET) for c in range(len(NAMES))]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 1 epoch")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = load(quick=args.quick, multiclass=True)
    model = mlp(len(NAMES))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    pauc_loss = PAUCAtBudgetLoss(
        len(NAMES),
        beta=BUDGET,
        surrogate="pairwise",
        link="logistic",
        gradient_scale="live",
        tau_scale="unit",
        temperature=1.0,
        queue_size=8192,
    )
    epochs = 1 if args.quick else 5
    batches = [
        b for _ in range(epochs) for b in torch.randperm(len(data.train.targets)).split(BATCH_SIZE)
    ]
    with tqdm(batches, unit="step") as bar:
        for step, rows in enumerate(bar):
            logits, targets = model(data.train.features[rows]), data.train.targets[rows]
            loss, per_class, valid, stats = pauc_loss(
                logits, targets, return_per_class=True, return_diagnostics=True
            )
            loss = loss + F.cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 50 == 0:
                tpr = tpr_of_each(model, data.validation).mean()
                bar.set_postfix(loss=f"{loss.detach():.3f}", mean_val_tpr=f"{tpr:.3f}")

    tpr = tpr_of_each(model, data.test)
    print(f"\nThe last step, and TPR at FPR {BUDGET:.0%} on held-out rows:", end="")
    report(per_class.detach(), valid, stats, tpr)


if __name__ == "__main__":
    main()
