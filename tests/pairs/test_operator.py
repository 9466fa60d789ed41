"""The linear-memory sums over pairs against the matrix of pairs in float64."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks._allocated import allocated_peak
from pauc import SmoothAPLoss, pairwise_pauc
from pauc.pairs import blocks, links
from pauc.pairs import operator as pairs
from tests.conftest import set_may_look

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


def detached(argument):
    return argument.detach() if isinstance(argument, torch.Tensor) else argument


def in_blocks(x, index, y, counts, tau, link):
    """The sums by the operator, whatever the size."""
    return pairs._SumLink.apply(x, index, None, y, counts, tau, link)


@pytest.fixture
def many_blocks(monkeypatch):
    """Many small blocks, however few the pairs."""
    monkeypatch.setattr(blocks, "few_pairs", lambda *_: False)
    monkeypatch.setattr(blocks, "_BLOCK", 4)


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
@pytest.mark.usefixtures("many_blocks")
def test_blocks_equal_matrix(shape, tau, link):
    x, index, y, counts, width = problem(shape, 150, 120, tau)
    weight = torch.linspace(-1, 2, 150, dtype=torch.float64)
    results = []
    for total in (pairs._matrix_sum, in_blocks):
        value = total(x, index, y, counts, width, link)
        results.append((value, *torch.autograd.grad((value * weight).sum(), (x, y))))
    # The series is cut at 6e-13 per pair; its derivative loses up to degree**2 = 256.
    for matrix, blocked, tolerance in zip(*results, (1e-11, 1e-8, 1e-8), strict=True):
        real = matrix.isfinite()  # the gradient of padding is not looked at
        scale = max(matrix[real].abs().max().item(), 1 / tau * 1e-3, 1.0)
        assert (matrix - blocked)[real].abs().max().item() <= tolerance * scale


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 1022])
@pytest.mark.usefixtures("many_blocks")
def test_blocks_at_their_lengths(count):
    x, index, y, counts, width = problem("normal", 5, count + 3, 0.5, classes=1)
    assert torch.allclose(
        in_blocks(x, index, y, counts, width, "sigmoid"),
        pairs._matrix_sum(x, index, y, counts, width, "sigmoid"),
        atol=1e-10,
    )


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
@pytest.mark.parametrize("few", [True, False])
def test_gradcheck_of_the_blocks(link, few, request):
    if not few:
        request.getfixturevalue("many_blocks")
    x, index, y, counts, width = problem("normal", 6, 15, 0.4)
    y = y.detach()[:, :-3].requires_grad_()
    counts = counts[:, :-3] + 1
    assert torch.autograd.gradcheck(
        lambda x, y, width: in_blocks(x, index, y, counts, width, link),
        (x, y, width.requires_grad_()),
    )


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
@pytest.mark.parametrize("few", [True, False])
def test_gradcheck_of_the_gradient(few, link, request):
    if not few:
        request.getfixturevalue("many_blocks")
    x, index, y, counts, width = problem("normal", 6, 15, 0.4)
    y = y.detach()[:, :-3].requires_grad_()
    counts = counts[:, :-3]  # some are 0
    assert torch.autograd.gradgradcheck(
        lambda x, y, width: in_blocks(x, index, y, counts, width, link),
        (x, y, width.requires_grad_()),
    )


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
@pytest.mark.parametrize("tau", [0.03, 1.0, 1e3])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.usefixtures("many_blocks")
def test_second_derivatives_of_blocks_equal_those_of_the_matrix(shape, tau, link):
    x, index, y, counts, width = problem(shape, 150, 120, tau)
    width.requires_grad_()
    g = torch.Generator().manual_seed(6)
    weight, a, b = (torch.randn(part.shape, generator=g).double() for part in (x, x, y))
    finite = torch.where(counts > 0, y, 0.0)  # the matrix would make nan of padding
    results = []
    for total, negatives in ((pairs._matrix_sum, finite), (in_blocks, y)):
        w = weight.clone().requires_grad_()
        value = (total(x, index, negatives, counts, width, link) * w).sum()
        by_x, by_y = torch.autograd.grad(value, (x, y), create_graph=True)
        product = (a * by_x).sum() + (b * by_y).sum()
        results.append(torch.autograd.grad(product, (w, x, y, width)))
    # The series' second derivative is 6e-8 off for a sigmoid, 1e-9 for the logistic link; a sum has
    # up to 150 pairs of these weights, and that by tau has all of them, times their margins.
    pair = weight.abs().max() * (a.abs().max() + b.abs().max()) * counts.max() / tau**2
    *parts, (matrix, blocked) = zip(*results, strict=True)
    for one, other in parts:
        assert (one - other).abs().max() <= 150 * 6e-8 * pair + 1e-8 * one.abs().max()
    assert torch.allclose(matrix, blocked, rtol=1e-5, atol=1e-5 * float(pair))


@pytest.mark.parametrize("link", [links.SIGMOID, links.LOGISTIC], ids=lambda link: link.name)
def test_series_of_the_derivatives_are_accurate_on_the_whole_interval(link):
    z = torch.linspace(1e-9, 1, 2001, dtype=torch.float64)
    powers = z.unsqueeze(1) ** torch.arange(1, links.DEGREE + 1)
    for term, bound in ((link.first, 1e-9), (link.second, 1e-7)):
        for side, sign in ((term.above, -1), (term.below, 1)):
            series = side.constant + powers @ torch.tensor(side.powers, dtype=torch.float64)
            assert side.linear == 0
            assert (series - term.value(-sign * z.log())).abs().max() < bound


@pytest.mark.usefixtures("many_blocks")
def test_second_derivatives_leave_out_what_is_not_counted():
    x, index, y, counts, width = problem("normal", 40, 30, 0.4)
    counted = torch.arange(40) % 3 > 0
    results = []
    for places in (torch.where(counted, x, math.nan), x):
        call = pairs._SumLink.apply(places, index, counted, y, counts, width, "sigmoid")
        by_x, by_y = torch.autograd.grad(call[counted].sum(), (x, y), create_graph=True)
        total = by_x[counted].square().sum() + by_y[counts > 0].square().sum()
        results.append(torch.autograd.grad(total, (x, y)))
    assert all(part.isfinite().all() for part in results[1])
    for spoilt, clean in zip(*results, strict=True):
        assert torch.equal(spoilt, clean)


@pytest.mark.usefixtures("many_blocks")
def test_a_third_derivative_is_refused():
    x, index, y, counts, width = problem("normal", 6, 15, 0.4)
    value = in_blocks(x, index, y, counts, width, "sigmoid").sum()
    (by_x,) = torch.autograd.grad(value, x, create_graph=True)
    (twice,) = torch.autograd.grad(by_x.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="sum_link_backward_twice"):
        torch.autograd.grad(twice.sum(), x)


@pytest.mark.usefixtures("many_blocks")
def test_second_derivatives_of_an_ensemble_do_not_mix():
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(3, 8, generator=g).double(), torch.randn(3, 2, 9, generator=g).double()
    index, counts = torch.arange(8) % 2, torch.ones(2, 9).double()
    width = torch.full((2,), 0.4).double()

    def total(x, y):
        return in_blocks(x, index, y, counts, width, "logistic").square().sum()

    def hessian_of(function):
        return torch.func.jacrev(torch.func.jacrev(function))

    found = torch.func.vmap(hessian_of(total))(x, y)
    for member, (own_x, own_y) in zip(found, zip(x, y, strict=True), strict=True):
        expected = hessian_of(
            lambda x, own_y=own_y: (
                pairs._matrix_sum(x, index, own_y, counts, width, "logistic").square().sum()
            )
        )(own_x)
        assert torch.allclose(member, expected, atol=1e-7)


@pytest.mark.parametrize("few", [True, False])
def test_the_operator_keeps_its_contract(few, request):
    """Shapes, gradients and aliasing, as torch checks them, with and without a mask."""
    if not few:
        request.getfixturevalue("many_blocks")
    x, index, y, counts, width = problem("normal", 6, 15, 0.4)
    y = y.detach()[:, :-3].requires_grad_()
    for counted in (None, torch.arange(6) % 3 > 0):
        arguments = x, index, counted, y, counts[:, :-3], width, "logistic"
        torch.library.opcheck(torch.ops.pauc.sum_link, [detached(a) for a in arguments])
        arguments = torch.ones_like(x), *arguments
        torch.library.opcheck(torch.ops.pauc.sum_link_backward, [detached(a) for a in arguments])
        arguments = torch.ones_like(x), torch.ones_like(y), *arguments
        torch.library.opcheck(
            torch.ops.pauc.sum_link_backward_twice, [detached(a) for a in arguments]
        )


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
@pytest.mark.usefixtures("many_blocks")
def test_members_of_an_ensemble_do_not_mix(link):
    """torch.func.vmap over scores, with what they share given once, and over their gradients."""
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(3, 20, generator=g).double(), torch.randn(3, 2, 30, generator=g).double()
    index = torch.randint(0, 2, (20,), generator=g)
    counts, width = (
        torch.randint(0, 3, (2, 30), generator=g).double(),
        torch.full((2,), 0.4).double(),
    )

    def total(x, y):
        return in_blocks(x, index, y, counts, width, link).cumsum(0).sum()

    for function in (total, torch.func.grad(total, argnums=(0, 1))):
        found = torch.func.vmap(function)(x, y)
        alone = [function(*member) for member in zip(x, y, strict=True)]
        if function is total:
            assert torch.allclose(found, torch.stack(alone))
            continue
        for part, expected in zip(found, zip(*alone, strict=True), strict=True):
            assert torch.allclose(part, torch.stack(expected))
    shared = torch.func.vmap(total, in_dims=(None, 0))(x[0], y)
    assert torch.allclose(shared, torch.stack([total(x[0], member) for member in y]))


@pytest.mark.usefixtures("many_blocks")
def test_what_is_not_counted_may_be_anything():
    x, index, y, counts, width = problem("normal", 40, 30, 0.4)
    counted = torch.arange(40) % 3 > 0
    spoilt = torch.where(counted, x, math.nan)
    y = torch.where(counts > 0, y, math.nan)
    found = pairs._SumLink.apply(spoilt, index, counted, y, counts, width, "sigmoid")[counted]
    expected = in_blocks(x, index, y, counts, width, "sigmoid")[counted]
    assert torch.equal(found, expected)
    parts = [torch.autograd.grad(part.sum(), (x, y)) for part in (found, expected)]
    assert all(torch.equal(*pair) for pair in zip(*parts, strict=True))


@pytest.mark.usefixtures("many_blocks")
@pytest.mark.parametrize("few_there", [0, 1 << 26])
def test_a_device_where_looking_costs_gives_the_same(few_there, monkeypatch):
    """Without leaving out what does not count, and a class after the other or in one block."""
    monkeypatch.setattr(blocks, "_FEW_THERE", few_there)
    monkeypatch.setattr(pairs, "ENTRIES", 0)
    x, index, y, counts, width = problem("ties", 60, 50, 0.4)
    counted = torch.arange(60) % 3 > 0
    results = []
    for looks in (True, False):
        set_may_look(monkeypatch, looks)
        value = pairs._SumLink.apply(x, index, counted, y, counts, width, "logistic")
        value = torch.where(counted, value, 0.0)
        results.append((value, *torch.autograd.grad(value.sum(), (x, y))))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*results, strict=True))


def test_large_problem_takes_blocks_and_equals_the_matrix_in_tiles():
    g = torch.Generator().manual_seed(1)
    pos, neg = torch.randn(3000, generator=g) + 1, torch.randn(3000, generator=g)
    tau = torch.tensor(0.2)
    assert not pairs.few_pairs(3000, 1, 3000)
    tiles = [
        ((p.double().unsqueeze(1) - neg.double()) / tau.double()).sigmoid().mean(dim=1)
        for p in pos.split(100)
    ]
    expected = torch.cat(tiles).mean()
    assert abs(pairwise_pauc(pos, neg, tau).double() - expected) < 1e-6  # float32 mean


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
def test_memory_of_many_pairs_is_linear_with_a_small_factor(link):
    def bytes_per_score(count):
        g = torch.Generator().manual_seed(3)
        pos, neg = (torch.randn(count, generator=g).requires_grad_() for _ in range(2))
        step = lambda: pairwise_pauc(pos, neg, torch.tensor(1.0), link=link).backward()  # noqa: E731
        return allocated_peak(step) / (2 * count)

    few, many = bytes_per_score(4000), bytes_per_score(16_000)
    assert many < 1000  # of which the sums of 16 powers in float64 take 128 for each direction
    assert 0.9 < many / few < 1.1


def test_memory_of_smooth_ap_with_many_classes_is_linear_in_the_scores():
    """In float32 arrays of all scores. A matrix of pairs would be 87 of them, and a step had five.

    Few classes take blocks, many the matrix in tiles.
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
    assert blocks.count_not_above(ascending, queries, index).tolist() == expected


@pytest.mark.parametrize(
    ("coefficients", "function"),
    [
        (links.SIGMOID.above.powers, lambda z: z / (1 + z)),
        (links.LOGISTIC.above.powers, lambda z: -torch.log1p(z)),
    ],
)
def test_series_is_accurate_on_the_whole_interval(coefficients, function):
    z = torch.linspace(0, 1, 2001, dtype=torch.float64)
    k = torch.arange(1, len(coefficients) + 1)
    series = z.unsqueeze(1) ** k @ torch.tensor(coefficients, dtype=torch.float64)
    assert (series - function(z)).abs().max() < 1e-12


@pytest.mark.slow
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
    assert not pairs.few_pairs(count, 1, count)
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
