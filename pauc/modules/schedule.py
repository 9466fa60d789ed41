"""What weights, band and temperature are at a step: a pure function, and the loop's `step()`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from pauc._public import public
from pauc.checks import check_band, check_int, check_real
from pauc.config import PAUCConfig

_PAUC = PAUCConfig()
# The loss may be tried out before training starts; that often without a step is forgetting it.
_FORGOTTEN = 100


@public
class ScheduleConfig(NamedTuple):
    """Four moves that combine. Steps are counted from 0; left to the defaults nothing moves.

    Attributes:
        warmup_steps: steps on BCE alone: ``bce_weight`` 1 and ``pauc_weight`` 0.
        blend_steps: steps after the warm-up, in which both weights go linearly to their ends.
        anneal_steps: steps after the warm-up, in which temperature and band go to their ends.
        temperature_start: None leaves the temperature at its end.
        beta_start: as ``beta``; 1 is the full AUC. At least ``beta``; None leaves the band at its
            end.
        bce_weight, pauc_weight: where the weights end; a ``bce_weight`` above 0 stays.
        alpha, beta, temperature: where band and temperature end, as in :class:`pauc.PAUCConfig`.
    """

    warmup_steps: int = 0
    blend_steps: int = 0
    anneal_steps: int = 0
    temperature_start: float | None = None
    beta_start: float | None = None
    bce_weight: float = 0.0
    pauc_weight: float = 1.0
    alpha: float = float(_PAUC.alpha)
    beta: float = float(_PAUC.beta)
    temperature: float = float(_PAUC.temperature)


@public
class ScheduleValues(NamedTuple):
    """What the loss is to use at a step; named as the fields of the loss's configuration."""

    bce_weight: float
    pauc_weight: float
    alpha: float
    beta: float
    temperature: float


def schedule_at(step: int, config: ScheduleConfig) -> ScheduleValues:
    """Return the values at ``step``; pure, so any step can be asked for, in any order.

    Temperature and ``beta`` move geometrically: equal factors in equal numbers of steps.
    ``alpha``, which may be 0 at either end, moves linearly from 0 while the band narrows, so that
    it stays below ``beta``. Start and end are exact, and every value moves one way only.

    Args:
        step: at least 0; the training steps already made.
        config: see :class:`ScheduleConfig`; checked at each call.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """
    check_int("step", step, 0)
    check_schedule(config)
    into = step - config.warmup_steps
    blend = _progress(into, config.blend_steps)
    anneal = _progress(into, config.anneal_steps)
    temperature_start, beta_start = config.temperature_start, config.beta_start
    if temperature_start is None:
        temperature_start = config.temperature
    return ScheduleValues(
        bce_weight=_linear(1.0, config.bce_weight, blend),
        pauc_weight=_linear(0.0, config.pauc_weight, blend),
        alpha=config.alpha if beta_start is None else _linear(0.0, config.alpha, anneal),
        beta=config.beta if beta_start is None else _geometric(beta_start, config.beta, anneal),
        temperature=_geometric(temperature_start, config.temperature, anneal),
    )


def check_schedule(config: ScheduleConfig) -> None:
    """Raise unless every field is in its range.

    Raises:
        TypeError, ValueError: a bad field, named with what was expected and what came.
    """
    for name in ("warmup_steps", "blend_steps", "anneal_steps"):
        check_int(name, getattr(config, name), 0)
    for name in ("bce_weight", "pauc_weight"):
        check_real(name, getattr(config, name))
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(config, name)!r}")
    for name in ("temperature", "temperature_start"):
        value = getattr(config, name)
        if value is not None or name == "temperature":
            check_real(name, value)
            if value <= 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")
    check_band(config.alpha, config.beta)
    if config.beta_start is not None:
        check_real("beta_start", config.beta_start)
        if not config.beta <= config.beta_start <= 1:
            raise ValueError(
                f"beta_start must be in [beta, 1] = [{config.beta}, 1], got {config.beta_start!r}"
            )


