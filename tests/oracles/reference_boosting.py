"""The objective of boosted trees in plain Python loops, pair by pair."""

from __future__ import annotations

import math
from typing import Any


def softplus(u: float) -> float:
    return max(u, 0.0) + math.log1p(math.exp(-abs(u)))


def sigmoid(u: float) -> float:
    small = math.exp(-abs(u))
    return 1 / (1 + small) if u >= 0 else small / (1 + small)


def pair_loss(link: str, u: float) -> tuple[float, float, float]:
    """What a pair with margin u counts, and its first two derivatives by u."""
    soft = sigmoid(-u)
    if link == "logistic":
        return softplus(-u), -soft, soft * (1 - soft)
    return soft, -soft * (1 - soft), soft * (1 - soft) * (1 - 2 * soft)


def quantile(scores: list[float], weights: list[float], level: float, kind: str) -> float:
    """The score at an FPR, of as many rows of one weight as there are negatives."""
    rows = sorted(zip(scores, weights, strict=True), reverse=True)
    unit = sum(weights) / len(rows)

    def at_rank(rank: int) -> float:
        reached = 0.0
        for score, weight in rows:
            reached += weight
            if reached > (rank + 0.5) * unit:
                return score
        return rows[-1][0]

    position = level * (len(rows) - 1)
    high, low = at_rank(math.floor(position)), at_rank(math.ceil(position))
    part = position - math.floor(position)
    if kind == "nearest":  # half to even, counted upwards
        upwards = round(len(rows) - 1 - position)
        return high if upwards == len(rows) - 1 - math.floor(position) else low
    return {
        "higher": high,
        "lower": low,
        "midpoint": (high + low) / 2,
        "linear": high + part * (low - high),
    }[kind]


def band(
    scores: list[float], targets: list[int], weights: list[float], options: dict[str, Any]
) -> list[int]:
    """The rows of the negatives in the band; those of weight 0 do not count."""
    negatives = [j for j, t in enumerate(targets) if t == 0 and weights[j] > 0]
    own = [scores[j] for j in negatives], [weights[j] for j in negatives]
    kind = options["interpolation"]
    upper = quantile(*own, options["alpha"], kind)
    lower = quantile(*own, options["beta"], kind)
    return [j for j in negatives if lower <= scores[j] <= upper]


def loss(
    scores: list[float],
    targets: list[int],
    weights: list[float],
    inside: list[int],
    options: dict[str, Any],
) -> float:
    """The objective, for a band that is given: it stands still within a round."""
    total = 0.0
    for s, t, w in zip(scores, targets, weights, strict=True):
        total += options["bce_weight"] * w * softplus(-s if t else s)
    mass = sum(weights[j] for j in inside)
    for i, t in enumerate(targets):
        for j in inside if t else []:
            part = weights[j] / mass * pair_loss(options["link"], scores[i] - scores[j])[0]
            total += options["pauc_weight"] * weights[i] * part
    return total


def derivatives(
    scores: list[float],
    targets: list[int],
    weights: list[float],
    inside: list[int],
    options: dict[str, Any],
) -> tuple[list[float], list[float]]:
    """Gradient and Hessian diagonal before the lower bound."""
    gradient, hessian = [], []
    for s, t, w in zip(scores, targets, weights, strict=True):
        p = sigmoid(s)
        gradient.append(options["bce_weight"] * w * (p - t))
        hessian.append(options["bce_weight"] * w * p * (1 - p))
    mass = sum(weights[j] for j in inside)
    for i, t in enumerate(targets):
        for j in inside if t else []:
            _, slope, curvature = pair_loss(options["link"], scores[i] - scores[j])
            part = options["pauc_weight"] * weights[i] * weights[j] / mass
            gradient[i] += part * slope
            gradient[j] -= part * slope
            hessian[i] += part * curvature
            hessian[j] += part * curvature
    return gradient, hessian


def bounded(
    gradient: list[float], hessian: list[float], weights: list[float], max_step: float
) -> list[float]:
    """The Hessian with its lower bound."""
    return [
        max(h, abs(g) / max_step, 1e-6 * w)
        for g, h, w in zip(gradient, hessian, weights, strict=True)
    ]
