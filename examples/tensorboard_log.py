"""TensorBoard: one line logs every diagnostic of the loss, one more the TPR at the budget.

pip install ".[examples,integrations]"
python examples/tensorboard_log.py [--quick] [--folder runs]
tensorboard --logdir runs
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from covertype import load, mlp
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from pauc import PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

BUDGET = 0.005
BATCH_SIZE = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 60 steps")
    parser.add_argument("--folder", type=Path, help="for the log (default: a new one)")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="pauc-tensorboard-"))
    torch.manual_seed(0)
    data = load(quick=args.quick)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    pauc_loss = PAUCAtBudgetLoss(
        1,
        beta=6 * BUDGET,
        bce_weight=0.1,
        surrogate="pairwise",
        link="logistic",
        gradient_scale="live",
        tau_scale="unit",
        temperature=1.0,
        queue_size=16_384,
    )
    n_steps = 60 if args.quick else 3000
    with SummaryWriter(folder) as writer, trange(n_steps, unit="step") as steps:
        for step in steps:
            rows = torch.randint(len(data.train.targets), (BATCH_SIZE,))
            logits, targets = model(data.train.features[rows]), data.train.targets[rows]
            loss, stats = pauc_loss(logits, targets, return_diagnostics=True)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 20 == 0:
                for name, value in stats.items():  # [C] each; here one class
                    writer.add_scalar(f"pauc/{name}", value, step)
                with torch.no_grad():
                    tpr = tpr_at_fpr(
                        model(data.validation.features), data.validation.targets, BUDGET
                    )
                writer.add_scalar("val_tpr", tpr, step)
                steps.set_postfix(loss=f"{loss.detach():.3f}", val_tpr=f"{tpr:.3f}")
    print(f"To look at it: tensorboard --logdir {folder}")


if __name__ == "__main__":
    main()
