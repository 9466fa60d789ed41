"""Mistakes that would train on without a word: one warning each, and none where all is well."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch

from pauc import BandSampler, PAUCAtBudgetLoss, RecallAtQuantileLoss

ROWS = 128


def said_by(loss_fn, steps, draw):
    """Return the warnings of a training on what ``draw`` returns: logits, targets, keywords."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(steps):
            logits, targets, keywords = draw()
            loss_fn(logits, targets, **keywords)
    return [str(warning.message) for warning in said]


def recipe(**changed):
    known = {"batch_size": ROWS, "positive_rate": 0.1, **changed}
    return PAUCAtBudgetLoss.for_budget(0.05, **known)


def healthy():
    """Log-odds of positives from N(2, 1) among negatives from N(0, 1)."""
    targets = (torch.rand(ROWS) < 0.1).long()
    drawn = torch.randn(ROWS, 1) + 2 * targets[:, None]
    return 2 * drawn - 2 - math.log(9), targets, {}


def no_logits():
    """As healthy, between -1 and 1 as cosines are."""
    logits, targets, keywords = healthy()
    return ((logits + 2) / 4).tanh(), targets, keywords


def no_positive():
    return torch.randn(ROWS, 1), torch.zeros(ROWS, dtype=torch.int64), {}


def probabilities():
    logits, targets, keywords = healthy()
    return logits.sigmoid(), targets, keywords


def collapsed():
    _, targets, keywords = healthy()
    return torch.full((ROWS, 1), 2.5) + 1e-7 * torch.randn(ROWS, 1), targets, keywords


def chance():
    logits, _, keywords = healthy()
    return logits, (torch.rand(ROWS) < 0.1).long(), keywords


@pytest.mark.parametrize(
    ("draw", "steps", "words"),
    [
        (no_positive, 40, "class 0 has no positive among the last"),
        (probabilities, 40, r"all lie in [0, 1], as probabilities do"),
        (collapsed, 40, "have collapsed"),
        (chance, 520, "the training is stalled: after 512 calls"),
        (no_logits, 520, "the pairs have no weight: after 512 calls"),
    ],
)
def test_each_mistake_is_named_once(draw, steps, words):
    said = said_by(recipe(), steps, draw)
    assert len([message for message in said if words in message]) == 1
    assert "Cure: " in said[-1]


def test_a_healthy_training_says_nothing():
    assert said_by(recipe(), 1100, healthy) == []


def test_a_class_that_never_comes_is_named():
    def draw():
        return torch.randn(ROWS, 5), torch.randint(0, 4, (ROWS,)), {}

    said = said_by(recipe(num_classes=5, positive_rate=0.25), 40, draw)
    assert [message for message in said if "class 4 has no positive" in message]


def test_a_label_that_nothing_has_is_named():
    def draw():
        targets = (torch.rand(ROWS, 3) < 0.3).long()
        targets[:, 1] = torch.where(targets[:, 1] == 1, -100, 0)
        return torch.randn(ROWS, 3), targets, {}

    said = said_by(recipe(num_classes=3, multilabel=True, positive_rate=0.3), 40, draw)
    assert [message for message in said if "class 1 has no positive" in message]


def test_batches_of_a_sampler_want_their_mask():
    sampler = BandSampler((torch.arange(2000) % 10 == 0).long(), ROWS)

    def draw(**keywords):
        targets = (torch.rand(ROWS) < sampler.positive_rate).long()
        return torch.randn(ROWS, 1) + targets[:, None], targets, keywords

    loss_fn = PAUCAtBudgetLoss.for_budget(0.05, sampler=sampler)
    (message,) = said_by(loss_fn, 40, draw)
    assert "no iid_mask came with batches of which 0.5 are iid" in message
    loss_fn = PAUCAtBudgetLoss.for_budget(0.05, sampler=sampler)
    assert said_by(loss_fn, 40, lambda: draw(iid_mask=sampler.iid_mask)) == []


def test_another_rate_than_was_told_is_named():
    (message,) = said_by(recipe(positive_rate=0.01), 40, healthy)
    assert "positive_rate=0.01 was told" in message


def test_no_look_where_nothing_is_to_be_checked_or_nothing_enters():
    assert said_by(recipe(validate_args=False), 40, no_positive) == []
    assert not [m for m in said_by(recipe().eval(), 40, no_positive) if "no positive" in m]


def test_other_losses_look_too_and_know_no_band():
    said = said_by(RecallAtQuantileLoss(1, quantile=0.1, queue_size=256), 520, chance)
    assert said == []
    said = said_by(RecallAtQuantileLoss(1, quantile=0.1, queue_size=256), 40, no_positive)
    assert any("has no positive" in message for message in said)


def test_a_warm_up_is_not_stalled():
    loss_fn = recipe(pauc_weight=0.0)
    assert said_by(loss_fn, 520, chance) == []


def test_a_copy_has_the_recipe_and_counts_for_itself():
    loss_fn = recipe()
    said_by(loss_fn, 20, no_positive)
    twin = copy.deepcopy(loss_fn)
    assert said_by(twin, 20, no_positive)
    assert repr(twin) == repr(loss_fn)
