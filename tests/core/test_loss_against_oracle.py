"""The package against the plain-Python reference, over sequences of batches.

Half-precision logits are rounded before either side sees them and computed in float32, so that the
tolerance is that of float32 for three of the four dtypes. Scores, weights and targets in the queue
are copies, and are compared without tolerance.
"""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, event, example, given
from hypothesis import strategies as st

import pauc
from tests.oracles.knife_edges import classes_in_doubt
from tests.oracles.reference import Row, reference_freeze, reference_gradient, reference_step
from tests.oracles.strategies import Batch, Problem, problems

# A random batch is often degenerate or too small for its budget, which the module says once.
pytestmark = [
    pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss:UserWarning"),
    pytest.mark.usefixtures("each_path"),
]

ROUNDINGS = 64  # the pool has at most 44 rows: a sum over it loses less than this many eps


# Nothing at all in the pool, and a pair so far apart (25 tau_eff) that a softplus which is cut off
# at 20, like torch's own, loses the last seven digits of float64.
NOTHING = Problem(1, 0, "float64", {}, [Batch([], [], None, None, False)])
NOTHING_PAIRWISE = NOTHING._replace(options={"surrogate": "pairwise"})
FAR_APART = Problem(
    num_classes=1,
    queue_size=0,
    dtype="float64",
    options={"surrogate": "pairwise", "link": "logistic", "tau_scale": "unit", "temperature": 1.0},
    batches=[Batch([[0.0], [-25.0]], [0, 1], None, None, False)],
)

# --- in and out of tensors ---


class Inputs(NamedTuple):
    logits: torch.Tensor
    targets: torch.Tensor
    iid_mask: torch.Tensor | None
    sample_weight: torch.Tensor | None

    @property
    def side(self) -> dict:
        return {"iid_mask": self.iid_mask, "sample_weight": self.sample_weight}


def as_tensors(problem: Problem, batch: Batch) -> Inputs:
    count = len(batch.targets)
    logits = torch.tensor(batch.logits, dtype=problem.torch_dtype)
    targets = torch.tensor(batch.targets, dtype=torch.int64)
    return Inputs(
        logits.reshape(count, problem.num_classes).requires_grad_(),
        targets[:, None] if batch.column else targets,
        None if batch.iid is None else torch.tensor(batch.iid, dtype=torch.bool),
        None if batch.weight is None else torch.tensor(batch.weight, dtype=problem.compute_dtype),
    )


def as_rows(queue: pauc.QueueState) -> list[Row]:
    """The package's queue in the reference's form, oldest row first."""
    order = pauc.queue_rows(queue)[: int(queue.fill)]
    scores = queue.scores[:, order].T.tolist()
    flags = (x[order].tolist() for x in (queue.targets, queue.iid, queue.weight))
    return [Row(tuple(s), *rest) for s, *rest in zip(scores, *flags, strict=True)]


def reference_arguments(problem: Problem, batch: Batch, queue: list[Row]):
    keywords = {"iid": batch.iid, "weight": batch.weight, "num_classes": problem.num_classes}
    return (batch.logits, batch.targets, queue), {**keywords, "eps": problem.eps}


# --- tolerances ---


class Tolerance(NamedTuple):
    """How far the numbers of one class may be from float64's."""

    threshold: float
    tau: float
    loss: float
    variance: float
    auc: float
    share: float


def largest_score(batch: Batch, queue: list[Row], c: int) -> float:
    scores = [row[c] for row in batch.logits] + [row.scores[c] for row in queue]
    return max((abs(s) for s in scores if math.isfinite(s)), default=0.0)


def tolerance(problem: Problem, batch: Batch, queue: list[Row], tau: float, c: int) -> Tolerance:
    """From the dtype, the length of the sums, and the condition of the class.

    A threshold that is a score is exact. An interpolated one is rounded by a few eps of the largest
    score, and in units of tau_eff, in which the surrogate sees it, by that much more. A logistic
    loss is not bounded by 1 but by the largest margin in those units.
    """
    o, eps = problem.options, problem.eps
    size = largest_score(batch, queue, c)
    interpolated = o.get("quantile_interpolation") in ("linear", "midpoint")
    blur = 8 * eps * size if interpolated else 0.0
    temperature = o.get("temperature", 0.1)
    relative = ROUNDINGS * eps + blur * (1 + temperature) / tau
    bound = 1 + (2 * size / tau / math.log(2) if o.get("link") == "logistic" else 0.0)
    width = o.get("beta", 0.005) - o.get("alpha", 0.0)
    return Tolerance(
        threshold=blur,
        tau=4 * eps * tau + blur * temperature,
        loss=relative * bound,
        variance=4 * relative * bound**2,
        auc=ROUNDINGS * eps / width,
        share=eps,
    )


