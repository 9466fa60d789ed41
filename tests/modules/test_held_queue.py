"""The queue of a module in the hands of others: moved, averaged, copied, loaded, recomputed."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from pauc import (
    OperatingPoint,
    PAUCAtBudgetLoss,
    PAUCConfig,
    enqueue,
    init_queue,
    pauc_loss_fn,
    select_threshold,
)

pytestmark = [
    pytest.mark.usefixtures("each_path"),
    pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss"),
]


class Detector(nn.Module):
    def __init__(self, queue_size: int = 64, **options) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)
        self.pauc_loss = PAUCAtBudgetLoss(1, beta=0.2, queue_size=queue_size, **options)

    def forward(self, features, targets=None):
        logits = self.net(features)
        if self.training and targets is not None:
            return self.pauc_loss(logits, targets)
        return logits


def batch(seed, count=30):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=g), (torch.rand(count, generator=g) < 0.4).long()


def trained(steps=5, **options):
    torch.manual_seed(0)
    model = Detector(**options)
    for seed in range(steps):
        model(*batch(seed))
    return model


def same(queue, other):
    return all(map(torch.equal, queue, other))


def is_fresh(queue):
    return same(queue, init_queue(queue.weight.shape[0], 1))


# --- checkpoints that are no queue ---


@pytest.mark.parametrize("size", [64, 16])
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("targets", lambda part: part[:5]),
        ("iid", lambda part: part[:5]),
        ("weight", lambda part: part[:5]),
        ("scores", lambda part: part[0]),
        ("scores", lambda part: part.long()),
        ("targets", lambda part: part.int()),
        ("iid", lambda part: part.long()),
        ("fill", lambda part: part.view(1)),
    ],
)
def test_parts_that_do_not_fit_together_are_refused_and_change_nothing(part, change, size):
    loss = PAUCAtBudgetLoss(1, beta=0.2, queue_size=size)
    source = PAUCAtBudgetLoss(1, beta=0.2, queue_size=64)
    for module in (loss, source):
        module(torch.arange(70.0).sin().unsqueeze(1), torch.arange(70) % 2)
    state, before = source.state_dict(), loss.state_dict()
    state[f"queue_{part}"] = change(state[f"queue_{part}"])
    with pytest.raises(RuntimeError, match=f"queue_{part}"):
        loss.load_state_dict(state)
    after = loss.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- memory that holds nothing ---


def dirty_memory():
    """Leave freed memory behind that holds the numbers of a queue of these very sizes."""
    for _ in range(20):
        copy.deepcopy(trained(2).pauc_loss)


@pytest.mark.parametrize("through", ["meta", "itself"])
def test_after_to_empty_the_queue_is_empty(through):
    dirty_memory()
    if through == "meta":
        with torch.device("meta"):
            model = Detector()
    else:
        model = trained()
    model.to_empty(device="cpu")
    assert is_fresh(model.pauc_loss.queue)
    model.net.reset_parameters()
    fresh = Detector()
    fresh.net.load_state_dict(model.net.state_dict())
    assert torch.equal(model(*batch(0)), fresh(*batch(0)))


def test_a_module_without_memory_takes_a_checkpoint_whole():
    source = trained()
    with torch.device("meta"):
        model = Detector(queue_size=32)
    model.load_state_dict(source.state_dict(), assign=True)
    smaller = Detector(queue_size=32)
    smaller.load_state_dict(source.state_dict())
    assert same(model.pauc_loss.queue, smaller.pauc_loss.queue)
    assert torch.equal(model(*batch(9)), smaller(*batch(9)))


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
@pytest.mark.parametrize(
    ("fill", "cursor", "step"),
    [(94_432_483_174_144, 0, 0), (65, 0, 0), (-1, -1, 0), (64, 64, 0), (3, 5, 0), (0, 1, 0),
     (0, 0, -7), (-(2**63), -(2**63), 0)],
)  # fmt: skip
def test_counters_that_no_queue_has_are_refused_on_every_path(fill, cursor, step, surrogate):
    loss = PAUCAtBudgetLoss(1, beta=0.2, queue_size=64, surrogate=surrogate)
    rows = torch.randn(30, 1), batch(0)[1]
    sound = loss.state_dict()
    for name, value in (("fill", fill), ("cursor", cursor), ("step", step)):
        getattr(loss, f"queue_{name}").fill_(value)
    before = type(loss.queue)(*(part.clone() for part in loss.queue))
    told = f"fill={fill}, cursor={cursor}, step={step}"
    with pytest.raises(ValueError, match=told):
        loss(*rows)
    with pytest.raises(ValueError, match=told):
        loss.eval()(*rows, return_diagnostics=True)
    with pytest.raises(ValueError, match=told):
        pauc_loss_fn(*rows, loss.queue, beta=0.2)
    with pytest.raises(ValueError, match=told):
        enqueue(loss.queue, *rows)
    assert same(loss.queue, before)
    other = PAUCAtBudgetLoss(1, beta=0.2, queue_size=64)
    with pytest.raises(RuntimeError, match=f"queue_fill and queue_cursor are wrong.*{told}"):
        other.load_state_dict(loss.state_dict())
    assert is_fresh(other.queue)
    loss.load_state_dict(sound)
    loss.train()(*rows)
    assert int(loss.queue_fill) == 30


# --- averages and copies ---


def by_function(average, current, count):
    return average + (current - average) / (count + 1)


AVERAGES = {
    "EMA": {"use_buffers": True, "multi_avg_fn": get_ema_multi_avg_fn(0.9)},
    "slow EMA": {"use_buffers": True, "multi_avg_fn": get_ema_multi_avg_fn(0.99999)},
    "SWA": {"use_buffers": True},
    "function": {"use_buffers": True, "avg_fn": by_function},
    "synchronised": {"use_buffers": False},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", AVERAGES)
def test_the_queue_of_an_average_is_that_of_the_model(kind, dtype):
    model = Detector()
    average = AveragedModel(model, **AVERAGES[kind])
    model.to(dtype)
    average.to(dtype)
    for seed in range(6):
        features, targets = batch(seed)
        model(features.to(dtype), targets)
        average.update_parameters(model)
        assert same(average.module.pauc_loss.queue, model.pauc_loss.queue)
    assert int(average.module.pauc_loss.queue_fill) == 64
    held = model.state_dict()
    for key, value in average.module.state_dict().items():
        assert key not in held or "queue" not in key or torch.equal(value, held[key])
    assert average.module.pauc_loss.queue_scores.dtype == torch.float32


def test_an_average_outlives_its_model_and_then_trains_by_itself():
    model = trained()
    average = AveragedModel(model, use_buffers=True)
    average.update_parameters(model)
    twin = average.module
    model(*batch(8, 3))
    twin(*batch(9, 4))  # its own step: from here on it is a model of its own
    assert (int(model.pauc_loss.queue_step), int(twin.pauc_loss.queue_step)) == (6, 7)
    average.update_parameters(model)
    assert not same(twin.pauc_loss.queue, model.pauc_loss.queue)
    late = AveragedModel(model, use_buffers=True)
    model(*batch(10))
    late.update_parameters(model)
    before = type(model.pauc_loss.queue)(*(part.clone() for part in model.pauc_loss.queue))
    del model, twin, average
    assert same(late.module.pauc_loss.queue, before)


def test_an_average_of_a_model_that_took_back_its_average():
    """Lightning swaps weights for a validation, and copies the average to the model at the end."""
    model = trained()
    for _ in range(3):
        average = AveragedModel(model, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        for seed in range(3):
            model(*batch(seed))
            average.update_parameters(model)
            assert same(average.module.pauc_loss.queue, model.pauc_loss.queue)
        for own, other in zip(model.buffers(), average.module.buffers(), strict=True):
            own.data.copy_(other.data)
        assert same(average.module.pauc_loss.queue, model.pauc_loss.queue)


def test_an_average_over_two_state_dicts_leaves_both_queues_alone():
    """As timm and YOLO do; there the copy keeps the queue that it was made with."""
    model = trained()
    average = copy.deepcopy(model)
    before = copy.deepcopy(average.state_dict())
    model(*batch(7))
    with torch.no_grad():
        for own, other in zip(
            average.state_dict().values(), model.state_dict().values(), strict=True
        ):
            own.copy_(0.9 * own + 0.1 * other)
    for key, value in average.state_dict().items():
        assert "queue" not in key or torch.equal(value, before[key])


def test_copies_and_pickles_go_their_own_ways():
    model = trained()
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    twins = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(stream, weights_only=False),
        copy.deepcopy(copy.deepcopy(model)),
    ]
    losses = {twin(*batch(7)).item() for twin in twins}
    assert len(losses) == 1
    assert int(model.pauc_loss.queue_step) == 5
    assert {model(*batch(7)).item()} == losses
    for twin in twins:
        assert same(twin.pauc_loss.queue, model.pauc_loss.queue)
        twin.pauc_loss.reset_queue()
    assert int(model.pauc_loss.queue_fill) == 64


def test_buffers_hold_no_row_and_a_state_dict_all():
    model = trained()
    assert [name for name, _ in model.named_buffers()] == ["pauc_loss.queue_mark"]
    queue = model.pauc_loss.queue
    held = model.state_dict()
    assert set(held) == {"net.weight", "net.bias"} | {f"pauc_loss.queue_{n}" for n in queue._fields}
    assert all(torch.equal(held[f"pauc_loss.queue_{n}"], v) for n, v in queue._asdict().items())


def test_a_queue_given_by_name_is_that_of_the_call_alone():
    model, other = trained(), trained(3)
    given = {f"queue_{name}": part for name, part in other.pauc_loss.queue._asdict().items()}
    rows = torch.randn(30, 1), batch(0)[1]
    before = model.state_dict()
    model.eval()
    other.eval()
    loss = functional_call(model.pauc_loss, given, rows)
    assert torch.equal(loss, other.pauc_loss(*rows))
    assert not torch.equal(loss, model.pauc_loss(*rows))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_plain_tuples_load_with_weights_only():
    point = select_threshold(torch.rand(50), torch.arange(50) % 2, 0.2)
    saved = {"point": point, "queue": trained().pauc_loss.queue, "config": PAUCConfig(beta=0.1)}
    stream = io.BytesIO()
    torch.save(saved, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=True)
    assert loaded["point"] == point
    assert type(loaded["point"]) is OperatingPoint
    assert same(loaded["queue"], saved["queue"])
    assert loaded["config"] == saved["config"]


# --- a loss that is called a second time ---


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_a_recomputed_loss_is_refused_and_the_batch_enters_once(surrogate, use_reentrant):
    model = trained(surrogate=surrogate)
    features, targets = batch(7)
    loss = checkpoint(model, features.requires_grad_(), targets, use_reentrant=use_reentrant)
    plain = trained(surrogate=surrogate)
    plain(features, targets)
    with pytest.raises(RuntimeError, match=r"got a call inside a backward pass.*Cure"):
        loss.backward()
    assert same(model.pauc_loss.queue, plain.pauc_loss.queue)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_loss_outside_of_the_recomputed_region_or_at_rest_is_as_without(use_reentrant):
    gradients = []
    for recomputed in (False, True):
        for frozen in (False, True):
            model = trained()
            features, targets = batch(7)
            features.requires_grad_()
            model.pauc_loss.train(not frozen)

            def whole(x, model=model, targets=targets):
                return model.pauc_loss(model.net(x), targets)

            if recomputed and frozen:
                loss = checkpoint(whole, features, use_reentrant=use_reentrant)
            elif recomputed:
                logits = checkpoint(model.net, features, use_reentrant=use_reentrant)
                loss = model.pauc_loss(logits, targets)
            else:
                loss = whole(features)
            loss.backward()
            gradients.append(model.net.weight.grad)
    assert torch.equal(gradients[0], gradients[2])
    assert torch.equal(gradients[1], gradients[3])


def test_lbfgs_asks_often_and_the_batch_enters_once():
    """The recipe of the docs, against the pure function with a queue that its caller keeps."""
    by_module, by_function = trained(0).double(), trained(0).double()
    queue = init_queue(64, 1, dtype=torch.float64)
    options = {"line_search_fn": "strong_wolfe", "max_iter": 5}
    optimizers = [
        torch.optim.LBFGS(m.net.parameters(), **options) for m in (by_module, by_function)
    ]
    for seed in range(4):
        calls = []
        features, targets = batch(seed)
        features = features.double()

        def of_module(features=features, targets=targets, calls=calls):
            calls.append(1)
            optimizers[0].zero_grad()
            loss = by_module.pauc_loss(by_module.net(features), targets)
            loss.backward()
            return loss

        def of_function(features=features, targets=targets, queue=queue):
            optimizers[1].zero_grad()
            loss, _ = pauc_loss_fn(by_function.net(features), targets, queue, beta=0.2)
            loss.backward()
            return loss

        by_module.pauc_loss.eval()
        optimizers[0].step(of_module)
        with torch.no_grad():
            by_module.pauc_loss.train()(by_module.net(features), targets)
        optimizers[1].step(of_function)
        queue = enqueue(queue, by_function.net(features), targets)
        assert len(calls) > 2
        assert torch.equal(by_module.net.weight, by_function.net.weight)
        assert same(by_module.pauc_loss.queue, queue)
    assert int(queue.step) == 4


def test_a_mark_that_was_filled_alone_takes_an_empty_queue_along():
    with torch.device("meta"):
        model = Detector()
    model.pauc_loss.queue_mark = torch.zeros(())
    assert is_fresh(model.pauc_loss.queue)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("use_buffers", [True, False])
def test_on_a_gpu_the_queue_goes_where_its_buffers_are_moved(use_buffers):
    model = trained()
    for name, part in [*model.named_parameters(), *model.named_buffers()]:
        part.data = part.data.cuda()  # as FSDP moves what it manages
        assert name
    assert model.pauc_loss.queue_scores.is_cuda
    average = AveragedModel(model, use_buffers=use_buffers)
    rows = [part.cuda() for part in batch(7)]
    model(*rows)
    average.update_parameters(model)
    assert same(average.module.pauc_loss.queue, model.pauc_loss.queue)


def test_a_replica_of_data_parallel_is_refused_in_training():
    model = trained()
    replica = model.pauc_loss._replicate_for_data_parallel()
    rows = torch.randn(30, 1), batch(0)[1]
    with pytest.raises(RuntimeError, match=r"inside torch\.nn\.DataParallel"):
        replica(*rows)
    assert torch.equal(replica.eval()(*rows), model.pauc_loss.eval()(*rows))
