"""Real gloo processes on the loopback address, and the checks that run inside them.

Starting a process costs more than a check, so that one start per number of ranks runs them all:
`run_ranks` returns what every check returned on every rank, and the tests look at that.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import multiprocessing
import os
import pickle
import time
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from pauc import PAUCAtBudgetLoss, QueueState, RecallAtQuantileLoss, SmoothAPLoss

STEPS = 20
GROUP_TIMEOUT = datetime.timedelta(seconds=20)
FEATURES = 5
EVEN_STEP = 5  # one at which all ranks have parts of one size

# Every option away from its default somewhere; num_classes and queue_size are set here too.
CASES = {
    "trapezoid": {},
    "knots": {"n_knots": 4, "alpha": 0.05, "tau_scale": "band", "weighted": True},
    "live": {"pos_numerator": "live", "budget_basis": "population", "masked": True},
    "no queue": {"queue_size": 0, "quantile_interpolation": "linear", "temperature": 0.5},
    "implicit": {"edge_gradient": "implicit", "gradient_scale": "live", "bce_weight": 0.3},
    "classes": {
        "num_classes": 3,
        "reduction": "sum",
        "weighted": True,
        "masked": True,
        "bce_weight": 0.3,
    },
    "precision": {
        "budget_basis": "precision",
        "precision": 0.5,
        "base_rate": 0.3,
        "beta": 0.02,
        "surrogate": "pairwise",
        "num_classes": 3,
        "weighted": True,
        "masked": True,
    },
    "pairwise": {"surrogate": "pairwise", "masked": True},
    "logistic": {"surrogate": "pairwise", "link": "logistic", "gradient_scale": "live"},
    "pairwise, no queue": {"surrogate": "pairwise", "queue_size": 0, "tau_scale": "unit"},
    "pairwise, live": {
        "surrogate": "pairwise",
        "pos_numerator": "live",
        "gradient_scale": "live",
        "budget_basis": "population",
        "num_classes": 3,
        "weighted": True,
        "masked": True,
    },
    "capped": {"max_pool_size": 50, "weighted": True, "num_classes": 3, "gradient_scale": "live"},
    "capped pairwise": {"surrogate": "pairwise", "max_pool_size": 50, "weighted": True},
    "no checks": {"surrogate": "pairwise", "validate_args": False, "weighted": True},
    "multilabel": {
        "multilabel": True,
        "num_classes": 5,
        "surrogate": "pairwise",
        "gradient_scale": "live",
        "bce_weight": 0.2,
        "weighted": True,
        "masked": True,
    },
}
# Parts of one size and a queue of whole batches: then the parts of a sharded queue are together
# the queue of one process.
EVEN_CASES = {
    "trapezoid": {"even": True, "edge_gradient": "implicit", "queue_size": 96, "weighted": True},
    "pairwise": {
        "even": True,
        "queue_size": 96,
        "surrogate": "pairwise",
        "gradient_scale": "live",
        "num_classes": 3,
        "bce_weight": 0.2,
        "masked": True,
    },
}
NO_OPTIONS = ("loss", "weighted", "masked", "even", "learned")  # what a case says of its rows
LOSSES = {"pauc": PAUCAtBudgetLoss, "recall": RecallAtQuantileLoss, "ap": SmoothAPLoss}
COMPANIONS = {
    "recall": {"loss": "recall", "quantile": 0.2, "masked": True, "weighted": True},
    "recall, classes": {
        "loss": "recall",
        "quantile": 0.3,
        "num_classes": 3,
        "edge_gradient": "implicit",
        "gradient_scale": "live",
        "max_pool_size": 50,
    },
    "ap": {"loss": "ap", "masked": True, "weighted": True},
    "ap, classes": {
        "loss": "ap",
        "num_classes": 3,
        "gradient_scale": "live",
        "pos_numerator": "live",
        "tau_scale": "unit",
        "bce_weight": 0.2,
    },
    "ap, no queue": {"loss": "ap", "queue_size": 0, "validate_args": False},
}
MODEL_CASE = {"surrogate": "pairwise", "link": "logistic", "num_classes": 3, "weighted": True}


def run_ranks(world, check, folder, *arguments, timeout=240):
    """Run `check(rank, *arguments)` on every rank and return the results in order.

    A rank that died leaves None. A rank that raised, or is not done in time, is an error here.
    """
    # A server that has imported torch once and forks: a start takes milliseconds, not seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.fsdp", "pauc"])
    out = Path(folder) / f"{check.__name__}_{world}"
    out.mkdir()
    processes = [
        context.Process(target=_rank, args=(rank, world, out, check, arguments))
        for rank in range(world)
    ]
    end = time.monotonic() + timeout
    for process in processes:
        process.start()
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    late = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    assert not late, f"ranks {late} of {world} were not done after {timeout} s"
    results = []
    for rank in range(world):
        file = out / f"{rank}.pt"
        result, failure = torch.load(file, weights_only=False) if file.exists() else (None, None)
        assert failure is None, f"rank {rank} of {world}:\n{failure}"
        results.append(result)
    return results


def _rank(rank, world, out, check, arguments):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/store",
        rank=rank,
        world_size=world,
        timeout=GROUP_TIMEOUT,
    )
    try:
        report = check(rank, *arguments), None
    except Exception:
        report = None, traceback.format_exc()
    torch.save(report, out / f"{rank}.pt")
    os._exit(0)  # without the goodbyes of a group that may have lost a rank


def all_checks(rank, folder):
    """Everything that a number of ranks is tested for; returns results by name."""
    warnings.simplefilter("ignore")
    double = {name: train(options, rank=rank) for name, options in CASES.items()}
    single = {name: train(options, torch.float32, rank=rank) for name, options in CASES.items()}
    kinds = ["inside", "sharded", "sharded around"]
    if dist.get_world_size() == 2:  # once is enough: tracing costs more than all the rest
        kinds.append("compiled")
    return {
        "float64": double,
        "float32": single,
        "companions": {name: train(options, rank=rank) for name, options in COMPANIONS.items()},
        "models": {kind: train(MODEL_CASE, rank=rank, kind=kind) for kind in kinds},
        "resumed": resume(folder, rank),
        "shards": {"float64": shards(rank, torch.float64)}
        | ({"float32": shards(rank, torch.float32)} if dist.get_world_size() == 2 else {}),
        "even": {name: train(options, rank=rank) for name, options in EVEN_CASES.items()},
        "traffic": traffic(rank),
        "errors": errors(rank),
        "odd": odd_rows(rank),
        "half": half(rank),
        "diagnostics": diagnostics(rank),
        "multilabel diagnostics": diagnostics(rank, multilabel=True),
        "group": subgroup(rank),
    }


def make_loss(options, gather, **more):
    given = {k: v for k, v in options.items() if k not in NO_OPTIONS}
    kind = options.get("loss", "pauc")
    if options.get("even"):
        more["shard_queue"] = gather
    band = {"beta": 0.3} if kind == "pauc" else {}
    given = {"num_classes": 1, "queue_size": 64, **band, "temperature": 0.3, **given}
    return LOSSES[kind](gather_distributed=gather, **given, **more)


def make_model(num_classes, dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, num_classes))
    return net.to(dtype)


class Both(nn.Module):
    """A model whose forward pass returns the loss."""

    def __init__(self, net, loss):
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, features, **rows):
        return self.loss(self.net(features), **rows)


def batch(step, options, dtype=torch.float64):
    """Return the rows of a step; some steps are odd as a whole, or in parts once they are cut."""
    g = torch.Generator().manual_seed(step)
    num_classes = options.get("num_classes", 1)
    count = {9: 0, 13: 2}.get(step, int(torch.randint(20, 60, (), generator=g)))
    count = 24 if options.get("even") else count
    features = torch.randn(count, FEATURES, generator=g, dtype=torch.float64)
    if options.get("multilabel"):
        targets = (torch.rand(count, num_classes, generator=g) < 0.4).long()
        features[:, 0] += targets.sum(dim=1)
    else:
        targets = torch.randint(0, max(num_classes, 2), (count,), generator=g)
        features[:, 0] += targets
    ignored = torch.rand(targets.shape, generator=g) < {7: 0.6, 11: 1.0}.get(step, 0.1)
    ignored &= not options.get("even")
    targets[ignored] = -100
    if step in (EVEN_STEP, 7):  # the ranks' parts have one class, or nothing but rows to ignore
        order = (targets[:, 0] if targets.ndim == 2 else targets).argsort()
        features, targets = features[order], targets[order]
    rows = {"features": features.to(dtype), "targets": targets}
    iid_mask, weight = torch.rand(count, generator=g) < 0.8, torch.rand(count, generator=g)
    rows |= {"iid_mask": iid_mask} if options.get("masked") else {}
    return rows | ({"sample_weight": weight.to(dtype)} if options.get("weighted") else {})


def part_of(rows, step, rank, world):
    """Return this rank's part: at random, in even parts, or all rows for the last rank."""
    count = len(rows["targets"])
    cuts = torch.randint(0, count + 1, (world - 1,), generator=torch.Generator().manual_seed(step))
    cuts = [0, *cuts.sort().values.tolist(), count]
    if step in (EVEN_STEP, 7):
        cuts = [count * r // world for r in range(world + 1)]
    if step == 3:
        cuts = [0] * world + [count]
    return {name: value[cuts[rank] : cuts[rank + 1]] for name, value in rows.items()}


def train(options, dtype=torch.float64, *, rank=None, kind="beside", steps=range(STEPS), load=None):
    """Train, in one process (rank None) or on all ranks; return what must agree.

    `kind` is how model and loss are wrapped; the loss stands beside the model unless it says so.
    """
    gather = rank is not None
    model = make_model(options.get("num_classes", 1), dtype)
    loss = make_loss(options, gather)
    if load is not None:
        model.load_state_dict(load["model"])
        loss.load_state_dict(load["loss"])
    step_fn, parameters = _wrap(model, loss, gather, kind)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses, digests = [], []
    for step in steps:
        rows = batch(step, options, dtype)
        if gather:
            odd = EVEN_STEP if options.get("even") else step
            rows = part_of(rows, odd, rank, dist.get_world_size())
        optimizer.zero_grad()
        value = step_fn(**rows)
        value.backward()
        optimizer.step()
        losses.append(value.item())
        digests.append(digest(loss.queue))
    tensors = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return {
        "parameters": torch.cat([p.detach().flatten() for p in tensors]),
        "losses": losses,
        "digests": digests,
        "queue": loss.queue._asdict(),
        "state": {"model": model.state_dict(), "loss": loss.state_dict()}
        if kind == "beside"
        else None,
    }


def _wrap(model, loss, distributed, kind):
    """Return a function from rows to loss, and the parameters to train."""
    if distributed and kind == "inside":
        wrapped = DistributedDataParallel(Both(model, loss))
        return wrapped, list(wrapped.parameters())
    if distributed and kind == "sharded around":
        both = Both(model, loss)
        fully_shard(both, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        return both, list(both.parameters())
    if distributed and kind == "sharded":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
        return Both(model, loss), list(model.parameters())
    step_fn = Both(DistributedDataParallel(model) if distributed else model, loss)
    if distributed and kind == "compiled":
        return torch.compile(step_fn, backend="eager"), list(model.parameters())
    return step_fn, list(model.parameters())


def digest(queue):
    """Return a digest of a queue, order, cursor and fill included."""
    parts = [t.contiguous().numpy().tobytes() for t in QueueState(*queue)]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def resume(folder, rank):
    """Continue from the checkpoint of another number of ranks, if there is one, then leave one."""
    file, halfway = Path(folder) / "checkpoint.pt", STEPS // 2
    if file.exists():
        load = torch.load(file, weights_only=True)
        return train(MODEL_CASE, rank=rank, steps=range(halfway, STEPS), load=load)
    state = train(MODEL_CASE, rank=rank, steps=range(halfway))["state"]
    if rank == 0:
        torch.save(state, file)
    return None


class Collectives(TorchDispatchMode):
    """Lists every collective with the bytes that this rank brings to it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.calls.append((func.overloadpacket.__name__, sent_bytes(args)))
        return func(*args, **(kwargs or {}))


def sent_bytes(args):
    """Return the bytes of a collective's input: its last list of tensors, or its first argument."""
    lists = [a for a in args if isinstance(a, list) and a and isinstance(a[0], torch.Tensor)]
    tensors = lists[-1] if lists else [a for a in args if isinstance(a, torch.Tensor)][:1]
    return sum(t.nbytes for t in tensors)


def traffic(rank):
    """Return the collectives of a step: 10 rows a rank and 2 more on rank 0; and of DDP."""
    world, found = dist.get_world_size(), {}
    count = 12 if rank == 0 else 10
    for name, num_classes, weighted, dtype in (
        *(("binary", 1, False, torch.float32), ("half", 1, False, torch.float16)),
        *(("weighted", 4, True, torch.float32), ("double", 4, True, torch.float64)),
        *(("multilabel", 3, True, torch.float32), ("multilabel, more", 4, False, torch.float64)),
    ):
        multilabel = name.startswith("multilabel")
        loss = make_loss({"num_classes": num_classes, "multilabel": multilabel}, True)
        logits = torch.randn(count, num_classes, dtype=dtype, requires_grad=True)
        weight = torch.ones(count) if weighted else None
        targets = torch.arange(count) % 2
        targets = targets.unsqueeze(1).repeat(1, num_classes) if multilabel else targets
        with Collectives() as collectives:
            loss(logits, targets, sample_weight=weight).backward()
        found[name] = collectives.calls
    for name, options in {
        "sharded": {},
        "sharded pairwise": {"surrogate": "pairwise", "tau_scale": "unit"},
    }.items():
        loss = make_loss(options, True, shard_queue=True)
        logits = torch.arange(10.0).unsqueeze(1).requires_grad_()
        with Collectives() as collectives:
            loss(logits, torch.arange(10) % 2).backward()
        found[name] = collectives.calls
    loss = make_loss({"queue_size": 4096}, True)
    step_fn, _ = _wrap(make_model(1), loss, True, "inside")
    with Collectives() as collectives, torch.no_grad():
        step_fn(**part_of(batch(0, {}), 0, rank, world))
    found["inside"] = collectives.calls
    return found


def errors(rank):
    """Return the message by which a rank refuses, then what the next good step gives."""
    world = dist.get_world_size()
    last = rank == world - 1 and world > 1
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, -100])

    def refusal(options=None, *, loss=None, **rows):
        loss = loss or make_loss({"num_classes": 3, **(options or {})}, True)
        try:
            loss(**{"logits": logits, "targets": targets, **rows})
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    ahead = make_loss({"num_classes": 3}, True)
    if last:
        ahead.queue_step.add_(5)
    recall = {"loss": "recall", "quantile": 0.31 if last else 0.3}
    bad_weight = torch.tensor([-1.0 if last else 1.0, 1.0, 1.0, 1.0])
    loss = make_loss({"num_classes": 3}, True)
    shards = make_loss({"num_classes": 3}, True, shard_queue=True)
    found = {
        "shards": refusal(loss=shards, targets=torch.tensor([0, 1, 7 if last else 2, 0])),
        "multilabel": refusal(
            {"multilabel": bool(last)}, targets=torch.ones(4, 3) if last else targets
        ),
        "option": refusal({"beta": 0.31} if last else {}),
        "quantile": refusal(recall),
        "queue_size": refusal({"queue_size": 32} if last else {}),
        "num_classes": refusal({"num_classes": 4} if last else {}, logits=torch.randn(4, 3 + last)),
        "weights": refusal(sample_weight=torch.ones(4) if last else None),
        "queue": refusal(loss=ahead),
        "mode": refusal(loss=make_loss({"num_classes": 3}, True).train(not last)),
        "targets": refusal(loss=loss, targets=torch.tensor([0, 1, 7 if last else 2, 0])),
        "bad weight": refusal(loss=loss, sample_weight=bad_weight),
        "shape": refusal(loss=loss, logits=torch.randn(5 if last else 4, 3)),
        "type": refusal(loss=loss, targets=None if last else targets),
    }
    found["nothing has entered"] = int(loss.queue_fill), int(loss.queue_step)
    found["then"] = refusal(loss=loss, iid_mask=torch.ones(4).bool() if last else None)
    return found


