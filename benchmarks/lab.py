"""The streams, events and arrays that the rows use. Each library makes its own."""

import ast
import contextlib
import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import interop
from benchmarks import measure
from benchmarks.baseline import Baseline, find_runtime
from benchmarks.measure import Row
from interop.matrix.libraries import LIBRARIES, Library

OURS: Final = "interop"
C: Final = "C"
PATHS: Final = {"CuPy": "cupy", "torch": "torch", "Numba": "numba", "cuda.core": "cuda.core", "JAX": "jax"}
"""The labels of the libraries in the tables, and their import paths."""
FOREIGN: Final = ("CuPy", "torch", "Numba", "cuda.core")
"""The libraries with streams."""
PEERS: Final = ("cuda.core", "CuPy", "torch", "Numba", "cuda.bindings")
"""The libraries with calls for streams and events, in the order of the tables."""
MODULES: Final = {
    "interop": "interop",
    "cupy": "cupy",
    "torch": "torch",
    "cuda": "numba.cuda",
    "core": "cuda.core",
    "utils": "cuda.core.utils",
    "jax": "jax",
    "runtime": "cuda.bindings.runtime",
}
"""The names of modules in statements, and their import paths."""
LEGACY: Final = 1
"""The handle of the legacy default stream."""
_DISABLE_TIMING: Final = 2


class Protocol:
    """A stream of an unknown library, with ``__cuda_stream__`` only."""

    def __init__(self, handle: int) -> None:
        """Keep the handle."""
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        """Version 0, and the handle."""
        return (0, self._handle)


def used(text: str) -> set[str]:
    """The names in a statement."""
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


