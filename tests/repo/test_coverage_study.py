"""What the coverage study rests on: exact densities, honest splits, a store that survives kills."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal

from benchmarks.coverage import datasets, synthetic
from benchmarks.coverage.datasets import Source, Table
from benchmarks.coverage.intervals import difference, estimate
from benchmarks.coverage.store import Store

S, C = synthetic.SHIFT, synthetic.CUE_SIZE
SPREAD = 1 + C


def gaussians(weights: list[float], means: list[list[float]], std: float) -> MixtureSameFamily:
    loc = torch.tensor(means, dtype=torch.float64)
    covariance = torch.eye(loc.shape[1], dtype=torch.float64) * std**2
    return MixtureSameFamily(
        Categorical(torch.tensor(weights, dtype=torch.float64)), MultivariateNormal(loc, covariance)
    )


CUED = {
    "product": gaussians([0.5, 0.5], [[C, C], [-C, -C]], 1),
    "radial": gaussians([1.0], [[0, 0]], SPREAD),
    "linear": gaussians([1.0], [[C, C]], 1),
}


@pytest.mark.parametrize("cue", synthetic.CUES)
def test_ratio_is_that_of_the_two_densities(cue: str) -> None:
    x = 3 * torch.randn(
        500, synthetic.N_FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    decoy = synthetic.DECOY_RATE
    positive = gaussians([1.0], [[S] * 3], 1).log_prob(x[:, :3]) + CUED[cue].log_prob(x[:, 5:7])
    negative = gaussians([1 - decoy, decoy], [[0.0] * 3, [S] * 3], 1).log_prob(x[:, :3])
    negative = negative + gaussians([1.0], [[0.0, 0.0]], 1).log_prob(x[:, 5:7])
    torch.testing.assert_close(
        synthetic.log_likelihood_ratio(x, cue), positive - negative, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("cue", synthetic.CUES)
def test_rows_follow_the_densities(cue: str) -> None:
    """P(ratio below t | positive) is the mean of the ratio there over the negatives."""
    part = synthetic.draw_rows(400_000, cue, torch.Generator().manual_seed(1))
    log_ratio = synthetic.log_likelihood_ratio(part.features, cue)
    positive = part.targets == 1
    for threshold in (1.0, 3.0):
        below = log_ratio < threshold
        expected = (log_ratio.exp() * below)[~positive].mean().item()
        found = below[positive].double().mean().item()
        # Five standard errors of both sides.
        error = Bernoulli(torch.tensor(max(found, 1e-3))).variance.item() / int(positive.sum())
        error += (log_ratio.exp() * below)[~positive].var().item() / int((~positive).sum())
        assert abs(found - expected) < 5 * math.sqrt(error)


def test_store_finds_what_was_finished_and_drops_a_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "results" / "runs.jsonl"
    config = {"seed": 0, "training": {"lr": 1e-3, "widths": (64, 64)}}
    Store(path).add(config, {"coverage": 0.5})
    with path.open("a") as file:
        file.write('{"key": "killed whi')
    store = Store(path)
    found = store.find({"training": {"widths": [64, 64], "lr": 1e-3}, "seed": 0})
    assert found is not None
    assert found["result"] == {"coverage": 0.5}
    assert store.find({**config, "seed": 1}) is None
    store.add({**config, "seed": 1}, {"coverage": 0.6})
    assert len(Store(path).records) == 2


def table(n: int, blocks: Tensor | None = None) -> Table:
    numbers = torch.arange(n, dtype=torch.float32)[:, None]
    return Table(numbers, torch.zeros(n, 0), (torch.arange(n) % 5 == 0).long(), blocks)


def rows_of(source: Source, seed: int) -> tuple[set[int], ...]:
    """Features are standardised row numbers: undo that by rank over all parts."""
    parts = [part.features[:, 0] for part in datasets.split(source, seed)]
    order = torch.cat(parts).argsort().argsort()
    return tuple(set(rows.tolist()) for rows in order.split([len(part) for part in parts]))


def test_parts_are_disjoint_and_the_test_rows_stay_the_same() -> None:
    source = Source(lambda: table(1000), fixed_test=True)
    first, second = rows_of(source, 0), rows_of(source, 1)
    for parts in (first, second):
        assert sum(map(len, parts)) == len(set.union(*parts)) == 1000
    assert first[2] == second[2]
    assert first[0] != second[0]


def test_a_block_stays_whole_and_five_seeds_test_every_row_once() -> None:
    blocks = torch.arange(1000) // 20
    source = Source(lambda: table(1000, blocks), fixed_test=False)
    tested: list[int] = []
    for seed in range(5):
        parts = rows_of(source, seed)
        names = [{row // 20 for row in part} for part in parts]
        assert sum(map(len, names)) == 50
        tested += parts[2]
    assert sorted(tested) == list(range(1000))


def test_thinning_touches_training_positives_alone() -> None:
    whole = datasets.split(Source(lambda: table(1000), fixed_test=True), 0)
    thin = datasets.split(Source(lambda: table(1000), fixed_test=True, thin_to=0.02), 0)
    assert (whole.train.targets == 0).sum() == (thin.train.targets == 0).sum()
    assert thin.train.targets.double().mean().item() == pytest.approx(0.02, abs=0.002)
    assert torch.equal(whole.test.targets, thin.test.targets)
    assert torch.equal(whole.validation.targets, thin.validation.targets)


def test_fars_drops_duplicates_and_what_tells_the_answer() -> None:
    text = """@relation fars
@attribute AGE real [0.0,99.0]
@attribute SEX {Male,Female}
@attribute POLICE-REPORTED_DRUG_INVOLVEMENT {Drugs_Involved,Not_Reported}
@attribute DRUG_TEST {Yes,No}
@data
34,Male,Drugs_Involved,Yes
34,Male,Drugs_Involved,Yes
20,Female,Not_Reported,No
"""
    parsed = datasets.parse_fars(text)
    assert parsed.targets.tolist() == [1, 0]
    assert parsed.numbers.tolist() == [[34.0], [20.0]]
    assert parsed.flags.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_a_difference_is_over_common_seeds() -> None:
    gain = difference({0: 0.5, 1: 0.7, 2: 9.0}, {0: 0.4, 1: 0.6})
    assert gain is not None
    assert (gain.n, gain.mean) == (2, pytest.approx(0.1))
    assert (gain.low, gain.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert difference({0: 0.5}, {1: 0.5}) is None
    spread = estimate({seed: float(seed) for seed in range(8)})
    assert spread.low < spread.mean == 3.5 < spread.high
