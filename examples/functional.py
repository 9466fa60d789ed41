"""The pure loop: the queue is a value that goes in and comes out, nothing is remembered elsewhere.

    python examples/functional.py [--quick]

The gradient comes from `torch.func.grad`, the parameters are a dict, and a step is a function of
its arguments: what a person needs who trains ensembles with `vmap` or checkpoints by hand.
"""

from __future__ import annotations

import argparse

import torch
from covertype import load, mlp
from torch import Tensor
from torch.func import functional_call, grad
from tqdm import trange

from pauc import QueueState, init_queue, pauc_loss_fn
from pauc.metrics import tpr_at_fpr

BATCH_SIZE = 1024
LEARNING_RATE = 0.05
MOMENTUM = 0.9

Parameters = dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 60 steps")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = load(quick=args.quick)
    net = mlp()

    def objective(
        parameters: Parameters, features: Tensor, targets: Tensor, queue: QueueState
    ) -> tuple[Tensor, tuple[Tensor, QueueState]]:
        logits = functional_call(net, parameters, (features,))
        loss, queue = pauc_loss_fn(
            logits,
            targets,
            queue,
            beta=0.05,
            surrogate="pairwise",
            link="logistic",
            gradient_scale="live",
            tau_scale="unit",
            temperature=1.0,
        )
        return loss, (loss, queue)

    parameters = {name: value.detach() for name, value in net.named_parameters()}
    velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}
    queue = init_queue(8192, num_classes=1)
    with trange(60 if args.quick else 2000, unit="step") as steps:
        for step in steps:
            rows = torch.randint(len(data.train.targets), (BATCH_SIZE,))
            batch = data.train.features[rows], data.train.targets[rows]
            gradient, (loss, queue) = grad(objective, has_aux=True)(parameters, *batch, queue)
            velocity = {n: MOMENTUM * v + gradient[n] for n, v in velocity.items()}
            parameters = {n: p - LEARNING_RATE * velocity[n] for n, p in parameters.items()}
            if step % 20 == 0:
                scores = functional_call(net, parameters, (data.validation.features,))
                tpr = tpr_at_fpr(scores, data.validation.targets, 0.01)
                steps.set_postfix(loss=f"{loss:.3f}", val_tpr=f"{tpr:.3f}")

    scores = functional_call(net, parameters, (data.test.features,))
    print(f"TPR at FPR 1 % on held-out rows: {tpr_at_fpr(scores, data.test.targets, 0.01):.3f}")


if __name__ == "__main__":
    main()
