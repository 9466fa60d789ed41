"""Bad input: each row through both entries, the message, and the state unchanged afterwards."""

from __future__ import annotations

import math

import pytest
import torch

from pauc import PAUCAtBudgetLoss, enqueue, init_queue, pairwise_pauc, pauc_loss_fn, trapezoid_pauc

pytestmark = pytest.mark.usefixtures("each_path")


def precision(target, base_rate, **options):
    return {
        "budget_basis": "precision",
        "precision": target,
        "base_rate": base_rate,
        **options,
    }


BAD_OPTIONS = [
    ({"alpha": -0.01}, ValueError, "alpha"),
    ({"alpha": 0.2, "beta": 0.1}, ValueError, "0 <= alpha < beta <= 1"),
    ({"alpha": 0.2, "beta": 0.2}, ValueError, "0 <= alpha < beta <= 1"),
    ({"beta": 1.01}, ValueError, "beta"),
    ({"beta": math.nan}, ValueError, "beta"),
    ({"alpha": "0"}, TypeError, "alpha"),
    ({"beta": True}, TypeError, "beta"),
    ({"surrogate": "hinge"}, ValueError, "surrogate"),
    ({"surrogate": 1}, TypeError, "surrogate"),
    ({"n_knots": 1}, ValueError, "n_knots"),
    ({"n_knots": 2.5}, TypeError, "n_knots"),
    ({"n_knots": True}, TypeError, "n_knots"),
    ({"tau_scale": "std"}, ValueError, "tau_scale"),
    ({"pos_numerator": "queue"}, ValueError, "pos_numerator"),
    ({"budget_basis": "tpr"}, ValueError, "budget_basis"),
    ({"precision": 0.5}, ValueError, 'precision must be None unless budget_basis="precision"'),
    (
        {"budget_basis": "population", "base_rate": 0.1},
        ValueError,
        "base_rate must be None unless .*, got 0.1 with budget_basis='population'",
    ),
    (
        {"budget_basis": "precision", "base_rate": 0.1},
        TypeError,
        'precision must be a number with budget_basis="precision", got None',
    ),
    ({"budget_basis": "precision", "precision": 0.1}, TypeError, "base_rate must be a number"),
    (precision(0.5, "0.1"), TypeError, "base_rate must be a real number, got str '0.1'"),
    (precision(True, 0.1), TypeError, "precision must be a real number"),
    (precision(torch.tensor(0.5), 0.1), TypeError, "precision must be a real number"),
    (precision(0.5, 0.0), ValueError, "base_rate must be above 0 and below 1, got 0.0"),
    (precision(0.5, math.nan), ValueError, "base_rate"),
    (precision(1.0, 0.1), ValueError, "precision must be above base_rate=0.1, .* got 1.0"),
    (precision(0.1, 0.1), ValueError, "precision must be above base_rate=0.1"),
    (precision(math.nan, 0.1), ValueError, "precision must be above base_rate=0.1"),
    (
        precision(0.5, 0.001),  # the default of `beta` is too large
        ValueError,
        "beta must be below 0.001001, the FPR that precision=0.5 allows at .* got 0.005",
    ),
    (precision(0.5, 0.1, beta=0.12), ValueError, "beta must be below 0.1111"),
    ({"temperature": 0.0}, ValueError, "temperature"),
    ({"temperature": -1.0}, ValueError, "temperature"),
    ({"temperature": math.inf}, ValueError, "temperature"),
    ({"temperature": None}, TypeError, "temperature"),
    ({"reduction": "max"}, ValueError, "reduction"),
    ({"ignore_index": 0.5}, TypeError, "ignore_index"),
    ({"ignore_index": 2**63}, ValueError, "ignore_index must fit into int64"),
    ({"quantile_interpolation": "cubic"}, ValueError, "quantile_interpolation"),
    ({"max_pool_size": 1}, ValueError, "max_pool_size"),
    ({"max_pool_size": 9.0}, TypeError, "max_pool_size"),
    ({"max_beta": "1"}, TypeError, "max_beta"),
    ({"beta": 0.3, "max_beta": 0.2}, ValueError, r"max_beta must be in \[beta, 1\] = \[0.3, 1\]"),
    ({"max_beta": 1.5}, ValueError, "max_beta"),
    ({"max_beta": math.nan}, ValueError, "max_beta"),
    ({"link": "probit"}, ValueError, "link"),
    ({"gradient_scale": "batch"}, ValueError, "gradient_scale"),
    ({"edge_gradient": "moving"}, ValueError, "edge_gradient"),
    ({"bce_weight": -0.1}, ValueError, "bce_weight"),
    ({"bce_weight": "1"}, TypeError, "bce_weight"),
    ({"pauc_weight": -1.0}, ValueError, "pauc_weight"),
    ({"margin": 1.0}, TypeError, "margin"),
    *(
        ({name: torch.ones(shape, dtype=dtype)}, TypeError, f"{name} must be a real number or a 0-")
        for name in ("alpha", "beta", "temperature", "bce_weight", "pauc_weight")
        for shape, dtype in (((1,), torch.float64), ((), torch.int64))
    ),
    ({"beta": torch.tensor(0.3), "max_beta": 2.0}, ValueError, "max_beta"),
    ({"beta": torch.tensor(0.3), "max_beta": 0}, ValueError, r"\(alpha, 1\] = \(0.0, 1\], got 0"),
    ({"alpha": 0.5, "beta": torch.tensor(0.3), "max_beta": 0.4}, ValueError, "max_beta"),
    ({"alpha": -0.5, "beta": torch.tensor(0.3)}, ValueError, "alpha"),
    ({"alpha": "0", "beta": torch.tensor(0.3)}, TypeError, "alpha"),
    ({"alpha": torch.tensor(0.1), "beta": math.nan}, ValueError, "beta"),
    ({"alpha": torch.tensor(0.1), "beta": True}, TypeError, "beta"),
]

