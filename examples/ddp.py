"""Two ranks train what one process trains: the loss sees the rows of all ranks as one batch.

    torchrun --nproc-per-node 2 examples/ddp.py [--quick]

runs on CPU with gloo, then trains the same model on the same batches in one process, and prints
both results. In float64, since Adam blows up what float32 rounds. On GPUs: backend "nccl", and
`.to(device)` on model, loss and rows.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from covertype import Covertype, Part, load, mlp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from pauc import PAUCAtBudgetLoss, metrics

BATCH, EPOCHS, SEED = 1024, 2, 0
BUDGET = 0.02  # share of negatives that may raise an alarm


def train(net: nn.Module, data: Covertype, loss_fn: nn.Module, rank: int, world: int) -> None:
    """Train on this rank's part of every batch; rank 0 of 1 takes all of it."""
    train_set = data.train
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    bce = nn.BCEWithLogitsLoss(reduction="sum")
    # The same permutations on every rank. Parts in the order of the ranks, so that the queue's rows
    # have the order that they have in one process.
    orders = [
        torch.randperm(len(train_set.targets), generator=torch.Generator().manual_seed(epoch))
        for epoch in range(EPOCHS)
    ]
    batches = [batch for order in orders for batch in order.split(BATCH)]
    with tqdm(batches, desc=f"{world} rank(s)", unit="step", disable=rank > 0) as bar:
        for step, batch in enumerate(bar):
            rows = batch.tensor_split(world)[rank]
            logits, targets = net(train_set.features[rows].double()), train_set.targets[rows]
            # A rank's own term: DDP averages over ranks, so the mean over the batch needs `world`.
            own = bce(logits.squeeze(1), targets.double()) * world / len(batch)
            optimizer.zero_grad()
            loss = own + loss_fn(logits, targets)
            loss.backward()
            optimizer.step()
            if step % 20 == 0 and rank == 0:
                tpr = caught(net, data.validation)
                bar.set_postfix(loss=f"{loss.detach():.3f}", val_tpr=f"{tpr:.3f}")


@torch.no_grad()
def caught(net: nn.Module, part: Part) -> float:
    # Not through the wrapper, whose forward pass would wait for the other ranks.
    model = net.module if isinstance(net, DistributedDataParallel) else net
    return metrics.tpr_at_fpr(model(part.features.double()), part.targets, BUDGET).item()


def make_loss(gather: bool) -> PAUCAtBudgetLoss:
    return PAUCAtBudgetLoss(
        1,
        surrogate="pairwise",
        link="logistic",
        gradient_scale="live",
        tau_scale="unit",
        temperature=1.0,
        beta=BUDGET,
        queue_size=8192,
        gather_distributed=gather,
    )


def make_net() -> nn.Module:
    torch.manual_seed(SEED)
    return mlp().double()


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows instead of 581,012")
    data = load(SEED, quick=parser.parse_args().quick)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()

    net = make_net()
    train(DistributedDataParallel(net), data, make_loss(gather=True), rank, world)
    if rank == 0:
        alone = make_net()
        train(alone, data, make_loss(gather=False), rank=0, world=1)
        for name, trained in ((f"{world} ranks", net), ("1 process", alone)):
            print(f"{name:>10}: TPR at {BUDGET:.1%} FPR {caught(trained, data.test):.4f}")
        apart = ((flat(net) - flat(alone)).norm() / flat(alone).norm()).item()
        verdict = "equal but for rounding" if apart < 1e-8 else "NOT equal"
        print(f"parameters: {apart:.1e} apart, relative to their length: {verdict}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
