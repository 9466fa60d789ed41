"""A precision as the budget: where the band ends, by hand, by formula and by the metrics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pauc
from pauc import enqueue, init_queue, pauc_loss_fn, pauc_loss_terms, recall_at_quantile_terms
from pauc.budgets import fpr_at_precision, fpr_from_precision
from pauc.metrics.inputs import UndefinedError

HALF = {"budget_basis": "precision", "precision": 0.5, "base_rate": 0.1}
WIDEST = 1 / 9  # the FPR that HALF allows at a TPR of 1
TOP = {"alpha": 0.0, "beta": 1e-9}  # no more than the top negative, if the precision fails
SURROGATES = [
    {"surrogate": "pairwise", "link": "logistic"},
    {"surrogate": "trapezoid", "n_knots": 3},
    {"surrogate": "trapezoid", "edge_gradient": "implicit", "tau_scale": "unit"},
]


def end_of(negatives, positives, **options):
    """Return the score at the band's end, and how many of the negatives lie above it or there."""
    scores = torch.tensor([*negatives, *positives], dtype=torch.float64).unsqueeze(1)
    targets = torch.tensor([0] * len(negatives) + [1] * len(positives))
    options = {**HALF, **TOP, "surrogate": "pairwise", **options}
    stats = pauc_loss_terms(scores, targets, init_queue(0, 1), diagnostics=True, **options).stats
    return stats["t_beta"].item(), stats["band_neg_count"].item()


# --- by hand: 45 negatives, so that 5 of them are the widest band ---

LOW = [-1.0 - k for k in range(40)]


def test_every_positive_on_top_gives_the_widest_band():
    assert end_of([5.0, 4.0, 3.0, 2.0, 1.0, *LOW], [9.0, 8.0]) == (1.0, 5)


def test_half_the_positives_allow_half_the_negatives():
    assert end_of([5.0, 4.0, 3.0, 2.0, 1.0, *LOW], [9.0, -50.0]) == (4.0, 2)


def test_the_last_threshold_with_the_precision_counts():
    """One negative is on top, two fail the precision, and three have it again: 2/3 of 5 are 3.3."""
    negatives = [9.0, 5.0, 3.0, 2.0, 1.0, *LOW]
    assert end_of(negatives, [2.5, 2.5, -50.0]) == (3.0, 3)
    assert end_of(negatives, [0.5, -50.0, -50.0]) == (9.0, 1)  # nowhere: `beta` is left


def test_no_threshold_lies_between_tied_negatives():
    """All positives are above, so that 5 might alert; of the 3 that tie, 2 would be within it."""
    assert end_of([5.0, 4.0, 3.0, 1.0, 1.0, 1.0, *LOW[:39]], [9.0]) == (3.0, 3)


def test_tied_with_a_negative_a_positive_alerts_with_it():
    assert end_of([5.0, 4.0, 3.0, 2.0, 1.0, *LOW], [2.0]) == (1.0, 5)
    assert end_of([5.0, 5.0, 5.0, 5.0, 5.0, 5.0, *LOW[:39]], [5.0]) == (5.0, 6)  # `beta` is left


def test_the_band_never_ends_before_beta():
    assert end_of([5.0, 4.0, 3.0, 2.0, 1.0, *LOW], [-50.0], beta=0.1) == (1.0, 5)  # 0.1 * 44 = 4.4
    assert end_of([5.0, 4.0, 3.0, 2.0, 1.0, *LOW], [9.0], beta=0.05) == (1.0, 5)


def test_positives_count_by_weight_and_negatives_do_not():
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, *LOW, 9.0, -50.0]).unsqueeze(1)
    targets = torch.tensor([0] * 45 + [1, 1])
    weight = torch.cat([torch.rand(45), torch.tensor([4.0, 1.0])])  # a TPR of 0.8
    terms = pauc_loss_terms(
        scores, targets, init_queue(0, 1), sample_weight=weight, diagnostics=True, **HALF, **TOP
    )
    assert terms.stats["t_beta"].item() == 2.0


def test_live_positives_alone_in_the_loss_are_not_alone_in_the_tpr():
    """Of the queue's positive and the batch's one is caught, so that half the widest band is."""
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, *LOW, -50.0]).unsqueeze(1)
    queue = enqueue(init_queue(50, 1), scores, torch.tensor([0] * 45 + [1]))
    batch = torch.tensor([[9.0]]), torch.tensor([1])
    stats = pauc_loss_terms(
        *batch, queue, diagnostics=True, pos_numerator="live", **HALF, **TOP
    ).stats
    assert stats["t_beta"].item() == 4.0


# --- by formula: populations whose densities are known ---


def normal_tail(x: float) -> float:
    return math.erfc(x / math.sqrt(2)) / 2


def logistic_tail(x: float) -> float:
    return 1 / (1 + math.exp(x))


POPULATIONS = {
    "normal": (normal_tail, torch.special.ndtri),
    "logistic": (logistic_tail, torch.logit),
}


