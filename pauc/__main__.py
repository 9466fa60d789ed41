"""The command ``python -m pauc report scores.csv --budget 0.005``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pauc.reporting import read_scores, report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 where it cannot be done."""
    given = _parser().parse_args(arguments)
    try:
        _report(given)
    except (ImportError, OSError, ValueError) as error:
        print(f"pauc report: {error}", file=sys.stderr)
        return 2
    return 0


def _report(given: argparse.Namespace) -> None:
    """Print the report of a file, and write its page."""
    table = read_scores(given.file, target=given.target, scores=given.scores, group=given.group)
    found = report(
        table.scores,
        table.targets,
        given.budget,
        confidence=given.confidence,
        fprs=given.fprs,
        groups=table.groups,
        rows_a_day=given.rows_a_day,
        positive_rate=given.positive_rate,
        title=f"{given.file.name} at an FPR of {100 * given.budget:g} %",
        notes=[f"{note}." for note in table.notes],
    )
    print(found)
    if not given.text:
        page = given.html or Path(f"{given.file.stem}-report.html")
        found.save(page)
        print(f"\nWith pictures: {page}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pauc", description="pauc at the command line.")
    commands = parser.add_subparsers(required=True, metavar="report")
    command = commands.add_parser(
        "report",
        help="measure the scores in a file at a budget of false alarms",
        description="What models catch at a budget of false alarms, the threshold to ship, and "
        "what it costs: as text, and as one HTML page with pictures.",
    )
    add = command.add_argument
    add("file", type=Path, help="CSV with the names of the columns in its first line, or Parquet")
    add(
        "--budget",
        type=float,
        required=True,
        help="highest FPR, a fraction: 0.005 is half a percent",
    )
    add("--confidence", type=float, default=0.95, help="of promise and intervals (0.95)")
    add("--target", metavar="COLUMN", help="0, 1, true or false, or empty; guessed otherwise")
    add("--scores", metavar="COLUMN", nargs="+", help="one for each model; guessed otherwise")
    add("--group", metavar="COLUMN", help="report rates by group, too")
    add("--fprs", type=float, nargs="+", metavar="FPR", help="at which the TPR is reported, too")
    add("--rows-a-day", type=float, default=100_000, help="to be scored (100000)")
    add(
        "--positive-rate",
        type=float,
        help="share of positives among them; that of the file otherwise",
    )
    add("--html", type=Path, metavar="PATH", help="where the page goes (FILE-report.html)")
    add("--text", action="store_true", help="no page: needs no matplotlib")
    return parser


if __name__ == "__main__":
    sys.exit(main())