GOOD_OPTIONS = [
    {"alpha": 0, "beta": 1},
    {"alpha": 0.5, "beta": 0.500001},
    {"n_knots": 2},
    {"temperature": 1e-6},
    {"max_pool_size": 3},
    {"max_pool_size": None},
    {"beta": 0.3, "max_beta": 0.3},
    precision(0.999, 0.9),
    precision(0.5, 0.1, beta=0.11),
    precision(0.5, 0.1, beta=0.9, max_beta=1.0),  # as a schedule sets it
    {"ignore_index": 2**40},
    {"ignore_index": -1},
]


def entry_points(num_classes=3, **options):
    """The two entries over a queue with rows in it, as (call, state) pairs."""
    logits, targets = torch.randn(6, num_classes), torch.zeros(6, dtype=torch.int64)
    queue = enqueue(init_queue(10, num_classes), logits, targets)
    module = PAUCAtBudgetLoss(num_classes, queue_size=10, **options)
    module(logits, targets)

    def function(*arguments, **keywords):
        return pauc_loss_fn(*arguments, queue, **keywords, **options)

    return [(function, queue), (module, module.queue)]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS, ids=str)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        PAUCAtBudgetLoss(3, **options)
    with pytest.raises(error, match=message):
        pauc_loss_fn(torch.randn(4, 3), torch.zeros(4), init_queue(0, 3), **options)


@pytest.mark.parametrize("name", ["alpha", "beta", "temperature", "bce_weight", "pauc_weight"])
def test_a_number_may_be_a_tensor_in_a_function_alone(name):
    options = {"alpha": 0.1, "beta": 0.6, "temperature": 2.0, "bce_weight": 0.3, "pauc_weight": 0.5}
    tensor = torch.tensor(options[name], dtype=torch.float64)
    arguments = torch.randn(9, 3), torch.arange(9) % 3, init_queue(0, 3)
    expected, _ = pauc_loss_fn(*arguments, **options)
    loss, _ = pauc_loss_fn(*arguments, **{**options, name: tensor})
    torch.testing.assert_close(loss, expected)  # the dtype, too
    with pytest.raises(TypeError, match=f"{name} must be a number in a module, got a tensor"):
        PAUCAtBudgetLoss(3, **{**options, name: tensor})


