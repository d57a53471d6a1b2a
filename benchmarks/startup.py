"""What a fresh process pays: imports, and the first calls of interop."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.operations import OURS

IMPORTS: Final = {
    "interop": "interop",
    "cuda.bindings": "cuda.bindings.runtime",
    "cuda.core": "cuda.core",
    "CuPy": "cupy",
    "Numba": "numba.cuda",
    "torch": "torch",
}

_IMPORT: Final = """
import time
start = time.perf_counter()
import {module}
print([time.perf_counter() - start])
"""

# The context is made first: it takes a fifth of a second or more, and is not interop's.
_FIRST_CALLS: Final = """
import time
from cuda.bindings import runtime
code, a = runtime.cudaStreamCreateWithFlags(1)
assert not code, code
code, b = runtime.cudaStreamCreateWithFlags(1)
assert not code, code
times = []
def lap(start=[time.perf_counter()]):
    now = time.perf_counter()
    times.append(now - start[0])
    start[0] = time.perf_counter()
import interop
lap()
stream = interop.as_stream(int(a))
lap()
stream.wait_stream(int(b))
lap()
stream.wait_stream(int(b))
lap()
print(times)
"""
FIRST_CALLS: Final = ("import interop", "first as_stream", "first wait_stream", "second wait_stream")

_ROOT: Final = Path(__file__).parents[1]
_LONGEST: Final = 120
"""Seconds that a process may take."""


def measure(repeats: int, environment: Mapping[str, str]) -> list[dict[str, object]]:
    """Seconds, each from so many processes, interop's from three times as many.

    Args:
        repeats: how many.
        environment: says which way interop goes.
    """
    rows = []
    for name, module in IMPORTS.items():
        times = 3 * repeats if name == OURS else repeats
        rows += _laps([f"import {name}"], _IMPORT.format(module=module), times, environment, "nothing imported")
    rows += _laps(FIRST_CALLS, _FIRST_CALLS, 3 * repeats, environment, "cuda.bindings imported, context made")
    return rows


def _laps(
    names: Sequence[str], code: str, repeats: int, environment: Mapping[str, str], where: str
) -> list[dict[str, object]]:
    runs = []
    for number in range(repeats + 1):
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, **environment},
                cwd=_ROOT,  # where interop is imported from
                capture_output=True,
                text=True,
                timeout=_LONGEST,
                check=True,
            )
        except subprocess.SubprocessError as error:
            said = (getattr(error, "stderr", "") or "").strip().splitlines()
            return [{"what": name, "after": where, "error": said[-1] if said else str(error)} for name in names]
        if number:  # the first fills the file cache
            runs.append(json.loads(done.stdout))
    return [
        {"what": name, "after": where, "seconds": times}
        for name, times in zip(names, zip(*runs, strict=True), strict=True)
    ]
