"""The recipe of `for_budget` as kernels: for every kind of targets against operators and oracle."""

from __future__ import annotations

import math

import pytest
import torch

import pauc
from pauc import BandSampler, PAUCAtBudgetLoss
from tests.core.test_loss_against_oracle import as_rows
from tests.core.test_multilabel import as_labelled_rows
from tests.oracles.reference import Options, reference_step
from tests.oracles.reference_multilabel import multilabel_columns, multilabel_loss

pytestmark = [
    pytest.mark.usefixtures("everywhere", "several_segments"),
    # NumPy, in which the interpreter computes, warns of a nan or infinite logit; a GPU does not.
    pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning"),
]

CLASSES = {"binary": 1, "index": 3, "multilabel": 3}
BATCH = 80
# A gradient has the digits of the logits' dtype; so has the logit itself, but both sides read that.
DIGITS = {torch.float32: 2e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
kinds = pytest.mark.parametrize("kind", CLASSES)


@pytest.fixture
def several_segments(device, monkeypatch):
    """Most of the queue lies in other blocks than the batch."""
    del device
    from pauc.triton import entry, memory

    for module in (entry, memory):
        monkeypatch.setattr(module, "BLOCK", 128)


def draw(kind, count, g, *, gap=2.0):
    """Logits that explain a part of the targets, and targets of which some are to be ignored."""
    classes = CLASSES[kind]
    if kind == "index":
        targets = torch.randint(0, classes, (count,), generator=g)
        positive = targets[:, None] == torch.arange(classes)
    else:
        positive = torch.rand(count, classes, generator=g) < 0.3
        targets = positive.long() if kind == "multilabel" else positive[:, 0].long()
    logits = torch.randn(count, classes, generator=g) + gap * (2 * positive - 1)
    targets[torch.rand(targets.shape, generator=g) < 0.1] = -100
    return logits, targets


def without_positives(kind, targets):
    """The targets without positives of the second class, or of the only one; as a class index
    there is always a positive of some class."""
    targets = targets.clone()
    if kind == "multilabel":
        column = targets[:, 1]
        column[column == 1] = 0
    else:
        targets[targets == 1] = 2 if kind == "index" else 0
    return targets


def a_loss(kind, sampler=None, **options):
    rates = {"sampler": sampler}
    if sampler is None:
        rates = {"batch_size": BATCH, "positive_rate": 0.25}
    # A queue that wraps; the interpreter takes its time for one as long as the recipe's.
    more = {"num_classes": CLASSES[kind], "multilabel": kind == "multilabel", "queue_size": 150}
    loss = PAUCAtBudgetLoss.for_budget(0.05, **rates, **more, **options)
    loss._seen.kinds = {"degenerate", "starved", "rate", "mask"}
    return loss


def by_operators(loss):
    """The same loss in float64, computed by operators."""
    wide = type(loss)(loss.num_classes, multilabel=loss.multilabel, queue_size=loss.queue_size,
                      **loss.config._asdict()).double()  # fmt: skip
    wide._plan = wide._plan._replace(native=None, triton=None, operator=False)
    wide._seen.kinds = loss._seen.kinds
    return wide


def by_oracle(kind, loss, logits, targets, mask):
    """The loss of a batch by plain loops, and of each class."""
    options = {k: v for k, v in loss.config._asdict().items() if k in Options._fields}
    rows = logits.detach().float().tolist(), targets.tolist()
    iid = None if mask is None else mask.tolist()
    more = {"iid": iid, "weight": None}
    if kind != "multilabel":
        keywords = {"num_classes": CLASSES[kind], "queue_size": loss.queue_size}
        result = reference_step(*rows, as_rows(loss.queue), **more, **keywords, **options)
        return result.loss, result.per_class
    held = as_labelled_rows(loss.queue)
    results = multilabel_columns(reference_step, *rows, held, num_classes=3,
                                 queue_size=loss.queue_size, **more, **options)  # fmt: skip
    value = multilabel_loss(results, *rows, held, **more, **options)
    return value, [result.per_class[0] for result in results]


def check_step(kind, loss, wide, logits, targets, mask=None):
    expected, of_classes = by_oracle(kind, loss, logits, targets, mask)
    mine = logits.clone().requires_grad_()
    theirs = logits.double().requires_grad_()
    found, per_class, valid = loss(mine, targets, mask, return_per_class=True)
    wanted = wide(theirs, targets, mask)
    assert type(found.grad_fn).__name__ == "_AttachedBackward", "the kernels declined"
    found.backward()
    wanted.backward()
    assert found.item() == pytest.approx(expected, rel=2e-5)
    assert wanted.item() == pytest.approx(expected, rel=1e-9)
    assert per_class.tolist() == pytest.approx(of_classes, rel=2e-5, nan_ok=True)
    assert valid.tolist() == [not math.isnan(value) for value in of_classes]
    assert mine.grad.dtype == logits.dtype
    digits = DIGITS[logits.dtype]
    largest = theirs.grad.abs().max().item()
    torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=digits, atol=digits * largest)
    for one, other in zip(loss.queue, wide.queue, strict=True):
        assert torch.equal(one.to(other.dtype), other)


