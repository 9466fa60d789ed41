"""`BandStream`: fresh rows once, reservoirs against plain lists, resuming, ranks, memory."""

from __future__ import annotations

import math
import multiprocessing
from itertools import islice

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from pauc import BandStream
from pauc.sampling.reservoirs import HardReservoir, PositiveReservoir

N_ROWS = 1000
TARGETS = (torch.rand(N_ROWS, generator=torch.Generator().manual_seed(0)) < 0.05).long()
ROWS = torch.arange(N_ROWS)


def pipeline():
    """What a WebDataset pipeline yields: dicts, one after another, of tensors and strings."""
    for row in range(N_ROWS):
        yield {"x": torch.tensor(float(row)), "y": int(TARGETS[row]), "key": f"row {row}"}


class Source:
    """A generator function as an iterable, anew for each pass."""

    def __init__(self, generate):
        self.generate = generate

    def __iter__(self):
        return self.generate()


def batches_of(size):
    return list(zip(ROWS.split(size), TARGETS.split(size), strict=True))


def train(stream, n_batches, log):
    """Take batches over epochs, and record scores that depend on the row and the step."""
    taken = 0
    while taken < n_batches:
        for (rows, targets), mask, ids in islice(stream, n_batches - taken):
            taken += 1
            log.append((rows.tolist(), targets.tolist(), mask.tolist(), ids.tolist()))
            stream.update(ids, (rows * (len(log) % 5 + 1)).sin())


@pytest.mark.parametrize("size", [7, 64, 300])
def test_every_row_is_fresh_once_and_in_order(size):
    stream = BandStream(batches_of(size), 64, batched=True)
    seen, highest = [], {}
    for epoch in range(2):
        fresh = []
        for (rows, targets), mask, ids in stream:
            assert torch.equal(targets, TARGETS[rows])
            fresh += rows[mask].tolist()
            added = targets[~mask]
            if len(seen) > 0:  # 16 positives, then 16 hard negatives that had a score
                assert added.tolist() == [1] * 16 + [0] * 16
                assert set(rows[~mask][16:].tolist()) <= set(highest)
            assert bool((ids[~mask][:16] == -1).all())
            seen.append(rows)
            stream.update(ids, rows.float())
            highest |= {
                int(row): None for row, target in zip(rows, targets, strict=True) if not target
            }
        assert fresh == list(range(N_ROWS)), epoch


def test_hard_rows_are_those_with_the_highest_scores():
    stream = BandStream(batches_of(100), 40, batched=True, hard_fraction=0.02, max_hard=50)
    last = None
    for (rows, _), _mask, ids in stream:
        stream.update(ids, rows.float())
        last = rows[-10:]
    # Scores grow with the rows: of 950 negatives the last 19 are hard, but for the last batches'.
    negatives = ROWS[TARGETS == 0]
    assert set(last.tolist()) <= set(negatives[-60:].tolist())


def test_rows_of_a_pipeline_are_collated_and_strings_kept():
    stream = BandStream(Source(pipeline), 32, target="y")
    fresh = []
    for rows, mask, ids in stream:
        assert rows["key"] == [f"row {int(x)}" for x in rows["x"]]
        assert torch.equal(rows["y"], TARGETS[rows["x"].long()])
        fresh += rows["x"][mask].tolist()
        stream.update(ids, rows["x"].unsqueeze(1))
    assert fresh == list(range(N_ROWS))


def test_ignored_rows_are_left_out_and_a_source_without_others_is_an_error():
    targets = TARGETS.clone()
    targets[::3] = -100
    source = list(zip(ROWS.split(50), targets.split(50), strict=True))
    stream = BandStream(source, 32, batched=True)
    fresh = [int(row) for (rows, _), mask, _ in stream for row in rows[mask]]
    assert fresh == ROWS[targets >= 0].tolist()
    none = [(ROWS[:9], torch.full((9,), -100))]
    assert list(BandStream(none, 4, batched=True)) == []
    with pytest.raises(ValueError, match="source must yield rows"):
        next(iter(BandStream(none, 4, batched=True, num_batches=3)))


@pytest.mark.parametrize("num_batches", [None, 9])
@pytest.mark.parametrize("stop", [0, 1, 7, 9, 30, 50])
def test_a_resumed_run_takes_the_same_batches(num_batches, stop):
    def make(seed=0):
        options = {"num_batches": num_batches, "max_hard": 30, "max_positives": 20}
        return BandStream(batches_of(70), 48, batched=True, seed=seed, **options)

    whole, parts = [], []
    train(make(), 70, whole)
    stream = make()
    train(stream, stop, parts)
    state = stream.state_dict()
    train(stream, 3, [])  # a saved state is not tied to the stream
    resumed = make(seed=5)
    resumed.load_state_dict(state)
    train(resumed, 70 - stop, parts)
    assert parts == whole


def test_workers_of_the_source_change_nothing_and_the_stream_is_refused_inside_of_one():
    def first(**options):
        source = DataLoader(batches_of(50), batch_size=None, **options)
        log = []
        train(BandStream(source, 32, batched=True), 10, log)
        return log

    assert first(num_workers=2) == first()
    inside = DataLoader(
        BandStream(batches_of(50), 32, batched=True), batch_size=None, num_workers=1
    )
    with pytest.raises(RuntimeError, match="must be in the process that trains"):
        next(iter(inside))


