"""All tables and figures of the study, written anew from its stored lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks._report import replace_in_readme

from .report import draw, real_groups, synthetic_groups, table
from .store import Store
from .summary import draw_summary, summary

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
README = HERE / "README.md"


def update(synthetic: Sequence[Path], real: Sequence[Path]) -> None:
    """Write all tables and figures: here, and a summary of the real part on the choosing page."""
    for spot, paths, groups in (
        ("synthetic", synthetic, synthetic_groups),
        ("real", real, real_groups),
    ):
        made = groups([record for path in paths for record in Store(path).records.values()])
        text = "\n\n".join(table(group) for group in made) or "Not run yet."
        replace_in_readme(f"coverage-{spot}", text, README)
        if made:
            draw(made, HERE / f"coverage-{spot}.png")
    if made:  # the real groups
        replace_in_readme("coverage-summary", summary(made), ROOT / "docs" / "choose.md")
        draw_summary(made, ROOT / "docs" / "coverage.png")
