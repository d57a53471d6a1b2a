"""Numba, watched: its streams and events, its launches and copies, its waits for the device."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from numba import cuda
from numba.cuda.cudadrv import driver
from numba.cuda.dispatcher import _Kernel, _LaunchConfiguration

from interop import _cuda
from interop.errors import InteropError
from interop.event import as_event
from interop.ledger.arrays import layout_of
from interop.ledger.ledger import SEEN
from interop.ledger.libraries.patch import Changes
from interop.ledger.memory import Kind, Layout
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop.ledger.ledger import Ledger


def watch(ledger: "Ledger", changes: Changes) -> None:
    """Tell *ledger* what Numba does."""
    eyes = _Eyes(ledger)
    changes.tell(driver.Event, "__init__", eyes.made)
    changes.tell(driver.Event, "record", eyes.recorded)
    changes.tell(driver.Event, "wait", eyes.waited)
    changes.tell(driver.Event, "synchronize", eyes.event_done)
    changes.tell(driver.Event, "query", eyes.event_asked)
    changes.tell(driver.Stream, "synchronize", eyes.stream_done)
    changes.tell(driver.Context, "synchronize", eyes.device_done)
    changes.tell(driver.Context, "memalloc", eyes.allocated)
    changes.tell(driver, "host_to_device", eyes.copied_in)
    changes.tell(driver, "device_to_host", eyes.copied_out)
    changes.tell(driver, "device_to_device", eyes.copied)
    changes.tell(_LaunchConfiguration, "__init__", eyes.configured)
    changes.tell(_Kernel, "launch", eyes.launched)


class _Eyes:
    def __init__(self, ledger: "Ledger") -> None:
        self.ledger = ledger

    def made(self, _result: None, event: Any, *_args: Any, **_named: Any) -> None:  # noqa: ANN401
        self.ledger.made(event)

    def recorded(self, _result: None, event: Any, stream: Any = 0) -> None:  # noqa: ANN401
        self.ledger.recorded(_stream(stream), as_event(event))

    def waited(self, _result: None, event: Any, stream: Any = 0) -> None:  # noqa: ANN401
        self.ledger.waited(_stream(stream), as_event(event))

    def event_done(self, _result: None, event: Any) -> None:  # noqa: ANN401
        self.ledger.finished(as_event(event))

    def event_asked(self, done: object, event: Any) -> None:  # noqa: ANN401
        if done:
            self.ledger.finished(as_event(event))

    def stream_done(self, _result: None, stream: Any) -> None:  # noqa: ANN401
        self.ledger.finished(as_stream(stream))

    def device_done(self, _result: None, context: Any) -> None:  # noqa: ANN401
        self.ledger.device_is_done(_cuda.GPU, _cuda.GPU.primary_context(context.device.id))

    def allocated(self, memory: Any, context: Any, *_size: int, **_named: int) -> None:  # noqa: ANN401
        # Another memory manager that Numba was told to use may have a pool.
        if type(context.memory_manager) is driver.NumbaCUDAMemoryManager:
            self.ledger.is_fresh(_bytes(memory, memory.size))

    def copied_in(self, _result: None, dst: Any, src: object, size: int, stream: Any = 0) -> None:  # noqa: ANN401
        del src
        self._copy(stream, size, (dst, Kind.WRITE))

    def copied_out(self, _result: None, dst: object, src: Any, size: int, stream: Any = 0) -> None:  # noqa: ANN401
        del dst
        self._copy(stream, size, (src, Kind.READ))
        if not stream:
            self.ledger.finished(_stream(stream))

    def copied(self, _result: None, dst: Any, src: Any, size: int, stream: Any = 0) -> None:  # noqa: ANN401
        self._copy(stream, size, (dst, Kind.WRITE), (src, Kind.READ))

    def configured(self, _result: None, _launch: object, *args: Any, **named: Any) -> None:  # noqa: ANN401
        stream = named["stream"] if "stream" in named else args[3]
        if stream and not isinstance(stream, driver.Stream):
            self.ledger.noticed(as_stream(stream))

    def launched(
        self,
        _result: None,
        kernel: Any,  # noqa: ANN401
        args: Sequence[object],
        griddim: object,
        blockdim: object,
        stream: Any = 0,  # noqa: ANN401
        *_sharedmem: int,
        **_named: int,
    ) -> None:
        del griddim, blockdim
        touched = []
        for arg in _flattened(args):
            if hasattr(arg, "__cuda_array_interface__"):
                # What cannot be told of is not reported on either.
                with contextlib.suppress(InteropError):
                    touched.append((arg, layout_of(arg), Kind.MAYBE))
        if touched:
            name = getattr(kernel.py_func, "__name__", kernel.entry_name)
            self.ledger.accessed(_stream(stream), touched, f"Numba kernel {name!r}")

    def _copy(self, stream: Any, size: int, *touched: tuple[Any, Kind]) -> None:  # noqa: ANN401
        arrays = [(array, _bytes(array, size), kind) for array, kind in touched]
        self.ledger.accessed(_stream(stream), arrays, "a copy by Numba")


def _flattened(args: Sequence[object]) -> Iterator[object]:
    """What a kernel is given, and what is in tuples among it."""
    for arg in args:
        if isinstance(arg, tuple):
            yield from _flattened(arg)
        else:
            yield arg


def _stream(stream: Any) -> ExternalStream:  # noqa: ANN401
    """What Numba takes for a stream: its own, cuda.core's in a launch, or 0."""
    if not stream:
        return as_stream(cuda.default_stream())
    found = as_stream(stream)
    if isinstance(stream, driver.Stream):
        return found
    # Numba wraps its streams in cuda.core's to launch: that is no stream that others wait on through cuda.core.
    return ExternalStream(found.cuda_stream, owner=SEEN)


def _bytes(memory: Any, size: int) -> Layout:  # noqa: ANN401
    return Layout.of(int(driver.device_pointer(memory)), (size,), None, 1)
