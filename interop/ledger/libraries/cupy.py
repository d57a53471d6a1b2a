"""CuPy, watched: its streams and events, its waits for the device, and its memory pool. Its kernels cannot be."""

import contextlib
from typing import TYPE_CHECKING, Any

import cupy
from cupy.cuda.stream import _BaseStream

from interop import _cuda
from interop.event import as_event
from interop.ledger.ledger import SEEN
from interop.ledger.libraries.patch import Changes
from interop.ledger.memory import Layout
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop.ledger.ledger import Ledger


def watch(ledger: "Ledger", changes: Changes) -> None:
    """Tell *ledger* what CuPy does; of its memory pool, in the calling thread only."""
    eyes = _Eyes(ledger)
    changes.tell(_BaseStream, "wait_event", eyes.waited)
    changes.tell(_BaseStream, "record", eyes.recorded)
    changes.tell(_BaseStream, "synchronize", eyes.stream_done)
    changes.tell_property(_BaseStream, "done", eyes.stream_asked)
    changes.tell(cupy.cuda.Event, "__init__", eyes.made)
    changes.tell(cupy.cuda.Event, "record", eyes.event_recorded)
    changes.tell(cupy.cuda.Event, "synchronize", eyes.event_done)
    changes.tell_property(cupy.cuda.Event, "done", eyes.event_asked)
    changes.tell(cupy.ndarray, "get", eyes.copied)
    changes.tell(cupy.cuda.runtime, "deviceSynchronize", eyes.device_done)
    changes.tell(cupy.cuda.runtime, "eventRecord", eyes.address_recorded)
    changes.tell(cupy.cuda.runtime, "streamWaitEvent", eyes.address_waited)
    changes.tell(cupy.cuda.runtime, "streamSynchronize", eyes.address_done)
    changes.tell(cupy.cuda.runtime, "eventSynchronize", eyes.event_address_done)
    changes.stand_in(cupy.cuda, "Device", synchronize=eyes.that_device_done)
    pool = _pool(ledger)

    def leave() -> None:
        with contextlib.suppress(KeyError):  # it was not entered, or not in this thread
            pool.__exit__()

    changes.add(leave)
    pool.__enter__()


class _Eyes:
    def __init__(self, ledger: "Ledger") -> None:
        self.ledger = ledger

    def waited(self, _result: None, stream: Any, event: Any) -> None:  # noqa: ANN401
        self.ledger.waited(as_stream(stream), as_event(event))

    def recorded(self, event: Any, /, stream: Any, *_event: Any, **_named: Any) -> None:  # noqa: ANN401
        self.ledger.recorded(as_stream(stream), as_event(event))

    def stream_done(self, _result: None, stream: Any) -> None:  # noqa: ANN401
        self.ledger.finished(as_stream(stream))

    def stream_asked(self, done: object, stream: Any) -> None:  # noqa: ANN401
        if done:
            self.ledger.finished(as_stream(stream))

    def made(self, _result: None, event: Any, *_args: Any, **_named: Any) -> None:  # noqa: ANN401
        self.ledger.made(event)

    def event_recorded(self, _result: None, event: Any, stream: Any = None) -> None:  # noqa: ANN401
        self.ledger.recorded(_current() if stream is None else as_stream(stream), as_event(event))

    def event_done(self, _result: None, event: Any) -> None:  # noqa: ANN401
        self.ledger.finished(as_event(event))

    def event_asked(self, done: object, event: Any) -> None:  # noqa: ANN401
        if done:
            self.ledger.finished(as_event(event))

    def copied(
        self,
        _result: object,
        _array: object,
        stream: Any = None,  # noqa: ANN401
        order: str = "C",
        out: object = None,
        blocking: bool = True,  # noqa: FBT001, FBT002  (CuPy's signature)
    ) -> None:
        del order, out
        if blocking:
            self.ledger.finished(_current() if stream is None else as_stream(stream))

    def address_recorded(self, _result: None, event: int, stream: int) -> None:
        self.ledger.recorded(_at(stream), as_event(int(event)))

    def address_waited(self, _result: None, stream: int, event: int, *_flags: int, **_named: int) -> None:
        self.ledger.waited(_at(stream), as_event(int(event)))

    def address_done(self, _result: None, stream: int) -> None:
        self.ledger.finished(_at(stream))

    def event_address_done(self, _result: None, event: int) -> None:
        self.ledger.finished(as_event(int(event)))

    def device_done(self, _result: None) -> None:
        self.ledger.device_is_done(_cuda.GPU, _cuda.GPU.current_context())

    def that_device_done(self, _result: None, device: Any) -> None:  # noqa: ANN401
        self.ledger.device_is_done(_cuda.GPU, _cuda.GPU.primary_context(device.id))


def _current() -> ExternalStream:
    return as_stream(cupy.cuda.get_current_stream())


def _at(stream: int) -> ExternalStream:
    """What CuPy's runtime takes an address for."""
    return ExternalStream(int(stream) or _cuda.LEGACY, owner=SEEN)


def _pool(ledger: "Ledger") -> Any:  # noqa: ANN401  (a hook of CuPy's is a context manager)
    class Pool(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = "interop.ledger"

        def alloc_postprocess(self, **said: int) -> None:
            ledger.is_fresh(Layout.of(said["mem_ptr"], (said["mem_size"],), None, 1))

        def malloc_postprocess(self, **said: int) -> None:
            memory = Layout.of(said["mem_ptr"], (said["mem_size"],), None, 1)
            ledger.given(_current(), memory, "a new array that CuPy's pool has given it to")

    return Pool()
