"""`BandSampler`: the parts of a batch, the hard set against brute force, resuming, sharding."""

from __future__ import annotations

import io
import math
from collections import Counter, deque
from itertools import islice

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch.utils.data import DataLoader, TensorDataset

from pauc import BandSampler, PAUCAtBudgetLoss
from pauc.sampling.hard_set import HardSet

IGNORE = -100
examples = settings(max_examples=max(1, settings().max_examples // 3))


def binary_targets(n_rows=400, n_positives=20, n_ignored=15, seed=0):
    targets = torch.zeros(n_rows, dtype=torch.int64)
    targets[:n_positives] = 1
    targets[n_positives : n_positives + n_ignored] = IGNORE
    return targets[torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))]


def scores_of(targets, seed=0):
    return torch.randn(len(targets), generator=torch.Generator().manual_seed(seed))


def parts_of(sampler, batch, iid_share, positive_share):
    n_iid = round(sampler.batch_size * iid_share)
    n_both = round(sampler.batch_size * (iid_share + positive_share))
    return batch[:n_iid], batch[n_iid:n_both], batch[n_both:]


# --- what a batch holds ---


@st.composite
def shares(draw):
    iid_share = draw(st.integers(1, 20)) / 20
    return iid_share, draw(st.integers(0, round(20 * (1 - iid_share)))) / 20


@examples
@given(shares=shares(), batch_size=st.integers(20, 64), seed=st.integers(0, 2**40))
def test_every_batch_has_its_shares(shares, batch_size, seed):
    targets = binary_targets()
    sampler = BandSampler(
        targets, batch_size, iid_share=shares[0], positive_share=shares[1], seed=seed
    )
    scores = scores_of(targets)
    sampler.refresh(scores)
    negatives = [row for row in range(len(targets)) if targets[row] == 0]
    hardest = sorted(negatives, key=scores.__getitem__)[-round(0.05 * len(negatives)) :]
    for batch in islice(sampler, 5):
        iid, positives, hard = parts_of(sampler, batch, *shares)
        assert len(batch) == batch_size
        assert int(sampler.iid_mask.sum()) == len(iid)
        assert bool(sampler.iid_mask[: len(iid)].all())
        assert IGNORE not in targets[batch]
        assert all(targets[row] == 1 for row in positives)
        assert set(hard) <= set(hardest)


def test_iid_rows_go_through_the_data_set_before_any_comes_again():
    targets = binary_targets()
    sampler = BandSampler(targets, 32, num_batches=100)
    present = (targets != IGNORE).nonzero().flatten().tolist()
    stream = [row for batch in sampler for row in batch[:16]]
    passes = [stream[k : k + len(present)] for k in range(0, len(stream), len(present))]
    assert all(sorted(one) == present for one in passes[:-1])
    assert len(set(passes[-1])) == len(passes[-1])
    assert passes[0] != passes[1]


def test_a_batch_larger_than_the_data_set_repeats_it():
    sampler = BandSampler(torch.tensor([0, 1, 0]), 16, iid_share=0.5)
    for batch in islice(sampler, 3):
        assert set(Counter(batch[:6]).values()) == {2}


@pytest.mark.parametrize(("iid_share", "expected"), [(0.5, 25), (1.0, 13), (0.25, 49)])
def test_an_epoch_covers_the_data_set_once_with_iid_rows(iid_share, expected):
    targets = binary_targets()  # 385 rows are not ignored
    sampler = BandSampler(targets, 32, iid_share=iid_share, positive_share=0.0)
    assert len(sampler) == len(list(sampler)) == expected
    sampler.refresh()
    assert len(list(sampler)) == expected


def test_rates_are_those_of_the_batches():
    targets = binary_targets(n_rows=400, n_positives=10, n_ignored=0)
    sampler = BandSampler(targets, 40, iid_share=0.5, positive_share=0.2)
    drawn = torch.cat([targets[batch] for batch in sampler])  # iid rows: the data set once
    assert sampler.iid_share == sampler.iid_mask.double().mean() == 0.5
    assert drawn.double().mean().item() == pytest.approx(sampler.positive_rate, abs=1e-12)


