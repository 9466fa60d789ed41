"""Hard negatives in the batch without moving the budget: `iid_mask`.

    python examples/hard_negatives.py [--quick]

At FPR 0.5 % five of a thousand iid negatives are in the band, so most of a batch teaches nothing.
Here half of each batch is drawn iid, a quarter from the positives and a quarter from the negatives
that the model scored highest a while ago. Rows added so are no sample of the population: with
`iid_mask` False they take part in the pairs, but the band's edges come from the iid rows alone.
The last lines show how far off the edge would be without the mask.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from covertype import Part, load, mlp
from torch import Tensor, nn
from tqdm import trange

from pauc import PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

BUDGET = 0.005
BATCH_SIZE = 1024
HARD_SHARE = 0.02  # of the negatives, by score, are the hard ones


def hardest(model: nn.Module, rows: Part) -> Tensor:
    """The indices of the negatives with the highest scores."""
    with torch.no_grad():
        scores = model(rows.features)[:, 0].masked_fill(rows.targets == 1, -torch.inf)
    return scores.topk(int(HARD_SHARE * len(scores))).indices


def draw(positives: Tensor, hard: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """The rows of a batch, half iid, and which of them are."""
    n_iid, n_added = BATCH_SIZE // 2, BATCH_SIZE // 4
    rows = torch.cat(
        [
            torch.randint(n_rows, (n_iid,)),
            positives[torch.randint(len(positives), (n_added,))],
            hard[torch.randint(len(hard), (n_added,))],
        ]
    )
    return rows, torch.arange(len(rows)) < n_iid


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 100 steps")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = load(quick=args.quick)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    options = {"surrogate": "pairwise", "link": "logistic", "tau_scale": "unit", "temperature": 1.0}
    pauc_loss = PAUCAtBudgetLoss(
        1, beta=4 * BUDGET, queue_size=8192, gradient_scale="live", **options
    )
    n_steps, refresh = (100, 50) if args.quick else (4000, 280)
    positives = data.train.targets.nonzero().squeeze(1)
    with trange(n_steps, unit="step") as steps:
        for step in steps:
            if step % refresh == 0:
                hard = hardest(model, data.train)
            rows, iid = draw(positives, hard, len(data.train.targets))
            logits, targets = model(data.train.features[rows]), data.train.targets[rows]
            partial = pauc_loss(logits, targets, iid_mask=iid)
            loss = partial + F.binary_cross_entropy_with_logits(logits[:, 0], targets.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % refresh == 0:
                with torch.no_grad():
                    validation = model(data.validation.features)
                tpr = tpr_at_fpr(validation, data.validation.targets, BUDGET)
                steps.set_postfix(loss=f"{loss.detach():.3f}", val_tpr=f"{tpr:.3f}")

    with torch.no_grad():
        scores = model(data.test.features)
    tpr = tpr_at_fpr(scores, data.test.targets, BUDGET)
    print(f"TPR at FPR {BUDGET:.1%} on held-out rows: {tpr:.3f}")

    negatives = scores[data.test.targets == 0, 0]
    for name, mask in (("with", iid), ("without", torch.ones_like(iid))):
        watch = PAUCAtBudgetLoss(1, beta=4 * BUDGET, queue_size=0, validate_args=False, **options)
        _, stats = watch(logits.detach(), targets, mask, return_diagnostics=True)
        share = (negatives > stats["t_beta"]).float().mean()
        print(f"{name} iid_mask the edge for FPR {4 * BUDGET:.1%} lets {share:.2%} of negatives by")


if __name__ == "__main__":
    main()
