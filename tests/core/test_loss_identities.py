"""Identities that must hold whatever the numbers: invariances, limits, ignored rows."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauc import (
    BandEdges,
    PAUCConfig,
    band_edges,
    enqueue,
    init_queue,
    pairwise_pauc,
    pauc_loss_fn,
    pauc_loss_terms,
    trapezoid_pauc,
)
from pauc.core.band import Band
from pauc.core.edge_gradient import attach_knots
from pauc.core.pool import Pool
from pauc.metrics import partial_auc

pytestmark = pytest.mark.usefixtures("each_path")

OPTIONS = [
    {"surrogate": "trapezoid", "n_knots": 3},
    {"surrogate": "trapezoid", "tau_scale": "band"},
    {"surrogate": "pairwise"},
    {"surrogate": "pairwise", "link": "logistic"},
    {"surrogate": "pairwise", "gradient_scale": "live", "pos_numerator": "live"},
    {"surrogate": "trapezoid", "budget_basis": "population", "gradient_scale": "live"},
    {"surrogate": "trapezoid", "edge_gradient": "implicit", "gradient_scale": "live"},
]


def batch(num_classes, count=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, max(num_classes, 2), (count,), generator=g)
    logits = torch.randn(count, num_classes, generator=g, dtype=torch.float64)
    return logits, targets


def filled_queue(num_classes, seed=1):
    queue = init_queue(80, num_classes, dtype=torch.float64)
    return enqueue(queue, *batch(num_classes, 70, seed))


def value_and_gradient(logits, targets, queue, **options):
    logits = logits.clone().requires_grad_()
    loss, _ = pauc_loss_fn(logits, targets, queue, **options)
    loss.backward()
    return loss.detach(), logits.grad


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_scale_and_shift_invariance(options, num_classes, scale, shift):
    options = {"beta": 0.3, **options}
    logits, targets = batch(num_classes)
    queue = filled_queue(num_classes)
    moved = queue._replace(scores=queue.scores * scale + shift)
    loss, gradient = value_and_gradient(logits, targets, queue, **options)
    other, moved_gradient = value_and_gradient(logits * scale + shift, targets, moved, **options)
    # A shift of 100 leaves 1e-14 of absolute precision, divided by a tau that may be 1e-5.
    assert other.item() == pytest.approx(loss.item(), abs=1e-7)
    assert torch.allclose(moved_gradient * scale, gradient, atol=1e-7)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_permutation_of_the_batch(options, num_classes):
    options = {"beta": 0.3, **options}
    logits, targets = batch(num_classes)
    queue = filled_queue(num_classes)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(5))
    loss, gradient = value_and_gradient(logits, targets, queue, **options)
    other, permuted = value_and_gradient(logits[order], targets[order], queue, **options)
    assert other.item() == pytest.approx(loss.item(), abs=1e-12)
    assert torch.allclose(permuted, gradient[order], atol=1e-12)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_ignored_rows_are_as_good_as_absent(options, num_classes):
    options = {"beta": 0.3, **options}
    logits, targets = batch(num_classes)
    queue = filled_queue(num_classes)
    g = torch.Generator().manual_seed(2)
    keep = torch.rand(len(targets), generator=g) < 0.6
    masked = torch.where(keep, targets, -100)
    spoiled = torch.where(keep.unsqueeze(1), logits, math.nan)
    weight = torch.rand(len(targets), generator=g, dtype=torch.float64)
    iid = torch.rand(len(targets), generator=g) < 0.8

    loss, gradient = value_and_gradient(
        spoiled, masked, queue, sample_weight=weight, iid_mask=iid, **options
    )
    expected, expected_gradient = value_and_gradient(
        logits[keep],
        targets[keep],
        queue,
        sample_weight=weight[keep],
        iid_mask=iid[keep],
        **options,
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(gradient[keep], expected_gradient, atol=1e-12)
    assert torch.equal(gradient[~keep], torch.zeros_like(gradient[~keep]))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_weight_two_is_a_row_twice_in_the_numerator(options):
    if options.get("budget_basis") == "population":
        pytest.skip("a second positive is a second row of the population")
    options = {"beta": 0.3, **options}
    logits, targets = batch(1)
    queue = filled_queue(1)
    weight = torch.where(targets == 1, 2.0, 1.0).double()
    weight[targets.nonzero()[0]] = 0.0
    loss, _ = pauc_loss_fn(logits, targets, queue, sample_weight=weight, **options)
    repeats = torch.where(targets == 1, weight, 1.0).long()
    expected, _ = pauc_loss_fn(
        logits.repeat_interleave(repeats, 0), targets.repeat_interleave(repeats), queue, **options
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_multi_class_column_equals_binary(surrogate):
    logits, targets = batch(3)
    queue = filled_queue(3)
    options = {"surrogate": surrogate, "beta": 0.3}
    per_class = pauc_loss_terms(logits, targets, queue, **options).per_class
    for c in range(3):
        single = queue._replace(
            scores=queue.scores[[c]], targets=(queue.targets == c).to(torch.int64)
        )
        loss, _ = pauc_loss_fn(logits[:, [c]], (targets == c).to(torch.int64), single, **options)
        assert per_class[c].item() == pytest.approx(loss.item(), abs=1e-12)


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_queue_rows_count_like_batch_rows(surrogate):
    logits, targets = batch(1, 90)
    queue = enqueue(init_queue(64, 1, dtype=torch.float64), logits[60:], targets[60:])
    options = {"surrogate": surrogate, "beta": 0.2}
    split, gradient = value_and_gradient(logits[:60], targets[:60], queue, **options)
    whole, whole_gradient = value_and_gradient(logits, targets, init_queue(0, 1), **options)
    assert split.item() == pytest.approx(whole.item(), abs=1e-12)
    assert torch.allclose(gradient, whole_gradient[:60], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_pairwise_at_zero_temperature_is_the_exact_partial_auc(seed):
    # Band negatives are the ones at descending ranks 0 .. beta (n - 1), so the band that they fill
    # exactly is one negative wider: its right edge is at (beta (n - 1) + 1) / n.
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(-40, 40, (300,), generator=g).double()
    targets = (torch.rand(300, generator=g) < 0.2).to(torch.int64)
    scores += 10.0 * targets
    n = int((targets == 0).sum())
    negatives = scores[targets == 0].sort(descending=True).values
    rank = next(
        r for r in range(20, n) if negatives[r] > negatives[r + 1]
    )  # no tie across the edge
    loss, _ = pauc_loss_fn(
        scores.unsqueeze(1),
        targets,
        init_queue(0, 1),
        surrogate="pairwise",
        beta=rank / (n - 1),
        temperature=1e-9,
    )
    exact = partial_auc(scores, targets, 0.0, (rank + 1) / n, normalize="width")
    assert 1 - loss.item() == pytest.approx(exact.item(), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_trapezoid_at_zero_temperature_is_the_partial_auc(seed):
    # With a knot at every negative's rank the trapezoid rule integrates the empirical curve that
    # joins its points (rank / (n - 1), TPR) by straight lines.
    g = torch.Generator().manual_seed(seed)
    n = 51
    negatives = torch.randperm(200, generator=g)[:n].double()
    positives = torch.randperm(200, generator=g)[:40].double() + 0.5
    scores = torch.cat([negatives, positives])
    targets = torch.cat([torch.zeros(n), torch.ones(40)]).to(torch.int64)
    rank = 20
    loss, _ = pauc_loss_fn(
        scores.unsqueeze(1),
        targets,
        init_queue(0, 1),
        beta=rank / (n - 1),
        n_knots=rank + 1,
        temperature=1e-9,
    )
    descending = negatives.sort(descending=True).values
    tpr = [(positives > t).double().mean().item() for t in descending[: rank + 1]]
    area = sum((a + b) / 2 for a, b in pairwise(tpr)) / rank
    assert 1 - loss.item() == pytest.approx(area, abs=1e-9)


@pytest.mark.parametrize("beta", [0.02, 0.2, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_stats_pauc_equals_the_metric_on_the_pool(alpha, beta):
    g = torch.Generator().manual_seed(7)
    scores = torch.randint(-15, 15, (200, 1), generator=g).double()
    targets = torch.randint(0, 2, (200,), generator=g)
    queue = enqueue(init_queue(150, 1, dtype=torch.float64), scores[120:], targets[120:])
    terms = pauc_loss_terms(
        scores[:120], targets[:120], queue, alpha=alpha, beta=beta, diagnostics=True
    )
    exact = partial_auc(scores[:, 0], targets, alpha, beta, normalize="width")
    assert terms.stats["pauc"].item() == pytest.approx(exact.item(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_parts_work_on_any_dtype_and_on_one_class_or_many(dtype):
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 900, generator=g).to(dtype)
    is_positive = torch.rand(3, 900, generator=g) < 0.4
    edges = band_edges(scores, ~is_positive, 0.0, 0.3, n_knots=3)
    in_band = ~is_positive & (scores >= edges.t_beta.unsqueeze(1))
    tau = torch.tensor([0.3, 0.5, 1.0]).to(dtype)
    weight = torch.rand(3, 900, generator=g)
    soft = trapezoid_pauc(scores, edges.knots, tau, mask=is_positive, weight=weight)
    pairs = pairwise_pauc(
        scores, scores, tau, pos_mask=is_positive, neg_mask=in_band, pos_weight=weight
    )
    assert soft.dtype == pairs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for c in range(3):
        own, w = scores[c].double(), weight[c, is_positive[c]].double()
        pos, neg, width = own[is_positive[c]], own[in_band[c]], tau[c].double()
        tpr = ((pos.unsqueeze(1) - edges.knots[c].double()) / width).sigmoid()
        v = tpr @ torch.tensor([0.25, 0.5, 0.25]).double()
        u = ((pos.unsqueeze(1) - neg) / width).sigmoid().mean(dim=1)
        assert soft[c].item() == pytest.approx((v @ w / w.sum()).item(), abs=1e-6)
        assert pairs[c].item() == pytest.approx((u @ w / w.sum()).item(), abs=1e-6)
        single = trapezoid_pauc(scores[c, is_positive[c]], edges.knots[c], tau[c])
        assert single.shape == ()
    flat = trapezoid_pauc(
        scores.reshape(-1),
        edges.knots,
        tau,
        mask=is_positive.reshape(-1),
        weight=weight.reshape(-1),
        class_index=torch.arange(3).repeat_interleave(900),
    )
    assert torch.allclose(flat, soft, atol=1e-6)


def test_parts_never_look_at_entries_that_do_not_count():
    scores = torch.tensor([1.0, math.nan, 0.0, 2.0], requires_grad=True)
    mask = torch.tensor([True, False, True, True])
    tau = torch.tensor(1.0)
    value = trapezoid_pauc(scores, torch.tensor([1.0, 0.5]), tau, mask=mask)
    value = value + pairwise_pauc(scores, scores, tau, pos_mask=mask, neg_mask=mask)
    value.backward()
    assert value.isfinite()
    assert scores.grad.isfinite().all()
    assert trapezoid_pauc(scores, torch.tensor([1.0, 0.5]), tau, mask=~mask & mask).isnan()
    assert pairwise_pauc(scores, scores[:0], tau, pos_mask=mask).isnan()


def test_pairwise_over_the_full_band_is_the_smoothed_auc():
    logits, targets = batch(1, 200)
    loss, _ = pauc_loss_fn(
        logits, targets, init_queue(0, 1), surrogate="pairwise", beta=1.0, tau_scale="unit"
    )
    pos, neg = logits[targets == 1, 0], logits[targets == 0, 0]
    expected = ((pos.unsqueeze(1) - neg) / 0.1).sigmoid().mean()
    assert 1 - loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert pairwise_pauc(pos, neg, torch.tensor(0.1).double()).item() == pytest.approx(
        expected.item(), abs=1e-9
    )


def test_logistic_is_an_upper_bound_of_the_zero_one_loss_and_does_not_saturate():
    logits = torch.tensor([[-500.0], [0.0], [1.0]], requires_grad=True)
    targets = torch.tensor([1, 0, 0])
    options = {"surrogate": "pairwise", "beta": 1.0, "tau_scale": "unit", "temperature": 1.0}
    loss, _ = pauc_loss_fn(logits, targets, init_queue(0, 1), link="logistic", **options)
    loss.backward()
    assert loss.item() >= 1.0
    assert logits.grad[0].item() == pytest.approx(-1 / math.log(2))  # the slope of a trailing pair


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_live_gradient_scale_keeps_value_and_does_not_shrink_with_the_queue(surrogate):
    # Rows of one distribution: the expected gradient is the same at every queue size under "live",
    # and N / (N + Q) of it under "pool".
    g = torch.Generator().manual_seed(0)
    count, draws = 2000, 6

    def draw(rows):
        targets = (torch.rand(rows, generator=g) < 0.3).to(torch.int64)
        return torch.randn(rows, 1, generator=g, dtype=torch.float64), targets

    # alpha above 0, since the largest of n negatives itself grows with n.
    options = {"surrogate": surrogate, "alpha": 0.05, "beta": 0.3, "temperature": 0.5}
    norms = {}
    for size in (0, 1000, 64000):
        for scale in ("pool", "live"):
            total = 0.0
            for _ in range(draws):
                queue = init_queue(size, 1, dtype=torch.float64)
                queue = enqueue(queue, *draw(size)) if size else queue
                logits, targets = draw(count)
                loss, gradient = value_and_gradient(
                    logits, targets, queue, gradient_scale=scale, **options
                )
                other, _ = pauc_loss_fn(logits, targets, queue, **options)
                assert loss.item() == pytest.approx(other.item(), abs=1e-12)
                total += gradient[targets == 1].sum().item() / draws
            norms[size, scale] = total
    for size in (1000, 64000):
        assert norms[size, "live"] == pytest.approx(norms[0, "live"], rel=0.05)
        assert norms[size, "pool"] == pytest.approx(
            norms[0, "pool"] * count / (count + size), rel=0.15
        )


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("basis", ["fpr", "population"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.3), (0.1, 0.4), (0.0, 1.0)])
def test_implicit_edges_make_the_gradient_sum_to_zero(alpha, beta, basis, num_classes):
    logits, targets = batch(num_classes)
    options = {"alpha": alpha, "beta": beta, "n_knots": 4, "budget_basis": basis}
    queue = init_queue(0, num_classes)
    loss, gradient = value_and_gradient(logits, targets, queue, edge_gradient="implicit", **options)
    plain, plain_gradient = value_and_gradient(logits, targets, queue, **options)
    assert loss.item() == pytest.approx(plain.item(), abs=1e-12)
    assert torch.allclose(gradient.sum(dim=0), torch.zeros(num_classes).double(), atol=1e-12)
    assert (plain_gradient.sum(dim=0) < -1e-3).all()  # all scores up: the false gain


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [1, 2])
def test_a_mean_over_20_million_positives_is_right(num_classes):
    # Beyond 2**24, where adding 1 to a float32 changes nothing.
    rows = 20_000_000
    scores = torch.zeros(rows).index_fill(0, torch.arange(rows // 2), math.log(3))
    index = torch.zeros(rows, dtype=torch.int64)
    knots, tau = torch.zeros(num_classes, 2), torch.ones(num_classes)
    value = trapezoid_pauc(scores, knots, tau, class_index=index)
    assert value[0].item() == pytest.approx((0.5 + 0.75) / 2, abs=1e-6)


def test_live_gradient_of_implicit_edges_does_not_shrink_with_the_queue():
    # What the edges take from the batch is the same whether the other rows are live or queued.
    logits, targets = batch(1, 90)
    queue = enqueue(init_queue(64, 1, dtype=torch.float64), logits[60:], targets[60:])
    options = {"alpha": 0.1, "beta": 0.4}

    def taken_by_edges(rows, state, scale):
        gradients = [
            value_and_gradient(
                logits[:rows],
                targets[:rows],
                state,
                edge_gradient=edge,
                gradient_scale=scale,
                **options,
            )[1]
            for edge in ("implicit", "detached")
        ]
        return (gradients[0] - gradients[1]).sum().item()

    everything = taken_by_edges(90, init_queue(0, 1), "pool")
    assert taken_by_edges(60, queue, "live") == pytest.approx(everything, rel=1e-9)
    assert taken_by_edges(60, queue, "pool") < 0.95 * everything


def smooth_quantile(scores, level, tau):
    """The root t of mean sigmoid((s - t) / tau) = level by bisection, or the smooth extreme."""
    if level in (0.0, 1.0):
        sign = 1 if level == 0.0 else -1
        peak = max(sign * s for s in scores)
        return sign * (
            peak + tau * math.log(sum(math.exp((sign * s - peak) / tau) for s in scores))
        )
    low, high = min(scores) - 50 * tau, max(scores) + 50 * tau
    for _ in range(200):
        middle = (low + high) / 2
        share = sum(1 / (1 + math.exp(-(s - middle) / tau)) for s in scores) / len(scores)
        low, high = (middle, high) if share > level else (low, middle)
    return (low + high) / 2


@pytest.mark.parametrize("level", [0.0, 0.2, 0.5, 1.0])
def test_implicit_edge_is_the_derivative_of_the_smooth_quantile(level):
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(30, generator=g, dtype=torch.float64).tolist()
    tau, step = 0.3, 1e-5
    # Where the kernel is centred decides the shares; here at the smooth quantile itself.
    centre = smooth_quantile(scores, level, tau)
    pool_scores = torch.tensor([scores], dtype=torch.float64, requires_grad=True)
    everything = torch.ones(30, dtype=torch.bool)
    targets, weight = torch.zeros(30, dtype=torch.int64), torch.ones(30)
    pool = Pool(pool_scores, targets, ~everything, everything, everything, everything, weight, 30)
    edges = BandEdges(*[torch.tensor([centre])] * 2, torch.tensor([[centre, centre]]).double())
    flags = torch.ones(1, dtype=torch.bool)
    width = torch.tensor([tau], dtype=torch.float64)
    alpha, beta = (level, 1.0) if level < 1 else (0.5, level)
    band = Band(everything.unsqueeze(0), flags.long(), edges, beta, width, flags, ~flags)
    knots = attach_knots(pool, band, PAUCConfig(alpha=alpha, beta=beta))
    (gradient,) = torch.autograd.grad(knots[0, 0 if level < 1 else 1], pool_scores)
    for j in range(0, 30, 7):
        moved = [[s + sign * step * (i == j) for i, s in enumerate(scores)] for sign in (1, -1)]
        up, down = (smooth_quantile(m, level, tau) for m in moved)
        assert gradient[0, j].item() == pytest.approx((up - down) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_bce_weight_adds_the_cross_entropy_of_present_rows(num_classes, reduction):
    logits, targets = batch(num_classes)
    targets[::5] = -100
    queue = filled_queue(num_classes)
    options = {"beta": 0.3, "reduction": reduction}
    plain, _ = pauc_loss_fn(logits, targets, queue, **options)
    both, _ = pauc_loss_fn(logits, targets, queue, bce_weight=0.7, **options)
    kept = targets != -100
    one_hot = torch.nn.functional.one_hot(targets[kept], max(num_classes, 2)).double()
    one_hot = one_hot[:, 1:] if num_classes == 1 else one_hot
    bce = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[kept], one_hot, reduction="none"
    ).mean(dim=0)
    expected = {"mean": bce.mean(), "sum": bce.sum(), "none": bce}[reduction]
    assert torch.allclose(both - plain, 0.7 * expected, atol=1e-12)
    less, _ = pauc_loss_fn(logits, targets, queue, bce_weight=0.7, pauc_weight=0.25, **options)
    assert torch.allclose(less, 0.25 * plain + 0.7 * expected, atol=1e-12)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("multilabel", [True, False])
def test_a_weight_in_the_bce_is_that_many_rows(num_classes, multilabel):
    """A warm-up on BCE alone: integer weights are repetitions, 0 leaves a row out."""
    logits, targets = batch(num_classes)
    if multilabel:
        g = torch.Generator().manual_seed(1)
        targets = torch.randint(0, 2, tuple(logits.shape), generator=g)
        targets[torch.rand(targets.shape, generator=g) < 0.2] = -100
    targets[::7] = -100
    weight = torch.arange(len(logits)) % 4
    options = {"beta": 0.3, "bce_weight": 0.7, "pauc_weight": 0.0}
    queue = init_queue(0, num_classes, multilabel=multilabel)
    loss, _ = pauc_loss_fn(logits.requires_grad_(), targets, queue, sample_weight=weight, **options)
    (gradient,) = torch.autograd.grad(loss, logits)
    repeated, _ = pauc_loss_fn(
        logits.repeat_interleave(weight, 0), targets.repeat_interleave(weight, 0), queue, **options
    )
    (expected,) = torch.autograd.grad(repeated, logits)
    torch.testing.assert_close(loss, repeated, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    nothing, _ = pauc_loss_fn(logits, targets, queue, sample_weight=0 * weight, **options)
    assert nothing.item() == 0.0
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert not gradient.any()


def test_gradient_of_the_trapezoid_reaches_positives_only():
    logits, targets = batch(1)
    _, gradient = value_and_gradient(logits, targets, filled_queue(1), beta=0.3)
    assert (gradient[targets == 0] == 0).all()
    assert (gradient[targets == 1] != 0).any()


def test_pairwise_gradient_sums_to_zero_without_a_queue():
    logits, targets = batch(3)
    options = {"surrogate": "pairwise", "beta": 0.3}
    _, gradient = value_and_gradient(logits, targets, init_queue(0, 3), **options)
    assert torch.allclose(gradient.sum(dim=0), torch.zeros(3).double(), atol=1e-12)


def test_non_iid_rows_do_not_move_the_edges():
    logits, targets = batch(1)
    hard = torch.full((30, 1), 9.0, dtype=torch.float64)
    both = torch.cat([logits, hard])
    targets_both = torch.cat([targets, torch.zeros(30, dtype=torch.int64)])
    iid = torch.arange(90) < 60
    plain = pauc_loss_terms(logits, targets, init_queue(0, 1), beta=0.2, diagnostics=True)
    mined = pauc_loss_terms(
        both, targets_both, init_queue(0, 1), iid_mask=iid, beta=0.2, diagnostics=True
    )
    for name in ("t_alpha", "t_beta", "tau_eff", "ref_count", "band_neg_count"):
        assert torch.equal(plain.stats[name], mined.stats[name])


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_inputs_are_not_changed(surrogate):
    logits, targets = batch(3)
    queue = filled_queue(3)
    weight, iid = torch.rand(60, dtype=torch.float64), torch.rand(60) < 0.5
    arguments = (logits, targets, weight, iid, *queue)
    copies = [tensor.clone() for tensor in arguments]
    pauc_loss_fn(
        logits, targets, queue, sample_weight=weight, iid_mask=iid, surrogate=surrogate, beta=0.3
    )
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck(options):
    logits, targets = batch(1, 40)
    queue = filled_queue(1)
    options = {**options, "beta": 0.3, "gradient_scale": "pool"}  # "live" is no true gradient
    edges = band_edges(
        torch.cat([logits[targets == 0, 0], queue.scores[0, :70][queue.targets[:70] == 0]]),
        torch.ones(int((targets == 0).sum() + (queue.targets[:70] == 0).sum()), dtype=torch.bool),
        0.0,
        0.3,
    )
    assert edges.t_alpha > edges.t_beta
    # Only positives move: then edges, scale and band stand still, as the gradient takes them to.
    if options.get("budget_basis") == "population":
        pytest.skip("positives move the edges there; covered against the frozen reference")
    live = logits[targets == 1].clone().requires_grad_()

    def loss(moving):
        moved = logits.clone()
        moved[targets == 1] = moving
        return pauc_loss_fn(moved, targets, queue, **options)[0]

    assert torch.autograd.gradcheck(loss, (live,))
