"""The README runs as written, and nobody is told to install another project of our name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.repo.pages import ROOT, python_blocks, run_blocks

README = ROOT / "README.md"


def test_snippets_run_as_written(capsys):
    assert len(python_blocks(README)) >= 5
    torch.manual_seed(0)
    namespace = run_blocks(README)
    assert "partial AUC of the pool" in capsys.readouterr().out
    assert torch.isfinite(namespace["loss"])


@pytest.mark.parametrize("command", ["examples/quickstart.py", "pytest"])
def test_the_two_commands_are_single_lines_that_make_their_environment(command):
    lines = [line for line in README.read_text().splitlines() if line.endswith(command)]
    assert len([line for line in lines if line.startswith("python3 -m venv")]) == 1


def test_it_is_short():
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize("edge", ["begin", "end"])
@pytest.mark.parametrize(
    ("page", "spot"),
    [
        ("README.md", "wide-summary"),
        ("docs/choose.md", "wide"),
        ("docs/choose.md", "coverage-summary"),
    ],
)
def test_the_studies_find_their_places(page, spot, edge):
    assert (ROOT / page).read_text().count(f"<!-- {spot}:{edge} -->") == 1


def told_to_install() -> list[Path]:
    """Return the text files that may tell a reader what to install."""
    patterns = [
        "*.md",
        "docs/*.md",
        "docs/*.py",
        "pauc/**/*.py",
        "examples/*.py",
        "benchmarks/**/*.md",
    ]
    found = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return [*found, ROOT / ".ci" / "run", ROOT / "pyproject.toml"]


def tells_to_install_pauc(text: str) -> bool:
    return bool(re.search(r"""pip install[^\n`#]*?[\s'"]pauc(?![\w/-]|\.\w)""", text))


@pytest.mark.parametrize("path", told_to_install(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_is_told_to_install_the_other_project_of_that_name(path):
    """PyPI's `pauc` is not this library, which is distributed as torch-pauc."""
    assert not tells_to_install_pauc(path.read_text())


@pytest.mark.parametrize("text", ["install pauc", "install 'pauc[plot]'", "install -U torch pauc."])
def test_such_advice_would_be_found(text):
    assert tells_to_install_pauc(f"Cure: pip {text}")
