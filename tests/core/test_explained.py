"""The weight that scores earn: against the loop oracle, and as a factor of the plain gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauc import enqueue, init_queue, pauc_loss_fn
from tests.oracles.reference import Options as Given
from tests.oracles.reference import Row, class_pools, explained_weight, reference_step

pytestmark = pytest.mark.usefixtures("each_path")

SEEDS = st.integers(0, 2**31)
OPTIONS = {"surrogate": "pairwise", "beta": 0.5, "tau_scale": "unit", "bce_weight": 0.7}


def rows(count, n_classes, gap, g):
    """Return logits that explain a part of the targets, targets with some to ignore, weights."""
    targets = torch.randint(0, max(n_classes, 2), (count,), generator=g)
    own = targets[:, None] == (torch.arange(n_classes) if n_classes > 1 else 1)
    logits = torch.randn(count, n_classes, generator=g, dtype=torch.float64)
    logits += gap * (2 * own - 1)
    targets[torch.rand(count, generator=g) < 0.2] = -100
    return logits, targets, torch.rand(count, generator=g, dtype=torch.float64) + 0.1


@given(
    SEEDS,
    st.sampled_from([1, 3]),
    st.floats(1.0, 4.0),
    st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from([7, 300]),
    st.booleans(),
)
def test_loss_is_that_of_the_oracle(seed, n_classes, gap, reduction, held, plain):
    g = torch.Generator().manual_seed(seed)
    queue = init_queue(held, n_classes, dtype=torch.float64)
    *old, old_weight = rows(held, n_classes, gap, g)
    logits, targets, weight = rows(40, n_classes, gap, g)
    old_weight, weight = (None, None) if plain else (old_weight, weight)
    queue = enqueue(queue, *old, sample_weight=old_weight)
    options = {**OPTIONS, "weight_scale": "explained", "reduction": reduction}
    loss, _ = pauc_loss_fn(logits, targets, queue, sample_weight=weight, **options)
    fill = int(queue.fill)
    known = [
        Row(tuple(queue.scores[:, k].tolist()), int(queue.targets[k]), True, float(queue.weight[k]))
        for k in range(fill)
    ]
    given_rows = logits.tolist(), targets.tolist(), known
    keywords = {"weight": None if plain else weight.tolist(), "num_classes": n_classes}
    expected = reference_step(*given_rows, queue_size=held, **keywords, **options).loss
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=1e-12, equal_nan=True)
    pools = class_pools(*given_rows, None, keywords["weight"], n_classes, Given(**options))
    assert any(explained_weight(pool) > 0 for pool in pools)  # else the weight has no effect


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_that_of_the_parts_by_weight(multilabel, dtype):
    """One column: the weight is a constant beside the pairs, and no part of the BCE."""
    g = torch.Generator().manual_seed(0)
    logits, targets, _ = rows(200, 1, 2.0, g)
    logits = logits.to(dtype)
    queue = init_queue(500, 1, multilabel=multilabel, dtype=dtype)
    shape = (-1, 1) if multilabel else (-1,)
    old, old_targets, _ = rows(500, 1, 2.0, g)
    queue = enqueue(queue, old.to(dtype), old_targets.view(shape))
    pool = torch.cat([logits, old.to(dtype)])[:, 0], torch.cat([targets, old_targets])
    kept = [part[pool[1] >= 0].tolist() for part in pool]
    (sample,) = class_pools([[s] for s in kept[0]], kept[1], [], None, None, 1, Given())
    share = explained_weight(sample)
    assert 0.1 < share < 0.9

    def gradient(**options):
        leaf = logits.clone().requires_grad_()
        loss, _ = pauc_loss_fn(leaf, targets.view(shape), queue, **{**OPTIONS, **options})
        return torch.autograd.grad(loss, leaf)[0]

    pairs, bce = gradient(bce_weight=0.0), gradient(pauc_weight=0.0)
    both = gradient(weight_scale="explained")
    torch.testing.assert_close(both, share * pairs + bce, rtol=1e-4, atol=1e-9)


def test_scores_that_explain_nothing_have_no_pairs():
    logits, targets = torch.zeros(50, 1), (torch.arange(50) < 5).long()
    logits[:5] = -3.0  # worse than the rate of positives
    alone, whole = (
        pauc_loss_fn(logits, targets, init_queue(0, 1), **OPTIONS, **more)[0]
        for more in ({"pauc_weight": 0.0}, {"weight_scale": "explained"})
    )
    assert torch.equal(alone, whole)


def test_a_nan_logit_still_shows():
    logits, targets = torch.randn(50, 1), (torch.arange(50) < 5).long()
    logits[20] = torch.nan
    loss, _ = pauc_loss_fn(logits, targets, init_queue(0, 1), **OPTIONS, weight_scale="explained")
    assert loss.isnan()