def threshold_of_population(tail, shift: float, precision: float, base_rate: float) -> float:
    """Where the precision of negatives around 0 and positives around `shift` is the target."""
    low, high = -20.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        right = base_rate * tail(middle - shift)
        fits = right >= precision * (right + (1 - base_rate) * tail(middle))
        low, high = (low, middle) if fits else (middle, high)
    return low


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("positives", [1_000, 100_000])
@pytest.mark.parametrize(
    ("shift", "precision", "base_rate"), [(2.0, 0.5, 0.05), (3.0, 0.2, 0.01), (2.5, 0.9, 0.3)]
)
def test_the_edge_is_the_threshold_at_which_the_population_has_the_precision(
    population, positives, shift, precision, base_rate
):
    """Whatever the share of positives in the pool is."""
    tail, quantile = POPULATIONS[population]
    if population == "logistic":
        shift *= 2
    expected = threshold_of_population(tail, shift, precision, base_rate)

    def grid(count):
        return quantile((torch.arange(count, dtype=torch.float64) + 0.5) / count)

    negatives = 200_000
    scores = torch.cat([grid(negatives), grid(positives) + shift])
    targets = (torch.arange(negatives + positives) >= negatives).long()
    queue = enqueue(init_queue(len(scores), 1, dtype=torch.float64), scores.unsqueeze(1), targets)
    batch = torch.zeros(0, 1, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    options = {"precision": precision, "base_rate": base_rate, "beta": 1e-6}
    stats = pauc_loss_terms(
        *batch, queue, budget_basis="precision", diagnostics=True, **options
    ).stats
    found = stats["t_beta"].item()
    assert found == pytest.approx(expected, abs=0.01)
    in_band = stats["band_neg_count"].item() / stats["ref_count"].item()
    assert in_band == pytest.approx(tail(expected), rel=0.02)


# --- by the metrics: the loss is that of a band that ends at `fpr_at_precision` ---


def end_by_metrics(scores, positive, iid, weight, least: float) -> float:
    counts = positive | iid
    try:
        found = fpr_at_precision(
            scores[counts],
            positive[counts].long(),
            HALF["precision"],
            base_rate=HALF["base_rate"],
            sample_weight=torch.where(positive, weight, 1.0)[counts],
        )
    except (UndefinedError, ValueError):
        return least
    return max(float(found), least)


@pytest.mark.parametrize("options", SURROGATES, ids=str)
@given(seed=st.integers(0, 2**20), shift=st.sampled_from([0.0, 1.0, 3.0]), ties=st.booleans())
def test_the_loss_is_that_of_the_band_that_the_metrics_find(options, seed, shift, ties):
    """Binary with ignored rows, rows that are not iid, weights and a queue; value and gradient."""
    g = torch.Generator().manual_seed(seed)
    targets = (torch.rand(160, generator=g) < 0.3).long()
    scores = torch.randn(160, generator=g, dtype=torch.float64) + shift * targets
    scores = (4 * scores).round() / 4 if ties else scores
    iid, weight = torch.rand(160, generator=g) < 0.8, torch.rand(160, generator=g).double()
    absent = torch.rand(160, generator=g) < 0.1
    given = torch.where(absent, -100, targets)
    side = {"iid_mask": iid, "sample_weight": weight}
    held, fresh = slice(0, 100), slice(100, 160)
    queue = enqueue(
        init_queue(100, 1, dtype=torch.float64),
        scores[held].unsqueeze(1),
        given[held],
        **{name: value[held] for name, value in side.items()},
    )
    kept = ~absent
    beta = end_by_metrics(scores[kept], (targets == 1)[kept], iid[kept], weight[kept], 0.02)

    def step(**basis):
        logits = scores[fresh].unsqueeze(1).requires_grad_()
        now = {name: value[fresh] for name, value in side.items()}
        loss, _ = pauc_loss_fn(logits, given[fresh], queue, **now, **basis, **options)
        return [loss, *torch.autograd.grad(loss, logits)]

    for ours, expected in zip(step(beta=0.02, **HALF), step(beta=beta), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", SURROGATES, ids=str)
@pytest.mark.parametrize("multilabel", [False, True])
def test_each_class_has_an_end_of_its_own(options, multilabel):
    g = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (300,), generator=g)
    positive = targets.unsqueeze(1) == torch.arange(3)
    logits = torch.randn(300, 3, generator=g, dtype=torch.float64)
    logits = logits + positive * torch.tensor([0.5, 2.0, 4.0])
    ends = [
        end_by_metrics(logits[:, c], positive[:, c], torch.ones(300).bool(), torch.ones(300), 1e-3)
        for c in range(3)
    ]
    assert len(set(ends)) == 3
    queue = init_queue(0, 3, multilabel=multilabel)
    given = positive.long() if multilabel else targets
    options = {"reduction": "none", **options}
    losses, _ = pauc_loss_fn(logits, given, queue, beta=1e-3, **HALF, **options)
    for c, end in enumerate(ends):
        expected, _ = pauc_loss_fn(logits, given, queue, beta=end, **options)
        torch.testing.assert_close(losses[c], expected[c], rtol=1e-12, atol=1e-14)


def test_recall_at_a_precision_is_recall_at_the_fpr_that_the_metrics_find():
    g = torch.Generator().manual_seed(0)
    targets = (torch.arange(400) % 4 == 0).long()
    logits = torch.randn(400, 1, generator=g) + 2 * targets.unsqueeze(1)
    beta = fpr_at_precision(logits, targets, HALF["precision"], base_rate=HALF["base_rate"])
    found, expected = (
        recall_at_quantile_terms(logits, targets, init_queue(0, 1), diagnostics=True, **options)
        for options in (
            {"quantile": 1e-3, **HALF},
            {"quantile": float(beta), "budget_basis": "fpr"},
        )
    )
    torch.testing.assert_close(found.loss, expected.loss)
    for name in expected.stats:
        torch.testing.assert_close(found.stats[name], expected.stats[name])
    alerts = (logits[targets == 0] >= found.stats["threshold"]).double().mean()
    assert alerts.item() == pytest.approx(float(beta), abs=1e-12)


# --- a cold start ---


@pytest.mark.parametrize("options", SURROGATES, ids=str)
def test_a_model_without_the_precision_trains_over_alpha_to_beta(options):
    g = torch.Generator().manual_seed(0)
    targets = (torch.arange(200) < 20).long()
    logits = torch.randn(200, 1, generator=g) - 3 * targets.unsqueeze(1)
    logits[-1] = 9.0  # a negative on top of them all
    queue = init_queue(0, 1)
    band = {"alpha": 0.01, "beta": 0.08}
    found, expected = (
        pauc_loss_terms(logits, targets, queue, diagnostics=True, **band, **basis, **options)
        for basis in (HALF, {})
    )
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.stats, expected.stats, equal_nan=True)


