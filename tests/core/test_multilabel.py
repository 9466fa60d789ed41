"""Targets [N, C]: each class is the binary loss of its own column, whatever the others lack."""

from __future__ import annotations

import copy
import math
import random
from functools import partial

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import pauc
from pauc import (
    PAUCAtBudgetLoss,
    QueueState,
    RecallAtQuantileLoss,
    SmoothAPLoss,
    enqueue,
    init_queue,
    pauc_loss_fn,
    pauc_loss_terms,
    recall_at_quantile_terms,
    resize_queue,
    smooth_ap_terms,
)
from pauc.metrics import coverage_at_budget, partial_auc, tpr_at_fpr
from tests.core.test_loss_against_oracle import assert_close, check_class, largest_score, tolerance
from tests.oracles.knife_edges import classes_in_doubt
from tests.oracles.reference import reference_step
from tests.oracles.reference_multilabel import (
    LabelledRow,
    advance,
    column,
    multilabel_columns,
    multilabel_loss,
)
from tests.oracles.strategies import SEEDS, problems
from tests.test_functional import NoHostReads, assert_same_state

pytestmark = [
    pytest.mark.filterwarnings("ignore:(PAUCAtBudget|RecallAtQuantile|SmoothAP)Loss"),
    pytest.mark.usefixtures("each_path"),
]

TERMS = {"pauc": pauc_loss_terms, "recall": recall_at_quantile_terms, "ap": smooth_ap_terms}
MODULES = {"pauc": PAUCAtBudgetLoss, "recall": RecallAtQuantileLoss, "ap": SmoothAPLoss}
OPTIONS = [
    ("pauc", {"beta": 0.3}),
    ("pauc", {"beta": 0.4, "n_knots": 4, "edge_gradient": "implicit", "gradient_scale": "live"}),
    ("pauc", {"beta": 0.3, "surrogate": "pairwise", "bce_weight": 0.5, "tau_scale": "unit"}),
    (
        "pauc",
        {
            "alpha": 0.05,
            "beta": 0.5,
            "surrogate": "pairwise",
            "link": "logistic",
            "gradient_scale": "live",
            "pos_numerator": "live",
            "budget_basis": "population",
        },
    ),
    ("recall", {"quantile": 0.2, "edge_gradient": "implicit", "gradient_scale": "live"}),
    ("ap", {"gradient_scale": "live", "bce_weight": 0.5}),
]
# The identities have many parameters, and each case finds its mutants early.
examples = settings(max_examples=settings().max_examples // 5)
cases = pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
both_entries = pytest.mark.parametrize("entry", [0, 1], ids=["function", "module"])


def batch(seed, num_classes=3, count=60, missing=0.3, dtype=torch.float64):
    """Random rows with about a third of positives; their logits say something of the targets."""
    g = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, num_classes, generator=g) < 0.3).long()
    logits = torch.randn(count, num_classes, generator=g, dtype=dtype) + targets
    targets[torch.rand(count, num_classes, generator=g) < missing] = -100
    return logits, targets


def side(seed, count=60, dtype=torch.float64):
    g = torch.Generator().manual_seed(1000 + seed)
    return {
        "iid_mask": torch.rand(count, generator=g) < 0.8,
        "sample_weight": torch.rand(count, generator=g).to(dtype),
    }


def warm_queue(num_classes=3, size=100, steps=3, dtype=torch.float64, **rows):
    queue = init_queue(size, num_classes, multilabel=True, dtype=dtype)
    for seed in range(steps):
        queue = enqueue(queue, *batch(100 + seed, num_classes, dtype=dtype, **rows), **side(seed))
    return queue


def binary_queue(queue: QueueState, c: int) -> QueueState:
    """The rows of a multi-label queue that have a label for class `c`, in a binary one."""
    slots = pauc.queue_rows(queue)[: int(queue.fill)]
    slots = slots[queue.targets[c, slots] >= 0]
    return QueueState(
        scores=queue.scores[c : c + 1, slots],
        targets=queue.targets[c, slots].long(),
        iid=queue.iid[slots],
        weight=queue.weight[slots],
        cursor=torch.tensor(0),
        fill=torch.tensor(len(slots)),
        step=queue.step,
    )


