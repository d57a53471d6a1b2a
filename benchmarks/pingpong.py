"""Rounds: two libraries write one array in turns, each on its own stream. They show the cost of the order between them.

In a round, each library writes once. The time is that of the host, with the wait for the end of the last round.
"""

import functools
import importlib
import time
from collections.abc import Iterator
from typing import Any, Final

import interop
from benchmarks import measure
from benchmarks.lab import OURS, PATHS, Lab, used
from benchmarks.measure import Batch, Operation, Row

GAMES: Final = (("CuPy", "Numba"), ("CuPy", "torch"), ("torch", "Numba"))
SHARED: Final = "one shared stream"
HOST: Final = "host synchronises"
HOST_AND_CONVERT: Final = "host synchronises and converts"
READS: Final = "each reads the other's array interface"

LAUNCH: Final = {
    "CuPy": "cupy.add({array}, 1, out={array})",
    "torch": "{array}.add_(1)",
    "Numba": "kernel[1024, 256, {stream}]({array})",
}
"""Statements that add one to each element of an array: on the current stream or, with Numba, on *stream*."""
CONVERT: Final = {
    "CuPy": "cupy.asarray({array})",
    "torch": "torch.as_tensor({array}, device='cuda')",
    "Numba": "cuda.as_cuda_array({array}, sync=False)",
}
_READ: Final = {**CONVERT, "Numba": "cuda.as_cuda_array({array})"}
"""Conversions as users write them. Numba's blocks the host if the array states a stream."""
_FIRST: Final = 50
"""The number of the first stream of the rounds."""
_MOST_ROUNDS: Final = 60


class WrongValuesError(Exception):
    """A write has not seen the one before it."""


def kept(first: str, second: str) -> dict[str, str]:
    """Ways for a round in which both libraries keep their arrays *x* and *y* over one memory; streams *a* and *b*."""
    write_x, write_y = _launch(first, "x", "a"), _launch(second, "y", "b")
    return {
        OURS: f"p.wait_stream(q); {write_x}; q.wait_stream(p); {write_y}",
        SHARED: f"{write_x}; {write_y}",
        HOST: f"{write_x}; a.synchronize(); {write_y}; b.synchronize()",
        READS: reads(first, second),
    }


def new(first: str, second: str) -> dict[str, str]:
    """Ways for a round in which *x* is handed over or converted each time."""
    write_x, write = _launch(first, "x", "a"), _launch(second, "view", "b")
    convert = CONVERT[second].format(array="x")
    return {
        OURS: f"{write_x}; view = interop.handoff(x, b, producer=a); {write}; del view",
        HOST_AND_CONVERT: f"{write_x}; a.synchronize(); view = {convert}; {write}; b.synchronize()",
        READS: reads(first, second),
    }


def reads(first: str, second: str) -> str:
    """Each library converts the other's array, without any other order. That does not order every pair."""
    there, back = _READ[second].format(array="x"), _READ[first].format(array="y")
    return f"v = {back}; {_launch(first, 'v', 'a')}; w = {there}; {_launch(second, 'w', 'b')}"


def _launch(library: str, array: str, stream: str) -> str:
    return LAUNCH[library].format(array=array, stream=stream)


def all_operations(lab: Lab) -> Iterator[Operation]:
    """Two operations for each pair of libraries."""
    for first, second in GAMES:
        for what, ways in (("kept arrays", kept(first, second)), ("new arrays", new(first, second))):
            game = functools.partial(_game, lab, (first, second))
            rows = [Row(label, text, functools.partial(game, label, text)) for label, text in ways.items()]
            yield Operation(f"round, {first} and {second}, {what}", rows, _MOST_ROUNDS)


def _game(lab: Lab, libraries: tuple[str, str], label: str, text: str) -> Batch:
    first, second = libraries
    a: Any
    b: Any
    if label == SHARED:
        shared = interop.new_stream()
        a, b = shared.to(PATHS[first]), shared.to(PATHS[second])
    else:
        a, b = lab.stream(first, _FIRST), lab.stream(second, _FIRST + 1)
    x = lab.library(first).array()
    lab.drain()  # the library's default stream writes zeros
    names = {**lab.names(text, first), "a": a, "b": b, "p": interop.as_stream(a), "q": interop.as_stream(b), "x": x}
    if "Numba" in libraries:
        names["kernel"] = _kernel()
    if "y" in used(text):
        view = interop.handoff(x, b, producer=a)
        names["y"] = view.bind(b) if second == "Numba" else view  # a bound array states its stream
    timed = measure.statement(text, names)
    written = 0

    def batch(n: int) -> float:
        nonlocal written
        with lab.current({first: a, second: b}):
            start = time.perf_counter_ns()
            timed(n)
            a.synchronize()
            b.synchronize()
            took = time.perf_counter_ns() - start
        written += 2 * n
        values = lab.library(first).values(x)
        if label != READS and not (values == written % 256).all():
            message = f"{label}: not all values are {written % 256}"
            raise WrongValuesError(message)
        return took

    return batch


@functools.cache
def _kernel() -> Any:
    """A kernel that adds one to each element of an array of bytes."""
    cuda = importlib.import_module("numba.cuda")

    def bump(array: Any) -> None:
        i = cuda.grid(1)
        if i < array.size:
            array[i] += 1

    return cuda.jit("void(uint8[::1])")(bump)
