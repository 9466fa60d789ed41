"""Constructor arguments as parameters, which is how scikit-learn clones and tunes an object."""

from __future__ import annotations

from inspect import signature
from typing import Any


class Parameters:
    """An object whose constructor keeps each argument, unchanged, under its name."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments; ``deep`` is of scikit-learn and changes nothing."""
        del deep
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Any:
        """Set arguments by name and return the object; nothing has changed if one is refused."""
        unknown = sorted(set(params) - set(self.get_params()))
        if unknown:
            raise ValueError(f"parameters must be among {sorted(self.get_params())}, got {unknown}")
        fresh = type(self)(**{**self.get_params(), **params})
        self.__dict__.update(fresh.__dict__)
        return self

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({shown})"