# --- against the reference ---


@st.composite
def multilabel_problems(draw, **limits):
    """Problems of `strategies`; columns differ in how much is positive, and how much is missing."""
    problem = draw(problems(**limits))
    ignore_index = problem.options.get("ignore_index", -100)
    shares = st.tuples(st.sampled_from([0.0, 0.3, 0.6, 1.0]), st.sampled_from([0, 0, 0.2, 0.7, 1]))

    def labels(count):
        source = random.Random(draw(SEEDS))
        columns = draw(st.lists(shares, min_size=problem.num_classes, max_size=problem.num_classes))
        return [
            [
                ignore_index if source.random() < missing else int(source.random() < positive)
                for positive, missing in columns
            ]
            for _ in range(count)
        ]

    batches = [b._replace(targets=labels(len(b.targets))) for b in problem.batches]
    return problem._replace(batches=batches)


def as_tensors(problem, rows):
    shape = (len(rows.targets), problem.num_classes)
    logits = torch.tensor(rows.logits, dtype=problem.torch_dtype).reshape(shape)
    targets = torch.tensor(rows.targets, dtype=torch.int64).reshape(shape)
    mask = None if rows.iid is None else torch.tensor(rows.iid, dtype=torch.bool)
    weight = None
    if rows.weight is not None:
        weight = torch.tensor(rows.weight, dtype=problem.compute_dtype)
    return logits.requires_grad_(), targets, {"iid_mask": mask, "sample_weight": weight}


def as_labelled_rows(queue: QueueState) -> list[LabelledRow]:
    order = pauc.queue_rows(queue)[: int(queue.fill)]
    labels = [
        tuple(None if t < 0 else t for t in row) for row in queue.targets[:, order].T.tolist()
    ]
    scores = [tuple(row) for row in queue.scores[:, order].T.tolist()]
    flags = (x[order].tolist() for x in (queue.iid, queue.weight))
    return [LabelledRow(*row) for row in zip(scores, labels, *flags, strict=True)]


def check_against_reference(problem, rows, queue, terms):
    """Every class of a step against the plain-Python loss of its column, and the loss of all.

    The statistics too, where a step has any. Returns which classes rounding decides.
    """
    ignore_index = problem.options.get("ignore_index", -100)
    keywords = {"iid": rows.iid, "weight": rows.weight, "eps": problem.eps}
    results = multilabel_columns(
        reference_step,
        rows.logits,
        rows.targets,
        queue,
        num_classes=problem.num_classes,
        queue_size=problem.queue_size,
        **keywords,
        **problem.options,
    )
    actual = {"per_class": terms.per_class.tolist()}
    actual |= {name: value.tolist() for name, value in terms.stats.items()}
    allowed, doubts = [], []
    for c, expected in enumerate(results):
        tau = expected.stats["tau_eff"][0]
        tol = tolerance(problem, rows, queue, tau if tau > 0 else math.inf, c)
        entropy = 64 * problem.eps * (1 + largest_score(rows, queue, c))
        allowed.append(tol.loss + problem.options.get("bce_weight", 0.0) * entropy)
        arguments = column(rows.logits, rows.targets, queue, c, ignore_index)
        doubts += classes_in_doubt(*arguments, **keywords, num_classes=1, **problem.options)
        if doubts[c]:
            continue
        assert terms.valid[c].item() is expected.valid[0]
        own = {name: [values[c]] for name, values in actual.items()}
        stats = expected.stats if terms.stats else {}
        if expected.poisoned[0]:
            assert math.isnan(own["per_class"][0])
        else:
            check_class(own, {"per_class": expected.per_class} | stats, tol, 0)
    event(f"valid: {sum(r.valid[0] for r in results)} of {len(results)} classes")
    del keywords["eps"]
    loss = multilabel_loss(results, rows.logits, rows.targets, queue, **keywords, **problem.options)
    if isinstance(loss, list):
        for c, value in enumerate(loss):
            if not doubts[c]:
                assert_close(terms.loss[c].item(), value, allowed[c], f"loss[{c}]")
    elif not any(doubts):
        assert_close(terms.loss.item(), loss, sum(allowed), "loss")
    return doubts


