"""The compiled part of the build; everything else stands in pyproject.toml.

The extension is optional: without a C++ compiler the package installs all the same, and the losses
are computed by torch operators. It uses Python's stable ABI, so one wheel serves all versions.
"""

import sys
from glob import glob

from setuptools import Extension, setup

if sys.platform == "win32":
    flags = ["/O2", "/std:c++17"]
else:
    flags = ["-O3", "-std=c++17", "-fopenmp-simd"]

setup(
    ext_modules=[
        Extension(
            "pauc.native._ext",
            sources=["pauc/native/csrc/step.cpp"],
            depends=sorted(glob("pauc/native/csrc/*.h")),
            extra_compile_args=flags,
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
