"""What a report says, in sentences and tables, before it is text or HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pauc.intervals import Interval
from pauc.reporting.findings import Findings
from pauc.reporting.measure import Group

__all__ = ["Section", "percent", "sections"]


class Section(NamedTuple):
    """A heading and what stands below it; the table's first row is its head."""

    heading: str
    sentences: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    picture: str = ""  # a key of `pictures`


def sections(report: Findings) -> list[Section]:
    """Return all that a report says, in order."""
    found = [_rows(report), _caught(report)]
    if report.differences:
        found.append(_differences(report))
    found += [_threshold(report), _costs(report), _needs(report)]
    for name, groups in (report.groups or {}).items():
        found.append(_groups(report, name, groups))
    return [*found, _limits(report)]


def percent(share: float | Tensor) -> str:
    """Return a share as a percentage of three digits."""
    value = 100 * float(share)
    if math.isnan(value):
        return "-"
    # A space at which no line breaks.
    return f"{value:.1f}\xa0%" if value >= 99.95 else f"{value:.3g}\xa0%"


def _rows(report: Findings) -> Section:
    total = report.negatives + report.positives
    sentences = [
        f"{total:,} rows: {report.negatives:,} negatives and {report.positives:,} positives "
        f"({percent(report.positives / total)})."
    ]
    if report.ignored:
        sentences.append(f"{report.ignored:,} rows without a label are left out.")
    return Section("Rows", (*report.notes, *sentences))


def _caught(report: Findings) -> Section:
    head = ("model", *(f"TPR at FPR {percent(rate)}" for rate in report.fprs), "partial AUC")
    rows = [
        (model.name, *_intervals(model.tpr), *_intervals(model.partial_auc))
        for model in report.models
    ]
    sentences = (
        f"The share of positives caught (TPR) by the best threshold within each false-positive "
        f"rate (FPR), in brackets a {percent(report.confidence)} interval. The partial AUC is the "
        f"mean TPR over all FPRs up to the budget, {percent(report.budget)}.",
    )
    return Section("What is caught", sentences, (head, *rows), "roc")


def _differences(report: Findings) -> Section:
    head = ("models", f"TPR at FPR {percent(report.budget)}", "the first is")
    rows = [
        (f"{one.name} - {one.against}", _interval(one.tpr, signed=True), _verdict(one.tpr))
        for one in report.differences
    ]
    sentences = (
        "On the same rows, which are drawn together (paired bootstrap). That is narrower than the "
        "two intervals above suggest.",
    )
    return Section("Differences", sentences, (head, *rows))


def _threshold(report: Findings) -> Section:
    head = ("model", "alert where score >=", "FPR here", "TPR here", "chance to be over the budget")
    rows = [
        (
            model.name,
            f"{model.point.threshold:.9g}",
            percent(model.point.fpr),
            _interval(model.caught),
            f"at most {percent(model.point.risk)}",
        )
        for model in report.models
    ]
    return Section("The threshold", (_promise(report),), (head, *rows), "scores")


def _promise(report: Findings) -> str:
    budget, confidence = percent(report.budget), percent(report.confidence)
    if report.promised:
        return (
            f"With {confidence} confidence the true FPR of each threshold is at most {budget}, if "
            f"the negatives to come are like these."
        )
    return (
        f"No promise: a threshold that keeps {budget} with {confidence} confidence takes "
        f"{report.needs[0].fewest:,} negatives, and there are {report.negatives:,}. The one below "
        f"keeps the budget on these rows; on new ones it is over it about every second time."
    )


def _costs(report: Findings) -> Section:
    head = ("model", "alerts", "of which false", "positives caught", "missed", "precision")
    rows = [
        (
            model.name,
            *(f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in cost[:4]),
            percent(cost.precision),
        )
        for model, cost in zip(report.models, report.costs, strict=True)
    ]
    sentences = (
        f"For {report.rows_a_day:,.0f} rows a day with {percent(report.positive_rate)} positives, "
        f"at the rates that the threshold has here.",
    )
    return Section("What a day costs", sentences, (head, *rows))


def _needs(report: Findings) -> Section:
    head = ("FPR at most", "confidence", "negatives needed", "more than here", "ample", "more")
    rows = [
        (
            percent(need.budget),
            percent(need.confidence),
            f"{need.fewest:,}",
            _more(need.fewest - report.negatives),
            f"{_round_up(need.ample):,}",
            _more(_round_up(need.ample) - report.negatives),
        )
        for need in report.needs
    ]
    sentences = (
        "With fewer negatives than are needed no threshold can promise it. With few more, hardly "
        "any may alert, and few positives are caught; with an ample number the threshold uses nine "
        "tenths of the budget.",
    )
    return Section("What a promise takes", sentences, (head, *rows))


def _groups(report: Findings, name: str, groups: Sequence[Group]) -> Section:
    head = ("group", "negatives", "positives", "FPR", "TPR")
    rows = [
        (
            group.name or "(none)",
            f"{group.negatives:,}",
            f"{group.positives:,}",
            _interval(group.fpr),
            _interval(group.tpr),
        )
        for group in groups
    ]
    sentences = [
        "At the threshold of all rows, which promises nothing for a group by itself. Each interval "
        "is for its own group: of many groups some are far off by chance."
    ]
    if len(groups) < report.group_count:
        sentences.append(f"The largest {len(groups)} of {report.group_count:,} groups.")
    return Section(f"By group: {name}", tuple(sentences), (head, *rows))


def _limits(report: Findings) -> Section:
    return Section(
        "What this does not know",
        (
            "All of it is for rows like these. When the population moves, a promise is void "
            f"without a word: watch the threshold with pauc.FPRMonitor({report.budget:g}).",
            "Rows that trained or chose a model flatter it: intervals are too narrow then, and "
            "promises too good.",
        ),
    )


def _intervals(found: Interval) -> list[str]:
    """Return one cell for each entry of an interval."""
    parts = zip(*(part.reshape(-1).tolist() for part in found), strict=True)
    return [f"{percent(value)} ({_ends(low, high)})" for value, low, high in parts]


def _interval(found: Interval, signed: bool = False) -> str:
    value, low, high = (float(part) for part in found)
    if math.isnan(value):
        return "-"
    if not signed:
        return f"{percent(value)} ({_ends(low, high)})"
    return f"{100 * value:+.3g} points ({100 * low:+.3g} to {100 * high:+.3g})"


def _ends(low: float, high: float) -> str:
    return f"{percent(low)[:-2]} to {percent(high)[:-2]}"


def _verdict(found: Interval) -> str:
    if float(found.low) > 0:
        return "better"
    return "worse" if float(found.high) < 0 else "not told apart"


def _more(rows: int) -> str:
    return f"{rows:,}" if rows > 0 else "none"


def _round_up(count: int) -> int:
    """Return a count of three digits that is not below: it is known no better."""
    unit = int(10 ** max(0, len(str(count)) - 3))
    return -(-count // unit) * unit
