"""The decorators that give a public class the address under which a user imports it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar, get_type_hints

from torch.serialization import add_safe_globals

Class = TypeVar("Class", bound=type)


def public_in(module: str) -> Callable[[Class], Class]:
    """Return a decorator that sets ``__module__`` of a class to the public ``module``.

    A pickle then names that module, and still loads after the file of the class has moved. A named
    tuple loads with ``torch.load(..., weights_only=True)``, once the class has been imported.
    """

    def give_address(cls: Class) -> Class:
        own = inspect.get_annotations(cls)
        if own:
            # Resolved while `__module__` is still the file of the class: `get_type_hints` looks up
            # written annotations in that module, and `pauc` has no `Tensor`. Without the bases,
            # some of whose annotations are for type checkers alone.
            alone = type(cls.__name__, (), {"__annotations__": own, "__module__": cls.__module__})
            cls.__annotations__ = get_type_hints(alone, include_extras=True)
        cls.__module__ = module
        if issubclass(cls, tuple):  # of tensors and numbers, which `torch.load` may build unasked
            add_safe_globals([cls])
        return cls

    return give_address


public = public_in("pauc")
