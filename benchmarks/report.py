"""What a report of a file costs: reading it, the numbers, and the page.

    python benchmarks/report.py                   # a million rows, two models, four groups

CPU seconds of one process, without the import of torch and matplotlib.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import pauc
import pauc.plot
from pauc.reporting import read_scores


def write(path: Path, rows: int) -> None:
    """Write a file with 3 % positives and scores of six digits."""
    torch.manual_seed(0)
    labels = (torch.rand(rows) < 0.03).long()
    old, new = torch.randn(2, rows) + torch.tensor([[2.2], [2.6]]) * labels
    columns = zip(labels.tolist(), old.tolist(), new.tolist(), strict=True)
    with path.open("w") as file:
        file.write("label,score_old,score_new,region\n")
        file.writelines(f"{y},{a:.6f},{b:.6f},r{k % 4}\n" for k, (y, a, b) in enumerate(columns))


def timed(step: Callable[[], Any], times: list[float]) -> Any:
    start = time.process_time()
    found = step()
    times.append(time.process_time() - start)
    return found


def steps(path: Path) -> Iterator[float]:
    """Yield the seconds of reading, of the numbers and text, and of the page."""
    times: list[float] = []
    table = timed(lambda: read_scores(path, group="region"), times)
    options = {"groups": table.groups}
    found = timed(lambda: pauc.report(table.scores, table.targets, 0.005, **options), times)
    timed(found.html, times)
    yield from times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.csv"
        write(path, rows)
        print("| rows | reading s | numbers s | page s |\n|---|---|---|---|")
        print(f"| {rows:,} | " + " | ".join(f"{seconds:.1f}" for seconds in steps(path)) + " |")


if __name__ == "__main__":
    main()
