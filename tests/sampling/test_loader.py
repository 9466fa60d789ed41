"""`BandLoader`: the sampler's batches, a state that counts what was taken, and what is refused."""

from __future__ import annotations

import multiprocessing
from itertools import islice

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from pauc import BandLoader, BandSampler

N_ROWS = 400
TARGETS = (torch.arange(N_ROWS) % 20 == 0).long()
ROWS = TensorDataset(TARGETS, torch.arange(N_ROWS))


class ByRow(torch.utils.data.Dataset):
    def __len__(self):
        return N_ROWS

    def __getitem__(self, row):
        assert isinstance(row, int)
        return TARGETS[row], row


def scores_of(rows, step):
    return (rows * (step % 5 + 1)).sin()


def train(loader, n_steps, log):
    """Take `n_steps` batches over epochs, record scores by what came, and refresh now and then."""
    taken = 0
    while taken < n_steps:
        for _, rows in islice(loader, n_steps - taken):
            taken += 1
            log.append(rows.tolist())
            loader.band_sampler.update(rows, scores_of(rows, len(log)))
            if len(log) % 3 == 0:
                loader.band_sampler.refresh()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("dataset", [ROWS, ByRow()], ids=["whole batches", "by row"])
def test_it_yields_the_batches_of_the_sampler(dataset, num_workers):
    loader = BandLoader(dataset, BandSampler(TARGETS, 32), num_workers=num_workers)
    expected = list(BandSampler(TARGETS, 32))
    assert len(loader) == len(expected)
    for (targets, rows), batch in zip(loader, expected, strict=True):
        assert rows.tolist() == batch
        assert torch.equal(targets, TARGETS[rows])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 7, 25, 30])
def test_a_resumed_run_takes_the_same_batches(num_workers, stop):
    """25 batches are an epoch. With workers, scores come after the draw, as in the other run."""
    whole, parts = [], []
    train(BandLoader(ROWS, BandSampler(TARGETS, 32), num_workers=num_workers), 40, whole)
    loader = BandLoader(ROWS, BandSampler(TARGETS, 32), num_workers=num_workers)
    train(loader, stop, parts)
    state = loader.state_dict()
    resumed = BandLoader(ROWS, BandSampler(TARGETS, 32, seed=9), num_workers=num_workers)
    resumed.load_state_dict(state)
    train(resumed, 40 - stop, parts)
    assert parts == whole


def test_iter_alone_moves_nothing():
    loader = BandLoader(ROWS, BandSampler(TARGETS, 32))
    first = iter(loader)
    taken = [rows.tolist() for _, rows in islice(first, 3)]
    state = loader.state_dict()
    iter(loader)  # frameworks ask whether it can be done
    rest = [rows.tolist() for _, rows in first]
    resumed = BandLoader(ROWS, BandSampler(TARGETS, 32))
    resumed.load_state_dict(state)
    iter(resumed)
    assert [rows.tolist() for _, rows in resumed] == rest
    assert taken + rest == list(BandSampler(TARGETS, 32))


def test_options_reach_the_loader():
    as_dict = BandLoader(
        ROWS, BandSampler(TARGETS, 32), collate_fn=lambda batch: dict(enumerate(batch))
    )
    assert next(iter(as_dict))[1].shape == (32,)


BAD = [
    ({"sampler": [[0]]}, TypeError, "sampler must be a BandSampler, got list"),
    ({"batch_size": 8}, TypeError, "batch_size is decided by the BandSampler, got 8"),
    ({"shuffle": True}, TypeError, "shuffle is decided"),
    ({"in_order": False}, ValueError, "in_order must be True"),
    ({"whole_batches": 1}, TypeError, "whole_batches must be a bool"),
    ({"num_workers": 40}, ValueError, r"max_prefetch=64, .* got 80. Cure: .*max_prefetch=80"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
@pytest.mark.filterwarnings("ignore:This DataLoader will create 40 worker")
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        BandLoader(ROWS, **{"sampler": BandSampler(TARGETS, 32), **options})


# --- what frameworks ask for before they take a loader apart ---


def test_a_sampler_is_not_taken_apart():
    sampler = BandSampler(TARGETS, 32)
    with pytest.raises(RuntimeError, match=r"Cure: give the framework pauc.BandLoader"):
        getattr(sampler, "sampler", None)
    with pytest.raises(RuntimeError, match=r"leave set_epoch out.*BandLoader"):
        sampler.set_epoch(1)
    of_a_rank = BandSampler(TARGETS, 32, rank=1, world_size=2)
    with pytest.raises(TypeError, match=r"for rank 1 of 2 by itself.*BandLoader"):
        len(of_a_rank)
    assert len(BandLoader(ROWS, of_a_rank)) == of_a_rank.num_batches == 13
    assert len(DataLoader(ROWS, batch_sampler=sampler)) == 25


def test_a_loader_shows_no_dataset_from_which_another_could_be_made():
    loader = BandLoader(ROWS, BandSampler(TARGETS, 32))
    assert not hasattr(loader, "dataset")
    with pytest.raises(AttributeError, match="ignore_data_skip=True"):
        _ = loader.dataset


# --- ranks ---


def draw_on_a_rank(rank, file, results):
    early = BandSampler(TARGETS, 20)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        iter(early)
        refused = None
    except RuntimeError as error:
        refused = str(error)
    shared = BandSampler(TARGETS, 20, rank=0, world_size=1)
    results.put((rank, list(iter(BandSampler(TARGETS, 20))), list(shared), refused))
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_are_those_of_the_process_group_and_an_earlier_sampler_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    arguments = (str(tmp_path / "ranks"), results)
    ranks = [context.Process(target=draw_on_a_rank, args=(rank, *arguments)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    answers = sorted(results.get() for _ in ranks)
    for rank in ranks:
        rank.join()
    for rank, batches, shared, refused in answers:
        assert batches == list(iter(BandSampler(TARGETS, 20, rank=rank, world_size=2)))
        assert shared == list(BandSampler(TARGETS, 20)), "given ranks are what they are"
        assert f"is now used by rank {rank} of 2" in refused
