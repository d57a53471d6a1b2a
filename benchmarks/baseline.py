"""CUDA calls made from C: compiles and loads ``calls.c``."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.measure import Batch

SOURCE: Final = Path(__file__).with_name("calls.c")

RUNTIME: Final = (
    "cudaStreamQuery",
    "cudaStreamSynchronize",
    "cudaStreamWaitEvent",
    "cudaEventRecord",
    "cudaEventCreateWithFlags",
    "cudaEventDestroy",
)
"""The functions that calls.c calls, in its order."""


class CompilerMissingError(Exception):
    """There is no C compiler."""


class BaselineError(Exception):
    """A CUDA call that was made from C failed."""


def compiler() -> str:
    """The C compiler: ``$CC``, or the first of gcc, cc and clang.

    Raises:
        CompilerMissingError: there is none.
    """
    for name in (os.environ.get("CC"), "gcc", "cc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    message = "the benchmarks compile C, and there is no compiler: install gcc, or say where one is with CC="
    raise CompilerMissingError(message)


def compile_library(source: Path, folder: Path) -> Path:
    """Compile *source* in *folder*; returns the shared library."""
    library = folder / f"{source.stem}.so"
    options = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler(), *options, str(source), "-o", str(library)], check=True)
    return library


def find_runtime() -> list[int]:
    """The addresses of the functions in :data:`RUNTIME`, in the shared library that CuPy and PyTorch load."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    library = ctypes.CDLL(load_nvidia_dynamic_lib("cudart").abs_path)
    return [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in RUNTIME]


class Baseline:
    """The functions of ``calls.c``.

    Args:
        entry_points: the addresses of the functions in :data:`RUNTIME`.
        folder: where to compile.
    """

    def __init__(self, entry_points: Sequence[int], folder: Path) -> None:
        """Compile and load the library, and give it the addresses."""
        self._library = ctypes.CDLL(str(compile_library(SOURCE, folder)))
        self._library.set_entry_points(_addresses(entry_points))

    def batch(self, function: str, *arguments: int | Sequence[int]) -> Batch:
        """A batch of *function*'s calls; *arguments* are those after ``n``, streams and events as ints.

        The batch raises :class:`BaselineError` if a CUDA call fails.
        """
        timed = getattr(self._library, function)
        timed.restype = ctypes.c_int64
        passed = [ctypes.c_void_p(each) if isinstance(each, int) else _addresses(each) for each in arguments]

        def batch(n: int) -> float:
            result = int(timed(ctypes.c_int64(n), *passed))
            if result < 0:
                message = f"calls.c: {function} stopped at CUDA error {-result}"
                raise BaselineError(message)
            return result

        return batch


def _addresses(values: Sequence[int]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(values))(*values)
