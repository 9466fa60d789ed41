"""`BandSampler` with several labels a row: positives and hard negatives come evenly by label."""

from __future__ import annotations

import math
from collections import Counter

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from pauc import BandSampler

IGNORE = -100
examples = settings(max_examples=max(1, settings().max_examples // 3))


def random_targets(seed, n_rows=300, n_labels=3):
    """Labels of which the first is rare, the last common, and a fifth missing."""
    generator = torch.Generator().manual_seed(seed)
    rates = torch.linspace(0.03, 0.4, n_labels)
    targets = (torch.rand(n_rows, n_labels, generator=generator) < rates).long()
    missing = torch.rand(n_rows, n_labels, generator=generator) < 0.2
    targets = targets.masked_fill(missing, IGNORE)
    targets[:5] = IGNORE
    targets[5] = 1  # so that every label has a positive
    return targets


def sampler_of(targets, batch_size=60, **options):
    return BandSampler(
        targets, batch_size, num_classes=targets.shape[1], multilabel=True, **options
    )


@examples
@given(seed=st.integers(0, 2**20))
def test_each_part_holds_what_it_says(seed):
    targets = random_targets(seed)
    scores = torch.randn(targets.shape, generator=torch.Generator().manual_seed(seed))
    sampler = sampler_of(targets, hard_fraction=0.05, seed=seed)
    sampler.refresh(scores)
    hardest = []
    for label in range(3):
        negatives = [row for row in range(300) if targets[row, label] == 0]
        ordered = sorted(negatives, key=lambda row: scores[row, label], reverse=True)
        hardest.append(ordered[: max(1, round(0.05 * len(negatives)))])
    assert sampler.hard_rows.tolist() == [row for rows in hardest for row in rows]
    for batch in sampler:
        assert not bool((targets[batch] == IGNORE).all(dim=1).any())
        for place, row in enumerate(batch[30:45]):
            assert targets[row, place % 3] == 1  # 15 a batch: each batch begins with label 0
        for place, row in enumerate(batch[45:]):
            assert row in hardest[place % 3]


def test_an_epoch_covers_the_rows_with_a_known_label_once():
    targets = random_targets(0)
    sampler = sampler_of(targets)
    stream = [row for batch in sampler for row in batch[:30]]
    known = (targets != IGNORE).any(dim=1).nonzero().flatten().tolist()
    assert sorted(stream[: len(known)]) == known


def test_positives_of_a_label_come_as_often_as_those_of_another():
    targets = random_targets(1)
    sampler = sampler_of(targets, batch_size=16, iid_share=0.5, positive_share=0.25)
    places = [row for batch in sampler for row in batch[8:12]]  # 4 a batch: the turn goes on
    drawn = Counter(place % 3 for place in range(len(places)))
    assert max(drawn.values()) - min(drawn.values()) <= 1
    for place, row in enumerate(places):
        assert targets[row, place % 3] == 1


def test_scores_are_recorded_by_label_and_for_known_negatives_alone():
    targets = torch.tensor([[0, 1], [0, 0], [1, IGNORE], [IGNORE, 0], [0, 0]])
    sampler = sampler_of(targets, 8, hard_fraction=0.5)
    sampler.update(torch.arange(4), torch.tensor([[1.0, 9], [3, 2], [9, 9], [9, 4]]))
    sampler.refresh()
    assert sampler.hard_rows.tolist() == [1, 3]  # of two seen negatives of each label the harder
    assert sampler.candidates.tolist() == [0, 1, 3]


def test_a_label_without_rows_of_a_kind_gives_its_turns_to_the_others():
    targets = torch.tensor(
        [[0, 1, 0], [0, 1, 1], [0, 1, 0]]
    )  # label 0: no positive; 1: no negative
    sampler = sampler_of(targets, 8, num_batches=9)
    for batch in sampler:
        assert set(batch[4:6]) <= {0, 1, 2}
        assert batch[4] in (0, 1, 2)
        assert bool((targets[batch[4:6]] == 1).any(dim=1).all())
        assert bool((targets[batch[6:]][:, [0, 2]] == 0).any(dim=1).all())


def test_a_resumed_run_draws_the_same_batches():
    targets = random_targets(2)
    scores = torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    sampler = sampler_of(targets, 26)  # 6 or 7 of each: the turn is not at 0 after a batch
    stream = iter(sampler)
    for _ in range(4):
        rows = torch.tensor(next(stream))
        sampler.update(rows, scores[rows])
    sampler.refresh()
    next(stream)
    resumed = sampler_of(targets, 26, seed=5)
    resumed.load_state_dict(sampler.state_dict(consumed=5))
    assert list(resumed) == list(stream)


def test_rate_is_at_most_that_of_the_batches_and_exact_where_labels_exclude_each_other():
    targets = torch.zeros(400, 2, dtype=torch.int64)
    targets[:20, 0] = 1
    targets[20:120, 1] = 1
    sampler = sampler_of(targets, 40, iid_share=0.5, positive_share=0.5)
    drawn = torch.cat([targets[batch] for batch in sampler]).double().mean(dim=0)
    assert drawn.min().item() == pytest.approx(sampler.positive_rate, abs=1e-12)


BAD = [
    (torch.zeros(4, dtype=torch.int64), 1, r"targets must be \[N, 1\] with multilabel"),
    (torch.zeros(4, 2, dtype=torch.int64), 3, r"targets must be \[N, 3\] .* got \[4, 2\]"),
    (torch.tensor([[0, 2]]), 2, "targets must be whole numbers in 0..1"),
    (torch.tensor([[0.0, math.nan]]), 2, "targets"),
]


@pytest.mark.parametrize(("targets", "num_classes", "message"), BAD)
def test_bad_targets_are_named(targets, num_classes, message):
    with pytest.raises(ValueError, match=message):
        BandSampler(targets, 8, num_classes=num_classes, multilabel=True)


def test_multilabel_must_be_a_flag():
    with pytest.raises(TypeError, match="multilabel must be a bool"):
        BandSampler(torch.tensor([0, 1]), 8, multilabel=1)
