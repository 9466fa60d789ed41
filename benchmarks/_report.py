"""What a benchmark says about itself: the machine, the table, the JSON file, the README's spot."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
RESULTS = HERE / "results"


def machine_facts(device: str, packages: Sequence[str]) -> dict[str, Any]:
    """Processor, cores, versions, date: what a timing means nothing without."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    if device == "cuda":
        facts["accelerator"] = torch.cuda.get_device_name()
    return facts | {package: _version(package) for package in packages}


def describe(facts: dict[str, Any]) -> str:
    """`machine_facts` in one line."""
    shown = {key: value for key, value in facts.items() if key not in {"system", "python"}}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in shown.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "source tree"


class Table:
    """Columns of a fixed width, so that a row can be printed before the next one is known."""

    def __init__(self, columns: dict[str, int], *, markdown: bool = False) -> None:
        self.columns = columns  # heading -> width; the first column is left-aligned
        self.markdown = markdown

    def header(self) -> str:
        rule = [f"{'-' * (width - 1)}:" for width in self.columns.values()]
        rule[0] = "-" * next(iter(self.columns.values()))
        first = self.row(list(self.columns))
        return f"{first}\n{self.row(rule)}" if self.markdown else first

    def row(self, values: Sequence[str]) -> str:
        widths = list(self.columns.values())
        cells = [values[0].ljust(widths[0])]
        cells += [value.rjust(width) for value, width in zip(values[1:], widths[1:], strict=True)]
        return f"| {' | '.join(cells)} |" if self.markdown else "  ".join(cells)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1)
    one_line_lists = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text)
    path.write_text(one_line_lists + "\n")


def replace_in_readme(spot: str, text: str, readme: Path = README) -> None:
    """Put `text` between `<!-- {spot}:begin -->` and `<!-- {spot}:end -->`."""
    begin, end = f"<!-- {spot}:begin -->", f"<!-- {spot}:end -->"
    content = readme.read_text()
    before, found_begin, rest = content.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{readme} needs the comments {begin} and {end}, in this order")
    readme.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")