def odd_rows(rank):
    """Return gradient and loss where nothing counts, or where one rank's row is not finite."""
    found = {}
    for name, targets in (("empty", []), ("ignored", [-100] * 2), ("negatives", [0] * 3)):
        logits = torch.randn(len(targets), 1, requires_grad=True)
        loss = make_loss({}, True)(logits, torch.tensor(targets, dtype=torch.int64))
        loss.backward()
        found[name] = loss.item(), logits.grad.abs().sum().item()
    logits = torch.full((1, 1), float("nan") if rank == 0 else 1.0).requires_grad_()
    module = make_loss({}, True)
    module(logits, torch.tensor([1])).backward()
    found["nan"] = logits.grad.item(), int(module.queue_fill)
    module, leaf = make_loss({}, True, shard_queue=True), logits.detach().requires_grad_()
    value = module(leaf, torch.tensor([1]))
    value.backward()
    found["nan in a shard"] = value.item(), leaf.grad.isfinite().item(), int(module.queue_fill)
    return found


def half(rank):
    """Return dtypes and digest where one rank brings another precision than the others."""
    found = {}
    for name, dtypes in (
        ("half", (torch.float16, torch.float16)),
        ("bfloat16 and float32", (torch.bfloat16, torch.float32)),
        ("float32 and float64", (torch.float32, torch.float64)),
    ):
        module, dtype = make_loss({}, True), dtypes[min(rank, 1)]
        logits = torch.linspace(-1, 1, 9).unsqueeze(1).to(dtype).requires_grad_()
        loss = module(logits, (torch.arange(9) % 2))
        loss.backward()
        found[name] = loss.dtype, logits.grad.dtype == dtype, digest(module.queue), loss.item()
    return found


