"""Hard negatives in the batch without moving the budget: `BandSampler` and its `iid_mask`.

    python examples/hard_negatives.py [--quick]

At FPR 0.5 % five of a thousand iid negatives are in the band, so most of a batch teaches nothing.
Here half of each batch is drawn iid, a quarter from the positives and a quarter from the negatives
that scored highest when they were last in a batch: no extra pass over the data is needed. Rows
added so are no sample of the population: with `iid_mask` False they take part in the pairs, but the
band's edges come from the iid rows alone. The last lines show how far off the edge would be without
the mask.
"""

from __future__ import annotations

import argparse
from itertools import islice

import torch
import torch.nn.functional as F
from covertype import load, mlp
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from pauc import BandSampler, PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

BUDGET = 0.005
BATCH_SIZE = 1024


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
    n_steps, refresh = (100, 25) if args.quick else (4000, 50)
    sampler = BandSampler(data.train.targets, BATCH_SIZE, num_batches=n_steps)
    rows = torch.arange(len(data.train.targets))  # so that a batch knows which rows it holds
    # `batch_size=None`: the data set is indexed with whole batches, not row by row.
    loader = DataLoader(TensorDataset(*data.train, rows), sampler=sampler, batch_size=None)
    with tqdm(loader, unit="step") as steps:
        for step, (features, targets, indices) in enumerate(steps, start=1):
            logits = model(features)
            partial = pauc_loss(logits, targets, iid_mask=sampler.iid_mask)
            loss = partial + F.binary_cross_entropy_with_logits(logits[:, 0], targets.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sampler.update(indices, logits)
            if step % refresh == 0:
                sampler.refresh()
            if step % (n_steps // 10) == 0:
                with torch.no_grad():
                    validation = model(data.validation.features)
                tpr = tpr_at_fpr(validation, data.validation.targets, BUDGET)
                steps.set_postfix(loss=f"{loss.detach():.3f}", val_tpr=f"{tpr:.3f}")

    with torch.no_grad():
        scores = model(data.test.features)
    tpr = tpr_at_fpr(scores, data.test.targets, BUDGET)
    print(f"TPR at FPR {BUDGET:.1%} on held-out rows: {tpr:.3f}")

    negatives = scores[data.test.targets == 0, 0]
    rows = torch.tensor(list(islice(sampler, 10))).flatten()
    with torch.no_grad():
        logits, targets = model(data.train.features[rows]), data.train.targets[rows]
    iid = sampler.iid_mask.repeat(10)
    for name, mask in (("with", iid), ("without", torch.ones_like(iid))):
        watch = PAUCAtBudgetLoss(1, beta=4 * BUDGET, queue_size=0, **options)
        _, stats = watch(logits, targets, mask, return_diagnostics=True)
        share = (negatives > stats["t_beta"]).float().mean()
        print(f"{name} iid_mask the edge for FPR {4 * BUDGET:.1%} lets {share:.2%} of negatives by")


if __name__ == "__main__":
    main()