class Lab:
    """Makes streams, events and arrays when they are first used, and keeps them.

    Args:
        folder: where calls.c is compiled.
    """

    def __init__(self, folder: Path) -> None:
        """Make nothing yet."""
        self._folder = folder
        self._kept: dict[tuple[object, ...], Any] = {}

    def _keep(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def library(self, label: str) -> Library:
        """The object that makes the library's streams and arrays."""
        return self._keep((label,), LIBRARIES[PATHS[label]])  # type: ignore[no-any-return]

    @functools.cached_property
    def runtime(self) -> Any:
        """The CUDA runtime, by cuda.bindings."""
        return importlib.import_module("cuda.bindings.runtime")

    @functools.cached_property
    def baseline(self) -> Baseline:
        """The functions of ``calls.c``."""
        return Baseline(find_runtime(), self._folder)

    def drain(self) -> None:
        """Wait until the device has nothing to do."""
        self.checked(self.runtime.cudaDeviceSynchronize())

    @staticmethod
    def checked(result: tuple[Any, ...]) -> Any:
        """The result of a call of cuda.bindings, without its code.

        Raises:
            RuntimeError: the call failed.
        """
        if result[0]:
            message = f"{result[0]!r}"
            raise RuntimeError(message)
        return result[1] if len(result) > 1 else None

    # -- streams, events, arrays -----------------------------------------------------------------------------------

    def stream(self, label: str, number: int = 0) -> Any:
        """A non-blocking stream that the library made; the same for the same *number*.

        ``"interop"`` is a label too. The streams of ``"cuda.bindings"`` and ``"protocol"`` are interop's streams, in
        other objects.
        """
        return self._keep(("stream", label, number), functools.partial(self._stream, label, number))

    def _stream(self, label: str, number: int) -> Any:
        if label == OURS:
            return interop.new_stream()
        if label == "cuda.bindings":
            return self.runtime.cudaStream_t(self.handle(number))
        return Protocol(self.handle(number)) if label == "protocol" else self.library(label).stream()

    def handle(self, number: int = 0) -> int:
        """The handle of interop's stream *number*."""
        return int(self.stream(OURS, number).cuda_stream)

    def default_stream(self, label: str) -> Any:
        """The legacy default stream of device 0, as the library's own object."""
        module = importlib.import_module
        makers: Mapping[str, Callable[[], object]] = {
            OURS: lambda: interop.ExternalStream(LEGACY, 0),
            "cuda.core": lambda: module("cuda.core").Device(0).default_stream,
            "CuPy": lambda: module("cupy").cuda.Stream.null,
            "torch": lambda: module("torch").cuda.default_stream(0),
            "Numba": lambda: module("numba.cuda").legacy_default_stream(),
            "cuda.bindings": lambda: self.runtime.cudaStream_t(LEGACY),
        }
        return makers[label]()

    def device(self) -> Any:
        """Device 0, of cuda.core."""
        self.library("cuda.core")  # makes device 0 current
        return importlib.import_module("cuda.core").Device(0)

    def event_handle(self, number: int = 1) -> int:
        """The handle of an event without timing, recorded on interop's stream *number*."""
        return self._keep(("event", number), lambda: self._event_handle(number))  # type: ignore[no-any-return]

    def _event_handle(self, number: int) -> int:
        event = int(self.checked(self.runtime.cudaEventCreateWithFlags(_DISABLE_TIMING)))
        self.checked(self.runtime.cudaEventRecord(event, self.handle(number)))
        return event

    def event(self, label: str) -> Any:
        """An event without timing, of the library's own type, recorded on its stream number 1."""
        stream = self.stream(label, 1)
        if label == "Numba":
            event = importlib.import_module("numba.cuda").event(timing=False)
            event.record(stream)
        elif label == "CuPy":
            event = stream.record(importlib.import_module("cupy").cuda.Event(disable_timing=True))
        elif label == "cuda.core":
            event = stream.record()
        elif label == "cuda.bindings":
            event = self.runtime.cudaEvent_t(self.event_handle())
        else:
            event = stream.record_event()
        return event

    def array(self, label: str, number: int = 0) -> Any:
        """An array that the library has allocated. Nothing is still writing it."""
        array = self._keep(("array", label, number), self.library(label).array)
        self.drain()
        return array

    def current(self, streams: Mapping[str, Any]) -> contextlib.ExitStack:
        """A block in which each stream is current in the library of its label, if the library has a current stream."""
        with contextlib.ExitStack() as block:
            for label, stream in streams.items():
                block.enter_context(self.library(label).current(interop.as_stream(stream)))
            return block.pop_all()

    # -- rows ------------------------------------------------------------------------------------------------------

    def names(self, text: str, label: str, **of: str) -> dict[str, object]:
        """The values of the names in a statement.

        Args:
            text: the statement.
            label: the library of its streams, events and arrays.
            of: for names of another library, the label of that library.
        """

        def stream(name: str, number: int) -> Callable[[], object]:
            return lambda: self.stream(of.get(name, label), number)

        source = of.get("array", label)
        makers: dict[str, Callable[[], object]] = {
            **{name: functools.partial(importlib.import_module, path) for name, path in MODULES.items()},
            "stream": stream("stream", 0),
            "consumer": stream("consumer", 0),
            "producer": stream("producer", 1),
            **{name: stream(name, number) for number, name in enumerate("abc", 1)},
            "default": lambda: self.default_stream(label),
            "event": lambda: self.event(of.get("event", label)),
            "array": lambda: self.array(source),
            "arrays": lambda: [self.array(source, number) for number in range(8)],
            "address": self.handle,
            "protocol": lambda: self.stream("protocol"),
            "device": self.device,
        }
        return {name: make() for name, make in makers.items() if name in used(text)}

    def row(self, label: str, text: str, **of: str) -> Row:
        """A row in Python; the arguments are those of :meth:`names`."""
        return Row(label, text, lambda: measure.statement(text, self.names(text, label, **of)))

    def c_row(self, text: str, function: str, arguments: Callable[[], tuple[int | list[int], ...]]) -> Row:
        """A row in C: a function of ``calls.c``, and a function that makes its arguments."""
        return Row(C, text, lambda: self.baseline.batch(function, *arguments()))
