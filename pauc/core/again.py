"""Second derivatives of a loss whose gradient is known beforehand: it is computed again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pauc.core.batch import Rows
from pauc.core.outcome import Outcome
from pauc.core.queue import QueueState

NO_SECOND_DERIVATIVE = (
    "the gradient of this loss cannot be differentiated again: that of pauc.pauc_loss_fn can, and "
    "of a module at rest, if it is the first that is taken"
)

# Returns some logits, and the outcome that operators compute from them.
Again = Callable[[], tuple[Tensor, Outcome]]


def unless_changed(
    again: Callable[[Tensor], Outcome] | None, rows: Rows, scores: Tensor, queue: QueueState
) -> Again | None:
    """Return how to compute the loss of ``scores`` again, unless a row has changed since."""
    if again is None:
        return None
    given = (scores, *rows[1:], *queue)
    kept = [part for part in given if part is not None and not part.is_inference()]
    versions = [part._version for part in kept]

    def compute() -> tuple[Tensor, Outcome]:
        if [part._version for part in kept] != versions:
            raise RuntimeError(f"{NO_SECOND_DERIVATIVE}; its logits, targets or queue have changed")
        return scores, again(scores)

    return compute


def differentiable_gradient(
    again: Again | None, of_loss: Tensor | None, of_parts: Tensor | None
) -> Tensor | None:
    """Return the gradient by the logits as a graph, for those of the loss and of its parts.

    Raises:
        RuntimeError: there is no way to compute the loss again, or its rows have changed.
    """
    if again is None:
        raise RuntimeError(NO_SECOND_DERIVATIVE)
    logits, outcome = again()
    upstream = [(outcome.loss, of_loss), (outcome.per_class, of_parts)]
    asked = [value for value, by in upstream if by is not None]
    if not asked:
        return None
    factors = [by for _, by in upstream if by is not None]
    gradient: Tensor
    (gradient,) = torch.autograd.grad(asked, logits, factors, create_graph=True)
    return gradient
