"""The compiled extension, whose flags depend on the compiler; all else is in pyproject.toml."""

import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Without the third GCC takes a comparison for something that may stop the program, and makes no
# vectors of it.
GCC_OR_CLANG = ["-O3", "-g0", "-fno-trapping-math", "-std=c++17", "-fopenmp-simd"]
MSVC = ["/O2", "/std:c++17"]
# A free-threaded interpreter before 3.15 has no stable ABI: the extension does not compile there.
STABLE_ABI = {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"py_limited_api": "cp310"}


class BuildExt(build_ext):
    def build_extensions(self) -> None:
        flags = MSVC if self.compiler.compiler_type == "msvc" else GCC_OR_CLANG
        for extension in self.extensions:
            extension.extra_compile_args = flags
        super().build_extensions()


EXTENSION = Extension(
    "pauc.native._ext",
    sources=sorted(glob("pauc/native/csrc/*.cpp")),
    depends=sorted(glob("pauc/native/csrc/*.h")),
    py_limited_api=True,
    optional=True,  # without a compiler the package installs without it, and a CPU step is slower
)

setup(
    ext_modules=[EXTENSION],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": STABLE_ABI},
)