def assert_close(actual: float, expected: float, allowed: float, what: str) -> None:
    if math.isnan(expected):
        assert math.isnan(actual), f"{what}: {actual}, expected nan"
    else:
        assert abs(actual - expected) <= allowed, f"{what}: {actual}, expected {expected}"


# --- one step ---


def check_class(actual: dict, expected: dict, tol: Tolerance, c: int) -> None:
    allowed = {
        "per_class": tol.loss,
        "t_alpha": tol.threshold,
        "t_beta": tol.threshold,
        "tau_eff": tol.tau,
        "pauc_var": tol.variance,
        "pauc": tol.auc,
        "realised_fpr": tol.share,
    }
    for name, values in expected.items():
        assert_close(actual[name][c], values[c], allowed.get(name, 0), f"{name} of class {c}")


def degenerate_is_specified(expected, c: int) -> bool:
    """Whether the flag is settled: the contract is silent where another ground makes it invalid."""
    return expected.valid[c] or expected.degenerate[c]


def check_losses(loss, expected, allowed: list[float], doubts: list[bool]) -> None:
    """The reduced loss, of the classes that rounding does not decide."""
    if isinstance(expected.loss, list):
        for c, value in enumerate(expected.loss):
            if not doubts[c]:
                assert_close(loss[c].item(), value, allowed[c], f"loss[{c}]")
    elif not any(doubts):
        assert_close(loss.item(), expected.loss, sum(allowed), "loss")


def check_step(problem, batch, queue, found, expected) -> None:
    """`found`: loss, per_class, valid and stats of the package."""
    loss, per_class, valid, stats = found
    args, keywords = reference_arguments(problem, batch, queue)
    doubts = classes_in_doubt(*args, **keywords, **problem.options)
    event(f"in doubt: {sum(doubts)} of {len(doubts)} classes")
    event(f"valid: {sum(expected.valid)} of {len(expected.valid)} classes")
    assert loss.dtype == problem.compute_dtype
    assert set(stats) == set(expected.stats)
    actual = {"per_class": per_class.tolist()} | {k: v.tolist() for k, v in stats.items()}
    allowed = []
    for c in range(problem.num_classes):
        tau = expected.stats["tau_eff"][c]
        tol = tolerance(problem, batch, queue, tau if tau > 0 else math.inf, c)
        entropy = ROUNDINGS * problem.eps * (1 + largest_score(batch, queue, c))
        allowed.append(tol.loss + problem.options.get("bce_weight", 0.0) * entropy)
        if doubts[c]:
            continue
        assert valid[c].item() is expected.valid[c], f"valid of class {c}"
        if expected.poisoned[c]:
            assert math.isnan(per_class[c].item())
        else:
            check_class(actual, {"per_class": expected.per_class} | expected.stats, tol, c)
    check_losses(loss, expected, allowed, doubts)


def reference_of(problem: Problem, batch: Batch, queue: list[Row]):
    args, keywords = reference_arguments(problem, batch, queue)
    return reference_step(*args, **keywords, queue_size=problem.queue_size, **problem.options)


# --- values ---


@example(NOTHING)
@example(NOTHING_PAIRWISE)
@example(FAR_APART)
@given(problems())
def test_terms_equal_the_reference(problem):
    state = pauc.init_queue(problem.queue_size, problem.num_classes, dtype=problem.compute_dtype)
    queue: list[Row] = []
    for batch in problem.batches:
        inputs = as_tensors(problem, batch)
        terms = pauc.pauc_loss_terms(
            inputs.logits, inputs.targets, state, **inputs.side, diagnostics=True, **problem.options
        )
        expected = reference_of(problem, batch, queue)
        found = (terms.loss, terms.per_class, terms.valid, terms.stats)
        check_step(problem, batch, queue, found, expected)
        check_degenerate(problem, batch, queue, terms.degenerate, expected)
        queue, state = expected.queue, terms.queue
        assert as_rows(state) == queue


