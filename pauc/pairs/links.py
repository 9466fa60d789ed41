"""The links as polynomials in ``z = exp(-u)``, which turn sums over pairs into sums of powers.

For ``u >= 0``, ``sigmoid(-u) = z / (1 + z)`` and ``softplus(-u) = log(1 + z)`` are analytic in
``z`` in (0, 1], with their nearest singularity at ``z = -1``, so that a Chebyshev series over
[0, 1] converges like ``(3 + sqrt 8) ** -degree``.
"""

from __future__ import annotations

import math

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


SIGMOID = _sigmoid_coefficients()
SOFTPLUS = _softplus_coefficients()