def test_the_memory_is_bounded():
    stream = BandStream(batches_of(50), 32, batched=True, max_positives=10, max_hard=12)
    for _ in range(3):
        train(stream, 30, [])
    state = stream.state_dict()
    assert all(len(column) == 10 for column in state["positives"]["columns"])
    assert all(len(column) == 12 for column in state["hard"]["columns"])
    assert len(state["handed"]) == 8


# --- the reservoirs ---


def test_each_positive_stays_with_the_same_probability():
    generator, counts, runs = torch.Generator().manual_seed(0), torch.zeros(30), 4000
    for _ in range(runs):
        reservoir = PositiveReservoir(6)
        for rows in torch.arange(30).split(7):
            uniform = torch.rand(len(rows), generator=generator, dtype=torch.float64)
            reservoir.add([rows], uniform)
        counts[reservoir.store.columns[0]] += 1
    # Binomial with p = 0.2: five standard deviations.
    assert bool(((counts / runs - 0.2).abs() < 5 * math.sqrt(0.16 / runs)).all())


def test_the_hard_reservoir_is_a_sorted_list_cut_off():
    generator = torch.Generator().manual_seed(1)
    reservoir, kept, newest = HardReservoir(20, 1.0, 200), {}, 0
    for _ in range(60):
        ids = newest + torch.arange(15)
        newest += 15
        old = torch.tensor(sorted(kept)[::3], dtype=torch.int64)
        scores = torch.randn(len(ids) + len(old), generator=generator)
        here = reservoir.record(torch.cat([ids, old]), scores)
        assert here.tolist() == [False] * 15 + [True] * len(old)
        kept |= dict(zip(old.tolist(), scores[15:].tolist(), strict=True))
        reservoir.add(ids, scores[:15], [ids], torch.arange(15))
        kept |= dict(zip(ids.tolist(), scores[:15].tolist(), strict=True))
        kept = dict(sorted(kept.items(), key=lambda item: -item[1])[:20])
        reservoir.select(newest)
        kept = {row: score for row, score in kept.items() if row >= newest - 200}
        assert sorted(reservoir.store.take(reservoir.hard)[0].tolist()) == sorted(kept)
        assert torch.equal(reservoir.store.take(reservoir.hard)[0], reservoir.ids[reservoir.hard])


def test_scores_of_rows_that_are_gone_or_not_finite_are_dropped():
    stream = BandStream(batches_of(50), 32, batched=True, max_prefetch=1)
    batches = iter(stream)
    first, second = next(batches), next(batches)
    stream.update(first.ids, torch.ones(32))  # its rows are not held any more
    stream.update(second.ids, torch.full((32,), torch.nan))
    assert bool((stream._hard.ids == -1).all())
    stream.update(second.ids, torch.ones(32))
    assert int((stream._hard.ids >= 0).sum()) == int((second.rows[1][second.iid_mask] == 0).sum())
    with pytest.raises(TypeError, match="ids must be integers"):
        stream.update(second.ids > 0, torch.ones(32))
    with pytest.raises(ValueError, match=r"ids must be in -1\.\."):
        stream.update(torch.tensor([10_000]), torch.ones(1))
    with pytest.raises(ValueError, match=r"scores must be \[2, 1\]"):
        stream.update(torch.tensor([0, 1]), torch.ones(3))


# --- ranks ---


def read_on_a_rank(rank, file, results):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        next(iter(BandStream(batches_of(10), 32, batched=True)))
        refused = None
    except RuntimeError as error:
        refused = str(error)
    stream = BandStream(batches_of(10), 32, batched=True, shard=True)
    fresh = [int(row) for (rows, _), mask, _ in stream for row in rows[mask]]
    results.put((rank, fresh, refused))
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_share_out_a_source_or_say_that_it_is_shared_out(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    arguments = (str(tmp_path / "ranks"), results)
    ranks = [context.Process(target=read_on_a_rank, args=(rank, *arguments)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    answers = sorted(results.get() for _ in ranks)
    for rank in ranks:
        rank.join()
    assert sorted(answers[0][1] + answers[1][1]) == list(range(N_ROWS))
    assert all("shard=True" in refused for _, _, refused in answers)


BAD = [
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"iid_share": 0.0}, ValueError, "iid_share"),
    ({"max_hard": 0}, ValueError, "max_hard"),
    ({"max_age": 0}, ValueError, "max_age"),
    ({"num_batches": 0.5}, TypeError, "num_batches"),
    ({"batched": 1}, TypeError, "batched"),
    ({"shard": 1}, TypeError, "shard"),
    ({"hard_fraction": 2}, ValueError, "hard_fraction"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        BandStream(**{"source": batches_of(50), "batch_size": 32, **options})


def test_its_length_is_known_if_it_was_given():
    assert len(BandStream(batches_of(50), 32, num_batches=4)) == 4
    with pytest.raises(TypeError, match="num_batches"):
        len(BandStream(batches_of(50), 32))
