"""CuPy: its streams and events, its waits for the device, and its memory pool. Its kernels cannot be observed."""

import contextlib
from typing import Any

import cupy
from cupy.cuda.stream import _BaseStream

from interop import _cuda
from interop.event import Event, as_event
from interop.ledger.layout import block
from interop.ledger.ledger import Ledger
from interop.ledger.libraries.observer import Observer
from interop.ledger.libraries.patch import Patches
from interop.ledger.streams import SEEN
from interop.stream import ExternalStream, as_stream


def observe(ledger: Ledger, patches: Patches) -> None:
    """Report CuPy's calls to *ledger*. Calls of its memory pool are reported only from the calling thread."""
    observer, runtime = _Observer(ledger), _Runtime(ledger)
    patches.observe(_BaseStream, "wait_event", observer.stream_waited)
    patches.observe(_BaseStream, "record", observer.stream_recorded)
    patches.observe(_BaseStream, "synchronize", observer.stream_done)
    patches.observe(_BaseStream, "done", observer.stream_asked)
    patches.observe(cupy.cuda.Event, "__init__", observer.event_made)
    patches.observe(cupy.cuda.Event, "record", observer.event_recorded)
    patches.observe(cupy.cuda.Event, "synchronize", observer.event_done)
    patches.observe(cupy.cuda.Event, "done", observer.event_asked)
    patches.observe(cupy.ndarray, "get", observer.copied_to_host)
    patches.observe(cupy.cuda.runtime, "deviceSynchronize", observer.current_device_done)
    patches.observe(cupy.cuda.runtime, "eventRecord", runtime.event_recorded)
    patches.observe(cupy.cuda.runtime, "streamWaitEvent", runtime.stream_waited)
    patches.observe(cupy.cuda.runtime, "streamSynchronize", runtime.stream_done)
    patches.observe(cupy.cuda.runtime, "eventSynchronize", runtime.event_done)
    patches.observe_class(cupy.cuda, "Device", synchronize=observer.device_synchronized)
    pool = _pool(ledger)

    def leave() -> None:
        with contextlib.suppress(KeyError):  # it was not entered, or not in this thread
            pool.__exit__()

    patches.on_undo(leave)
    pool.__enter__()


class _Observer(Observer):
    def stream_of(self, stream: Any, event: Any) -> ExternalStream:
        del event
        return _current() if stream is None else as_stream(stream)

    def stream_recorded(self, event: Any, /, stream: Any, *_event: Any, **_named: Any) -> None:
        self.event_recorded(None, event, stream)

    def copied_to_host(
        self,
        _result: object,
        _array: object,
        stream: Any = None,
        order: str = "C",
        out: object = None,
        blocking: bool = True,  # noqa: FBT001, FBT002  (CuPy's signature)
    ) -> None:
        del order, out
        if blocking:
            self.stream_done(None, stream)

    def device_synchronized(self, _result: None, device: Any) -> None:
        self.device_done(device.id)


class _Runtime(Observer):
    """Of functions that take addresses."""

    def stream_of(self, stream: int, event: object) -> ExternalStream:
        del event
        return ExternalStream(int(stream) or _cuda.LEGACY, owner=SEEN)

    def event_of(self, event: int) -> Event:
        return as_event(int(event))


def _current() -> ExternalStream:
    return as_stream(cupy.cuda.get_current_stream())


def _pool(ledger: Ledger) -> Any:
    class Pool(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = "interop.ledger"

        def alloc_postprocess(self, **named: int) -> None:
            ledger.driver_allocated(block(named["mem_ptr"], named["mem_size"]))

        def malloc_postprocess(self, **named: int) -> None:
            memory = block(named["mem_ptr"], named["mem_size"])
            ledger.pool_allocated(_current(), memory, "a new array with memory of CuPy's pool")

    return Pool()
