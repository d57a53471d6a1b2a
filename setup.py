"""The extension in C; the rest of the package is described in pyproject.toml."""

import sysconfig
from pathlib import Path

from setuptools import Extension, setup

# Not needed, but faster; and without it no array can be given away by DLPack.
NATIVE = Extension(
    "interop._native._ext",
    sorted(map(str, Path("interop/_native").glob("*.c"))),
    depends=["interop/_native/native.h"],
    py_limited_api=True,
    optional=True,
    extra_compile_args=["-O2", "-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra"],
)

# One wheel for every CPython from 3.11 on, but for the free-threaded builds: they have no stable ABI.
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    setup()
else:
    setup(ext_modules=[NATIVE], options={"bdist_wheel": {"py_limited_api": "cp311"}})
