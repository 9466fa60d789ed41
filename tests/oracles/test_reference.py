"""The oracle itself, against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.reference import (
    EPS64,
    Frozen,
    Options,
    Row,
    Sample,
    exact_partial_auc,
    quantile,
    reference_gradient,
    reference_loss_frozen,
    reference_scale,
    reference_step,
)

# Five negatives 0..4 and one positive. Over the lower half of the FPR: t_alpha = 4, t_beta = 2
# (rank 0.5 * 4), and the IQR is 3 - 1 = 2, so that temperature 0.5 makes tau_eff = 1.
HALF_BAND = {"num_classes": 1, "queue_size": 8, "beta": 0.5, "temperature": 0.5}
NEGATIVES = [[0.0], [1.0], [2.0], [3.0], [4.0]]
NO_NEGATIVE_IS_POSITIVE = [0] * 5


def logistic(z):
    return 1 / (1 + math.exp(-z))


def with_positive(score):
    return [*NEGATIVES, [score]], [*NO_NEGATIVE_IS_POSITIVE, 1]


@pytest.mark.parametrize(
    ("interpolation", "expected"),
    [("higher", 30.0), ("lower", 20.0), ("linear", 27.5), ("midpoint", 25.0), ("nearest", 30.0)],
)
def test_quantile_between_two_scores(interpolation, expected):
    # Three scores, level 1/8: rank 1/4 from the top, between 30 and 20.
    assert quantile([10.0, 30.0, 20.0], 0.125, interpolation) == expected


def test_nearest_takes_a_half_to_the_even_ascending_position():
    assert quantile([0.0, 1.0], 0.5, "nearest") == 0.0  # position 0.5 -> 0
    assert quantile([0.0, 1.0, 2.0, 3.0], 0.5, "nearest") == 2.0  # position 1.5 -> 2


@given(
    st.lists(st.integers(-8, 8).map(float), min_size=1, max_size=20),
    st.integers(0, 64).map(lambda k: k / 64),
    st.sampled_from(["linear", "lower", "higher", "nearest", "midpoint"]),
)
def test_quantile_means_what_it_means_for_torch(scores, level, interpolation):
    # Level k/64 of small integers: nothing rounds on either side.
    expected = torch.quantile(
        torch.tensor(scores, dtype=torch.float64), 1 - level, interpolation=interpolation
    )
    assert quantile(scores, level, interpolation) == expected.item()


def test_a_positive_in_the_middle_of_the_band_loses_one_half():
    logits, targets = with_positive(3.0)
    result = reference_step(logits, targets, [], **HALF_BAND)
    assert result.loss == pytest.approx(0.5)  # (sigmoid(-1) + sigmoid(1)) / 2
    assert result.stats["t_alpha"] == [4.0]
    assert result.stats["t_beta"] == [2.0]
    assert result.stats["tau_eff"] == [1.0]
    assert result.stats["band_neg_count"] == [3]
    assert result.stats["ref_count"] == [5]


def test_trapezoid_counts_the_inner_knot_twice():
    logits, targets = with_positive(4.0)
    loss = reference_step(logits, targets, [], **HALF_BAND, n_knots=3).loss
    assert loss == pytest.approx(1 - (0.5 + 2 * logistic(1) + logistic(2)) / 4)


def test_pairwise_is_the_mean_over_the_band():
    logits, targets = with_positive(4.0)
    loss = reference_step(logits, targets, [], **HALF_BAND, surrogate="pairwise").loss
    assert loss == pytest.approx(1 - (logistic(2) + logistic(1) + 0.5) / 3)


def test_logistic_link_is_one_bit_at_a_tie():
    logits, targets = with_positive(4.0)
    chosen = {**HALF_BAND, "surrogate": "pairwise", "link": "logistic", "beta": 0.1}
    # Only the negative at 4 is in the band (rank 0.4, "higher").
    assert reference_step(logits, targets, [], **chosen).loss == pytest.approx(1.0)


def test_weights_move_the_numerator_only():
    logits, targets = with_positive(4.0)
    logits, targets = [*logits, [2.0]], [*targets, 1]
    weight = [9.0] * 5 + [3.0, 1.0]
    result = reference_step(logits, targets, [], weight=weight, **HALF_BAND)
    high, low = (0.5 + logistic(2)) / 2, (logistic(-2) + 0.5) / 2
    assert result.loss == pytest.approx(1 - (3 * high + low) / 4)
    assert result.stats["pauc_var"] == [pytest.approx(3 / 16 * (high - low) ** 2)]


def test_a_mined_negative_is_in_the_band_but_not_in_the_reference():
    logits, targets = with_positive(4.0)
    logits, targets = [*logits, [3.5], [9.0]], [*targets, 0, 0]
    iid = [True] * 6 + [False] * 2
    result = reference_step(logits, targets, [], iid=iid, **HALF_BAND, surrogate="pairwise")
    band = [0.5, logistic(1), logistic(2), logistic(0.5)]
    assert result.loss == pytest.approx(1 - sum(band) / 4)
    assert result.stats["band_neg_count"] == [3]


def test_population_counts_the_positives():
    logits, targets = with_positive(8.0)
    result = reference_step(logits, targets, [], **HALF_BAND, budget_basis="population")
    assert result.stats["ref_count"] == [6]
    assert result.stats["t_alpha"] == [8.0]
    assert result.stats["t_beta"] == [3.0]  # rank 2.5 of 8 4 3 2 1 0, the higher


def test_live_numerator_ignores_the_queue():
    logits, targets = with_positive(3.0)
    queue = [Row((100.0,), 1)]
    live = reference_step(logits, targets, queue, **HALF_BAND, pos_numerator="live")
    assert live.loss == pytest.approx(0.5)
    assert not reference_step(NEGATIVES, [0] * 5, queue, **HALF_BAND, pos_numerator="live").valid[0]


def test_invalid_classes_leave_the_mean():
    # Classes 0 and 1 mirror one another; class 2 has no positive.
    logits = [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.5, 0.25, 0.5], [0.25, 0.5, 0.25]]
    # "band": the IQR of two negatives is zero under "higher", which takes the top one twice.
    chosen = {"num_classes": 3, "queue_size": 0, "beta": 1.0, "tau_scale": "band"}
    targets = [0, 1, 1, 0]
    result = reference_step(logits, targets, [], **chosen)
    assert result.valid == [True, True, False]
    assert math.isnan(result.per_class[2])
    assert result.loss == pytest.approx(sum(result.per_class[:2]) / 2)
    assert reference_step(logits, targets, [], **chosen, reduction="sum").loss == pytest.approx(
        sum(result.per_class[:2])
    )


def test_no_valid_class_is_a_zero():
    assert reference_step([], [], [], num_classes=2, queue_size=4).loss == 0.0
    assert reference_step([[1.0]], [1], [], num_classes=1, queue_size=4, reduction="sum").loss == 0


def test_tied_negatives_are_degenerate_except_under_unit_scale():
    logits, targets = [[1.0], [1.0], [2.0]], [0, 0, 1]
    chosen = {"num_classes": 1, "queue_size": 0, "temperature": 1.0}
    result = reference_step(logits, targets, [], **chosen)
    assert result.degenerate == [True]
    assert result.valid == [False]
    unit = reference_step(logits, targets, [], **chosen, tau_scale="unit")
    assert unit.degenerate == [False]
    assert unit.loss == pytest.approx(1 - logistic(1))


def test_a_spread_of_a_few_roundings_is_zero():
    o = Options(beta=1.0, tau_scale="band")
    assert reference_scale([1.0, 1.0 + 4 * EPS64], o, EPS64) == 0
    assert reference_scale([1.0, 1.0 + 8 * EPS64], o, EPS64) == 8 * EPS64


def test_a_row_that_is_not_finite_shows_and_does_not_stay():
    logits = [[1.0, 0.0], [0.0, math.nan], [0.5, 0.25], [0.25, 0.5]]
    chosen = {"num_classes": 2, "queue_size": 8, "beta": 1.0, "tau_scale": "band"}
    result = reference_step(logits, [0, 1, 1, 0], [], **chosen)
    assert result.valid == [True, True]
    assert math.isfinite(result.per_class[0])
    assert math.isnan(result.loss)
    assert [row.target for row in result.queue] == [0, 1, 0]


def test_an_ignored_row_is_absent():
    logits, targets = with_positive(3.0)
    result = reference_step([[math.nan], *logits], [-100, *targets], [], **HALF_BAND)
    assert result == reference_step(logits, targets, [], **HALF_BAND)


def test_the_queue_keeps_the_newest_rows_in_order():
    queue = [Row((float(i),), 0) for i in range(3)]
    result = reference_step([[7.0], [8.0]], [0, 1], queue, num_classes=1, queue_size=4)
    assert [row.scores[0] for row in result.queue] == [1.0, 2.0, 7.0, 8.0]
    assert reference_step([[7.0]], [0], queue, num_classes=1, queue_size=0).queue == []


def positives(*pairs):
    return [Sample(s, True, True, w, 0) for s, w in pairs]


def test_exact_partial_auc_of_a_staircase():
    # Negatives 1 and 3, positives 2 (weight 1) and 4 (weight 3): TPR 3/4 up to FPR 1/2, then 1.
    found = positives((2.0, 1.0), (4.0, 3.0))
    assert exact_partial_auc(found, [1.0, 3.0], 0.0, 0.5) == pytest.approx(0.75)
    assert exact_partial_auc(found, [1.0, 3.0], 0.25, 1.0) == pytest.approx((0.1875 + 0.5) / 0.75)


def test_exact_partial_auc_of_a_tie_is_a_diagonal():
    found = positives((1.0, 1.0))
    assert exact_partial_auc(found, [1.0, 1.0], 0.0, 1.0) == pytest.approx(0.5)
    assert exact_partial_auc(found, [1.0, 1.0], 0.0, 0.5) == pytest.approx(0.25)


def test_gradient_of_the_positive_is_the_slope_of_two_sigmoids():
    logits, targets = with_positive(3.0)
    gradient = reference_gradient(logits, targets, [], num_classes=1, beta=0.5, temperature=0.5)
    slope = logistic(1) * logistic(-1)
    assert [row[0] for row in gradient] == pytest.approx([0, 0, 0, 0, 0, -slope], abs=1e-8)


def test_gradient_of_a_pair_is_equal_and_opposite():
    logits, targets = with_positive(3.0)
    chosen = {"num_classes": 1, "beta": 0.1, "temperature": 0.5, "surrogate": "pairwise"}
    gradient = reference_gradient(logits, targets, [], **chosen)
    slope = logistic(1) * logistic(-1)
    assert [row[0] for row in gradient] == pytest.approx([0, 0, 0, 0, slope, -slope], abs=1e-8)


def test_live_scale_multiplies_each_side_by_pool_over_live():
    logits, targets = with_positive(3.0)
    queue = [Row((3.0,), 1), Row((3.0,), 1), Row((0.0,), 0)]
    chosen = {"num_classes": 1, "beta": 0.5, "temperature": 0.5, "tau_scale": "unit"}
    pooled = reference_gradient(logits, targets, queue, **chosen)
    live = reference_gradient(logits, targets, queue, **chosen, gradient_scale="live")
    assert live[5][0] == pytest.approx(3 * pooled[5][0])


def test_frozen_loss_does_not_look_at_the_negatives_again():
    held = [Frozen([4.0, 2.0], 1.0, [False, True])]
    moved = reference_loss_frozen([[3.0], [50.0]], [1, 0], [], held, num_classes=1)
    assert moved == pytest.approx(0.5)