def test_rate_of_several_classes_is_that_of_the_rarest():
    targets = torch.tensor([0] * 100 + [2] * 60 + [4] * 40)  # classes 1 and 3 have no rows
    sampler = BandSampler(targets, 40, num_classes=5, iid_share=0.25, positive_share=0.75)
    drawn = torch.cat([targets[batch] for batch in sampler])
    rates = drawn.bincount(minlength=5)[[0, 2, 4]] / len(drawn)
    assert rates.min().item() == pytest.approx(sampler.positive_rate, abs=1e-6)


def test_before_a_refresh_every_negative_is_hard():
    targets = binary_targets()
    sampler = BandSampler(targets, 100, num_batches=200)
    drawn = {row for batch in sampler for row in batch[75:]}
    assert drawn == set((targets == 0).nonzero().flatten().tolist())
    sampler.refresh()  # nothing was recorded: nothing changes
    assert len(sampler.hard_rows) == len(drawn)


def test_global_generators_are_neither_read_nor_moved():
    targets = binary_targets()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches = list(BandSampler(targets, 32))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert list(BandSampler(targets, 32)) == batches
    assert list(BandSampler(targets, 32, seed=1)) != batches


def test_positives_of_several_classes_come_evenly():
    targets = torch.tensor([0] * 200 + [1] * 30 + [3] * 3 + [IGNORE] * 10)  # none of class 2
    sampler = BandSampler(targets, 40, num_classes=4, num_batches=30)
    counts = Counter()
    for batch in sampler:
        here = Counter(targets[batch[20:30]].tolist())
        counts += here
        assert set(here.values()) <= {3, 4}
    assert counts == {0: 100, 1: 100, 3: 100}


def test_a_multiclass_row_is_as_hard_as_its_highest_wrong_logit():
    targets = torch.tensor([0, 1, 2, 0, 1, IGNORE])
    logits = torch.tensor([[9, 0, 1], [3, 9, 0], [0, 2, 9], [9, 0, 0], [8, 0, 0], [9, 9, 9.0]])
    sampler = BandSampler(targets, 8, num_classes=3, hard_fraction=0.4)
    sampler.refresh(logits)
    assert sampler.hard_rows.tolist() == [4, 1]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("collate", [True, False])
def test_the_mask_fits_what_the_loader_yields(num_workers, collate):
    targets = binary_targets()
    data = TensorDataset(targets, torch.arange(len(targets)))
    twin, sampler = BandSampler(targets, 32), BandSampler(targets, 32)
    how = {"batch_sampler": sampler} if collate else {"sampler": sampler, "batch_size": None}
    loader = DataLoader(data, num_workers=num_workers, **how)
    assert len(loader) == len(sampler)
    stream = []
    for batch, (loaded, rows) in zip(twin, loader, strict=True):
        assert rows.tolist() == batch
        assert torch.equal(loaded, targets[rows])
        assert bool((loaded[~sampler.iid_mask][:8] == 1).all())
        stream += rows[sampler.iid_mask].tolist()
    assert sorted(stream[:385]) == (targets != IGNORE).nonzero().flatten().tolist()


# --- the hard set ---


N_ROWS = 300
SEEDS = st.integers(0, 2**32 - 1)


