"""The real part in one table and one picture: main arms against data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .intervals import Estimate, difference, estimate
from .report import Group, baselines, by_seed

BEST_BCE = "best BCE"
# Rows, from what most people use to what the study supports.
MAIN = (
    BEST_BCE,
    "MB",
    "peer pairwise, warm",
    "pauc preset",
    "BCE, sampler",
    "pauc preset, sampler",
    "BCE, gentle sampler",
    "pauc preset, gentle sampler",
)
LABELS = {
    BEST_BCE: "best of BCE, class-weighted BCE and focal loss",
    "MB": "squared hinge on the top of each batch",
    "peer pairwise, warm": "`imbalanced-losses` pairwise, with its warm-up",
    "pauc preset": "**`for_budget`**",
    "BCE, sampler": "BCE with `BandSampler`",
    "pauc preset, sampler": "**`for_budget` with `BandSampler`**",
    "BCE, gentle sampler": "BCE with a gentle `BandSampler`",
    "pauc preset, gentle sampler": "**`for_budget` with a gentle `BandSampler`**",
}
SETS = {
    "covertype": "covertype",
    "covertype-thin": "covertype, 0.2 %",
    "kdd2004": "KDD 2004",
    "fars": "FARS",
}
SEEDS = 5  # of a whole cell
Cells = Mapping[str, Mapping[str, tuple[Estimate, Estimate | None]]]


def cells(groups: Sequence[Group]) -> Cells:
    """By arm and set: the mean, and the paired difference to the best BCE arm on plain batches."""
    found: dict[str, dict[str, tuple[Estimate, Estimate | None]]] = {arm: {} for arm in MAIN}
    for group in groups:
        name = group.title.partition(",")[0]
        best = baselines(group).get(BEST_BCE)
        if best is None:
            continue
        headline = group.metrics[group.headline]
        reference = by_seed(group.runs[best], headline)
        found[BEST_BCE][name] = (estimate(reference), None)
        for arm in MAIN[1:]:
            if arm in group.runs:
                values = by_seed(group.runs[arm], headline)
                found[arm][name] = (estimate(values), difference(values, reference))
    return found


def summary(groups: Sequence[Group]) -> str:
    found = cells(groups)
    lines = [
        f"| trained with | {' | '.join(SETS.values())} |",
        f"| --- |{' --: |' * len(SETS)}",
    ]
    for arm in MAIN:
        shown = [_cell(found[arm].get(name)) for name in SETS]
        lines.append(f"| {LABELS[arm]} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cell(cell: tuple[Estimate, Estimate | None] | None) -> str:
    if cell is None:
        return "not run"
    mean, gain = cell
    few = f", {mean.n} seed" + "s" * (mean.n > 1) if mean.n < SEEDS else ""
    if gain is None:
        return f"{mean.mean:.3f}{few}"
    return f"{mean.mean:.3f} ({gain.signed}{few})"


def draw_summary(groups: Sequence[Group], path: Path) -> None:
    """A panel a set: the main arms' means with their intervals, the best BCE arm dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = cells(groups)
    names = [name for name in SETS if name in found[BEST_BCE]]
    figure, axes = plt.subplots(
        1, len(names), figsize=(2.2 + 1.9 * len(names), 2.4), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axis, name in zip(axes[0], names, strict=True):
        _panel(axis, name, found)
    axes[0, 0].set_yticks(
        range(len(MAIN)), [LABELS[arm].strip("*").replace("`", "") for arm in MAIN]
    )
    axes[0, 0].invert_yaxis()
    figure.supxlabel("TPR at FPR 0.5 %, test rows", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(axis: Any, name: str, found: Cells) -> None:
    axis.axvline(found[BEST_BCE][name][0].mean, color="0.5", linestyle="--", linewidth=0.8)
    for height, arm in enumerate(MAIN):
        if name not in found[arm]:
            continue
        mean, _ = found[arm][name]
        # Blue for ours, orange for the rest (Okabe-Ito), and another marker for grey print.
        colour, marker = ("#0072B2", "o") if "pauc" in arm else ("#D55E00", "s")
        axis.plot([mean.low, mean.high], [height, height], color="0.6", zorder=1)
        axis.scatter([mean.mean], [height], s=20, color=colour, marker=marker, zorder=2)
    axis.set_title(SETS[name], fontsize=8)
    axis.tick_params(labelsize=7)
