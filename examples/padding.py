"""Sequences of different lengths: flatten, and let `ignore_index` make padding absent.

    python examples/padding.py [--quick]

A tagger scores every step of a sequence, and few steps are positive. Padded steps carry the target
-100: they enter neither the loss nor the queue, whatever their logits are (here: nan), and receive
no gradient. The last line checks that against the same rows without padding.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from tqdm import trange

from pauc import PAUCAtBudgetLoss, init_queue, pauc_loss_fn
from pauc.metrics import tpr_at_fpr

IGNORE = -100
BUDGET = 0.02
N_FEATURES, MAX_LENGTH = 6, 40


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(N_FEATURES, 24, batch_first=True)
        self.head = nn.Linear(24, 1)

    def forward(self, steps: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=MAX_LENGTH
        )
        return self.head(hidden)  # [B, T, 1]


def sequences(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """An event is a step at which features 0 and 1 are both high, after a high step before."""
    steps = torch.randn(count, MAX_LENGTH, N_FEATURES)
    lengths = torch.randint(5, MAX_LENGTH + 1, (count,))
    level = steps[..., 0] + steps[..., 1]
    before = torch.cat([level.new_zeros(count, 1), level[:, :-1]], dim=1)
    event = (level + 0.5 * before + 0.5 * torch.randn(count, MAX_LENGTH) > 4.2).long()
    padded = torch.arange(MAX_LENGTH) >= lengths.unsqueeze(1)
    return steps, lengths, event.masked_fill(padded, IGNORE)


@torch.no_grad()
def evaluate(model: nn.Module, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """TPR at the budget over the steps of `count` fresh sequences; their logits and targets."""
    steps, lengths, targets = sequences(count)
    logits = model(steps, lengths)
    tpr = tpr_at_fpr(logits.flatten(), targets.flatten(), BUDGET, ignore_index=IGNORE)
    return tpr, logits, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="80 steps")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = Tagger()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    pauc_loss = PAUCAtBudgetLoss(
        1,
        beta=BUDGET,
        surrogate="pairwise",
        link="logistic",
        gradient_scale="live",
        tau_scale="unit",
        temperature=1.0,
        queue_size=8192,
        ignore_index=IGNORE,
    )
    with trange(80 if args.quick else 800, unit="step") as bar:
        for step in bar:
            steps, lengths, targets = sequences(64)
            logits = model(steps, lengths)
            # [B, T, 1] and [B, T] become rows; the padded ones count as absent.
            loss = pauc_loss(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 40 == 0:
                tpr, *_ = evaluate(model, 300)
                bar.set_postfix(loss=f"{loss.detach():.3f}", tpr=f"{tpr:.3f}")

    tpr, logits, targets = evaluate(model, 2000)
    print(f"TPR at FPR {BUDGET:.0%} over fresh steps: {tpr:.3f}")

    rows, labels = logits.flatten(0, 1), targets.flatten()
    real = labels != IGNORE
    spoiled = rows.masked_fill(~real.unsqueeze(1), torch.nan)
    queue = init_queue(0, 1)
    padded_loss, _ = pauc_loss_fn(spoiled, labels, queue, beta=BUDGET)
    dense_loss, _ = pauc_loss_fn(rows[real], labels[real], queue, beta=BUDGET)
    print(f"loss with nan in the padding {padded_loss:.6f}, without padding {dense_loss:.6f}")


if __name__ == "__main__":
    main()