class HardSetMachine(RuleBasedStateMachine):
    """Against a dictionary of last seen scores that is sorted anew each time."""

    def __init__(self):
        super().__init__()
        self.eligible = torch.rand(N_ROWS, generator=torch.Generator().manual_seed(0)) < 0.9
        self.hard = HardSet(self.eligible, 0.03)
        self.seen = {}
        self.shift = 0.0

    # Rows come from a seed: lists that Hypothesis draws are too short to change the pool.
    @rule(count=st.integers(0, 250), seed=SEEDS, coarse=st.booleans())
    def record(self, count, seed, coarse):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(N_ROWS, (count,), generator=generator)
        scores = self.shift + torch.randn(count, generator=generator)
        scores = scores.round() if coarse else scores
        self.hard.record(rows, scores)
        batch = {}
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            batch[row] = max(score, batch.get(row, -math.inf))
        self.seen |= {row: score for row, score in batch.items() if self.eligible[row]}

    @rule(seed=SEEDS)
    def record_the_hard_rows_as_easier(self, seed):
        rows = self.hard.rows[:5]
        scores = self.shift - torch.rand(len(rows), generator=torch.Generator().manual_seed(seed))
        self.hard.record(rows, scores)
        self.seen |= dict(zip(rows.tolist(), scores.tolist(), strict=True))

    @rule(seed=SEEDS, missing=st.integers(0, N_ROWS))
    def record_all(self, seed, missing):
        scores = self.shift + torch.randn(N_ROWS, generator=torch.Generator().manual_seed(seed))
        scores[:missing] = math.nan
        self.hard.record_all(scores)
        finite = [row for row in range(missing, N_ROWS) if self.eligible[row]]
        self.seen |= {row: float(scores[row]) for row in finite}

    @rule(bad=st.sampled_from([math.nan, math.inf, -math.inf]), row=st.integers(0, N_ROWS - 1))
    def record_what_is_not_finite(self, bad, row):
        self.hard.record(torch.tensor([row]), torch.tensor([bad]))

    @rule(by=st.sampled_from([-1.0, -0.3, 0.3, 1.0]))
    def drift(self, by):
        self.shift += by

    @rule()
    def move_to_another(self):
        state = self.hard.state_dict()
        self.hard = HardSet(self.eligible, 0.03)
        self.hard.load_state_dict(state)

    @precondition(lambda self: self.seen)
    @rule()
    def select(self):
        self.hard.select()
        size = max(1, round(0.03 * len(self.seen)))
        best = sorted(self.seen.values(), reverse=True)[:size]
        rows = self.hard.rows.tolist()
        assert len(set(rows)) == size
        assert [self.seen[row] for row in rows] == best
        assert set(rows) <= set(self.hard.candidates.tolist())

    @invariant()
    def candidates_are_distinct(self):
        candidates = self.hard.candidates
        assert len(set(candidates.tolist())) == len(candidates)
        assert bool(self.eligible[candidates].all())


TestHardSet = HardSetMachine.TestCase
TestHardSet.settings = settings(stateful_step_count=30)


def test_a_selection_does_not_scan_all_rows_while_scores_move_a_little():
    n_rows, generator = 20_000, torch.Generator().manual_seed(0)
    scores = torch.randn(n_rows, generator=generator)
    hard = HardSet(torch.ones(n_rows, dtype=torch.bool), 0.02)
    hard.record(torch.arange(n_rows), scores)
    hard.select()
    for _ in range(50):
        rows = torch.randint(n_rows, (500,), generator=generator)
        scores[rows] += 0.1 * torch.randn(500, generator=generator)
        hard.record(rows, scores[rows])
        hard.select()
        assert len(hard.candidates) <= 8 * 400
    assert hard.scans == 0
    hard.record(torch.arange(n_rows), scores - 5)
    hard.select()
    assert hard.scans == 1


def test_rows_outside_of_the_pool_are_found_after_it_was_cut():
    """When the pool is cut, its floor must stay where the rows outside of it end."""
    n_rows = 1000
    hard = HardSet(torch.ones(n_rows, dtype=torch.bool), 0.01)  # selects 10, pools 40
    hard.record_all(torch.arange(n_rows).flip(0).float())  # row 0 is the best; floor 960
    hard.select()
    # Many rows enter, then all of the pool but ten falls below row 40, which is outside of it.
    hard.record(torch.arange(500, 600), torch.full((100,), 990.0))
    hard.record(torch.arange(500, 600), torch.full((100,), 900.0))
    hard.record(torch.arange(10, 40), torch.full((30,), 901.0))
    hard.select()
    assert hard.rows.tolist() == list(range(10))
    hard.record(torch.arange(10), torch.full((10,), 902.0))
    hard.select()
    assert hard.rows.tolist() == list(range(40, 50))