def diagnostics(rank, multilabel=False):
    """Return the stats of a second step and the counts of the targets that this rank brought."""
    options = {"num_classes": 3, "validate_args": False, "multilabel": multilabel}
    alone, gathering = make_loss(options, False), make_loss(options, True)
    for step in (0, 1):
        rows = batch(step, options)
        logits = rows.pop("features")[:, :3]
        whole = alone(logits, **rows, return_diagnostics=True)[1]
        own = part_of({"logits": logits, **rows}, step, rank, dist.get_world_size())
        _, per_class, valid, stats = gathering(
            **own, return_per_class=True, return_diagnostics=True
        )
    counts = [int((own["targets"] == c).sum()) for c in range(3)]
    if multilabel:
        counts = (own["targets"] == 1).sum(dim=0).tolist()
    return {"whole": whole, "own": counts, "stats": stats, "valid": valid, "per_class": per_class}


def subgroup(rank):
    """Return the loss over the group of all ranks but the last, beside that of the rows alone."""
    world = dist.get_world_size()
    members = max(1, world - 1)
    group = dist.new_group(range(members))
    if rank >= members:
        return None
    module = make_loss({}, None if members > 1 else True, process_group=group)
    rows = batch(2, {})
    logits = rows.pop("features")[:, :1]
    own = part_of({"logits": logits, **rows}, 2, rank, members)
    loss = module(**own).item()
    twin, unpickled = copy.deepcopy(module), pickle.loads(pickle.dumps(module))
    return {
        "loss": loss,
        "of one process": make_loss({}, False)(logits, **rows).item(),
        "copied": twin.process_group is group and digest(twin.queue) == digest(module.queue),
        "unpickled": unpickled.process_group is None,
    }


