"""What a look at the queue tells of mistakes that would otherwise train on without a word."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from pauc.core.explained import explained_weight, sum_entropies
from pauc.core.queue import QueueState
from pauc.metrics import partial_auc

# Early looks find what is wrong from the start, later ones what goes wrong on the way. They are so
# rare that a look, which takes a millisecond, is no part of what a step costs.
_FIRST_LOOK = 32
_LOOKS_APART = 1024
_LONG = 512  # calls after which a loss that has learned nothing is stalled, and not just young
_FEW_POSITIVES = 10  # with fewer in the queue a partial AUC says little
_MOST_CLASSES = 16  # whose partial AUC is measured; each takes a sort
# Scores closer together than this, relative to their size, are equal up to rounding.
_COLLAPSED = 1e-5
_OTHER_RATE = 3.0  # factor between two rates of positives that no chance explains


def is_due(calls: int) -> bool:
    """Return whether to look at this call: at powers of two, then at every 1,024th."""
    if calls >= _LOOKS_APART:
        return calls % _LOOKS_APART == 0
    return calls >= _FIRST_LOOK and calls & (calls - 1) == 0


def find_mistakes(queue: QueueState) -> dict[str, str]:
    """Return what is wrong with the rows of a queue by kind of mistake, in words."""
    rows = int(queue.fill)
    if rows == 0:
        return {}
    found = {}
    absent = (_positives(queue).sum(dim=1) == 0).nonzero()[:, 0].tolist()
    if absent:
        found["absent"] = (
            f"class {_shown(absent)} has no positive among the last {rows} rows, so that it is "
            "left out of the loss. Cure: a longer queue, batches by BandSampler, or a look at the "
            "labels, if there should be some"
        )
    scores = queue.scores[:, :rows]
    low, high = scores.amin().item(), scores.amax().item()
    if high - low <= _COLLAPSED * max(1.0, abs(low), abs(high)):
        found["collapsed"] = (
            f"the scores of the last {rows} rows have collapsed: all lie between {low:.8g} and "
            f"{high:.8g}. Cure: a lower learning rate, and a look for units that died or inputs "
            "that became constant"
        )
    elif low >= 0 and high <= 1:
        found["probabilities"] = (
            f"the scores of the last {rows} rows all lie in [0, 1], as probabilities do; the loss "
            "is made for logits. Cure: leave out the sigmoid or softmax"
        )
    return found


def find_other_rate(queue: QueueState, told: float) -> str:
    """Return what to say where batches hold another share of positives than was told; or ""."""
    rows = int(queue.fill)
    rates = _positives(queue).sum(dim=1) / max(rows, 1)
    rarest = rates.amin().item()
    if rarest == 0 or 1 / _OTHER_RATE < rarest / told < _OTHER_RATE:
        return ""
    return (
        f"{rarest:.3g} of the last {rows} rows are positives (of the rarest class), where "
        f"positive_rate={told:.3g} was told. Cure: tell for_budget the rate of the batches, or "
        "give it the sampler that draws them"
    )


def find_stall(queue: QueueState, alpha: float, beta: float, calls: int) -> str:
    """Return what to say where a full queue's partial AUC is near chance after long; or ""."""
    if not _is_long(queue, calls):
        return ""
    rows = int(queue.fill)
    reached = _partial_auc(queue, alpha, beta)
    chance = (alpha + beta) / 2
    if reached is None or reached > chance + min(3 * chance, 0.15 * (1 - chance)):
        return ""
    return (
        f"the training is stalled: after {calls} calls the partial AUC of the last {rows} rows is "
        f"{reached:.3g}, and chance alone gives {chance:.3g}. Cure: bce_weight=1 with "
        "weight_scale='explained' (as for_budget chooses), batches by BandSampler, a wider band, "
        "small initial weights where few rows have a feature (embeddings); or the inputs say "
        "nothing of the targets"
    )


def find_idle(queue: QueueState, alpha: float, beta: float, calls: int) -> str:
    """Return what to say where pairs weighted by what is explained have no weight; or "".

    Of a queue in which :func:`find_stall` has found nothing: scores that rank well and explain
    nothing are no logits.
    """
    if not _is_long(queue, calls):
        return ""
    if _partial_auc(queue, alpha, beta) is None or bool((_explained(queue) > 0).any()):
        return ""
    return (
        f"the pairs have no weight: after {calls} calls the scores of the last "
        f"{int(queue.fill)} rows tell positives from negatives, but explain nothing of them as "
        "logits do. Cure: a larger bce_weight, an affine layer after the scores (of cosine "
        "similarities, say), or weight_scale='unit'"
    )


def _explained(queue: QueueState) -> Tensor:
    """Return ``[C]``: the weight that the queue's rows would give."""
    rows = int(queue.fill)
    known = queue.targets[..., :rows] >= 0
    weight = known.view(-1, rows) * queue.weight[:rows]
    return explained_weight(sum_entropies(queue.scores[:, :rows], _positives(queue), weight))


def _is_long(queue: QueueState, calls: int) -> bool:
    return calls >= _LONG and int(queue.fill) == queue.scores.shape[1]


def _partial_auc(queue: QueueState, alpha: float, beta: float) -> float | None:
    """Return the mean over the first classes with enough positives; None if there is none."""
    rows = int(queue.fill)
    positives = _positives(queue)
    usable = (positives.sum(dim=1) >= _FEW_POSITIVES).nonzero()[:_MOST_CLASSES, 0].tolist()
    values = []
    for c in usable:
        kept = positives[c] | queue.iid[:rows]  # hard negatives would move the FPR
        kept = kept & (_of_class(queue, c) >= 0) & ~queue.scores[c, :rows].isnan()
        scores, targets = queue.scores[c, :rows][kept], positives[c][kept]
        if not bool(targets.all()):
            values.append(partial_auc(scores, targets.long(), alpha, beta).item())
    return sum(values) / len(values) if values else None


def _positives(queue: QueueState) -> Tensor:
    """Return ``[C, rows]`` bool."""
    n_classes, rows = queue.scores.shape[0], int(queue.fill)
    if queue.multilabel:
        return queue.targets[:, :rows] == 1
    targets = queue.targets[:rows]
    if n_classes == 1:
        return (targets == 1)[None]
    return one_hot(targets.clamp(min=0), n_classes).T.bool() & (targets >= 0)


def _of_class(queue: QueueState, index: int) -> Tensor:
    rows = int(queue.fill)
    return queue.targets[index, :rows] if queue.multilabel else queue.targets[:rows]


def _shown(classes: list[int]) -> str:
    return ", ".join(map(str, classes[:5])) + (", ..." if classes[5:] else "")