@pytest.mark.parametrize("block", [7, 64])
def test_blocks_of_a_scan_do_not_change_what_is_selected(monkeypatch, block):
    monkeypatch.setattr("pauc.sampling.row_set.BLOCK", block)
    monkeypatch.setattr("pauc.sampling.hard_set.BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(N_ROWS, generator=generator)
    eligible = torch.rand(N_ROWS, generator=generator) < 0.9
    hard = HardSet(eligible, 0.03)
    best = scores.masked_fill(~eligible, -torch.inf).topk(round(0.03 * int(eligible.sum()))).indices
    hard.record_all(scores)
    hard.select()
    assert torch.equal(hard.rows, best)
    hard.record(torch.arange(N_ROWS), scores - 5)  # all fall: a scan
    hard.select()
    assert hard.scans == 1
    assert torch.equal(hard.rows, best)


def test_the_pool_stays_small_before_the_first_selection(monkeypatch):
    monkeypatch.setattr("pauc.sampling.hard_set.BLOCK", 100)
    hard = HardSet(torch.ones(20_000, dtype=torch.bool), 0.01)
    scores = scores_of(torch.zeros(20_000))
    for rows in torch.arange(20_000).split(50):
        hard.record(rows, scores[rows])
        assert len(hard.candidates) <= max(100, 8 * 200) + 50
    hard.select()
    assert torch.equal(hard.rows, scores.topk(200).indices)
    assert hard.scans == 0


def test_update_and_refresh_agree_with_scores_of_all_rows():
    targets = binary_targets()
    scores = scores_of(targets)
    given_all, step_by_step = BandSampler(targets, 32), BandSampler(targets, 32)
    given_all.refresh(scores.unsqueeze(1))
    for rows in torch.randperm(len(targets)).split(64):
        step_by_step.update(rows, scores[rows].unsqueeze(1).requires_grad_())
    assert len(step_by_step.hard_rows) > 18  # the draw is as it was until the refresh
    step_by_step.refresh()
    assert torch.equal(step_by_step.hard_rows, given_all.hard_rows)
    assert len(given_all.hard_rows) == 18  # 5 % of 365


# --- resuming ---


def train(sampler, n_batches, prefetch, log):
    """Consume batches `prefetch` behind the draw, as with workers, scoring rows as they come."""
    stream, waiting = iter(sampler), deque()
    for _ in range(n_batches):
        waiting.extend(islice(stream, prefetch + 1 - len(waiting)))
        batch = waiting.popleft()
        log.append(batch)
        sampler.update(torch.tensor(batch), torch.tensor(batch).mul(len(log) % 5 + 1).sin())
        if len(log) % 3 == 0:
            sampler.refresh()


def reload(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@examples
@given(stop=st.integers(0, 20), prefetch=st.integers(0, 5), again=st.integers(0, 6))
def test_a_resumed_run_draws_the_same_batches(stop, prefetch, again):
    targets = binary_targets()
    whole, parts = [], []
    train(BandSampler(targets, 32), 25, prefetch, whole)

    sampler = BandSampler(targets, 32)
    for n_batches in (stop, min(again, 25 - stop)):
        train(sampler, n_batches, prefetch, parts)
        state = reload(sampler.state_dict(consumed=n_batches))
        sampler = BandSampler(targets, 32, seed=7)  # another seed: the state must replace it
        sampler.load_state_dict(state)
    train(sampler, 25 - len(parts), prefetch, parts)
    assert parts == whole


def test_a_saved_sampler_is_not_tied_to_its_state():
    targets = binary_targets()
    sampler = BandSampler(targets, 32)
    sampler.refresh(scores_of(targets))
    stream = iter(sampler)
    list(islice(stream, 3))
    state = sampler.state_dict(consumed=3)
    rest = list(stream)
    sampler.refresh(-scores_of(targets))
    for _ in range(2):
        resumed = BandSampler(targets, 32)
        resumed.load_state_dict(state)
        assert list(resumed) == rest
        assert len(rest) == len(sampler) - 3
        resumed.update(torch.arange(400), scores_of(targets, seed=5))
        resumed.refresh()
        # The saved epoch is over with its rest; the next one is whole.
        assert len(list(resumed)) == len(sampler)


def test_the_classes_turn_is_resumed():
    targets = torch.arange(60) % 3
    sampler = BandSampler(targets, 8, num_classes=3)
    stream = iter(sampler)
    list(islice(stream, 4))
    resumed = BandSampler(targets, 8, num_classes=3)
    resumed.load_state_dict(sampler.state_dict(consumed=4))
    assert list(resumed) == list(stream)


def test_after_a_complete_epoch_the_next_one_follows():
    sampler = BandSampler(binary_targets(), 32)
    first = list(sampler)
    state = sampler.state_dict(consumed=len(first))
    sampler.refresh()
    second = list(sampler)
    assert second != first
    sampler.load_state_dict(state)
    assert list(sampler) == second
    iter(sampler)
    sampler.state_dict(consumed=0)  # counts from the new iteration, not from the one before


def test_hard_negatives_without_a_refresh_are_warned_of_once():
    sampler = BandSampler(binary_targets(), 32)
    list(sampler)
    with pytest.warns(UserWarning, match="an epoch is over without a call of refresh"):
        list(sampler)
    list(sampler)  # said once
    without_hard = BandSampler(binary_targets(), 32, iid_share=0.75, positive_share=0.25)
    list(without_hard)
    list(without_hard)


def test_resuming_with_workers_loses_no_prefetched_batch():
    targets = binary_targets()
    data = TensorDataset(torch.arange(len(targets)))

    def loader(sampler):
        return iter(DataLoader(data, batch_sampler=sampler, num_workers=2))

    whole = [rows.tolist() for (rows,) in loader(BandSampler(targets, 32))]
    sampler = BandSampler(targets, 32)
    parts = [rows.tolist() for (rows,) in islice(loader(sampler), 7)]
    state = reload(sampler.state_dict(consumed=7))
    assert len(state["unused"]) == 4  # two workers, each of which has drawn two batches ahead
    resumed = BandSampler(targets, 32)
    resumed.load_state_dict(state)
    parts += [rows.tolist() for (rows,) in loader(resumed)]
    assert parts == whole


# --- sharding ---


@examples
@given(world_size=st.integers(1, 4), batch_size=st.sampled_from([8, 20]), scored=st.booleans())
def test_ranks_share_out_the_batches_of_one(world_size, batch_size, scored):
    targets = binary_targets()
    whole = BandSampler(targets, world_size * batch_size)
    ranks = [
        BandSampler(targets, batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    if scored:
        for sampler in (whole, *ranks):
            sampler.refresh(scores_of(targets))
    assert {sampler.num_batches for sampler in ranks} == {len(whole)}
    for expected, *batches in zip(whole, *ranks, strict=True):
        assert Counter(expected) == sum(map(Counter, batches), Counter())
        iid = [row for batch in batches for row in batch[: batch_size // 2]]
        assert sorted(iid) == sorted(expected[: len(iid)])
    states = [sampler.state_dict(consumed=len(whole)) for sampler in ranks]
    assert all(torch.equal(s["draws"]["free"], states[0]["draws"]["free"]) for s in states)


def test_ranks_with_scores_of_their_own_stay_in_step():
    targets = binary_targets()
    ranks = [BandSampler(targets, 20, rank=rank, world_size=2) for rank in range(2)]
    whole = BandSampler(targets, 40)
    ranks[0].refresh(scores_of(targets))
    ranks[1].update(torch.arange(30), scores_of(targets)[:30])
    ranks[1].refresh()
    for expected, first, second in zip(whole, *ranks, strict=True):
        assert first[:10] + second[:10] == expected[:20]
        assert first[10:15] + second[10:15] == expected[20:30]


# --- why the mask ---


def test_edges_are_unbiased_under_the_mask_and_not_without():
    targets = torch.zeros(20_000, dtype=torch.int64)
    targets[:400] = 1
    scores = scores_of(targets) + 2.0 * targets
    negatives = scores[targets == 0]
    sampler = BandSampler(targets, 1024, num_batches=300)
    sampler.refresh(scores)
    loss = PAUCAtBudgetLoss(1, beta=0.05, queue_size=0, validate_args=False)

    def false_positive_rate(batch, mask):
        rows = torch.tensor(batch)
        _, stats = loss(scores[rows].unsqueeze(1), targets[rows], mask, return_diagnostics=True)
        return (negatives > stats["t_beta"]).double().mean()

    batches = list(sampler)
    honest = torch.stack([false_positive_rate(batch, sampler.iid_mask) for batch in batches])
    # 502 iid negatives: the edge is an order statistic, so the mean is right to one part in 502.
    # The rest is sampling error, sqrt(0.05 * 0.95 / 502 / 300) = 0.00056; four of it are allowed.
    assert abs(honest.mean() - 0.05) < 1 / 502 + 4 * 0.00056
    naive = torch.stack([false_positive_rate(batch, None) for batch in batches])
    assert naive.mean() < 0.05 / 5


# --- bad input ---

BAD = [
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"batch_size": 8.0}, TypeError, "batch_size"),
    ({"num_classes": 0}, ValueError, "num_classes"),
    ({"iid_share": 0.0}, ValueError, r"iid_share must be in \(0, 1\], got 0.0"),
    ({"iid_share": 1.1}, ValueError, "iid_share"),
    ({"iid_share": math.nan}, ValueError, "iid_share"),
    ({"iid_share": "half"}, TypeError, "iid_share"),
    ({"iid_share": 0.01}, ValueError, "iid_share must give at least one row of batch_size=8"),
    ({"positive_share": -0.1}, ValueError, r"positive_share must be in \[0, 1\], got -0.1"),
    ({"positive_share": 0.6}, ValueError, r"sum to at most 1, got 0.5 \+ 0.6"),
    ({"hard_fraction": 0.0}, ValueError, "hard_fraction"),
    ({"hard_fraction": 1.5}, ValueError, "hard_fraction"),
    ({"num_batches": 0}, ValueError, "num_batches"),
    ({"seed": -1}, ValueError, "seed"),
    ({"rank": -1, "world_size": 2}, ValueError, "rank"),
    ({"rank": 1}, ValueError, "rank and world_size must be given together, got 1 and None"),
    ({"rank": 2, "world_size": 2}, ValueError, "rank must be below world_size=2, got 2"),
    ({"rank": 0, "world_size": 0}, ValueError, "world_size"),
    ({"max_prefetch": 0}, ValueError, "max_prefetch"),
    ({"ignore_index": 0.5}, TypeError, "ignore_index"),
    ({"targets": torch.zeros(3, 2)}, ValueError, r"targets must be .* got \[3, 2\]"),
    ({"targets": torch.tensor([0, 1, 2])}, ValueError, "targets .* got 2 in row 2"),
    ({"targets": torch.tensor([0, 0.5])}, ValueError, "targets .* got 0.5 in row 1"),
    ({"targets": torch.tensor([IGNORE])}, ValueError, "not ignored"),
    ({"targets": torch.tensor([], dtype=torch.int64)}, ValueError, "got 0 rows"),
    ({"targets": torch.tensor([0, 0])}, ValueError, "targets must have a positive"),
    ({"targets": torch.tensor([1, 1])}, ValueError, "targets must have a negative"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda x: str(x)[:40])
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        BandSampler(**{"targets": torch.tensor([0, 1, 0, 1]), "batch_size": 8, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"targets": [0, 1, 0]},
        {"targets": torch.tensor([[0.0], [1.0]])},
        {"targets": torch.tensor([False, True])},
        {"targets": np.array([0, 1, 0], dtype=np.uint8)},
        {"iid_share": 1, "positive_share": 0, "targets": torch.tensor([0])},
        {"iid_share": 0.57, "positive_share": 0.43, "targets": torch.tensor([1])},
    ],
)
def test_good_arguments_are_taken(arguments):
    sampler = BandSampler(**{"targets": torch.tensor([0, 1, 0, 1]), "batch_size": 8, **arguments})
    assert all(len(batch) == 8 for batch in sampler)


@pytest.mark.parametrize(
    ("indices", "scores", "message"),
    [
        ([0, 1], torch.zeros(3), r"scores must be \[2, 1\].* got \[3, 1\]"),
        ([0, 1], torch.zeros(2, 2), r"got \[2, 2\]"),
        ([0, 400], torch.zeros(2), r"indices must be in 0..399, got 0 to 400"),
        ([-1, 0], torch.zeros(2), "got -1 to 0"),
    ],
)
def test_bad_scores_are_named_and_not_recorded(indices, scores, message):
    sampler = BandSampler(binary_targets(), 8)
    with pytest.raises(ValueError, match=message):
        sampler.update(torch.tensor(indices), scores)
    assert len(sampler.candidates) == 0
    with pytest.raises(ValueError, match=r"scores must be \[400, 1\]"):
        sampler.refresh(torch.zeros(399))


@pytest.mark.parametrize(
    "indices", [torch.arange(400) < 2, torch.tensor([1.7, 2.0]), np.array([True, False])]
)
def test_a_mask_or_fractions_are_no_indices(indices):
    sampler = BandSampler(binary_targets(), 8)
    with pytest.raises(TypeError, match="indices must be integers"):
        sampler.update(indices, torch.ones(len(indices)))
    assert len(sampler.candidates) == 0
    sampler.update([], [])  # a list without rows has no dtype


@pytest.mark.parametrize("num_classes", [1, 3])
def test_scores_may_be_whole_numbers(num_classes):
    rows = torch.arange(300)
    scores = torch.stack([rows.roll(100 * c) for c in range(num_classes)], dim=1)
    by_int, by_float = (
        BandSampler(rows % num_classes, 8, num_classes=num_classes, positive_share=0.0)
        for _ in range(2)
    )
    for sampler, given_scores in ((by_int, scores), (by_float, scores.float())):
        sampler.update(rows[:200], given_scores[:200])
        sampler.refresh()
        sampler.refresh(given_scores)
    assert torch.equal(by_int.hard_rows, by_float.hard_rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_does_not_round_the_scores(dtype):
    n_rows = 4096  # bf16 tells 256 of these apart
    try:
        torch.set_default_dtype(dtype)
        sampler = BandSampler(torch.zeros(n_rows, dtype=torch.int64), 8, positive_share=0.0)
        sampler.refresh(torch.arange(n_rows, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(sampler.hard_rows, torch.arange(n_rows).flip(0)[: len(sampler.hard_rows)])
    assert sampler.state_dict()["hard"][0]["scores"].dtype == torch.float32


def test_a_sampler_made_or_loaded_in_inference_mode_serves_training():
    with torch.inference_mode():
        made = BandSampler(binary_targets(), 8)
        loaded = BandSampler(binary_targets(), 8)
        made.update([1, 2], torch.ones(2))
        made.refresh()
        loaded.load_state_dict(made.state_dict())
    for sampler in (made, loaded):
        sampler.update([3, 4], 2 * torch.ones(2))
        sampler.refresh()
    assert torch.equal(made.hard_rows, loaded.hard_rows)


def test_a_wrong_count_of_consumed_batches_is_named():
    sampler = BandSampler(binary_targets(), 8, max_prefetch=3)
    list(islice(iter(sampler), 10))
    with pytest.raises(ValueError, match="at most the 10 batches"):
        sampler.state_dict(consumed=11)
    with pytest.raises(ValueError, match="max_prefetch=4 or more"):
        sampler.state_dict(consumed=6)
    with pytest.raises(TypeError, match="consumed"):
        sampler.state_dict(consumed=9.0)
    with pytest.raises(ValueError, match=r"10 batches were drawn.*BandLoader"):
        sampler.state_dict()
    assert len(sampler.state_dict(consumed=7)["unused"]) == 3


def test_the_state_of_another_sampler_is_refused():
    state = BandSampler(binary_targets(), 8).state_dict()
    with pytest.raises(ValueError, match="its batch_size is 8, this BandSampler's is 16"):
        BandSampler(binary_targets(), 16).load_state_dict(state)
    with pytest.raises(ValueError, match="number of drawable rows is 385"):
        BandSampler(binary_targets(n_ignored=16), 8).load_state_dict(state)