@pytest.mark.parametrize("options", GOOD_OPTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss")
def test_options_at_their_limits_are_accepted(options):
    logits, targets = torch.randn(9, 3), torch.arange(9) % 3
    expected, _ = pauc_loss_fn(logits, targets, init_queue(0, 3), **options)
    found = PAUCAtBudgetLoss(3, queue_size=0, **options)(logits, targets)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes"),
        ({"num_classes": 1.0}, TypeError, "num_classes"),
        ({"num_classes": 2, "queue_size": -1}, ValueError, "queue_size"),
        ({"num_classes": 2, "queue_size": 1e3}, TypeError, "queue_size"),
        ({"num_classes": 2, "update_queue_in_eval": 1}, TypeError, "update_queue_in_eval"),
        ({"num_classes": 2, "validate_args": None}, TypeError, "validate_args"),
    ],
    ids=str,
)
def test_bad_module_arguments(keywords, error, message):
    with pytest.raises(error, match=message):
        PAUCAtBudgetLoss(**keywords)


X = torch.randn(4, 3)
Y = torch.tensor([0, 1, 2, 0])
BAD_BATCHES = {
    "logits 1-d": ((X[:, 0], Y), {}, ValueError, r"logits must be \[N, C\].*\(4,\)"),
    "logits 3-d": ((X.unsqueeze(0), Y), {}, ValueError, r"\(1, 4, 3\)"),
    "no columns": ((X[:, :0], Y), {}, ValueError, "logits"),
    "other columns": ((X[:, :2], Y), {}, ValueError, "queue's 3 columns"),
    "integer logits": ((X.long(), Y), {}, TypeError, "floating point.*int64"),
    "bool logits": ((X > 0, Y), {}, TypeError, "floating point"),
    "no tensor": ((X.tolist(), Y), {}, TypeError, "logits must be a torch.Tensor"),
    "targets no tensor": ((X, Y.tolist()), {}, TypeError, "targets must be a torch.Tensor"),
    "targets too short": ((X, Y[:3]), {}, ValueError, r"targets.*\(3,\)"),
    "targets [N, 2]": ((X, torch.stack([Y, Y], 1)), {}, ValueError, "targets"),
    "targets complex": ((X, Y.to(torch.complex64)), {}, TypeError, "targets"),
    "targets not whole": ((X, Y + 0.5), {}, ValueError, "whole.*0.5 in row 0"),
    "targets nan": ((X, Y.float().index_fill(0, Y[1:2], math.nan)), {}, ValueError, "nan in row 1"),
    "target too large": ((X, torch.tensor([0, 7, 3, 0])), {}, ValueError, "7 in row 1, 3 in row 2"),
    "target negative": ((X, torch.tensor([0, 1, 2, -1])), {}, ValueError, "-1 in row 3"),
    "narrow dtype": ((X, torch.tensor([0, 156, 2, 0], dtype=torch.uint8)), {}, ValueError, "156"),
    "weight beyond float32": (
        (X, Y),
        {"sample_weight": torch.tensor([1.0, 1e39, 1.0, 1.0], dtype=torch.float64)},
        ValueError,
        "inf in row 1",
    ),
    "many offenders": ((X, torch.tensor([9, 9, 9, 9])), {}, ValueError, "4 such rows"),
    "mask too long": ((X, Y), {"iid_mask": torch.ones(5).bool()}, ValueError, r"iid_mask.*\(5,\)"),
    "mask not bool": ((X, Y), {"iid_mask": torch.ones(4)}, TypeError, "iid_mask must be bool"),
    "weight too short": ((X, Y), {"sample_weight": torch.ones(3)}, ValueError, "sample_weight"),
    "weight negative": (
        (X, Y),
        {"sample_weight": torch.tensor([1.0, -2.0, 1.0, 1.0])},
        ValueError,
        "sample_weight.*-2.0 in row 1",
    ),
    "weight nan": (
        (X, Y),
        {"sample_weight": torch.tensor([1.0, 1.0, math.nan, 1.0])},
        ValueError,
        "nan in row 2",
    ),
    "weight bool": ((X, Y), {"sample_weight": torch.ones(4).bool()}, TypeError, "sample_weight"),
    "targets elsewhere": ((X, Y.to("meta")), {}, ValueError, "targets.*device"),
    "mask elsewhere": (
        (X, Y),
        {"iid_mask": torch.ones(4, dtype=torch.bool, device="meta")},
        ValueError,
        "iid_mask.*device",
    ),
    "all elsewhere": ((X.to("meta"), Y.to("meta")), {}, ValueError, "queue.*device"),
}