@kinds
@pytest.mark.parametrize("dtype", DIGITS, ids=str)
def test_recipe_equals_operators_and_oracle(kind, dtype):
    g = torch.Generator().manual_seed(0)
    loss = a_loss(kind)
    wide = by_operators(loss)
    assert loss.config.weight_scale == "explained"
    for step in range(4):
        logits, targets = draw(kind, BATCH, g)
        if step > 0:  # at first in the batch alone, then in the queue as well
            targets = without_positives(kind, targets)
        if step == 2:
            loss.reset_queue()
            wide.reset_queue()
        check_step(kind, loss, wide, logits.to(dtype), targets)


@pytest.mark.parametrize(
    ("kind", "targets_dtype"),
    [
        ("binary", torch.float32),
        ("index", torch.uint8),
        ("multilabel", torch.float16),
        ("multilabel", torch.bool),  # in which no label is missing
    ],
)
def test_recipe_of_a_sampler_equals_operators_and_oracle(kind, targets_dtype):
    """Added positives and hard negatives, which the mask keeps out of the band's edges alone."""
    g = torch.Generator().manual_seed(1)
    logits, targets = draw(kind, 600, g)
    ignore_index = 255 if targets_dtype == torch.uint8 else -100
    targets[targets == -100] = ignore_index
    sampler = BandSampler(
        targets, BATCH, num_classes=CLASSES[kind], multilabel=kind == "multilabel",
        ignore_index=ignore_index,
    )  # fmt: skip
    loss = a_loss(kind, sampler, ignore_index=ignore_index)
    wide = by_operators(loss)
    sampler.refresh(logits)
    for rows, _ in zip(sampler, range(2), strict=False):
        own = targets[rows].to(targets_dtype)
        check_step(kind, loss, wide, logits[rows], own, sampler.iid_mask)


@kinds
def test_the_weight_has_an_effect(kind):
    """Else the tests above would hold without it."""
    g = torch.Generator().manual_seed(0)
    loss, plain = a_loss(kind), a_loss(kind, weight_scale="unit")
    values, gradients = [], []
    logits, targets = draw(kind, BATCH, g)
    for module in (loss, plain):
        leaf = logits.clone().requires_grad_()
        value = module(leaf, targets)
        value.backward()
        values.append(value.item())
        gradients.append(leaf.grad)
    assert values[0] < 0.95 * values[1]
    assert not torch.allclose(*gradients, rtol=0.05)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_spoils_its_class_alone(reduction, bad):
    g = torch.Generator().manual_seed(0)
    logits, targets = draw("multilabel", BATCH, g)
    targets[3], targets[4] = torch.tensor([-100, 0, 1]), torch.tensor([-100, 1, -100])
    logits[3, 1] = logits[4, 0] = bad  # the second has no label
    loss = a_loss("multilabel", reduction=reduction)
    wide = by_operators(loss)
    mine, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found, wanted = loss(mine, targets), wide(theirs, targets)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-5, atol=1e-6, equal_nan=True)
    found.nansum().backward()
    wanted.nansum().backward()
    own = [0, 2]  # what autograd makes of the class itself is nan, or 0 where nansum took it out
    torch.testing.assert_close(
        mine.grad[:, own].double(), theirs.grad[:, own], rtol=2e-4, atol=1e-6, equal_nan=True
    )
    for one, other in zip(loss.queue, wide.queue, strict=True):
        assert torch.equal(one.to(other.dtype), other)


def test_terms_and_a_second_derivative():
    """The parts have the gradient without the weight; a second derivative is the operators'."""
    g = torch.Generator().manual_seed(2)
    logits, targets = draw("multilabel", BATCH, g)
    options = {"surrogate": "pairwise", "beta": 0.5, "tau_scale": "unit", "temperature": 1.0,
               "bce_weight": 0.5, "weight_scale": "explained", "reduction": "sum"}  # fmt: skip
    results = []
    for leaf in (logits.clone().requires_grad_(), logits.double().requires_grad_()):
        queue = pauc.init_queue(0, 3, multilabel=True, dtype=leaf.dtype)
        parts = pauc.pauc_loss_terms(leaf, targets, queue, **options).per_class
        (of_parts,) = torch.autograd.grad(parts.sum(), leaf)
        loss = pauc.pauc_loss_terms(leaf, targets, queue, **options).loss
        (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
        (second,) = torch.autograd.grad((slope**2).sum(), leaf)
        results.append([part.detach().double() for part in (of_parts, slope, second)])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
