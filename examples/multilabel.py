"""Several yes-or-no questions about a cell of forest, with answers missing here and there.

    python examples/multilabel.py [--quick]

Targets are [N, C] of 0, 1 and -100 for a missing answer. A row counts for the questions that it
answers and is absent for the others; each question has its own band and its own loss. Here the
answers come from the cover type, a cell may have several, and 40 % of them are struck out.
"""

from __future__ import annotations

import argparse

import torch
from covertype import load, mlp
from torch import Tensor
from tqdm import tqdm

from pauc import PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

# Cover types, 0 to 6: spruce/fir, lodgepole, ponderosa, cottonwood, aspen, douglas-fir, krummholz.
QUESTIONS = {
    "aspen": [4],
    "broadleaf": [3, 4],
    "low altitude": [2, 3, 5],
    "timber line": [6],
}
BUDGET = 0.01
BATCH_SIZE = 1024
MISSING = 0.4


def answers(cover_type: Tensor) -> Tensor:
    """Return [N, C] of 0 and 1."""
    return torch.stack(
        [torch.isin(cover_type, torch.tensor(types)) for types in QUESTIONS.values()], dim=1
    ).long()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 2 epochs")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = load(quick=args.quick, multiclass=True)
    train_targets = answers(data.train.targets)
    train_targets[torch.rand(train_targets.shape) < MISSING] = -100
    validation_targets = answers(data.validation.targets)

    model = mlp(len(QUESTIONS))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    pauc_loss = PAUCAtBudgetLoss.for_budget(
        BUDGET,
        batch_size=BATCH_SIZE,
        positive_rate=0.015,  # of the rarest
        num_classes=len(QUESTIONS),
        multilabel=True,
    )
    epochs = 2 if args.quick else 5
    batches = [
        b for _ in range(epochs) for b in torch.randperm(len(train_targets)).split(BATCH_SIZE)
    ]
    tpr = torch.zeros(len(QUESTIONS))
    with tqdm(batches, unit="step") as bar:
        for step, rows in enumerate(bar):
            loss = pauc_loss(model(data.train.features[rows]), train_targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 50 == 0:
                with torch.no_grad():
                    scores = model(data.validation.features)
                tpr = tpr_at_fpr(scores, validation_targets, BUDGET)  # [C]
            bar.set_postfix(loss=f"{loss.detach():.3f}", tpr=f"{tpr.mean():.3f}")

    with torch.no_grad():
        tpr = tpr_at_fpr(model(data.test.features), answers(data.test.targets), BUDGET)
    print(f"\n{'question':<14}{'answers':>9}{'yes':>8}   TPR at FPR {BUDGET:.0%}, held out")
    for c, name in enumerate(QUESTIONS):
        given = train_targets[:, c] != -100
        yes = int((train_targets[:, c] == 1).sum())
        print(f"{name:<14}{int(given.sum()):>9,}{yes:>8,}   {tpr[c]:.3f}")


if __name__ == "__main__":
    main()
