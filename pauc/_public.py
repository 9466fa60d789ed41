"""The mark of a public class."""

from __future__ import annotations

from typing import TypeVar

Class = TypeVar("Class", bound=type)


def public(cls: Class) -> Class:
    """Name ``pauc`` as the class's module, so that its pickles outlive a move of its file."""
    cls.__module__ = "pauc"
    return cls
