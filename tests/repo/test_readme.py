"""The README's Python runs as written, block after block as a reader would paste it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pauc import PAUCConfig

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_snippets_run_as_written(capsys):
    assert len(BLOCKS) >= 5
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), namespace)
    assert "partial AUC of the pool" in capsys.readouterr().out
    assert torch.isfinite(namespace["loss"])


def test_the_table_names_every_option_with_its_default():
    text = README.read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, flags=re.MULTILINE))
    for name, default in PAUCConfig()._asdict().items():
        shown = rows[name].strip("` ")
        assert shown == (f'"{default}"' if isinstance(default, str) else str(default))


@pytest.mark.parametrize("command", ["examples/quickstart.py", "pytest"])
def test_the_two_commands_are_single_lines_that_make_their_environment(command):
    lines = [line for line in README.read_text().splitlines() if line.endswith(command)]
    assert len([line for line in lines if line.startswith("python3 -m venv")]) == 1
