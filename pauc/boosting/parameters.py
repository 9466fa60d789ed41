"""Objects that are their constructor's arguments: compared, shown and cloned by these."""

from __future__ import annotations

from inspect import signature
from typing import Any


class Parameters:
    """An object whose constructor keeps each argument, unchanged, under its name.

    It has no ``get_params``: XGBoost and LightGBM would take the parameters within an objective for
    some of the engine's, and warn that they do not know them.
    """

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def __sklearn_clone__(self) -> Any:
        return type(self)(**self._arguments())

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *self._arguments().values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({shown})"