def check_degenerate(problem, batch, queue, degenerate, expected) -> None:
    args, keywords = reference_arguments(problem, batch, queue)
    doubts = classes_in_doubt(*args, **keywords, **problem.options)
    for c, doubt in enumerate(doubts):
        if not doubt and not expected.poisoned[c] and degenerate_is_specified(expected, c):
            assert degenerate[c].item() is expected.degenerate[c], f"degenerate of class {c}"


@example(NOTHING)
@example(NOTHING_PAIRWISE)
@given(problems())
def test_module_equals_the_reference(problem):
    module = pauc.PAUCAtBudgetLoss(
        problem.num_classes,
        queue_size=problem.queue_size,
        **problem.options,
    ).to(problem.compute_dtype)
    queue: list[Row] = []
    for batch in problem.batches:
        inputs = as_tensors(problem, batch)
        found = module(
            inputs.logits,
            inputs.targets,
            inputs.iid_mask,
            return_per_class=True,
            return_diagnostics=True,
            sample_weight=inputs.sample_weight,
        )
        expected = reference_of(problem, batch, queue)
        check_step(problem, batch, queue, found, expected)
        queue = expected.queue
        assert as_rows(module.queue) == queue


# --- gradients ---


FINITE = {"dtypes": ("float64",), "poisonable": False}


@st.composite
def live_scale_problems(draw):
    """gradient_scale="live" beside a queue; without weights, as the contract counts rows."""
    problem = draw(problems(**FINITE, min_batches=2, min_queue=4))
    unweighted = [batch._replace(weight=None) for batch in problem.batches]
    options = {**problem.options, "gradient_scale": "live"}
    return problem._replace(batches=unweighted, options=options)


def without(problem: Problem, *names: str) -> Problem:
    others = {k: v for k, v in problem.options.items() if k not in names}
    return problem._replace(options=others)


def pool_scale(problem: Problem) -> Problem:
    return without(problem, "gradient_scale")


def queue_before_last(problem: Problem) -> tuple[pauc.QueueState, list[Row]]:
    state = pauc.init_queue(problem.queue_size, problem.num_classes, dtype=torch.float64)
    ignore_index = problem.options.get("ignore_index", -100)
    for batch in problem.batches[:-1]:
        inputs = as_tensors(problem, batch)
        targets = inputs.targets.flatten()
        state = pauc.enqueue(
            state, inputs.logits, targets, **inputs.side, ignore_index=ignore_index
        )
    return state, as_rows(state)


def total_loss(terms) -> torch.Tensor:
    return terms.loss if terms.loss.ndim == 0 else terms.loss[terms.valid].sum()


@example(NOTHING_PAIRWISE)
@example(FAR_APART)
@given(problems(**FINITE).map(pool_scale))
def test_gradient_equals_finite_differences(problem):
    check_gradient(problem)


@given(live_scale_problems())
def test_live_gradient_scale_equals_finite_differences(problem):
    check_gradient(problem)


def check_gradient(problem: Problem) -> None:
    # The frozen reference holds the edges and knows the partial AUC alone.
    problem = without(problem, "edge_gradient", "bce_weight", "pauc_weight", "weight_scale")
    batch = problem.batches[-1]
    state, queue = queue_before_last(problem)
    args, keywords = reference_arguments(problem, batch, queue)
    assume(not any(classes_in_doubt(*args, **keywords, **problem.options)))
    frozen = reference_freeze(*args, **keywords, **problem.options)
    sizes = [largest_score(batch, queue, c) for c in range(problem.num_classes)]
    # A difference over a step of 1e-4 tau needs logits in which such a step can be seen.
    assume(all(f is None or f.tau > 1e-6 * s for f, s in zip(frozen, sizes, strict=True)))

    inputs = as_tensors(problem, batch)
    terms = pauc.pauc_loss_terms(
        inputs.logits, inputs.targets, state, **inputs.side, **problem.options
    )
    (gradient,) = torch.autograd.grad(total_loss(terms), inputs.logits)
    expected = reference_gradient(*args, **keywords, **problem.options)
    event(f"valid classes: {sum(f is not None for f in frozen)}")
    for i, row in enumerate(gradient.tolist()):
        for c, slope in enumerate(row):
            # Truncation leaves 1e-8 / tau, and the loss's own rounding is divided by 1e-4 tau.
            tau = frozen[c].tau if frozen[c] else 1.0
            allowed = (1e-7 + 1e-10 * sizes[c] / tau) / tau
            assert_close(slope, expected[i][c], allowed, f"gradient[{i}, {c}]")
