"""How often promises of `select_threshold` are kept, beside those of MAPIE on the same rows.

    python benchmarks/promises.py                  # some minutes on one core
    python benchmarks/promises.py --samples 100 --no-mapie

Negatives are standard normal and positives normal around 2, 10 % of the rows; both libraries are
given the true probability of a positive. Each cell draws many held-out samples, asks both for a
threshold with 90 % confidence, and looks up in the true distributions what it does. "broken" is the
share of samples whose threshold breaks a promise, at most 10 % if all is well; "none" the share for
which no threshold was found; "TPR" the mean true TPR, 0 where none was found. The sampling error
of "broken" is 1.3 points with 500 samples. The rows marked "ties" have scores rounded to steps of
0.25; those marked "weights" lack half of the negatives below 1.5, which `sample_weight` restores
(MAPIE has no weights there).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pauc import select_threshold

NORMAL = NormalDist()
SHIFT, SHARE, CONFIDENCE, GRID = 2.0, 0.1, 0.9, 0.25
OF_MAPIE = {
    "budget": "fpr",
    "alert_share": "predicted_positive_fraction",
    "precision": "precision",
    "tpr": "recall",
}


class Cell(NamedTuple):
    promises: dict[str, float]
    rows: int
    kind: str = ""  # "ties" or "weights"


CELLS = [
    Cell({"budget": 0.01}, 2000),
    Cell({"budget": 0.01}, 20_000),
    Cell({"budget": 0.05}, 2000, "ties"),
    Cell({"budget": 0.05}, 2000, "weights"),
    Cell({"alert_share": 0.05}, 2000),
    Cell({"precision": 0.7}, 2000),
    Cell({"precision": 0.7}, 20_000),
    Cell({"precision": 0.6}, 2000, "ties"),
    Cell({"precision": 0.6}, 5000, "weights"),
    Cell({"budget": 0.02, "alert_share": 0.06}, 2000),
    Cell({"budget": 0.05, "precision": 0.6}, 2000),
    Cell({"precision": 0.5, "tpr": 0.6}, 2000),
]


def draw(cell: Cell, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return scores, targets and weights of one held-out sample."""
    targets = (torch.rand(cell.rows, generator=generator) < SHARE).long()
    scores = torch.randn(cell.rows, generator=generator, dtype=torch.float64) + SHIFT * targets
    if cell.kind == "ties":
        return (scores / GRID).round() * GRID, targets, None
    if cell.kind == "weights":
        left_out = (targets == 0) & (scores < 1.5)
        kept = ~left_out | (torch.rand(cell.rows, generator=generator) < 0.5)
        weight = torch.where(left_out, 2.0, 1.0)
        return scores[kept], targets[kept], weight[kept]
    return scores, targets, None


def true_rates(threshold: float, cell: Cell) -> dict[str, float]:
    """Return what a threshold, flagged by >=, does in the population."""
    if cell.kind == "ties":  # the step at or above it begins half a step below its centre
        threshold = (np.ceil(threshold / GRID - 1e-9) - 0.5) * GRID
    fpr, tpr = 1 - NORMAL.cdf(threshold), 1 - NORMAL.cdf(threshold - SHIFT)
    alerts = SHARE * tpr + (1 - SHARE) * fpr
    precision = SHARE * tpr / alerts if alerts else 1.0
    return {"budget": fpr, "alert_share": alerts, "precision": precision, "tpr": tpr}


def is_broken(rates: dict[str, float], promises: dict[str, float]) -> bool:
    return any(
        rates[name] > value if name in ("budget", "alert_share") else rates[name] < value
        for name, value in promises.items()
    )


def ours(cell: Cell, scores: Tensor, targets: Tensor, weight: Tensor | None) -> float | None:
    try:
        return float(
            select_threshold(
                scores,
                targets,
                **cell.promises,  # type: ignore[arg-type]
                confidence=CONFIDENCE,
                sample_weight=weight,
            ).threshold
        )
    except ValueError:
        return None


def probability(scores: np.ndarray) -> np.ndarray:
    """Return the chance of a positive, by the densities."""
    odds = SHARE / (1 - SHARE) * np.exp(SHIFT * scores - SHIFT**2 / 2)
    return odds / (1 + odds)


def of_mapie(method: str) -> Callable[..., float | None]:
    """Return the same question to MAPIE's controller, with its own 100 candidates."""
    from mapie.risk_control import BinaryClassificationController

    def predict_proba(scores: np.ndarray) -> np.ndarray:
        chance = probability(scores[:, 0])
        return np.stack([1 - chance, chance], axis=1)

    def ask(cell: Cell, scores: Tensor, targets: Tensor, weight: Tensor | None) -> float | None:
        if weight is not None:
            return None
        controller = BinaryClassificationController(
            predict_function=predict_proba,
            risk=[OF_MAPIE[name] for name in cell.promises],
            target_level=list(cell.promises.values()),
            confidence_level=CONFIDENCE,
            best_predict_param_choice="recall",
            fwer_method=method,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where no threshold is found
            controller.calibrate(scores.numpy()[:, None], targets.numpy())
        chance = controller.best_predict_param
        if chance is None or len(controller.valid_predict_params) == 0:
            return None
        odds = chance / (1 - chance) * (1 - SHARE) / SHARE
        # A candidate of 0 flags every row.
        return (float(np.log(odds)) + SHIFT**2 / 2) / SHIFT if chance > 0 else -np.inf

    return ask


def measure(cell: Cell, ask: Callable[..., float | None], samples: int) -> str:
    """Return one side of a row: broken, none, TPR."""
    generator, broken, none, tpr = torch.Generator().manual_seed(0), 0, 0, 0.0
    for _ in tqdm(range(samples), leave=False):
        threshold = ask(cell, *draw(cell, generator))
        if threshold is None:
            none += 1
            continue
        rates = true_rates(threshold, cell)
        broken += is_broken(rates, cell.promises)
        tpr += rates["tpr"]
    return f"{broken / samples:.3f} | {none / samples:.3f} | {tpr / samples:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--no-mapie", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sides: dict[str, Any] = {"pauc": ours}
    if not arguments.no_mapie:
        sides["MAPIE, Holm"] = of_mapie("bonferroni_holm")
    columns = [f"{side}: {part}" for side in sides for part in ("broken", "none", "TPR")]
    print("| promise | rows | " + " | ".join(columns) + " |")
    print("|---|--:|" + "--:|" * len(columns))
    for cell in CELLS:
        shown = ", ".join(f"{name} {value:g}" for name, value in cell.promises.items())
        shown += f" ({cell.kind})" if cell.kind else ""
        found = [
            "— | — | —"
            if side != "pauc" and cell.kind == "weights"
            else measure(cell, ask, arguments.samples)
            for side, ask in sides.items()
        ]
        print(f"| {shown} | {cell.rows:,} | " + " | ".join(found) + " |", flush=True)


if __name__ == "__main__":
    main()
