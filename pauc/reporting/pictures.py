"""The pictures of a report's page, as SVG that is written into it."""

from __future__ import annotations

import io
import re
from html import escape

from pauc import plot  # isort: skip - first: it says what to do where matplotlib is missing

import matplotlib as mpl
from matplotlib.figure import Figure

from pauc.reporting.findings import Findings

__all__ = ["picture"]

_MOST_MODELS = 6  # more curves cannot be told apart


def picture(key: str, report: Findings) -> str:
    """Return a picture as HTML: SVG, or a sentence where it cannot be drawn."""
    return {"roc": _roc, "scores": _scores}[key](report)


def _roc(report: Findings) -> str:
    figure = Figure(figsize=(9, 5), layout="constrained")
    models = dict(list(report.scores.items())[:_MOST_MODELS])
    plot.roc(
        models, report.targets, report.budget, confidence=report.confidence, ax=figure.subplots()
    )
    left_out = len(report.scores) - len(models)
    note = f"<p>The first {_MOST_MODELS} models; {left_out} are left out.</p>" if left_out else ""
    caption = "Around each curve: the interval of the TPR, at each FPR by itself."
    return _svg(figure, "ROC curves") + f"<figcaption>{caption}</figcaption>" + note


def _scores(report: Findings) -> str:
    models = report.models[:_MOST_MODELS]
    return "".join(_histogram(report, k) for k in range(len(models)))


def _histogram(report: Findings, k: int) -> str:
    name, point = report.models[k].name, report.models[k].point
    scores = report.scores[name]
    infinite = int(scores[report.targets >= 0].isinf().sum())
    if infinite:
        return f"<p>{escape(name)}: not drawn, {infinite:,} scores are infinite.</p>"
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    ax = figure.subplots()
    plot.score_histogram(
        scores, report.targets, report.budget, thresholds={"threshold": point.threshold},
        bins=120, ax=ax,
    )  # fmt: skip
    ax.set_title(name)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)  # beside the tails
    return _svg(figure, f"Scores of both classes: {name}")


def _svg(figure: Figure, label: str) -> str:
    """Return a figure as an SVG element, the same for the same figure."""
    written = io.StringIO()
    # Text stays text: smaller than outlines of letters, and it can be searched.
    with mpl.rc_context({"svg.hashsalt": "pauc", "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    # Without the metadata, which names addresses of vocabularies.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
