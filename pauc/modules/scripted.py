"""What TorchScript compiles in place of the call of a loss: a model in a script does not train.

Apart, since it is TorchScript's source: no argument may be for keywords alone, as some of a loss's
are, and no annotation a string.
"""

# ruff: noqa: ARG001 (the arguments are those of a loss; none is used)

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def not_in_scripts(forward: Function) -> Function:
    """Let TorchScript compile :func:`_refuse` where it would compile this ``forward``.

    It reads the source of what a function wraps. The signature stays the function's own.
    """
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    forward.__wrapped__ = _refuse  # type: ignore[attr-defined]
    return forward


def _refuse(
    self: Any,
    logits: Tensor,
    targets: Tensor,
    iid_mask: Tensor | None = None,
    return_per_class: bool = False,
    return_diagnostics: bool = False,
    sample_weight: Tensor | None = None,
) -> Tensor:
    raise RuntimeError(
        "a loss of pauc cannot be computed in a model that went through torch.jit.script, got "
        "a call. Cure: call eval() on the scripted model, and train the one it was made from"
    )
