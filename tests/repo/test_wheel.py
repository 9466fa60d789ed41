"""The wheel: what is in it, and that it works in an environment of its own."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import pauc

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(command, cwd=cwd, env=outside, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # so that no build folder is left in the repository
    (source / "pauc").mkdir(parents=True)
    for file in [*ROOT.glob("pauc/*.py"), ROOT / "pauc" / "py.typed"]:
        (source / "pauc" / file.name).write_bytes(file.read_bytes())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    run(*pip, "-w", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        fields = email.message_from_bytes(archive.read(metadata))
    assert names == {f"pauc/{file.name}" for file in ROOT.glob("pauc/*.py")} | {"pauc/py.typed"}
    assert fields["Version"] == pauc.__version__
    required = [line for line in fields.get_all("Requires-Dist") if "extra ==" not in line]
    assert required == ["torch>=2.5"]
    assert {"plot", "integrations", "docs", "test"} <= set(fields.get_all("Provides-Extra"))


def test_wheel_works_in_an_environment_of_its_own(wheel, tmp_path):
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