@public
class PAUCSchedule:
    """Sets a loss's weights, band and temperature, as ``torch.optim.lr_scheduler`` does rates.

    In a loop::

        loss_fn = PAUCAtBudgetLoss(1, beta=0.005, temperature=0.1)
        schedule = PAUCSchedule(loss_fn, anneal_steps=5000, beta_start=1.0, temperature_start=0.5)
        for x, y in loader:
            loss_fn(model(x), y).backward()
            optimizer.step()
            schedule.step()

    The ends are what the loss was made with; the moves set the fields of ``loss.config``, from
    step 0 on as soon as the schedule exists. A loss that is compiled after that stays in one graph,
    and a captured CUDA graph follows the schedule: there, what moves is read from tensors on the
    loss's device. (Load a state before that, too, if its moves are others. With ``shard_queue``,
    numbers are read.) ``max_beta`` of a loss whose band moves is ``beta_start``, and such a graph
    puts as many rows in order as that reaches, to the end.

    Args:
        loss: a :class:`pauc.PAUCAtBudgetLoss`, or one of the other losses (which have no band to
            move).
        **moves: the steps and starts of :class:`ScheduleConfig`.

    Attributes:
        config: the :class:`ScheduleConfig`.
        step_count: the steps made.

    Raises:
        TypeError, ValueError: a bad argument, or ``beta_start`` for a loss without a band.

    Warns:
        UserWarning: once, when the loss has been called 100 times in training and
            :meth:`step` never. A call inside a compiled graph is not counted.
    """

    def __init__(
        self,
        loss: nn.Module,
        *,
        warmup_steps: int = 0,
        blend_steps: int = 0,
        anneal_steps: int = 0,
        temperature_start: float | None = None,
        beta_start: float | None = None,
    ) -> None:
        if not hasattr(loss, "move_config"):
            raise TypeError(f"loss must be one of the losses of pauc, got {type(loss).__name__}")
        self._loss: Any = loss
        ends = {name: getattr(loss.config, name) for name in self._fields()}
        config = ScheduleConfig(
            warmup_steps, blend_steps, anneal_steps, temperature_start, beta_start, **ends
        )
        self._move_to(config, step=0)
        self._calls = 0
        self._watch = loss.register_forward_pre_hook(self._count)

    def step(self) -> None:
        """Go on to the next step: once for each training step, after it."""
        self._watch.remove()
        self._move_to(self.config, self.step_count + 1)

    @property
    def values(self) -> ScheduleValues:
        """What holds at the current step."""
        return schedule_at(self.step_count, self.config)

    def state_dict(self) -> dict[str, Any]:
        """Return the step and the whole schedule, as numbers."""
        return {"step_count": self.step_count, "config": self.config._asdict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over step and schedule, the ends included, and set the loss accordingly."""
        self._move_to(ScheduleConfig(**state_dict["config"]), state_dict["step_count"])

    def _fields(self) -> list[str]:
        """The values that the loss has a field for."""
        return [name for name in ScheduleValues._fields if name in self._loss.config._fields]

    def _move_to(self, config: ScheduleConfig, step: int) -> None:
        values, known = schedule_at(step, config), self._fields()
        if config.beta_start is not None and "beta" not in known:
            raise ValueError(
                f"beta_start needs a loss over a band, got {type(self._loss).__name__}"
            )
        moved = {name: getattr(values, name) for name in known}
        first = schedule_at(0, config)
        # Every value moves one way only.
        moving = [name for name in known if getattr(first, name) != getattr(config, name)]
        if "max_beta" in self._loss.config._fields:
            moved["max_beta"] = config.beta_start if "beta" in moving else None
        self._loss.move_config(moved, moving)
        self.config, self.step_count = config, step  # last: the loss may have refused

    def _count(self, loss: nn.Module, _: Any) -> None:
        """Warn of a schedule that stands still; a hook on the loss until the first step."""
        if torch.compiler.is_compiling():
            return  # a counter in the graph's guards would compile it anew at each call
        self._calls += loss.training
        if self._calls == _FORGOTTEN:
            self._watch.remove()
            warnings.warn(
                f"PAUCSchedule: the loss was called {_FORGOTTEN} times in training, but step() "
                f"never, so that it stays at {self.values}. Cure: schedule.step() after each "
                "optimizer.step().",
                UserWarning,
                stacklevel=2,
            )


def _progress(into: int, steps: int) -> float:
    """Return how far a move of ``steps`` is, in [0, 1]; one of no steps is over at once."""
    if into < 0:
        return 0.0
    return min(1.0, into / steps) if steps > 0 else 1.0


def _linear(start: float, end: float, progress: float) -> float:
    return _between(start, end, start + (end - start) * progress, progress)


def _geometric(start: float, end: float, progress: float) -> float:
    return _between(start, end, start * (end / start) ** progress, progress)


def _between(start: float, end: float, value: float, progress: float) -> float:
    """Return ``value`` without what rounding added: exact at the ends, and within them."""
    if progress == 1.0:
        return end
    return min(max(value, min(start, end)), max(start, end))