def test_without_positives_or_negatives_the_class_is_left_out():
    for label in (0, 1):
        logits = torch.randn(30, 1, requires_grad=True)
        terms = pauc_loss_terms(
            logits, torch.full((30,), label), init_queue(0, 1), **HALF, beta=0.05
        )
        terms.loss.backward()
        assert terms.loss.item() == 0
        assert not terms.valid.item()
        assert logits.grad.count_nonzero() == 0


@pytest.mark.parametrize("options", SURROGATES[:2], ids=str)
def test_no_gradient_goes_through_the_end(options):
    """The queue has both edges, so that the numbers see nothing else of the batch's positives."""
    g = torch.Generator().manual_seed(0)
    held = torch.randn(200, 1, generator=g, dtype=torch.float64)
    labels = (torch.arange(200) % 5 == 0).long()
    queue = enqueue(init_queue(200, 1, dtype=torch.float64), held + labels.unsqueeze(1), labels)
    logits = torch.randn(12, 1, generator=g, dtype=torch.float64, requires_grad=True)

    def loss(logits):
        ones = torch.ones(12, dtype=torch.int64)
        return pauc_loss_fn(logits, ones, queue, beta=0.01, **HALF, **options)[0]

    assert torch.autograd.gradcheck(loss, logits)


@pytest.mark.slow
def test_a_cold_start_reaches_the_target_on_new_rows():
    """Without BCE: the precision holds at the shipped threshold, near the best recall there is."""
    torch.manual_seed(0)
    rate, precision, shift = 0.02, 0.5, 1.7

    def rows(count):
        targets = (torch.rand(count) < rate).long()
        features = torch.randn(count, 6)
        features[:, :3] += shift * targets.unsqueeze(1)
        return features, targets

    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    loss_fn = pauc.PAUCAtBudgetLoss(
        1,
        budget_basis="precision",
        precision=precision,
        base_rate=rate,
        beta=fpr_from_precision(precision, base_rate=rate, tpr=0.2),
        surrogate="pairwise",
        link="logistic",
        queue_size=8192,
        gradient_scale="live",
    )
    for _ in range(150):
        features, targets = rows(1024)
        optimizer.zero_grad()
        loss_fn(model(features), targets).backward()
        optimizer.step()
    with torch.no_grad():
        features, targets = rows(60_000)
        point = pauc.select_threshold(model(features)[:, 0], targets, precision=precision)
        features, targets = rows(200_000)
        alerts = model(features)[:, 0] >= point.threshold
    reached = targets[alerts].double().mean().item()
    recall = alerts[targets == 1].double().mean().item()
    # The best score is the sum of three features: normal tails that are a known shift apart.
    apart = shift * math.sqrt(3)
    best = normal_tail(threshold_of_population(normal_tail, apart, precision, rate) - apart)
    assert reached == pytest.approx(precision, abs=0.03)
    assert recall > 0.95 * best, (recall, best)
