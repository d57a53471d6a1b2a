"""Numba: its streams and events, its launches and copies, and its waits for the device."""

import contextlib
from typing import Any

from numba import cuda
from numba.cuda.cudadrv import driver
from numba.cuda.dispatcher import _Kernel, _LaunchConfiguration

from interop._order.findings import Kind
from interop.errors import InteropError
from interop.ledger.layout import Layout, block, layout_of
from interop.ledger.ledger import Ledger
from interop.ledger.libraries.numba_kernels import touched_by
from interop.ledger.libraries.observer import Observer
from interop.ledger.libraries.patch import Patches
from interop.ledger.streams import SEEN
from interop.stream import ExternalStream, as_stream


def observe(ledger: Ledger, patches: Patches) -> None:
    """Tell *ledger* of Numba's calls."""
    observer = _Observer(ledger)
    patches.observe(driver.Event, "__init__", observer.event_made)
    patches.observe(driver.Event, "record", observer.event_recorded)
    patches.observe(driver.Event, "wait", observer.event_waited)
    patches.observe(driver.Event, "synchronize", observer.event_done)
    patches.observe(driver.Event, "query", observer.event_asked)
    patches.observe(driver.Stream, "synchronize", observer.stream_done)
    patches.observe(driver.Context, "synchronize", observer.context_synchronized)
    patches.observe(driver.Context, "memalloc", observer.allocated)
    patches.observe(driver, "host_to_device", observer.copied_in)
    patches.observe(driver, "device_to_host", observer.copied_out)
    patches.observe(driver, "device_to_device", observer.copied)
    patches.observe(_LaunchConfiguration, "__init__", observer.configured)
    patches.observe(_Kernel, "launch", observer.launched)


class _Observer(Observer):
    def stream_of(self, stream: Any, event: object) -> ExternalStream:
        """The stream that Numba takes an argument for: its own, cuda.core's in a launch, or nothing."""
        del event
        if not stream:
            return as_stream(cuda.default_stream())
        found = as_stream(stream)
        if isinstance(stream, driver.Stream):
            return found
        # To launch, Numba wraps its streams in cuda.core's. Nobody waits on these through cuda.core.
        return ExternalStream(found.cuda_stream, owner=SEEN)

    def context_synchronized(self, _result: None, context: Any) -> None:
        self.device_done(context.device.id)

    def allocated(self, memory: Any, context: Any, *_size: int, **_named: int) -> None:
        # Another memory manager may have a pool.
        if type(context.memory_manager) is driver.NumbaCUDAMemoryManager:
            self.ledger.driver_allocated(_bytes(memory, memory.size))

    def copied_in(self, _result: None, dst: Any, src: object, size: int, stream: Any = 0) -> None:
        del src
        self._copy(stream, size, (dst, Kind.WRITE))

    def copied_out(self, _result: None, dst: object, src: Any, size: int, stream: Any = 0) -> None:
        del dst
        self._copy(stream, size, (src, Kind.READ))
        if not stream:
            self.stream_done(None, stream)

    def copied(self, _result: None, dst: Any, src: Any, size: int, stream: Any = 0) -> None:
        self._copy(stream, size, (dst, Kind.WRITE), (src, Kind.READ))

    def configured(self, _result: None, _launch: object, *args: Any, **named: Any) -> None:
        stream = named["stream"] if "stream" in named else args[3]
        if stream and not isinstance(stream, driver.Stream):
            self.ledger.stream_used(as_stream(stream))

    def launched(
        self, _result: None, kernel: Any, args: Any, griddim: Any, blockdim: Any, stream: Any = 0, *_: Any, **named: Any
    ) -> None:
        del griddim, blockdim, named
        touched = []
        for arg, kind in touched_by(kernel, args):
            # An array whose layout is unknown is left out.
            with contextlib.suppress(InteropError):
                touched.append((arg, layout_of(arg), kind))
        if touched:
            name = getattr(kernel.py_func, "__name__", kernel.entry_name)
            self.ledger.accessed(self.stream_of(stream, None), touched, f"Numba kernel {name!r}")

    def _copy(self, stream: Any, size: int, *touched: tuple[Any, Kind]) -> None:
        arrays = [(array, _bytes(array, size), kind) for array, kind in touched]
        self.ledger.accessed(self.stream_of(stream, None), arrays, "a copy by Numba")


def _bytes(memory: Any, size: int) -> Layout:
    return block(int(driver.device_pointer(memory)), size)
