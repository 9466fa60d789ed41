"""max_pool_size: quotas, the cap, and unbiasedness of the capped loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauc import enqueue, init_queue, pauc_loss_fn, pauc_loss_terms
from pauc.core.pool import Pool
from pauc.core.subsample import subsample


def make_pool(labels, present=None, num_classes=4):
    labels = torch.tensor(labels)
    count = len(labels)
    present = torch.ones(count, dtype=torch.bool) if present is None else present
    iid = torch.ones(count, dtype=torch.bool)
    none = torch.zeros(count, dtype=torch.bool)  # each label is a class, whose positive the row is
    scores = torch.randn(num_classes, count)
    return Pool(scores, labels, ~present, ~present, none, iid, torch.ones(count), batch_rows=count)


@given(
    labels=st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3]), min_size=5, max_size=80),
    cap=st.integers(4, 60),
    step=st.integers(0, 2**40),
    absent=st.sampled_from([0.0, 0.3]),
)
def test_quota_cap_and_multiplicity(labels, cap, step, absent):
    present = torch.rand(len(labels), generator=torch.Generator().manual_seed(step)) >= absent
    pool = make_pool(labels, present)
    sample = subsample(pool, cap, torch.tensor(step))
    real = sample.multiplicity > 0
    kept = sample.columns[real]
    assert len(sample.columns) <= cap
    assert len(set(kept.tolist())) == len(kept)
    assert present[kept].all()
    for target in range(4):
        size = int(((pool.targets == target) & present).sum())
        mine = pool.targets[kept] == target
        count = int(mine.sum())
        assert count >= min(size, max(1, cap // 8))
        # The kept rows stand for all of them.
        assert sample.multiplicity[real][mine].sum().item() == pytest.approx(size, rel=1e-5)
    if present.sum() <= cap:
        assert len(kept) == present.sum()


def test_every_row_of_a_target_has_the_same_chance():
    pool = make_pool([0] * 20 + [1] * 5)
    hits = torch.zeros(25)
    draws = 2000
    for step in range(draws):
        sample = subsample(pool, 10, torch.tensor(step))
        hits[sample.columns[sample.multiplicity > 0]] += 1
    for rows in (hits[:20], hits[20:]):
        chance = rows.mean() / draws
        error = (chance * (1 - chance) / draws).sqrt()
        assert ((rows / draws - chance).abs() < 5 * error).all()


@pytest.mark.parametrize(("num_classes", "multilabel"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize(
    "options",
    [
        {"surrogate": "trapezoid"},
        {"surrogate": "pairwise"},
        {"surrogate": "pairwise", "link": "logistic", "pos_numerator": "live"},
        {"surrogate": "pairwise", "gradient_scale": "live"},
    ],
    ids=str,
)
def test_the_capped_loss_is_an_unbiased_estimate(options, num_classes, multilabel):
    g = torch.Generator().manual_seed(0)
    count, draws = 120, 600
    targets = (torch.rand(count, generator=g) < 0.25).long()
    if num_classes == 3:
        targets = torch.randint(0, 3, (count,), generator=g)
    if multilabel:  # classes overlap, and a fifth has no label
        targets = (torch.rand(count, 3, generator=g) < 0.25).long()
        targets[torch.rand(count, 3, generator=g) < 0.2] = -100
    logits = torch.randn(count, num_classes, generator=g, dtype=torch.float64)
    weight = torch.rand(count, generator=g, dtype=torch.float64)
    options = {"beta": 0.3, "temperature": 0.5, **options}

    held = enqueue(
        init_queue(50, num_classes, multilabel=multilabel, dtype=torch.float64),
        logits[70:],
        targets[70:],
        sample_weight=weight[70:],
    )

    def loss_and_gradient(step, **more):
        def loss_of(attached):
            queue, rows = held._replace(step=step), {"sample_weight": weight[:70]}
            return pauc_loss_fn(attached, targets[:70], queue, **rows, **options, **more)[0]

        gradient, loss = torch.func.grad_and_value(loss_of)(logits[:70])
        return torch.cat([loss.reshape(1), gradient.flatten()])

    expected = loss_and_gradient(torch.tensor(0))
    # All draws in one call, which cannot check values: a tenth of the time of one call a draw.
    capped = torch.func.vmap(
        lambda step: loss_and_gradient(step, max_pool_size=40, validate_args=False)
    )(torch.arange(draws))
    error = capped.std(dim=0) / draws**0.5
    assert error[0] > 0
    assert ((capped.mean(dim=0) - expected).abs() <= 5 * error + 1e-12).all()


def test_a_multilabel_draw_keeps_a_quota_of_each_class_and_only_what_is_there():
    g = torch.Generator().manual_seed(0)
    label = torch.full((3, 200), -1)
    label[0, :150], label[1, 100:110], label[2, 105] = 0, 1, 2
    present = torch.rand(3, 200, generator=g) < 0.9
    label[~present] = -1
    iid, scores, other = torch.ones(200, dtype=torch.bool), torch.randn(3, 200), label < 0
    negative, targets = other & present, torch.where(present, label >= 0, -1)
    pool = Pool(scores, targets, ~present, other, negative, iid, torch.ones(200), batch_rows=200)
    for step in range(20):
        sample = subsample(pool, 30, torch.tensor(step))
        rows = sample.columns[sample.multiplicity > 0]
        assert len(set(rows.tolist())) == len(rows) == 30
        assert sample.multiplicity.sum().item() == pytest.approx(present.any(0).sum().item())
        places = sample.places[sample.place_multiplicity > 0]
        assert len(set(places.tolist())) == len(places) <= 30
        kept = label.flatten()[places]
        assert (kept >= 0).all()
        for c in range(3):
            size = int((label[c] == c).sum())
            assert (kept == c).sum() >= min(size, 5)
            stands_for = sample.place_multiplicity[sample.place_multiplicity > 0][kept == c].sum()
            assert stands_for.item() == pytest.approx(size, rel=1e-5)


def test_edges_and_scale_see_the_full_pool():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 1, generator=g)
    targets = (torch.rand(500, generator=g) < 0.02).long()
    full = pauc_loss_terms(logits, targets, init_queue(0, 1), beta=0.05, diagnostics=True)
    capped = pauc_loss_terms(
        logits, targets, init_queue(0, 1), beta=0.05, diagnostics=True, max_pool_size=50
    )
    for name in ("t_alpha", "t_beta", "tau_eff", "pauc", "ref_count", "band_neg_count"):
        assert torch.equal(full.stats[name], capped.stats[name])


def test_a_cap_that_is_not_reached_changes_nothing():
    logits, targets = torch.randn(50, 3), torch.randint(0, 3, (50,))
    plain, _ = pauc_loss_fn(logits, targets, init_queue(20, 3), beta=0.3)
    capped, _ = pauc_loss_fn(logits, targets, init_queue(20, 3), beta=0.3, max_pool_size=50)
    assert capped.item() == pytest.approx(plain.item(), abs=1e-6)
