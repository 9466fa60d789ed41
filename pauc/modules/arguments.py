"""The arguments that every loss module has beside the options of its loss, and their checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from pauc.checks import check_flag, check_int
from pauc.distributed.ranks import check_process_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class ModuleOptions(TypedDict, total=False):
    """The arguments that every loss module has, for type checkers."""

    multilabel: bool
    queue_size: int
    update_queue_in_eval: bool
    gather_distributed: bool | None
    process_group: ProcessGroup | None
    shard_queue: bool
    validate_args: bool


def check_arguments(
    num_classes: object,
    queue_size: object,
    gather_distributed: object,
    process_group: object,
    **flags: object,
) -> None:
    """Raise unless the arguments of a module are of their types and in their ranges.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """
    check_int("num_classes", num_classes, 1)
    check_int("queue_size", queue_size, 0)
    for name, flag in flags.items():
        check_flag(name, flag)
    if gather_distributed is not None and not isinstance(gather_distributed, bool):
        raise TypeError(f"gather_distributed must be a bool or None, got {gather_distributed!r}")
    check_process_group(process_group)
