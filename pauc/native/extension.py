"""The compiled extension, where it was built; and why not, where it was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    from pauc.native import _ext
except ImportError as error:
    _ext = None  # type: ignore[assignment]
    _WHY_ABSENT = str(error)

# The extension, or None where it is absent.
ext: Any = _ext


def state() -> str:
    """Return whether the native code is there, and if not, why and what to do."""
    folder = Path(__file__).parent
    if ext is not None:
        return f"there, {ext.__file__}"
    if not (folder / "csrc").exists():
        return f"absent ({_WHY_ABSENT}): there was no C++ compiler at installation"
    return (
        f"absent ({_WHY_ABSENT}): Python took pauc from the source tree {folder.parents[1]}, where "
        "the extension is not built. Cure: pip install -e . there, or start Python elsewhere"
    )