# The options that may meet a sharded queue, in few cases.
SHARDED = {
    "implicit": {"edge_gradient": "implicit", "n_knots": 3},
    "implicit, live": {
        "edge_gradient": "implicit",
        "gradient_scale": "live",
        "num_classes": 3,
        "alpha": 0.02,
        "masked": True,
    },
    "trapezoid": {"masked": True, "weighted": True},
    "knots": {"n_knots": 4, "alpha": 0.1, "tau_scale": "band", "quantile_interpolation": "linear"},
    "population": {
        "num_classes": 3,
        "budget_basis": "population",
        "quantile_interpolation": "midpoint",
        "masked": True,
    },
    "pairwise": {"surrogate": "pairwise", "num_classes": 3, "weighted": True, "masked": True},
    "narrow": {"surrogate": "pairwise", "beta": 0.02, "tau_scale": "unit", "reduction": "none"},
    "live": {
        "surrogate": "pairwise",
        "link": "logistic",
        "gradient_scale": "live",
        "bce_weight": 0.5,
        "quantile_interpolation": "nearest",
        "num_classes": 3,
        "reduction": "sum",
    },
    "explained": {
        "surrogate": "pairwise",
        "weight_scale": "explained",
        "bce_weight": 0.5,
        "weighted": True,
        "learned": True,
    },
    "live positives": {"pos_numerator": "live", "gradient_scale": "live", "queue_size": 0},
    "no checks": {
        "surrogate": "pairwise",
        "validate_args": False,
        "quantile_interpolation": "lower",
    },
    "multilabel": {
        "multilabel": True,
        "num_classes": 3,
        "surrogate": "pairwise",
        "gradient_scale": "live",
        "bce_weight": 0.5,
        "weighted": True,
        "masked": True,
    },
    "multilabel, edges": {
        "multilabel": True,
        "num_classes": 3,
        "edge_gradient": "implicit",
        "budget_basis": "population",
        "validate_args": False,
    },
}


