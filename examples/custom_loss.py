"""A loss of your own from the parts: pairwise partial AUC plus BCE, both over one queue.

    python examples/custom_loss.py [--quick]

`my_loss` is the whole of it. The edges, the surrogate and the queue are separate functions of
tensors, so that each can be left out, replaced or used twice.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from covertype import load, mlp
from torch import Tensor
from tqdm import trange

from pauc import QueueState, band_edges, enqueue, init_queue, pairwise_pauc
from pauc.metrics import tpr_at_fpr

BUDGET = 0.005
BATCH_SIZE = 1024


def my_loss(logits: Tensor, targets: Tensor, queue: QueueState) -> tuple[Tensor, QueueState]:
    held = torch.arange(len(queue.targets)) < queue.fill
    scores = torch.cat([logits[:, 0], queue.scores[0, held]])
    is_positive = torch.cat([targets, queue.targets[held]]) == 1
    edges = band_edges(scores, ~is_positive, 0.0, 4 * BUDGET)
    in_band = ~is_positive & (scores >= edges.t_beta)
    partial_auc = pairwise_pauc(
        scores[is_positive], scores[in_band], torch.tensor(1.0), link="logistic"
    )
    bce = F.binary_cross_entropy_with_logits(logits[:, 0], targets.float())
    return bce + (1 - partial_auc), enqueue(queue, logits, targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 100 steps")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = load(quick=args.quick)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    queue = init_queue(4096, num_classes=1)
    with trange(100 if args.quick else 3000, unit="step") as steps:
        for step in steps:
            rows = torch.randint(len(data.train.targets), (BATCH_SIZE,))
            loss, queue = my_loss(model(data.train.features[rows]), data.train.targets[rows], queue)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 50 == 0:
                with torch.no_grad():
                    validation = model(data.validation.features)
                tpr = tpr_at_fpr(validation, data.validation.targets, BUDGET)
                steps.set_postfix(loss=f"{loss.detach():.3f}", val_tpr=f"{tpr:.3f}")

    with torch.no_grad():
        scores = model(data.test.features)
    tpr = tpr_at_fpr(scores, data.test.targets, BUDGET)
    print(f"TPR at FPR {BUDGET:.1%} on held-out rows: {tpr:.3f}")


if __name__ == "__main__":
    main()
