"""The seam of the backends: what one does not know, it refuses; nothing is ignored in silence."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch

import pauc
from pauc import PAUCConfig, RecallAtQuantileConfig, SmoothAPConfig, backends, init_queue
from pauc.core import partial_auc, recall, smooth_ap
from pauc.core.batch import Rows
from pauc.distributed import sharded
from pauc.native import options as native_options
from pauc.pairs import blocks
from pauc.pairs import operator as pairs
from pauc.pairs.links import LINKS, LOGISTIC, SIGMOID, Link, Side
from pauc.support import ANY, Support, without_idle_options
from pauc.triton import options as triton_options

SUPPORTS = {
    "core": partial_auc.SUPPORT,
    "recall": recall.SUPPORT,
    "smooth_ap": smooth_ap.SUPPORT,
    "native": native_options.SUPPORT,
    "native recall": native_options.RECALL_SUPPORT,
    "native smooth_ap": native_options.SMOOTH_AP_SUPPORT,
    "triton": triton_options.SUPPORT,
    "sharded": sharded.SUPPORT,
}


def complaint_about_fields(support: Support) -> set[str]:
    """Return the options that a backend has not decided about, or decided about twice."""
    return set(type(support.defaults)._fields) ^ (set(support.values) ^ set(support.at_default))


@pytest.mark.parametrize("name", SUPPORTS)
def test_every_option_has_a_place_in_every_allow_list(name):
    assert complaint_about_fields(SUPPORTS[name]) == set()


class NewConfig(NamedTuple):
    """`PAUCConfig` as it would be with an option more."""

    alpha: float = 0.0
    beta: float = 0.5
    surrogate: str = "trapezoid"
    novelty: float = 0.0


@pytest.mark.parametrize(
    "support",
    [native_options.SUPPORT, triton_options.SUPPORT, sharded.SUPPORT, partial_auc.SUPPORT],
)
def test_a_new_option_is_refused_until_it_has_a_place(support):
    support = support._replace(defaults=NewConfig())
    assert complaint_about_fields(support)  # what the test above would say
    assert support.refusal(NewConfig()) is None
    assert "novelty=1.0" in support.refusal(NewConfig(novelty=1.0))


CHOICES = [
    (name, support, option, known)
    for name, support in SUPPORTS.items()
    for option, known in support.values.items()
    if known != ANY
]


@pytest.mark.parametrize(
    ("support", "option", "known"),
    [case[1:] for case in CHOICES],
    ids=[f"{case[0]}-{case[2]}" for case in CHOICES],
)
def test_a_new_value_of_an_option_is_refused(support, option, known):
    """Such as a third link."""
    more = {"surrogate": "pairwise"} if option == "link" else {}
    config = support.defaults._replace(**more)
    assert support.refusal(config) is None
    for value in known:
        assert support.refusal(config._replace(**{option: value})) is None
    assert f"{option}='third'" in support.refusal(config._replace(**{option: "third"}))


def test_what_no_backend_supports_is_not_computed():
    with pytest.raises(NotImplementedError, match="link='third'"):
        backends.plan_step(PAUCConfig(surrogate="pairwise", link="third"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"budget_basis": "precision", "precision": 0.5, "base_rate": 0.1},
        {"temperature": torch.tensor(0.1, requires_grad=True)},
        {"temperature": torch.tensor(-0.1)},
        {"temperature": torch.tensor(0.1, device="meta")},
        {"beta": torch.tensor(1.5)},
        {"beta": torch.tensor(0.5), "max_beta": 0.3},
    ],
    ids=str,
)
def test_the_native_step_is_not_planned_for_what_only_operators_can_do_with_a_tensor(options):
    assert backends.plan_step(PAUCConfig(**options)).native is None
    assert backends.plan_step(PAUCConfig()).native is not None


def test_the_native_step_reads_options_that_are_tensors():
    plan = backends.plan_step(PAUCConfig(beta=torch.tensor(0.25), max_beta=0.5))
    assert plan.native.levels == [0.0, 0.25]
    assert plan.native.config == PAUCConfig(beta=0.25, max_beta=0.5)


@pytest.mark.parametrize("kind", [PAUCConfig, RecallAtQuantileConfig, SmoothAPConfig])
def test_the_native_step_takes_every_kind_of_config(kind):
    assert backends.plan_step(kind()).native is not None
    assert "PAUCConfig" in native_options.SUPPORT.refusal(SmoothAPConfig())


def test_an_option_without_effect_keeps_no_backend_away():
    idle = PAUCConfig(surrogate="pairwise", edge_gradient="implicit", n_knots=7, max_beta=0.3)
    assert without_idle_options(idle) == PAUCConfig(surrogate="pairwise")
    assert backends.plan_step(idle).native is not None
    idle = PAUCConfig(surrogate="trapezoid", link="logistic")
    assert without_idle_options(idle) == PAUCConfig()
    moving = PAUCConfig(beta=torch.tensor(0.1), max_beta=0.3)
    assert without_idle_options(moving).max_beta == 0.3


def blended(name: str) -> Link:
    """Return a link that has not been there: the sigmoid and the logistic link, half and half."""

    def half(a: Side, b: Side) -> Side:
        powers = [(p + q / LOGISTIC.unit) / 2 for p, q in zip(a.powers, b.powers, strict=True)]
        constant = (a.constant + b.constant / LOGISTIC.unit) / 2
        return Side(constant, (a.linear + b.linear / LOGISTIC.unit) / 2, powers)

    def mean(part: str):
        first, second = getattr(SIGMOID, part), getattr(LOGISTIC, part)
        return lambda u: (first(u) + second(u) / LOGISTIC.unit) / 2

    return Link(
        name,
        offset=LOGISTIC.offset / 2,
        unit=1.0,
        core=mean("core"),
        slope=mean("slope"),
        curvature=mean("curvature"),
        above=half(SIGMOID.above, LOGISTIC.above),
        below=half(SIGMOID.below, LOGISTIC.below),
    )


def mean_of_both(u: float) -> float:
    sigmoid = 1 / (1 + math.exp(-u)) if u >= 0 else math.exp(u) / (1 + math.exp(u))
    softplus = math.log1p(math.exp(-abs(u))) + max(-u, 0.0)
    return (sigmoid + 1 - softplus / math.log(2)) / 2


def test_sums_over_pairs_know_a_link_by_its_object_alone(monkeypatch):
    """A third link goes through the matrix and through the blocks, with nothing else changed."""
    monkeypatch.setitem(LINKS, "blended", blended("blended"))
    monkeypatch.setattr(blocks, "few_pairs", lambda *_: False)
    g = torch.Generator().manual_seed(0)
    x = (2 * torch.randn(40, generator=g, dtype=torch.float64)).requires_grad_()
    y = (3 * torch.randn(1, 150, generator=g, dtype=torch.float64)).requires_grad_()
    tau, index = torch.tensor([0.7], dtype=torch.float64), torch.zeros(40, dtype=torch.int64)
    counts = torch.ones_like(y)
    expected = [sum(mean_of_both((a - b) / 0.7) for b in y[0].tolist()) for a in x.tolist()]
    matrix = pairs._matrix_sum(x, index, y, counts, tau, "blended")
    in_blocks = pairs._SumLink.apply(x, index, None, y, counts, tau, "blended")
    wanted = torch.tensor(expected, dtype=torch.float64)
    upstream = torch.randn(40, generator=g, dtype=torch.float64)
    gradients = [torch.autograd.grad(s, (x, y), upstream) for s in (matrix, in_blocks)]
    for found in (matrix, in_blocks):
        assert torch.allclose(found, wanted, rtol=1e-11)
    for by_matrix, by_blocks in zip(*gradients, strict=True):
        assert torch.allclose(by_matrix, by_blocks, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("link", LINKS.values(), ids=list(LINKS))
def test_slope_and_curvature_are_the_derivatives_of_the_core(link):
    u = torch.linspace(-30, 30, 241, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(link.core(u).sum(), u, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), u)
    assert torch.allclose(link.slope(u.detach()), slope, rtol=1e-12, atol=1e-15)
    assert torch.allclose(link.curvature(u.detach()), curvature, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("link", LINKS.values(), ids=list(LINKS))
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_sides_of_a_link_are_its_core(link, sign):
    distance = torch.linspace(0, 20, 81, dtype=torch.float64)
    side = link.below if sign > 0 else link.above
    for part, of_link in ((side, link.core), (side.slope(sign), link.slope)):
        series = sum(c * torch.exp(-k * distance) for k, c in enumerate(part.powers, start=1))
        found = part.constant + part.linear * distance + series
        # Each derivative costs the Chebyshev series a factor of its degree.
        assert torch.allclose(found, of_link(sign * distance), rtol=0, atol=1e-9)


def test_the_configuration_that_is_shown_says_what_is_there(capsys, monkeypatch):
    pauc.show_config()
    shown = capsys.readouterr().out
    assert "core" in shown
    assert "native" in shown
    monkeypatch.setattr("pauc.native.extension.ext", None)
    monkeypatch.setattr("pauc.native.extension._WHY_ABSENT", "no such thing", raising=False)
    pauc.show_config()
    shown = capsys.readouterr().out
    assert "absent (no such thing)" in shown
    assert "Cure: pip install -e ." in shown  # the tests run from a source tree


def test_a_declined_step_is_taken_by_operators():
    rows = Rows(torch.randn(50, 1), torch.arange(50) % 2)
    queue = init_queue(20, 1)
    queue = queue._replace(weight=torch.zeros(40)[::2])  # native code does not read such a queue
    plan = backends.plan_step(PAUCConfig(beta=0.5))
    outcome, bounds = backends.take_step(rows, queue, plan)
    by_operators, _ = backends.take_step(rows, queue, backends.Plan(plan.config, None))
    assert type(outcome.entry) is type(by_operators.entry)
    assert torch.equal(outcome.loss, by_operators.loss)
    assert bounds is None
