"""The README and the pages of the documentation, and how a reader runs the Python in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def python_blocks(page: Path) -> list[str]:
    """Return the ```python blocks in order; what cannot run by itself is marked ```py."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def run_blocks(page: Path) -> dict[str, object]:
    """Run a page's blocks one after the other in one namespace, and return it."""
    namespace: dict[str, object] = {}
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), namespace)
    return namespace
