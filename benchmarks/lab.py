"""Streams, events and arrays, as each library sees them. All libraries wrap the very same streams."""

import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import interop
from benchmarks.baseline import Baseline, find_driver, find_runtime

FOREIGN: Final = {"CuPy": "cupy", "torch": "torch", "Numba": "numba", "cuda.core": "cuda.core"}
"""Libraries whose objects interop takes and makes, and the names that it knows them by."""

LIBRARIES: Final = ("cuda.core", "CuPy", "torch", "Numba", "cuda.bindings")
"""The peers, in the order of the tables."""

BLOCKS: Final = 128
"""Of a kernel of Numba's, which warns if there are fewer."""
THREADS: Final = 256
SIZE: Final = BLOCKS * THREADS
"""Elements of an array: to work on them costs the device next to nothing."""

LEGACY: Final = 1
"""The handle of the legacy default stream."""

_DISABLE_TIMING: Final = 2


class Protocol:
    """A stream of an unknown library: it has ``__cuda_stream__``, and nothing else."""

    def __init__(self, handle: int) -> None:
        """Keep the handle."""
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        """Version 0, and the handle."""
        return (0, self._handle)


def value(result: tuple[Any, ...]) -> Any:
    """What a call of cuda.bindings gave, if it succeeded.

    Raises:
        RuntimeError: it failed.
    """
    if result[0]:
        message = f"{result[0]!r}"
        raise RuntimeError(message)
    return result[1] if len(result) > 1 else None