@pytest.mark.parametrize("entry", [0, 1], ids=["function", "module"])
@pytest.mark.parametrize("case", list(BAD_BATCHES))
def test_bad_batch_is_refused_and_nothing_has_entered(case, entry):
    arguments, keywords, error, message = BAD_BATCHES[case]
    call, state = entry_points()[entry]
    before = [tensor.clone() for tensor in state]
    with pytest.raises(error, match=message):
        call(*arguments, **keywords)
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


@pytest.mark.parametrize("queue", [None, 8192, (X, Y)])
def test_what_is_no_queue_is_named(queue):
    for call in (lambda: pauc_loss_fn(X, Y, queue), lambda: enqueue(queue, X, Y)):
        with pytest.raises(TypeError, match="queue must be a QueueState, from init_queue"):
            call()


@pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss")
@pytest.mark.parametrize("entry", [0, 1], ids=["function", "module"])
@pytest.mark.parametrize(
    "targets",
    [
        Y.unsqueeze(1),
        Y.to(torch.int8),
        Y.to(torch.uint8),
        Y.float(),
        Y.to(torch.bfloat16),
        torch.tensor([0, 1, -100, 0]),
    ],
    ids=lambda t: f"{t.dtype} {list(t.shape)}",
)
def test_accepted_targets(targets, entry):
    call, state = entry_points()[entry]
    result = call(X, targets)
    entered = int((targets != -100).sum())
    after = result[1] if entry == 0 else state
    assert int(after.fill) == 6 + entered - max(0, 6 + entered - 10)


@pytest.mark.parametrize("entry", [0, 1], ids=["function", "module"])
@pytest.mark.parametrize("bad", [2, -1, 7])
def test_binary_targets_are_zero_or_one(bad, entry):
    call, _ = entry_points(num_classes=1)[entry]
    with pytest.raises(ValueError, match=f"0..1 or ignore_index=-100, got {bad} in row 2"):
        call(X[:, :1], torch.tensor([0, 1, bad, 1]))


@pytest.mark.parametrize("entry", [0, 1], ids=["function", "module"])
def test_bool_targets_in_binary(entry):
    call, _ = entry_points(num_classes=1)[entry]
    call(X[:, :1], torch.tensor([True, False, True, False]))


@pytest.mark.parametrize("entry", [0, 1], ids=["function", "module"])
def test_value_checks_can_be_turned_off(entry):
    targets, weight = torch.tensor([0, 7, 2, 0]), torch.tensor([1.0, -1.0, 1.0, 1.0])
    queue = init_queue(10, 3)
    if entry == 0:
        pauc_loss_fn(X, targets, queue, sample_weight=weight, validate_args=False)
    else:
        PAUCAtBudgetLoss(3, queue_size=10, validate_args=False)(X, targets, sample_weight=weight)


def test_cap_below_the_number_of_classes():
    with pytest.raises(ValueError, match=r"max_pool_size.*3, got 2"):
        pauc_loss_fn(X, Y, init_queue(0, 3), max_pool_size=2)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"knots": torch.zeros(2, 2)}, "knots"),
        ({"pos_scores": torch.zeros(2, 4)}, "pos_scores"),
        ({"mask": torch.ones(3).bool()}, "mask"),
        ({"weight": torch.ones(5)}, "weight"),
        ({"class_index": torch.zeros(3, dtype=torch.int64)}, "class_index"),
    ],
)
def test_trapezoid_rejects_shapes(keywords, message):
    arguments = {"pos_scores": torch.zeros(4), "knots": torch.zeros(2), **keywords}
    with pytest.raises(ValueError, match=message):
        trapezoid_pauc(tau=torch.tensor(1.0), **arguments)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"neg_scores": torch.zeros(2, 4)}, "neg_scores"),
        ({"pos_scores": torch.zeros(2, 4)}, "pos_scores"),
        ({"neg_mask": torch.ones(3).bool()}, "neg_mask"),
        ({"pos_weight": torch.ones(5)}, "weight"),
        ({"link": "probit"}, "link"),
    ],
)
def test_pairwise_rejects(keywords, message):
    arguments = {"pos_scores": torch.zeros(4), "neg_scores": torch.zeros(6), **keywords}
    with pytest.raises(ValueError, match=message):
        pairwise_pauc(tau=torch.tensor(1.0), **arguments)
