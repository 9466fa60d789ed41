"""One page for one file of scores: ``python -m pauc report scores.csv --budget 0.005``.

:func:`pauc.report` measures tensors, :func:`read_scores` reads a file into them.
"""

from pauc.reporting.report import Report, report
from pauc.reporting.table import ScoreTable, read_scores

__all__ = ["Report", "ScoreTable", "read_scores", "report"]