@given(multilabel_problems())
def test_terms_and_queue_equal_the_reference(problem):
    state = init_queue(
        problem.queue_size, problem.num_classes, multilabel=True, dtype=problem.compute_dtype
    )
    ignore_index = problem.options.get("ignore_index", -100)
    queue: list[LabelledRow] = []
    for rows in problem.batches:
        logits, targets, more = as_tensors(problem, rows)
        terms = pauc_loss_terms(logits, targets, state, **more, diagnostics=True, **problem.options)
        assert terms.stats
        check_against_reference(problem, rows, queue, terms)
        queue = advance(
            queue,
            logits.tolist(),
            rows.targets,
            rows.iid,
            rows.weight,
            problem.queue_size,
            ignore_index,
        )
        state = terms.queue
        assert as_labelled_rows(state) == queue


# --- identities ---


def same(one, other, rtol=1e-9):
    # float64; a class's sum is taken in another order than that of one class alone.
    torch.testing.assert_close(one, other, rtol=rtol, atol=1e-12, equal_nan=True)


@cases
@pytest.mark.parametrize("validate_args", [True, False])
@examples
@given(
    seed=SEEDS,
    num_classes=st.integers(1, 4),
    count=st.integers(0, 60),
    missing=st.sampled_from([0.0, 0.3, 0.9]),
    with_side=st.booleans(),
)
def test_a_class_is_the_binary_loss_of_its_column(
    kind, options, validate_args, seed, num_classes, count, missing, with_side
):
    queue = warm_queue(num_classes, missing=missing)
    logits, targets = batch(seed % 2**31, num_classes, count, missing)
    more = side(seed % 2**31, count) if with_side else {}
    options = {**options, "reduction": "sum", "validate_args": validate_args}
    logits.requires_grad_()
    terms = TERMS[kind](logits, targets, queue, diagnostics=True, **more, **options)
    (gradient,) = torch.autograd.grad(terms.loss, logits)
    total = 0.0
    for c in range(num_classes):
        rows = targets[:, c] != -100
        # Absent rows are left out altogether: what is ignored is as good as not there.
        own = logits.detach()[rows, c : c + 1].requires_grad_()
        kept = {name: value[rows] for name, value in more.items()}
        alone = TERMS[kind](
            own, targets[rows, c], binary_queue(queue, c), diagnostics=True, **kept, **options
        )
        (expected,) = torch.autograd.grad(alone.loss, own)
        same(gradient[rows, c], expected[:, 0])
        assert not gradient[~rows, c].any()
        same(terms.per_class[c], alone.per_class[0])
        assert terms.valid[c] == alone.valid[0]
        assert terms.degenerate[c] == alone.degenerate[0]
        assert terms.stats.keys() == alone.stats.keys()
        for name, value in alone.stats.items():
            same(terms.stats[name][c], value[0])
        total = total + alone.loss.detach()
    same(terms.loss.detach(), total)


@cases
@pytest.mark.parametrize("validate_args", [True, False])
def test_one_hot_is_one_vs_rest(kind, options, validate_args):
    """Over a queue that wraps, with ignored rows and with a non-finite one."""
    one = init_queue(100, 3, dtype=torch.float64)
    other = init_queue(100, 3, multilabel=True, dtype=torch.float64)
    for seed in range(4):
        logits, _ = batch(seed)
        index = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(seed))
        index[:4] = -100
        if seed == 1:
            logits[9, 1] = math.nan
        one_hot = (index.unsqueeze(1) == torch.arange(3)).long()
        one_hot[index == -100] = -100
        results = []
        for targets, queue in ((index, one), (one_hot, other)):
            leaf = logits.clone().requires_grad_()
            terms = TERMS[kind](
                leaf,
                targets,
                queue,
                diagnostics=True,
                validate_args=validate_args,
                **side(seed),
                **options,
            )
            terms.loss.backward()
            results.append((terms, leaf.grad))
        (expected, gradient), (found, own_gradient) = results
        for name in ("loss", "per_class", "valid", "degenerate", "ref_count"):
            same(getattr(found, name), getattr(expected, name))
        for name, value in expected.stats.items():
            same(found.stats[name], value)
        same(own_gradient, gradient)
        one, other = expected.queue, found.queue
        labels = torch.where(torch.arange(100) < other.fill, other.targets.argmax(dim=0), 0)
        assert torch.equal(labels, one.targets)
        assert_same_state(other._replace(targets=labels), one)


