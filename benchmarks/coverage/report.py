"""Tables and figures, from the JSON lines alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .intervals import BySeed, Estimate, difference, estimate
from .store import Record

BCE_LOSSES = {"bce", "focal"}  # the losses that the others are compared to
OUR_LOSSES = {"pauc", "preset", "our_smooth_ap", "our_recall"}
Value = Callable[[Record], float]


class Group(NamedTuple):
    """The runs that share a table: same data, budget and queue."""

    title: str
    runs: dict[str, list[Record]]  # by arm, in the order of their first run
    headline: str  # the metric that intervals and differences are of
    metrics: dict[str, Value]  # heading -> how to read it off a record
    chooses: Value  # picks the best BCE arm
    limit: Value | None
    compared: tuple[str, ...]  # the metrics that differences are given of


def synthetic_groups(records: Iterable[Record]) -> list[Group]:
    groups = []
    for (study, cue, bps, queue), runs in _grouped(records, _synthetic_key).items():
        what = "arms" if study == "arms" else "band sweep, edges as multiples of the budget"
        coverage, tpr = _reader("coverage", bps), _reader("tpr", bps)
        groups.append(
            Group(
                f"{cue} cue, {bps} bps, queue {queue:,}: {what}",
                runs,
                "coverage",
                {"coverage": coverage, f"TPR at FPR {bps / 100:g} %": tpr},
                coverage,
                _reader("limit", "coverage", bps),
                ("coverage",),
            )
        )
    return groups


def real_groups(records: Iterable[Record]) -> list[Group]:
    groups = []
    finals = (record for record in records if record["config"]["study"] == "arms")
    for (name, bps, epochs), runs in _grouped(finals, _real_key).items():
        metrics = {f"TPR at {fpr / 100:g} %": _reader("test", "tpr", fpr) for fpr in (bps, 10, 100)}
        headline, lowest, _ = metrics
        validation = _reader("validation", "tpr", bps)
        title, compared = f"{name}, {epochs} epochs", (headline, lowest)
        groups.append(Group(title, runs, headline, metrics, validation, None, compared))
    return groups


def _synthetic_key(config: dict[str, Any]) -> tuple[Any, ...]:
    return config["study"], config["data"]["cue"], config["budget_bps"], config["queue_size"]


def _real_key(config: dict[str, Any]) -> tuple[Any, ...]:
    return config["data"]["set"], config["budget_bps"], config["training"]["epochs"]


def _grouped(
    records: Iterable[Record], key: Callable[[dict[str, Any]], tuple[Any, ...]]
) -> dict[tuple[Any, ...], dict[str, list[Record]]]:
    groups: dict[tuple[Any, ...], dict[str, list[Record]]] = defaultdict(dict)
    for record in records:
        config = record["config"]
        groups[key(config)].setdefault(config["arm"], []).append(record)
    return groups


def _reader(*path: str | int) -> Value:
    def read(record: Record) -> float:
        value = record["result"]
        for step in path:
            value = value[str(step)]
        return float(value)

    return read


def by_seed(runs: Sequence[Record], value: Value) -> dict[int, float]:
    return {record["config"]["seed"]: value(record) for record in runs}


def baselines(group: Group) -> dict[str, str]:
    """Heading -> the best BCE arm, among those without and those with the sampler."""
    found = {}
    for heading, sampler in (("best BCE", False), ("best BCE, sampler", True)):
        means = {
            arm: estimate(by_seed(runs, group.chooses)).mean
            for arm, runs in group.runs.items()
            if runs[0]["config"]["loss"] in BCE_LOSSES
            and (runs[0]["config"]["batching"] != "shuffled") is sampler
        }
        if means:
            found[heading] = max(means, key=means.__getitem__)
    return found


def table(group: Group) -> str:
    """Arms by their headline, best first; the headline has an interval, other metrics a mean."""
    against = baselines(group)
    others = [name for name in group.metrics if name != group.headline]
    gains = [f"{metric}, minus {name}" for name in against for metric in group.compared]
    if len(group.compared) == 1:
        gains = [f"minus {name}" for name in against]
    headings = ["arm", group.headline, *others, *gains]
    rows = [
        [arm, *_row(group, runs, others, against.values()), f"{len(runs)}", _cpu(runs)]
        for arm, runs in _sorted(group)
    ]
    if group.limit is not None:
        rows.insert(0, _limit_row(group, len(headings)))
    notes = "; ".join(f"{name}: {arm}" for name, arm in against.items())
    parts = [f"**{group.title}**" + (f" ({notes})" if notes else ""), ""]
    return "\n".join([*parts, *_markdown([*headings, "seeds", "CPU s"], rows)])


def _sorted(group: Group) -> list[tuple[str, list[Record]]]:
    value = group.metrics[group.headline]
    return sorted(group.runs.items(), key=lambda item: -estimate(by_seed(item[1], value)).mean)


def _row(
    group: Group, runs: Sequence[Record], others: Sequence[str], against: Iterable[str]
) -> list[str]:
    headline = group.metrics[group.headline]
    cells = [str(estimate(by_seed(runs, headline)))]
    cells += [f"{estimate(by_seed(runs, group.metrics[name])).mean:.3f}" for name in others]
    for arm in against:
        for name in group.compared:
            metric = group.metrics[name]
            gain = difference(by_seed(runs, metric), by_seed(group.runs[arm], metric))
            is_itself = arm == runs[0]["config"]["arm"]
            cells.append("" if gain is None or is_itself else gain.signed)
    return cells


def _limit_row(group: Group, n_columns: int) -> list[str]:
    """The limit over all seeds that any arm has."""
    name = "*limit: likelihood ratio*"
    values = _limits(group)
    return [name, str(estimate(values)), *[""] * (n_columns - 2), f"{len(values)}", ""]


def _limits(group: Group) -> BySeed:
    assert group.limit is not None
    return by_seed([record for runs in group.runs.values() for record in runs], group.limit)


def _cpu(runs: Sequence[Record]) -> str:
    seconds = sorted(record["result"]["cpu_seconds"] for record in runs)
    return f"{seconds[len(seconds) // 2]:.1f}"


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] + ["--:"] * (len(headings) - 1), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def draw(groups: Sequence[Group], path: Path) -> None:
    """A panel a table: dots with intervals, the best BCE arm dashed, the limit dotted."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    heights = [len(group.runs) + 2 for group in groups]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(8, 0.24 * sum(heights) + 0.6 * len(groups)), squeeze=False,
        gridspec_kw={"height_ratios": heights}, layout="constrained",
    )  # fmt: skip
    for axis, group in zip(axes[:, 0], groups, strict=True):
        _panel(axis, group)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Any, group: Group) -> None:
    value = group.metrics[group.headline]
    estimates = {arm: estimate(by_seed(runs, value)) for arm, runs in reversed(_sorted(group))}
    for height, (arm, found) in enumerate(estimates.items()):
        # Blue for ours, orange for the rest (Okabe-Ito), and another marker for grey print.
        ours = group.runs[arm][0]["config"]["loss"] in OUR_LOSSES
        axis.plot([found.low, found.high], [height, height], color="0.6", zorder=1)
        marks = {"color": "#0072B2", "marker": "o"} if ours else {"color": "#D55E00", "marker": "s"}
        axis.scatter([found.mean], [height], s=22, zorder=2, **marks)
    axis.set_yticks(range(len(estimates)), list(estimates), fontsize=7)
    _lines(axis, group, estimates)
    axis.set_title(f"{group.title}: {group.headline}", fontsize=8, loc="left")
    axis.tick_params(axis="x", labelsize=7)


def _lines(axis: Any, group: Group, estimates: Mapping[str, Estimate]) -> None:
    best = baselines(group).get("best BCE")
    if best is not None:
        axis.axvline(estimates[best].mean, color="0.4", linestyle="--", linewidth=0.8)
    if group.limit is not None:
        limit = estimate(_limits(group)).mean
        axis.axvline(limit, color="0.2", linestyle=":", linewidth=1)
