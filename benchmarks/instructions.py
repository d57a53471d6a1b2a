"""The instructions that interop's calls take, counted by callgrind, with CUDA calls that do nothing: no GPU is needed.

The counts hardly differ from run to run, and so show small changes that times do not. They are of everything around the
CUDA calls: on the native way, all that is added to what C would pay; on the Python way without cuda.bindings, for which
functions of Python stand in.
"""

import contextlib
import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Mapping
from os import environ
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import interop
from benchmarks.baseline import compile_library
from interop import _cudart
from interop._native import native
from interop.ordering import check

ROOT: Final = Path(__file__).parents[1]
STUBS: Final = Path(__file__).with_name("stubs.c")
CALLS: Final = {
    "query": "stream.query()",
    "synchronize": "stream.synchronize()",
    "record, event reused": "stream.record_event(event)",
    "record, new event": "stream.record_event()",
    "wait_event": "stream.wait_event(event)",
    "wait_stream": "stream.wait_stream(producer)",
    "as_stream, of one of ours": "interop.as_stream(stream)",
}
FEW, MANY = 50, 550
"""What is in a call more often than once is in the second more often than in the first."""

_CONTEXT: Final = 32
_LONGEST: Final = 300
"""Seconds that valgrind may take."""


class ValgrindMissingError(Exception):
    """There is no valgrind, or it is not all there."""


class _Stubs:
    """What interop takes for cuda.bindings: every call succeeds, with as many zeros as are wanted."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeRelaxed=2)

    def __getattr__(self, name: str) -> Callable[..., tuple[int, ...]]:
        answer = {
            "cudaGetDeviceCount": (0, 1),
            "cuCtxGetCurrent": (0, _CONTEXT),
            "cuStreamGetCtx": (0, _CONTEXT),
            "cuCtxGetId": (0, 1),
            "cudaEventCreateWithFlags": (0, 64),
        }.get(name, (0, 0, 0))

        def call(*_arguments: object) -> tuple[int, ...]:
            return answer

        setattr(self, name, call)
        return call

    def cudaGetDriverEntryPointByVersion(  # noqa: N802  (cuda.bindings' name)
        self, symbol: bytes, _version: int, _flags: int
    ) -> tuple[int, int, int]:
        """Of the stub of that name, if there is one."""
        function = getattr(self._library, symbol.decode(), self._library.succeed)
        return 0, ctypes.cast(function, ctypes.c_void_p).value or 0, 0


def count(environment: Mapping[str, str], folder: Path = ROOT, *, ledger: bool = False) -> dict[str, float]:
    """The instructions of each of CALLS, in a process with *environment*.

    Args:
        environment: beside that of this process.
        folder: where interop and the benchmarks are.
        ledger: whether one is open meanwhile.

    Raises:
        ValgrindMissingError: there is no valgrind.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        message = "instructions are counted by callgrind: install valgrind"
        raise ValgrindMissingError(message)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        library = compile_library(STUBS, out.parent)
        options = ["--tool=callgrind", f"--callgrind-out-file={out}"]
        command = [valgrind, *options, sys.executable, "-m", "benchmarks.instructions", str(library)]
        command += ["--ledger"] if ledger else []
        variables = {**environ, "PYTHONHASHSEED": "0", **environment}
        subprocess.run(command, env=variables, cwd=folder, check=True, capture_output=True, timeout=_LONGEST)
        if not out.with_suffix(".1").exists():
            message = "instructions are counted between marks: install valgrind's headers (valgrind/callgrind.h)"
            raise ValgrindMissingError(message)
        totals = [_total(out.with_suffix(f".{number}")) for number in range(1, 3 * len(CALLS) + 1)]
    # Before the first mark of each call was what is between the calls.
    return {
        call: (many - few) / (MANY - FEW) for call, few, many in zip(CALLS, totals[1::3], totals[2::3], strict=True)
    }


def _total(path: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", path.read_text(), re.MULTILINE)
    assert found, path
    return int(found[1])


def run(library: ctypes.CDLL, *, ledger: bool = False) -> None:
    """Make the calls, with marks between them."""
    stubs: Any = _Stubs(library)
    cuda = _cudart.Cuda(lambda: (stubs, stubs), lambda _address: True)
    _cudart.activate(cuda)
    if native is not None:  # as for the real GPU
        addresses = tuple(_cudart._entry_point(call, stubs) for call in _cudart._HOT_CALLS)  # noqa: SLF001
        native.bind(addresses, cuda, cuda._pools)  # noqa: SLF001
        cuda.uses_extension = True
    stream, producer = interop.ExternalStream(0x1000), interop.ExternalStream(0x2000)
    names = {"interop": interop, "stream": stream, "producer": producer, "event": producer.record_event()}
    with check() if ledger else contextlib.nullcontext():
        for statement in CALLS.values():
            timer = timeit.Timer(statement, globals=names)
            timer.timeit(FEW)  # what is set up once
            library.mark()
            timer.timeit(FEW)
            library.mark()
            timer.timeit(MANY)
            library.mark()


if __name__ == "__main__":
    run(ctypes.CDLL(sys.argv[1]), ledger="--ledger" in sys.argv)
