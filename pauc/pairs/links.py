"""The links: what a pair of scores counts, as a function of its margin in units of ``tau``.

A link is one object, and all code that sums over pairs works from its parts alone. For margins
``u`` on either side of 0 it is ``constant + linear * |u| + sum_k powers[k] * z ** k`` with
``z = exp(-|u|)``, which turns sums over pairs into sums of powers. ``sigmoid(-u) = z / (1 + z)``
and ``softplus(-u) = log(1 + z)`` are analytic in ``z`` in (0, 1], with their nearest singularity at
``z = -1``, so that a Chebyshev series over [0, 1] converges like ``(3 + sqrt 8) ** -degree``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import logsigmoid

# (3 + sqrt 8) ** -16 is 6e-13, below what the sums lose to rounding in float64.
DEGREE = 16
_RHO = 3 + math.sqrt(8)


def _to_powers(chebyshev: list[float]) -> list[float]:
    """Return the power series of a Chebyshev series on [0, 1] (argument ``2 z - 1``)."""
    powers = [0.0] * len(chebyshev)
    previous, current = [0] * len(chebyshev), [1] + [0] * (len(chebyshev) - 1)
    for degree, coefficient in enumerate(chebyshev):
        powers = [total + coefficient * c for total, c in zip(powers, current, strict=True)]
        shifted = [0, *current[:-1]]
        step = 1 if degree == 0 else 2  # T_1 = x T_0, then T_(n+1) = 2 x T_n - T_(n-1)
        following = [
            step * (2 * s - c) - p for s, c, p in zip(shifted, current, previous, strict=True)
        ]
        previous, current = current, following
    return powers


def _sigmoid_coefficients() -> list[float]:
    """Return the coefficients of ``z, z**2, ...`` in ``z / (1 + z)``; 1 / (3 + x) is classical."""
    series = [4 / math.sqrt(8) * (-1 / _RHO) ** n for n in range(DEGREE)]
    return _to_powers([series[0] / 2, *series[1:]])


def _softplus_coefficients() -> list[float]:
    """Return the coefficients of ``z, z**2, ...`` in ``log(1 + z)``, whose constant term is 0."""
    series = [-2 / n * (-1 / _RHO) ** n for n in range(1, DEGREE + 1)]
    return _to_powers([math.log(_RHO / 4), *series])[1:]


class Side(NamedTuple):
    """A link's core for margins of one sign, as ``constant + linear * |u| + series in z``."""

    constant: float
    linear: float
    powers: list[float]  # of z, z ** 2, ... z ** DEGREE

    def slope(self, sign: int) -> Side:
        """Return the derivative by ``u``, for margins of this sign."""
        powers = [-sign * k * c for k, c in enumerate(self.powers, start=1)]
        return Side(sign * self.linear, 0.0, powers)


class Term(NamedTuple):
    """A function of the margin without a linear part, as sums over many pairs need it."""

    value: Callable[[Tensor], Tensor]
    above: Side  # u <= 0
    below: Side  # u >= 0


class Link(NamedTuple):
    """A link ``offset + core(u) / unit``; ``u`` is a margin in units of ``tau``, of any shape."""

    name: str
    offset: float
    unit: float
    core: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]  # first derivative of the core
    curvature: Callable[[Tensor], Tensor]  # second derivative of the core
    above: Side  # u <= 0: the negative is above the positive
    below: Side  # u >= 0

    def value(self, u: Tensor) -> Tensor:
        """Return what a pair counts."""
        value = self.core(u)
        if self.unit != 1:
            value = value / self.unit
        return value + self.offset if self.offset else value

    @property
    def first(self) -> Term:
        """The first derivative of the core by ``u``."""
        return Term(self.slope, self.above.slope(-1), self.below.slope(+1))

    @property
    def second(self) -> Term:
        """The second derivative of the core by ``u``."""
        first = self.first
        return Term(self.curvature, first.above.slope(-1), first.below.slope(+1))


def _sigmoid_slope(u: Tensor) -> Tensor:
    soft = u.sigmoid()
    return soft.addcmul_(soft, soft, value=-1)


def _sigmoid_curvature(u: Tensor) -> Tensor:
    soft = u.sigmoid()
    return soft * (1 - soft) * (1 - 2 * soft)


def _logsigmoid_slope(u: Tensor) -> Tensor:
    return u.neg().sigmoid_()


def _logsigmoid_curvature(u: Tensor) -> Tensor:
    return -_sigmoid_slope(u)


_SIGMOID = _sigmoid_coefficients()
_SOFTPLUS = _softplus_coefficients()

SIGMOID = Link(
    name="sigmoid",
    offset=0.0,
    unit=1.0,
    core=lambda u: u.sigmoid(),
    slope=_sigmoid_slope,
    curvature=_sigmoid_curvature,
    above=Side(0.0, 0.0, _SIGMOID),
    below=Side(1.0, 0.0, [-c for c in _SIGMOID]),
)
# logsigmoid(u) = -softplus(-u), which is u - softplus(u) for u <= 0. It is torch's logsigmoid that
# is called, since its softplus drops the logarithm from 20 on.
LOGISTIC = Link(
    name="logistic",
    offset=1.0,
    unit=math.log(2),
    core=logsigmoid,
    slope=_logsigmoid_slope,
    curvature=_logsigmoid_curvature,
    above=Side(0.0, -1.0, [-c for c in _SOFTPLUS]),
    below=Side(0.0, 0.0, [-c for c in _SOFTPLUS]),
)
LINKS = {link.name: link for link in (SIGMOID, LOGISTIC)}
