"""The same CUDA calls, made from C: compiled when needed, with entry points that are handed in."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("calls.c")

RUNTIME: Final = (
    "cudaStreamQuery",
    "cudaStreamSynchronize",
    "cudaStreamWaitEvent",
    "cudaEventRecord",
    "cudaEventCreateWithFlags",
    "cudaEventDestroy",
)
"""What C calls: the functions of the runtime API, in the order of calls.c."""
DRIVER: Final = (
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuEventRecord",
    "cuEventCreate",
    "cuEventDestroy",
)
"""The same of the driver API, which the runtime calls, and interop too."""
_CUDA_12: Final = 12000
"""The version of CUDA whose functions the driver is asked for, as interop does."""


class CompilerMissingError(Exception):
    """There is no C compiler."""


class BaselineError(Exception):
    """A CUDA call that was made from C failed, or there is no such call."""


def compiler() -> str:
    """The C compiler: ``$CC``, or the first of gcc, cc and clang.

    Raises:
        CompilerMissingError: there is none.
    """
    for name in (os.environ.get("CC"), "gcc", "cc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    message = "the baseline is C, and there is no compiler: install gcc, or say where one is with CC="
    raise CompilerMissingError(message)


def compile_library(source: Path, folder: Path) -> Path:
    """Compile *source* in *folder*; the shared library."""
    library = folder / f"{source.stem}.so"
    options = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler(), *options, str(source), "-o", str(library)], check=True)
    return library


def find_runtime() -> tuple[list[int], str]:
    """The addresses of the functions in :data:`RUNTIME`, and the file that they are from.

    The shared library, as CuPy and PyTorch load it: cuda.bindings has a copy of the runtime of its own inside.
    """
    from cuda.pathfinder import load_nvidia_dynamic_lib

    found = load_nvidia_dynamic_lib("cudart")
    library = ctypes.CDLL(found.abs_path)
    addresses = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in RUNTIME]
    return addresses, str(found.abs_path)


def find_driver() -> list[int]:
    """The addresses of the functions in :data:`DRIVER`, from where interop has them too.

    Raises:
        BaselineError: the driver lacks one.
    """
    from cuda.bindings import runtime

    addresses = []
    for name in DRIVER:
        code, address, _ = runtime.cudaGetDriverEntryPointByVersion(name.encode(), _CUDA_12, 0)
        if code or not address:
            message = f"the driver has no {name}: {code!r}"
            raise BaselineError(message)
        addresses.append(int(address))
    return addresses


class Baseline:
    """The functions of calls.c; each takes how often, and streams and events as ints, and returns nanoseconds in all.

    Args:
        entry_points: the addresses of the functions in :data:`RUNTIME`, which the methods name, or in :data:`DRIVER`.
        folder: where to compile; each baseline needs one of its own, or it would share the entry points.
    """

    def __init__(self, entry_points: Sequence[int], folder: Path) -> None:
        """Compile, load, and hand the entry points in."""
        folder.mkdir(exist_ok=True)
        self._library = ctypes.CDLL(str(compile_library(SOURCE, folder)))
        self._library.set_entry_points(_addresses(entry_points))

    def query(self, n: int, stream: int) -> int:
        """``cudaStreamQuery``."""
        return self._timed("query", n, stream)

    def synchronize(self, n: int, stream: int) -> int:
        """``cudaStreamSynchronize``."""
        return self._timed("synchronize", n, stream)

    def record(self, n: int, event: int, stream: int) -> int:
        """``cudaEventRecord``."""
        return self._timed("record", n, event, stream)

    def record_new(self, n: int, stream: int) -> int:
        """``cudaEventCreateWithFlags``, ``cudaEventRecord``, ``cudaEventDestroy``."""
        return self._timed("record_new", n, stream)

    def wait_event(self, n: int, stream: int, event: int) -> int:
        """``cudaStreamWaitEvent``."""
        return self._timed("wait_event", n, stream, event)

    def wait_streams(self, n: int, consumer: int, events: Sequence[int], producers: Sequence[int]) -> int:
        """``cudaEventRecord`` and ``cudaStreamWaitEvent`` for each producer."""
        count = ctypes.c_int64(len(producers))
        return self._timed("wait_streams", n, consumer, count, _addresses(events), _addresses(producers))

    def there_and_back(self, n: int, consumer: int, producer: int, events: Sequence[int], *, mark_the_end: bool) -> int:
        """The consumer waits for the producer, and the producer for the consumer; then one more record, or none."""
        last = ctypes.c_int64(mark_the_end)
        return self._timed("there_and_back", n, consumer, producer, _addresses(events), last)

    def wait_stream_in_threads(
        self, n: int, consumers: Sequence[int], events: Sequence[int], producers: Sequence[int]
    ) -> int:
        """As :meth:`wait_streams` for one producer, *n* times in each of several threads; nanoseconds by the clock."""
        count = ctypes.c_int64(len(producers))
        pointers = map(_addresses, (consumers, events, producers))
        return self._timed("wait_stream_in_threads", n, count, *pointers)

    def _timed(self, function: str, n: int, *arguments: object) -> int:
        timed = getattr(self._library, function)
        timed.restype = ctypes.c_int64
        passed = [ctypes.c_void_p(argument) if isinstance(argument, int) else argument for argument in arguments]
        result = int(timed(ctypes.c_int64(n), *passed))
        if result < 0:
            message = f"calls.c: {function} stopped at CUDA error {-result}"
            raise BaselineError(message)
        return result


def _addresses(values: Sequence[int]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(values))(*values)