# --- what is absent ---


@cases
@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30])
def test_a_logit_without_a_label_is_never_looked_at(kind, options, junk):
    logits, targets = batch(0)
    results = []
    for filler in (0.0, junk):
        leaf = torch.where(targets == -100, filler, logits).requires_grad_()
        terms = TERMS[kind](leaf, targets, warm_queue(), diagnostics=True, **options)
        terms.loss.backward()
        results.append([terms.loss.detach(), leaf.grad, *terms.stats.values(), *terms.queue])
    assert_same_state(*results)
    assert not results[0][1][targets == -100].any()


def test_rows_that_enter_the_queue():
    logits = torch.arange(15.0).reshape(5, 3)
    logits[1, 0] = logits[2, 1] = math.nan
    targets = torch.tensor([[0, 1, 0], [-1, 1, -1], [0, 1, 1], [-1, -1, -1], [1, -1, 0]])
    queue = enqueue(init_queue(9, 3, multilabel=True), logits, targets, ignore_index=-1)
    assert as_labelled_rows(queue) == [
        LabelledRow((0.0, 1.0, 2.0), (0, 1, 0)),
        LabelledRow((0.0, 4.0, 0.0), (None, 1, None)),  # its nan has no label
        LabelledRow((12.0, 0.0, 14.0), (1, None, 0)),
    ]


@cases
def test_a_non_finite_logit_spoils_its_own_class_alone(kind, options):
    logits, targets = batch(0, missing=0.0)
    logits[3, 1] = math.nan
    terms = TERMS[kind](logits, targets, warm_queue(), **options)
    clean = TERMS[kind](torch.where(logits.isnan(), 0.0, logits), targets, warm_queue(), **options)
    assert terms.per_class.isnan().tolist() == [False, True, False]
    assert terms.loss.isnan()
    assert torch.equal(terms.per_class[[0, 2]], clean.per_class[[0, 2]])
    assert terms.queue.scores.isfinite().all()


@cases
def test_nothing_to_compare_is_an_attached_zero(kind, options):
    for targets in (
        torch.full((5, 3), -100),
        torch.zeros(5, 3),
        torch.ones(5, 3),
        torch.ones(0, 3),
    ):
        logits = torch.randn(len(targets), 3, requires_grad=True)
        options = {**options, "bce_weight": 0.0}
        terms = TERMS[kind](logits, targets, init_queue(0, 3, multilabel=True), **options)
        terms.loss.backward()
        assert terms.loss == 0
        assert not terms.valid.any()
        assert not logits.grad.any()


# --- transforms ---


@cases
def test_func_grad_and_vmap(kind, options):
    members = torch.stack([batch(seed)[0] for seed in range(3)])
    targets = batch(0)[1]
    queues = [warm_queue(steps=2)._replace(step=torch.tensor(k)) for k in range(3)]
    queues = [q._replace(scores=q.scores + k) for k, q in enumerate(queues)]
    stacked = QueueState(*(torch.stack(tensors) for tensors in zip(*queues, strict=True)))

    def step(logits, queue):
        terms = TERMS[kind](logits, targets, queue, validate_args=False, **options)
        return terms.loss, terms.queue

    gradients, new_queues = torch.func.vmap(torch.func.grad(step, has_aux=True))(members, stacked)
    for k, queue in enumerate(queues):
        leaf = members[k].clone().requires_grad_()
        loss, new_queue = step(leaf, queue)
        loss.backward()
        same(gradients[k], leaf.grad)
        assert_same_state([tensor[k] for tensor in new_queues], new_queue)