class Lab:
    """What rows are made of. Everything is made when it is first asked for, and kept.

    Args:
        folder: where the baseline is compiled.
    """

    def __init__(self, folder: Path) -> None:
        """Make nothing yet."""
        self._folder = folder
        self._streams: dict[int, interop.ExternalStream] = {}
        self._kept: dict[tuple[object, ...], Any] = {}
        self.cudart = ""

    def drain(self) -> None:
        """Wait until all the streams are empty."""
        for stream in self._streams.values():
            stream.synchronize()

    def owned(self, number: int) -> interop.ExternalStream:
        """A stream; the same for the same *number*, and never another number's."""
        if number not in self._streams:
            self._streams[number] = interop.new_stream()
        return self._streams[number]

    def handle(self, number: int) -> int:
        """The address of the stream of *number*."""
        return self.owned(number).cuda_stream

    def event_handle(self, number: int) -> int:
        """The address of an event without timing that was recorded; likewise."""
        return int(self._keep(("event handle", number), lambda: self._recorded(number)))

    def _recorded(self, number: int) -> int:
        runtime = self.module("cuda.bindings")
        event = int(value(runtime.cudaEventCreateWithFlags(_DISABLE_TIMING)))
        value(runtime.cudaEventRecord(event, self.handle(number)))
        return event

    def module(self, library: str) -> ModuleType:
        """The module that a library's rows need."""
        path = {
            "cuda.core": "cuda.core",
            "CuPy": "cupy",
            "torch": "torch",
            "Numba": "numba.cuda",
            "cuda.bindings": "cuda.bindings.runtime",
        }[library]
        module = importlib.import_module(path)
        if ("imported", library) not in self._kept:
            self._kept["imported", library] = True
            if library == "cuda.core":
                module.Device(0).set_current()
            elif library == "Numba":
                module.current_context()
        return module

    @functools.cached_property
    def baseline(self) -> Baseline:
        """The calls from C, to the real runtime."""
        entry_points, self.cudart = find_runtime()
        return Baseline(entry_points, self._folder / "runtime")

    @functools.cached_property
    def driver(self) -> Baseline:
        """The same, to the driver."""
        return Baseline(find_driver(), self._folder / "driver")

    def stream(self, library: str, number: int) -> Any:
        """The stream of *number*, as *library*'s own object; ``"interop"`` and ``"protocol"`` are libraries too."""
        return self._keep((library, "stream", number), lambda: self.wrap(library, number))

    def lasting(self, library: str, number: int) -> Any:
        """As :meth:`stream`, but by an object that keeps the stream alive, and is known to.

        An array that was handed over is not ordered back to a stream that may be gone: it would be less work.
        """
        return self.owned(number).to(FOREIGN[library])

    def wrap(self, library: str, number: int) -> Any:
        """As :meth:`stream`, a new object."""
        handle = self.handle(number)
        makers: Mapping[str, Callable[[], object]] = {
            "interop": lambda: interop.ExternalStream(handle),
            "protocol": lambda: Protocol(handle),
            "cuda.core": lambda: self.module("cuda.core").Device(0).create_stream(Protocol(handle)),
            "CuPy": lambda: self.module("CuPy").cuda.Stream.from_external(Protocol(handle)),
            "torch": lambda: self.module("torch").cuda.get_stream_from_external(handle, self.torch_device()),
            "Numba": lambda: self.module("Numba").external_stream(handle),
            "cuda.bindings": lambda: self.module("cuda.bindings").cudaStream_t(handle),
        }
        return makers[library]()

    def default_stream(self, library: str) -> Any:
        """The legacy default stream of device 0, as *library*'s own object."""
        makers: Mapping[str, Callable[[], object]] = {
            "interop": lambda: interop.ExternalStream(LEGACY, 0),
            "cuda.core": lambda: self.module("cuda.core").Device(0).default_stream,
            "CuPy": lambda: self.module("CuPy").cuda.Stream.null,
            "torch": lambda: self.module("torch").cuda.default_stream(0),
            "Numba": lambda: self.module("Numba").legacy_default_stream(),
            "cuda.bindings": lambda: self.module("cuda.bindings").cudaStream_t(LEGACY),
        }
        return makers[library]()

    def torch_device(self) -> Any:
        """Device 0, as torch's own object."""
        return self.module("torch").device("cuda", 0)

    def event(self, library: str, number: int) -> Any:
        """An event without timing, of *library*'s own type, recorded on the stream of *number*."""
        return self._keep((library, "event", number), lambda: self._event(library, number))

    def _event(self, library: str, number: int) -> object:
        stream = self.stream(library, number)
        if library == "Numba":
            event = self.module("Numba").event(timing=False)
            event.record(stream)
        elif library == "torch":
            event = self.module("torch").cuda.Event()
            event.record(stream)
        elif library == "CuPy":
            event = self.module("CuPy").cuda.Event(disable_timing=True)
            stream.record(event)
        elif library == "cuda.core":
            event = stream.record()
        elif library == "cuda.bindings":
            event = self.module("cuda.bindings").cudaEvent_t(self.event_handle(number))
        else:
            event = stream.record_event()
        return event

    def array(self, library: str, number: int = 0) -> Any:
        """An array of SIZE 32-bit zeros, in memory that *library* has allocated."""
        return self._keep((library, "array", number), lambda: self.new_array(library))

    def new_array(self, library: str) -> Any:
        """As :meth:`array`, another one."""
        module = self.module(library)
        if library == "CuPy":
            array = module.zeros(SIZE, dtype="int32")
        elif library == "torch":
            array = module.zeros(SIZE, dtype=module.int32, device="cuda:0")
        else:
            array = module.to_device(importlib.import_module("numpy").zeros(SIZE, dtype="int32"))
        # The library's default stream has written it, and no later work may meet that.
        value(self.module("cuda.bindings").cudaDeviceSynchronize())
        return array

    def numba_kernel(self) -> Any:
        """A compiled kernel that adds one to each element of an array, by BLOCKS of THREADS."""
        return self._keep(("kernel",), self._numba_kernel)

    def _numba_kernel(self) -> object:
        cuda = self.module("Numba")

        def bump(array: Any) -> None:
            i = cuda.grid(1)
            if i < array.size:
                array[i] += 1

        return cuda.jit("void(int32[::1])")(bump)

    def _keep(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]