def shards(rank, dtype):
    """Return loss, gradient, parts and stats of a sharded queue beside those of one process."""
    return {name: _shard_run(options, rank, dtype) for name, options in SHARDED.items()}


def _shard_run(options, rank, dtype):
    world, found = dist.get_world_size(), []
    module = make_loss(options, True, shard_queue=True)
    whole = make_loss({**options, "queue_size": 1}, False)
    flags = {"return_per_class": True, "return_diagnostics": True}
    for step in (0, 1, 2, 3, 5, 7, 9, 11):
        rows = batch(step, options, dtype)
        logits = rows.pop("features")[:, : module.num_classes]
        logits = (logits + 3 * logits.sin()).round(decimals=2 if step % 2 else 8)  # with ties
        if options.get("learned"):
            logits[:, 0] = 0.2 * logits[:, 0] + 4 * (rows["targets"] == 1) - 2
        rows = {"logits": logits, **rows}
        whole.queue_step, *_ = module.queue_step.clone(), _union(module.queue, whole)
        pooled = rows["logits"].clone().requires_grad_()
        expected = whole(**{**rows, "logits": pooled}, **flags)
        own = part_of(rows, step, rank, world)
        attached = own["logits"].clone().requires_grad_()
        result = module(**{**own, "logits": attached}, **flags)
        for loss in (expected[0], result[0]):
            loss[loss.isfinite()].sum().backward()
        gradient = part_of({"targets": rows["targets"], "grad": pooled.grad}, step, rank, world)
        counts = [
            int((own["targets"] == c + (module.num_classes == 1)).sum())
            for c in range(module.num_classes)
        ]
        if module.multilabel:
            counts = (own["targets"] == 1).sum(dim=0).tolist()
        expected[3]["grad_pos_count"] = torch.where(expected[2], torch.tensor(counts), 0)
        found.append(
            {
                "result": (*result[:3], attached.grad / world),
                "expected": (*expected[:3], gradient["grad"]),
                "stats": (result[3], expected[3]),
            }
        )
    rows_held = module.queue_scores.shape[1]
    return {"steps": found, "rows": rows_held}


def _union(queue, module):
    """Put the rows of all ranks' queues into the queue of a module of this process."""
    parts = [None] * dist.get_world_size()
    fill = int(queue.fill)
    held = {
        "scores": queue.scores[:, :fill],
        "targets": queue.targets[..., :fill],
        "iid": queue.iid[:fill],
        "weight": queue.weight[:fill],
    }
    dist.all_gather_object(parts, held)
    for name in held:
        setattr(module, f"queue_{name}", torch.cat([part[name] for part in parts], dim=-1))
    module.queue_fill = torch.tensor(len(module.queue_weight))
    module.queue_cursor = torch.zeros_like(module.queue_fill)


def outlive(rank):
    """Return how long the others take to notice that the last rank has died, and the error."""
    loss = make_loss({}, True)
    rows = torch.randn(4, 1), torch.tensor([0, 1, 0, 1])
    loss(*rows)
    if rank == dist.get_world_size() - 1:
        os._exit(1)
    start = time.monotonic()
    try:
        loss(*rows)
    except RuntimeError as error:
        return time.monotonic() - start, str(error), int(loss.queue_step)
    return None