@cases
def test_no_host_synchronisation_without_value_checks(kind, options):
    module = MODULES[kind](3, multilabel=True, queue_size=100, validate_args=False, **options)
    logits, targets = batch(0, dtype=torch.float32)
    module(logits, targets)
    logits.requires_grad_()
    with NoHostReads():
        flags = {"return_per_class": True, "return_diagnostics": True}
        loss, *_ = module(logits, targets, **flags, **side(0))
        loss.backward()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "backend"),
    # Inductor once: it takes most of a minute.
    [(*OPTIONS[0], "aot_eager"), (*OPTIONS[3], "inductor"), (*OPTIONS[5], "aot_eager")],
    ids=["trapezoid", "pairs", "ap"],
)
def test_compiled_steps_equal_eager(kind, options, backend):
    torch._dynamo.reset()

    def forward(weight, features, targets, queue):
        terms = TERMS[kind](features @ weight, targets, queue, **options)
        return terms.loss, terms.queue

    compiled = torch.compile(forward, fullgraph=True, backend=backend)
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 2, generator=g, requires_grad=True)
    queue = init_queue(150, 2, multilabel=True)
    for seed in range(4):  # the queue fills up and wraps
        features = torch.randn(64, 5, generator=g)
        targets = batch(seed, 2, 64)[1]
        loss, new_queue = forward(weight, features, targets, queue)
        other, other_queue = compiled(weight, features, targets, queue)
        gradients = [torch.autograd.grad(value, weight)[0] for value in (loss, other)]
        # float32 in another order of operations
        torch.testing.assert_close(other, loss, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(other_queue.scores, new_queue.scores, atol=1e-6, rtol=1e-6)
        assert_same_state(other_queue[1:], new_queue[1:])
        queue = new_queue


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("kind", ["pairs", "trapezoid", "ap"])
def test_gradcheck(kind, temperature):
    """Edges and scale come from the queue alone, so that nothing detached moves."""
    logits, targets = batch(0, count=12)
    queue, mask = warm_queue(), torch.zeros(12, dtype=torch.bool)
    options = {
        "pairs": {"surrogate": "pairwise", "link": "logistic", "beta": 0.9, "bce_weight": 0.5},
        "trapezoid": {"beta": 0.4, "n_knots": 3},
        "ap": {},
    }[kind]
    terms = TERMS["ap" if kind == "ap" else "pauc"]

    def loss(logits):
        return terms(logits, targets, queue, iid_mask=mask, temperature=temperature, **options).loss

    assert torch.autograd.gradcheck(loss, logits.requires_grad_(), atol=1e-7, rtol=1e-6)


# --- the module, and its checkpoints ---


@cases
def test_module_equals_function_and_resumes_bit_for_bit(kind, options, tmp_path):
    module = MODULES[kind](3, multilabel=True, queue_size=100, **options)
    queue = init_queue(100, 3, multilabel=True)
    for seed in range(6):
        if seed == 3:  # in mid-wrap
            torch.save(module.state_dict(), tmp_path / "checkpoint.pt")
            module = MODULES[kind](3, multilabel=True, queue_size=100, **options)
            module.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
        logits, targets = batch(seed, dtype=torch.float32)
        terms = TERMS[kind](logits, targets, queue, diagnostics=True, **side(seed), **options)
        loss, stats = module(logits, targets, return_diagnostics=True, **side(seed))
        assert torch.equal(loss, terms.loss)
        assert_same_state(
            [x.nan_to_num() for x in stats.values()], [x.nan_to_num() for x in terms.stats.values()]
        )
        queue = terms.queue
        assert_same_state(module.queue, queue)
    module.reset_queue()
    assert module.queue.targets.shape == (3, 100)
    assert int(module.queue.fill) == 0


@given(seed=st.integers(0, 2**20), size=st.integers(0, 40), other=st.integers(0, 40))
def test_a_checkpoint_of_another_size_keeps_the_newest_rows_in_order(seed, size, other):
    first = PAUCAtBudgetLoss(3, multilabel=True, queue_size=size)
    for k in range(3):
        first(*batch(seed + k, count=13, missing=0.6))
    second = PAUCAtBudgetLoss(3, multilabel=True, queue_size=other)
    second.load_state_dict(first.state_dict())
    rows = as_labelled_rows(first.queue)
    assert as_labelled_rows(second.queue) == rows[max(0, len(rows) - other) :]
    assert as_labelled_rows(resize_queue(first.queue, other)) == as_labelled_rows(second.queue)


@pytest.mark.parametrize("multilabel", [True, False])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_checkpoint_of_the_other_kind_is_refused_and_changes_nothing(num_classes, multilabel):
    module = PAUCAtBudgetLoss(num_classes, multilabel=multilabel, queue_size=9)
    other = PAUCAtBudgetLoss(num_classes, multilabel=not multilabel, queue_size=9)
    before = copy.deepcopy(module.state_dict())
    message = f"queue_targets has multilabel={not multilabel}, .*has multilabel={multilabel}"
    with pytest.raises(RuntimeError, match=message):
        module.load_state_dict(other.state_dict())
    assert_same_state(before.values(), module.state_dict().values())


def test_half_the_model_and_a_preset():
    module = PAUCAtBudgetLoss.for_budget(
        0.1, batch_size=64, positive_rate=0.3, num_classes=3, multilabel=True
    ).to(torch.bfloat16)
    logits, targets = batch(0, dtype=torch.float32)
    logits = logits.to(torch.bfloat16).requires_grad_()
    loss = module(logits, targets)
    loss.backward()
    assert loss.dtype == module.queue.scores.dtype == torch.float32
    assert logits.grad.dtype == torch.bfloat16
    assert "multilabel=True" in repr(module)


# --- metrics ---


METRICS = {
    "partial_auc": partial(partial_auc, alpha=0.1, beta=0.5, normalize="mcclish"),
    "tpr_at_fpr": partial(tpr_at_fpr, fpr=0.2),
    "tpr_at_fprs": partial(tpr_at_fpr, fpr=[[0.1], [0.3]]),
    "coverage_at_budget": partial(coverage_at_budget, budget=torch.tensor([0.1, 0.4])),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
@pytest.mark.parametrize("ignore_index", [-100, 7])
def test_metrics_by_column(metric, ignore_index):
    metric = partial(metric, ignore_index=ignore_index)
    scores, targets = batch(0)
    scores = torch.where(targets == -100, math.nan, scores)
    targets = torch.where(targets == -100, ignore_index, targets)
    found = metric(scores, targets)
    for c in range(3):
        rows = targets[:, c] != ignore_index
        assert torch.equal(found[c], metric(scores[rows, c], targets[rows, c]))
    whole = scores.nan_to_num()
    spoiled = torch.zeros(60, 3, dtype=torch.bool)
    spoiled[4, 1] = True
    rows = torch.where(spoiled, math.nan, whole), torch.where(spoiled, 1, targets)
    with pytest.raises(ValueError, match="in column 1: scores must not be nan, got 1 nan"):
        metric(*rows)
    without = targets.index_fill(1, torch.tensor(2), 0)
    with pytest.warns(UserWarning, match="column 2: targets must hold both classes"):
        found = metric(whole, without)
    assert found[2].isnan().all()
    assert torch.equal(found[:2], metric(whole[:, :2], without[:, :2]))
    with pytest.raises(ValueError, match=r"targets must be \[N\], .*got shape \[60, "):
        metric(scores, targets[:, :2])


def test_average_of_the_columns_is_that_of_scikit_learn():
    scores, targets = batch(1, missing=0.0)
    found = partial_auc(scores, targets, beta=0.3, normalize="mcclish")
    expected = [roc_auc_score(targets[:, c], scores[:, c], max_fpr=0.3) for c in range(3)]
    same(found, torch.tensor(expected, dtype=torch.float64))


# --- bad input ---

X, Y = batch(7, count=4, missing=0.0, dtype=torch.float32)
BAD_BATCHES = {
    "targets of one-vs-rest": (
        Y[:, 0],
        {},
        r"targets must be \[4, 3\] .*multilabel=True, got \(4,\)",
    ),
    "a column": (Y[:, :1], {}, r"\[4, 3\].*multilabel=True, got \(4, 1\)"),
    "too many rows": (Y.repeat(2, 1), {}, r"\[4, 3\].*got \(8, 3\)"),
    "not 0 or 1": (Y.index_fill(1, torch.tensor([2]), 2), {}, r"0\.\.1 or .*2 in row 0, column 2"),
    "not whole": (Y + 0.5, {}, r"whole.*0\.5 in row .*, column .*\(12 such entries\)"),
    "negative weight": (Y, {"sample_weight": -torch.ones(4)}, "sample_weight.*-1.0 in row 0"),
    "weight [N, C]": (Y, {"sample_weight": torch.ones(4, 3)}, r"sample_weight must be \[4\]"),
    "mask [N, C]": (Y, {"iid_mask": torch.ones(4, 3).bool()}, r"iid_mask must be \[4\]"),
}


def entry_points(entry):
    queue = warm_queue(dtype=torch.float32)
    module = PAUCAtBudgetLoss(3, multilabel=True, queue_size=100)
    module._store(queue)
    if entry == 0:
        return lambda *rows, **more: pauc_loss_fn(*rows, queue, **more), queue
    return module, module.queue


@both_entries
@pytest.mark.parametrize("case", list(BAD_BATCHES))
def test_bad_batch_is_refused_and_nothing_has_entered(case, entry):
    targets, keywords, message = BAD_BATCHES[case]
    call, state = entry_points(entry)
    before = [tensor.clone() for tensor in state]
    with pytest.raises(ValueError, match=message):
        call(X, targets, **keywords)
    with pytest.raises(ValueError, match=message):
        enqueue(state, X, targets, **keywords)
    assert_same_state(before, state)


@both_entries
@pytest.mark.parametrize(
    "targets",
    [Y.bool(), Y.to(torch.uint8), Y.float(), Y.to(torch.bfloat16), Y.T.contiguous().T],
    ids=lambda t: f"{t.dtype} {t.stride()}",
)
def test_accepted_targets(targets, entry):
    call, state = entry_points(entry)
    expected = enqueue(state, X, Y)
    result = call(X, targets)
    after = result[1] if entry == 0 else state
    assert_same_state(after, expected)


def test_the_weight_of_a_row_without_a_label_does_not_count():
    targets = Y.clone()
    targets[1] = -100
    weight = torch.tensor([1.0, math.nan, 1.0, 1.0])
    loss, queue = pauc_loss_fn(X, targets, warm_queue(), sample_weight=weight)
    assert loss.isfinite()
    assert queue.weight.isfinite().all()
    with pytest.raises(ValueError, match=r"sample_weight.*nan in row 1"):
        pauc_loss_fn(X, Y, warm_queue(), sample_weight=weight)


def test_one_class_may_be_either():
    logits, targets = batch(0, 1)
    found, _ = pauc_loss_fn(logits, targets, init_queue(0, 1, multilabel=True), beta=0.3)
    expected, _ = pauc_loss_fn(logits, targets, init_queue(0, 1), beta=0.3)
    same(found, expected)
    with pytest.raises(ValueError, match=r"targets must be \[60, 1\] .*multilabel=True"):
        pauc_loss_fn(logits, targets[:, 0], init_queue(0, 1, multilabel=True))


def test_multilabel_targets_without_being_told():
    message = r"targets must be \[4\] or \[4, 1\] .*multilabel=False, got \(4, 3\)"
    with pytest.raises(ValueError, match=message):
        PAUCAtBudgetLoss(3)(X, Y)
    with pytest.raises(ValueError, match=message):
        pauc_loss_fn(X, Y, init_queue(9, 3))


def test_refused_arguments():
    for make in (PAUCAtBudgetLoss, RecallAtQuantileLoss, SmoothAPLoss):
        with pytest.raises(TypeError, match="multilabel must be a bool, got 1"):
            make(3, multilabel=1)
    with pytest.raises(TypeError, match="multilabel must be a bool, got 'yes'"):
        init_queue(4, 3, multilabel="yes")
