"""The native step and the native entry as operators of torch, for whoever watches operators.

A compiler puts a call of them into its graph, and a transform of ``torch.func`` finds its rules.
Where nobody watches, :mod:`pauc.native.step` makes the same call without the dispatcher.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pauc import config as configs
from pauc.checks import check_targets, check_weights
from pauc.config import LossConfig, make_any_config
from pauc.core.batch import Rows
from pauc.core.dispatch import core_step
from pauc.core.queue import QueueState, check_counters
from pauc.native import extension
from pauc.native.entry import make_entry
from pauc.native.options import NativeOptions, native_options
from pauc.native.step import WINDOWS, compute, fitting

# What a graph may change from step to step: it takes them from a tensor, not as constants.
_NUMBERS = ("alpha", "beta", "quantile", "temperature", "bce_weight", "pauc_weight")
_UNUSED = ("max_beta",)  # sizes the arrays of torch operators

_ROWS = "Tensor logits, Tensor targets, Tensor? iid_mask, Tensor? sample_weight"
_HELD = [f"held_{part}" for part in QueueState._fields]
_QUEUE = ", ".join(f"Tensor {name}" for name in _HELD)
_WRITTEN = ", ".join(f"Tensor({name}!) {name}" for name in _HELD)
_PARTS = len(_HELD)


class Found(NamedTuple):
    """What the operator of a step returns. ``N`` rows, ``C`` classes."""

    loss: Tensor  # [], with reduction="none" [C]
    per_class: Tensor  # [C], nan where invalid
    valid: Tensor  # [C] bool
    degenerate: Tensor  # [C] bool
    ref_count: Tensor  # [C] int64
    slopes: Tensor  # [N, C], the derivative of each class's own loss
    whole: Tensor  # [N, C], the derivative of the loss
    bounds: Tensor  # for the next step


def encode(config: LossConfig) -> tuple[Tensor, str]:
    """Return a config as the operator takes it: the numbers, ``[K]`` float64, and all else.

    A number that is a tensor stays one, so that one graph serves all its values.
    """
    one: Any = torch.ones((), dtype=torch.float64, device="cpu")
    numbers, words = [], [type(config).__name__]
    for name, value in zip(type(config)._fields, config, strict=True):
        if isinstance(value, Tensor):
            numbers.append(value.detach().to(torch.float64).reshape(()))
        elif name in _NUMBERS:
            # A product: a compiler would take `torch.tensor(value)` for a constant, even where it
            # knows that the number changes from call to call.
            numbers.append(one * value)
        elif name not in _UNUSED:
            words.append(f"{name}={value!r}")
    return torch.stack(numbers), " ".join(words)


@lru_cache(maxsize=256)
def _decode(words: str, numbers: tuple[float, ...]) -> tuple[LossConfig, NativeOptions | None]:
    """Return the config that was encoded, and as the native step is called with it.

    Raises:
        ValueError: a number out of its range. It may have come from a tensor that nobody has read.
    """
    kind_name, *pairs = words.split(" ")
    kind: Any = getattr(configs, kind_name)
    options = {name: ast.literal_eval(value) for name, value in (p.split("=") for p in pairs)}
    names = [name for name in kind._fields if name in _NUMBERS]
    config = make_any_config(kind, {**options, **dict(zip(names, numbers, strict=True))})
    return config, native_options(config)


def _take_step(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, bounds, numbers, words, check_values = arguments
    rows, queue = Rows(*tensors[:-_PARTS]), QueueState(*tensors[-_PARTS:])
    if not all(part.is_contiguous() for part in queue):
        queue = QueueState(*(part.contiguous() for part in queue))
    config, options = _decode(words, tuple(numbers.tolist()))
    if extension.ext is not None and options is not None:
        guess = None if bounds is None else bounds.clone()
        computed = compute(rows, rows.logits, queue, guess, options, check_values=check_values)
        if computed is not None:
            _, found, weight, bounds = computed
            whole = found.gradient * weight if found.whole is None else found.whole
            return (*found[:5], found.gradient, whole, bounds)
    if check_values:
        targets = rows.targets if queue.multilabel else rows.targets.reshape(-1)
        check_targets(targets, rows.logits.shape[1], config.ignore_index)
        if rows.sample_weight is not None:
            check_weights(rows.sample_weight, targets != config.ignore_index)
    check_counters(queue)
    # On a thread of its own, where autograd works: not so inside an operator.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_step_by_operators, rows, queue, config).result()


def _step_by_operators(rows: Rows, queue: QueueState, config: LossConfig) -> tuple[Tensor, ...]:
    """Return what the native step has declined: too many pairs, or scores without an order."""
    rows, queue = Rows(*map(_usable, rows)), QueueState(*map(_usable, queue))
    logits = rows.logits.detach().requires_grad_()
    outcome = core_step(
        rows._replace(logits=logits), queue, config, check_values=False, read_values=True
    )
    of_parts = outcome.valid.to(logits.dtype)  # nan is no function of the logits
    of_loss = of_parts if outcome.loss.ndim else torch.ones_like(outcome.loss)
    asked = (outcome.per_class, of_parts), (outcome.loss, of_loss)
    slopes, whole = (
        torch.autograd.grad(value, logits, by, retain_graph=True)[0] for value, by in asked
    )
    # Copies: the loss may be the very tensor of its parts.
    values = [value.detach().clone() for value in outcome[:5]]
    return (*values, slopes, whole, fitting(None, queue))


def _usable(part: Any) -> Any:
    """Return the tensor, or a copy where autograd would refuse it."""
    return part.clone() if part is not None and part.is_inference() else part


def _enter(*arguments: Any) -> tuple[Tensor, ...]:
    rows, queue, ignore_index = _of_entry(arguments)
    return tuple(make_entry(rows, rows.logits, ignore_index).into(queue))


def _enter_in_place(*arguments: Any) -> None:
    rows, queue, ignore_index = _of_entry(arguments)
    make_entry(rows, rows.logits, ignore_index).into(queue, in_place=True)


def _of_entry(arguments: tuple[Any, ...]) -> tuple[Rows, QueueState, int]:
    *tensors, ignore_index = arguments
    return Rows(*tensors[:-_PARTS]), QueueState(*tensors[-_PARTS:]), ignore_index


def _fake_step(*arguments: Any) -> tuple[Tensor, ...]:
    logits, words = arguments[0], arguments[-2]
    scores = arguments[len(Rows._fields)]
    rows, classes = logits.shape
    by_class = "reduction='none'" in words.split(" ")
    flags = (logits.new_empty(classes, dtype=torch.bool) for _ in range(2))
    return (
        logits.new_empty((classes,) if by_class else ()),
        logits.new_empty(classes),
        *flags,
        logits.new_empty(classes, dtype=torch.int64),
        logits.new_empty(rows, classes),
        logits.new_empty(rows, classes),
        scores.new_empty(classes, WINDOWS, 2),
    )


def _fake_enter(*arguments: Any) -> tuple[Tensor, ...]:
    _, queue, _ = _of_entry(arguments)
    return tuple(torch.empty_like(part) for part in queue)


def _fake_enter_in_place(*_arguments: Any) -> None:
    return None


def _by_member(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule of ``vmap``: a call for each member."""

    def rule(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, tuple[int, ...]]:
        members = [
            call(
                *(a if d is None else a.select(d, i) for a, d in zip(arguments, dims, strict=True))
            )
            for i in range(info.batch_size)
        ]
        stacked = tuple(torch.stack(parts) for parts in zip(*members, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


class _Rules(NamedTuple):
    """An operator: what it takes and returns, what it computes, and what it returns of no data."""

    schema: str
    compute: Callable[..., Any]
    fake: Callable[..., Any]


# Of a step, as an operator.
SCHEMA = (
    f"({_ROWS}, {_QUEUE}, Tensor? bounds, Tensor numbers, str words, bool check_values)"
    f" -> ({', '.join(['Tensor'] * len(Found._fields))})"
)
_OPERATORS = {
    "native_step": _Rules(
        SCHEMA,
        _take_step,
        _fake_step,
    ),
    "native_enter": _Rules(
        f"({_ROWS}, {_QUEUE}, int ignore_index) -> ({', '.join(['Tensor'] * _PARTS)})",
        _enter,
        _fake_enter,
    ),
    "native_enter_": _Rules(
        f"({_ROWS}, {_WRITTEN}, int ignore_index) -> ()", _enter_in_place, _fake_enter_in_place
    ),
}

# Kept alive: the operators go with it. `custom_op` would do the same for ten microseconds a call.
_library: Any = torch.library.Library("pauc", "FRAGMENT")  # type: ignore[no-untyped-call]


def define(name: str, schema: str, compute: Callable[..., Any], key: str) -> None:
    """Make an operator of the package, computed so under a dispatch key of torch."""
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, compute, key)


for _name, _rules in _OPERATORS.items():
    define(_name, _rules.schema, _rules.compute, "CPU")
    torch.library.register_fake(f"pauc::{_name}", _rules.fake, lib=_library)

for _name in ("native_step", "native_enter"):
    _call = getattr(torch.ops.pauc, _name)
    torch.library.register_vmap(f"pauc::{_name}", _by_member(_call), lib=_library)
