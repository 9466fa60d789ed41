"""What people hold, as tensors, and answers in the kind of thing that was given.

The only place that knows of NumPy, data frames and lists. No library is imported for it but NumPy,
and that only when an array comes or goes: the others are recognised by the methods they share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
import torch.utils.dlpack
from torch import Tensor

# A tensor of any device; or an array, a column or a frame of NumPy, pandas, polars, pyarrow, CuPy
# or JAX; or a sequence of numbers, or of sequences of numbers.
ArrayLike: TypeAlias = Any

# A tensor where the scores are one. Otherwise a float for one number, and a NumPy array for more.
Answer: TypeAlias = Any

_CPU = 1  # kDLCPU of the DLPack standard
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def as_tensor(values: ArrayLike, name: str) -> Tensor:
    """Return ``values`` as a tensor of the same numbers, on the device where they are.

    A tensor is returned as it is, without its graph. Rows are taken by their position: the index of
    a pandas column plays no part. Python floats become float64.

    Raises:
        TypeError: something else than real numbers, or a masked array with masked entries.
        ValueError: an integer that int64 does not hold.
    """
    if not isinstance(values, Tensor):
        values = _from_outside(values, name)
    if values.is_complex():
        raise TypeError(f"{name} must have a real dtype, got {values.dtype}")
    return _sortable(values.detach(), name)


def same_device(given: Mapping[str, ArrayLike], optional: str) -> tuple[Tensor | None, ...]:
    """Return each named value by :func:`as_tensor`, all on one device; ``optional`` may be None.

    What came as no tensor goes to the device of the first tensor among the others.

    Raises:
        TypeError, ValueError: as for ``as_tensor``; tensors on two devices.
    """
    places = {name: value.device for name, value in given.items() if isinstance(value, Tensor)}
    first = next(iter(places), "")
    for name, device in places.items():
        if device != places[first]:
            raise ValueError(
                f"{name} must be on the {first}' device, {places[first]}, got {device}"
            )
    return tuple(
        None if value is None and name == optional else as_tensor(value, name).to(places.get(first))
        for name, value in given.items()
    )


def in_kind(answer: Tensor, given: ArrayLike) -> Answer:
    """Return the answer as a tensor if ``given`` is one, else as a float or a NumPy array."""
    if isinstance(given, Tensor):
        return answer
    return answer.item() if answer.ndim == 0 else answer.cpu().numpy()


def _from_outside(values: Any, name: str) -> Tensor:
    """Return a tensor of what is none, by the first way that ``values`` offers."""
    try:
        if _is_on_a_device(values):
            return torch.utils.dlpack.from_dlpack(values)
        if hasattr(values, "__array__") or hasattr(values, "to_numpy"):
            return _from_array(values)
        return _from_sequence(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a tensor, an array or a sequence of real numbers, "
            f"got {type(values).__name__}: {error}"
        ) from error


def _is_on_a_device(values: Any) -> bool:
    """Return whether ``values`` offers memory that the CPU cannot read."""
    where = getattr(values, "__dlpack_device__", None)
    return where is not None and where()[0] != _CPU


def _from_array(values: Any) -> Tensor:
    import numpy

    if numpy.ma.is_masked(values):
        raise TypeError("masked entries have no value; mark them by ignore_index in the targets")
    array = numpy.asarray(values if hasattr(values, "__array__") else values.to_numpy())
    if array.dtype.kind == "O":  # Python numbers in a frame; anything else is refused by torch
        return _from_sequence(array.tolist())
    if array.dtype.kind not in "biufc":
        raise TypeError(f"its dtype is {array.dtype}")
    # torch takes no other byte order and no negative stride, and warns of memory that it must not
    # write to, which is what pandas lends.
    if not (array.flags.writeable and array.dtype.isnative and min(array.strides, default=0) >= 0):
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


def _from_sequence(values: Any) -> Tensor:
    if isinstance(values, (str, bytes)):
        raise TypeError("text is no number")
    found = torch.tensor(values, device="cpu")
    # In torch's default dtype, float32, two Python floats that differ could become a tie.
    if found.is_floating_point():
        return torch.tensor(values, dtype=torch.float64, device="cpu")
    return found


def _sortable(values: Tensor, name: str) -> Tensor:
    """Return the values in a dtype that torch can compare and sort, which holds each exactly."""
    if values.is_floating_point() and values.itemsize < 4:
        return values.float()
    if values.dtype not in _UNSIGNED:
        return values
    wide = values.to(torch.int64)
    if values.dtype == torch.uint64 and bool((wide < 0).any()):
        raise ValueError(f"{name} must fit into int64, got an integer of 2**63 or more")
    return wide
