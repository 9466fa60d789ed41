"""The wheel and the source distribution: what is in them, and that a native step runs from each."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import pauc

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "tests" / "native" / "smoke.py"
has_compiler = shutil.which("c++") is not None
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(command, cwd=cwd, env=outside, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


def sources() -> list[Path]:
    """Return the files that the package is built from, as they are in the repository."""
    found = [path for path in (ROOT / "pauc").rglob("*") if path.is_file()]
    return [path for path in found if path.suffix in (".py", ".pyi", ".typed", ".h", ".cpp")]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution of a copy of the repository, and the wheel that it builds."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"  # so that no build folder is left in the repository
    names = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
    for file in [*sources(), *(ROOT / name for name in names)]:
        target = source / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    script = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    run(sys.executable, "-c", script, folder, cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    run(*pip, "-w", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def test_wheel_holds_the_package_and_nothing_else(built):
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        fields = email.message_from_bytes(archive.read(metadata))
    native = {name for name in names if Path(name).suffix in (".so", ".pyd")}
    python = [path for path in sources() if path.suffix not in (".h", ".cpp")]
    assert names - native == {path.relative_to(ROOT).as_posix() for path in python}
    assert len(native) == has_compiler
    assert all(name.startswith("pauc/native/_ext.") for name in native)
    assert (fields["Name"], fields["Version"]) == ("torch-pauc", pauc.__version__)
    required = [line for line in fields.get_all("Requires-Dist") if "extra ==" not in line]
    assert required == ["torch>=2.5"]
    assert {"plot", "integrations", "docs", "test"} <= set(fields.get_all("Provides-Extra"))
    assert fields["Summary"]
    assert fields["Keywords"]
    assert fields.get_all("Classifier")


def test_wheel_serves_every_version_of_python(built):
    _, wheel = built
    assert "-cp310-abi3-" in wheel.name


def test_source_distribution_can_build_the_native_code(built):
    sdist, _ = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {path.relative_to(ROOT).as_posix() for path in sources()} <= names


def test_wheel_works_in_an_environment_of_its_own(built, tmp_path):
    _, wheel = built
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps")
    run(*pip, "--no-index", wheel, cwd=tmp_path)
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    # torch is the one dependency, and too large to install again; it comes last on the path.
    (packages / "torch.pth").write_text(sysconfig.get_paths()["purelib"])
    script = """
import torch, pauc
loss_fn = pauc.PAUCAtBudgetLoss(1, beta=0.5, queue_size=64)
logits = torch.randn(100, 1, requires_grad=True)
loss_fn(logits, torch.arange(100) % 2).backward()
print(pauc.__file__, pauc.__version__, bool(logits.grad.any()))
"""
    path, version, trained = run(python, "-I", "-c", script, cwd=tmp_path).split()
    assert Path(path).is_relative_to(packages)
    assert (version, trained) == (pauc.__version__, "True")
    if has_compiler:
        shown = run(python, "-I", SMOKE, cwd=tmp_path)
        assert "a native step: loss" in shown
        assert str(packages) in shown  # the extension of the wheel, not of the repository
