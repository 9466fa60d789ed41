"""The linear-memory sums over pairs against the matrix of pairs in float64."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks._allocated import allocated_peak
from pauc import SmoothAPLoss, pair_matrix, pairs, pairwise_pauc
from pauc.pair_matrix import matrix_sum

SHAPES = {
    "normal": lambda n, g: torch.randn(n, generator=g, dtype=torch.float64),
    "ties": lambda n, g: torch.randint(-3, 4, (n,), generator=g).double() / 2,
    "one far outlier": lambda n, g: torch.cat(
        [
            torch.randn(n - 1, generator=g, dtype=torch.float64),
            torch.tensor([1e4], dtype=torch.float64),
        ]
    ),
    "one outlier far below": lambda n, g: torch.cat(
        [
            torch.randn(n - 1, generator=g, dtype=torch.float64),
            torch.tensor([-1e12], dtype=torch.float64),
        ]
    ),
    "heavy tails": lambda n, g: (
        torch.randn(n, generator=g, dtype=torch.float64)
        / torch.randn(n, generator=g, dtype=torch.float64)
    ),
    "far apart": lambda n, g: torch.rand(n, generator=g, dtype=torch.float64).round() * 1e3,
}


def problem(shape, positives, negatives, tau, classes=2):
    g = torch.Generator().manual_seed(0)
    x = SHAPES[shape](positives, g).requires_grad_()
    y = torch.stack([SHAPES[shape](negatives, g) for _ in range(classes)])
    y = y.sort(dim=-1, descending=True).values
    counts = torch.randint(0, 3, y.shape, generator=g).double()
    y[:, -3:], counts[:, -3:] = -math.inf, 0.0  # padding
    index = torch.randint(0, classes, (positives,), generator=g)
    return x, index, y.requires_grad_(), counts, torch.full((classes,), tau, dtype=torch.float64)


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
@pytest.mark.parametrize("tau", [1e-7, 0.03, 1.0, 1e3])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_scan_equals_matrix(shape, tau, link):
    x, index, y, counts, width = problem(shape, 150, 120, tau)
    weight = torch.linspace(-1, 2, 150, dtype=torch.float64)
    results = []
    for total in (matrix_sum, pairs._scan_sum):
        value = total(x, index, y, counts, width, link)
        results.append((value, *torch.autograd.grad((value * weight).sum(), (x, y))))
    # The series is cut at 6e-13 per pair; its derivative loses up to degree**2 = 256.
    for matrix, scan, tolerance in zip(*results, (1e-11, 1e-8, 1e-8), strict=True):
        real = matrix.isfinite()  # the gradient of padding is not looked at
        scale = max(matrix[real].abs().max().item(), 1 / tau * 1e-3, 1.0)
        assert (matrix - scan)[real].abs().max().item() <= tolerance * scale


@pytest.mark.parametrize("count", [1, 2, 3, 7, 28, 29, 30, 61, 62, 1021, 1022])
def test_scan_at_the_lengths_of_its_blocks(count):
    x, index, y, counts, width = problem("normal", 5, count + 3, 0.5, classes=1)
    assert torch.allclose(
        pairs._scan_sum(x, index, y, counts, width, "sigmoid"),
        matrix_sum(x, index, y, counts, width, "sigmoid"),
        atol=1e-10,
    )


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
def test_gradcheck_of_the_scan(link):
    x, index, y, counts, width = problem("normal", 6, 9, 0.4)
    y = y.detach()[:, :-3].requires_grad_()
    counts = counts[:, :-3] + 1
    assert torch.autograd.gradcheck(
        lambda x, y: pairs._scan_sum(x, index, y, counts, width, link), (x, y)
    )


def test_large_problem_takes_the_scan_and_equals_the_matrix_in_tiles():
    g = torch.Generator().manual_seed(1)
    pos, neg = torch.randn(3000, generator=g) + 1, torch.randn(3000, generator=g)
    tau = torch.tensor(0.2)
    assert pairs._FEW_PAIRS + pairs._FEW_PER_SCORE * 27000 < 3000 * 3000
    tiles = [
        ((p.double().unsqueeze(1) - neg.double()) / tau.double()).sigmoid().mean(dim=1)
        for p in pos.split(100)
    ]
    expected = torch.cat(tiles).mean()
    assert abs(pairwise_pauc(pos, neg, tau).double() - expected) < 1e-6  # float32 mean


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
def test_memory_of_the_scan_is_linear_with_a_small_factor(link):
    def bytes_per_score(count):
        g = torch.Generator().manual_seed(3)
        pos, neg = (torch.randn(count, generator=g).requires_grad_() for _ in range(2))
        step = lambda: pairwise_pauc(pos, neg, torch.tensor(1.0), link=link).backward()  # noqa: E731
        return allocated_peak(step) / (2 * count)

    few, many = bytes_per_score(4000), bytes_per_score(16_000)
    assert many < 1000  # of which the sums of 16 powers in float64 take 128 for each direction
    assert 0.9 < many / few < 1.1


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(pair_matrix, "_WHOLE", 0)
    monkeypatch.setattr(pair_matrix, "_TILE", 40)


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
@pytest.mark.parametrize("classes", [1, 3])
def test_tiles_equal_the_whole_matrix(link, classes, monkeypatch):
    x, index, y, counts, width = problem("normal", 23, 14, 0.4, classes)
    y, counts = y.detach()[:, :-3].requires_grad_(), counts[:, :-3]
    width.requires_grad_()
    weight = torch.linspace(-1, 2, 23, dtype=torch.float64)
    results = []
    for tile in (40, 0, None):  # four rows, one for each class, and all of them at once
        monkeypatch.setattr(pair_matrix, "_WHOLE", math.inf if tile is None else 0)
        monkeypatch.setattr(pair_matrix, "_TILE", tile)
        value = matrix_sum(x, index, y, counts, width, link)
        results.append((value, *torch.autograd.grad((value * weight).sum(), (x, y, width))))
    for fours, fewest, whole in zip(*results, strict=True):
        assert torch.allclose(fours, whole, rtol=1e-12, atol=1e-12)
        assert torch.allclose(fewest, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
@pytest.mark.parametrize("classes", [1, 2])
def test_first_and_second_derivatives_of_the_tiles(link, classes):
    x, index, y, counts, width = problem("normal", 7, 9, 0.7, classes)
    y, counts = y.detach()[:, :-3].requires_grad_(), counts[:, :-3] + 1
    inputs = x, y, width.requires_grad_()

    def total(x, y, width):
        return matrix_sum(x, index, y, counts, width, link)

    assert torch.autograd.gradcheck(total, inputs)
    assert torch.autograd.gradgradcheck(total, inputs)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("batched", [(0, 0), (0, None), (None, 0)])
def test_tiles_under_vmap_of_grad(batched):
    x, index, y, counts, width = problem("normal", 11, 9, 0.4)
    x, y, counts = x.detach(), y.detach()[:, :-3], counts[:, :-3]
    stacks = [
        t if dim is None else torch.stack([t, 2 * t, t - 1])
        for t, dim in zip((x, y), batched, strict=True)
    ]

    def total(x, y):
        return matrix_sum(x, index, y, counts, width, "sigmoid").square().sum()

    found = torch.func.vmap(torch.func.grad(total, (0, 1)), batched)(*stacks)
    for k in range(3):
        own = (t if dim is None else t[k] for t, dim in zip(stacks, batched, strict=True))
        for of_all, of_one in zip(found, torch.func.grad(total, (0, 1))(*own), strict=True):
            assert torch.allclose(of_all[k], of_one)


def test_memory_of_smooth_ap_with_many_classes_is_linear_in_the_scores():
    """In float32 arrays of all scores. A matrix of pairs would be 87 of them, and a step had five.

    Few classes take the scan, many the matrix.
    """
    g = torch.Generator().manual_seed(4)

    def arrays(classes, queue_size, batch=256):
        loss = SmoothAPLoss(classes, queue_size=queue_size)

        def rows(count):
            targets = torch.randint(0, classes, (count,), generator=g)
            return torch.randn(count, classes, generator=g).requires_grad_(), targets

        with torch.no_grad():
            loss(*rows(queue_size))
        step = rows(batch)
        scores = classes * (queue_size + batch)
        return allocated_peak(lambda: loss(*step).backward()) / (4 * scores)

    assert arrays(50, 4096) < 40
    few, many = arrays(3, 2048), arrays(3, 8192)
    assert many < 1.1 * few


def test_count_not_above():
    ascending = torch.tensor([[0.0, 1.0, 1.0, 2.0], [-1.0, 5.0, 6.0, 7.0]])
    queries = torch.tensor([-0.5, 0.0, 1.0, 1.5, 9.0, -2.0, 5.5])
    index = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    expected = [0, 1, 3, 3, 4, 0, 2]
    assert pairs.count_not_above(ascending, queries, index).tolist() == expected


@pytest.mark.parametrize(
    ("coefficients", "function"),
    [(pairs._SIGMOID, lambda z: z / (1 + z)), (pairs._SOFTPLUS, torch.log1p)],
)
def test_series_is_accurate_on_the_whole_interval(coefficients, function):
    z = torch.linspace(0, 1, 2001, dtype=torch.float64)
    k = torch.arange(1, len(coefficients) + 1)
    series = z.unsqueeze(1) ** k @ torch.tensor(coefficients, dtype=torch.float64)
    assert (series - function(z)).abs().max() < 1e-12


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
@pytest.mark.parametrize("tau", [1e-4, 0.3, 1e4])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_stated_error_bound_of_many_pairs_in_float32(shape, tau, link):
    """Value and gradient within 1e-5 of brute force in float64, at 3,000 by 3,000 scores.

    The gradient's error is relative to its largest entry: where it is exactly 0 for all others, a
    share of each is no measure.
    """
    count = 3000
    g = torch.Generator().manual_seed(2)
    pos, neg = (SHAPES[shape](count, g).float().requires_grad_() for _ in range(2))
    assert pairs._FEW_PAIRS + pairs._FEW_PER_SCORE * 9 * count < count**2  # it is the scan
    value = pairwise_pauc(pos, neg, torch.tensor(tau), link=link)
    found = value.detach(), *torch.autograd.grad(value, (pos, neg))

    expected, by_pos, by_neg = 0.0, [], torch.zeros(count, dtype=torch.float64)
    y, width = neg.detach().double(), float(torch.tensor(tau))
    for x in pos.detach().double().split(300):
        u = (x.unsqueeze(1) - y) / width
        if link == "sigmoid":
            expected += u.sigmoid().sum().item()
            slope = u.sigmoid() * (-u).sigmoid() / width
        else:
            expected += (1 + torch.nn.functional.logsigmoid(u) / math.log(2)).sum().item()
            slope = (-u).sigmoid() / (math.log(2) * width)
        by_pos.append(slope.sum(dim=1))
        by_neg -= slope.sum(dim=0)
    exact = expected / count**2, torch.cat(by_pos) / count**2, by_neg / count**2
    assert abs(found[0].item() - exact[0]) <= 1e-5 * abs(exact[0])
    for gradient, reference in zip(found[1:], exact[1:], strict=True):
        assert (gradient - reference).abs().max() <= 1e-5 * reference.abs().max() + 1e-37
