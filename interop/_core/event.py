"""The class ``Event``, and the borrowing of other libraries' events."""

from collections.abc import Callable
from typing import Final, NoReturn, Self

from interop import _cuda
from interop._core import above, borrowing, captures, switching
from interop._core.event_handle import EventHandle
from interop._core.habits import refuse_flags
from interop._core.polling import check_timeout, poll
from interop._core.waiting import Waitable
from interop._cuda.addresses import Device, check_device, check_handle, is_a, is_void_pointer
from interop._show.text import described
from interop.adapters import adapters_of
from interop.adapters.base import Adapter
from interop.errors import CudaError, InvalidEventError, NotSupportedError


class Event(Waitable, EventHandle):
    """A CUDA event, with the surface of ``torch.cuda.Event``.

    Example::

        event = interop.Event()
        event.record(producer)
        event.wait(consumer)  # consumer's later work waits for it; the host does not

    The CUDA event is created at the first record, on the device of that stream. It is destroyed with the last
    reference; waits that were made for it stay. It can be recorded again, on streams of the same device: earlier waits
    keep the earlier record. Streams of any device and of any library can wait for it. Any thread can use it.

    Where another library takes an event of its own, pass this one as it is: PyTorch's ``Stream.wait_event(event)`` and
    ``record_event(event)`` call its ``wait`` and ``record``, CuPy's ``Stream.wait_event(event)`` and ``record(event)``
    read its ``ptr``: see :attr:`cuda_event`. Calls that take an address as an int, and ctypes, take it too.

    Args:
        enable_timing: whether :meth:`elapsed_time` works.
        blocking: whether :meth:`synchronize` lets the processor do other work, instead of spinning.
        interprocess: whether :meth:`ipc_handle` works. CUDA allows it only without *enable_timing*.
        device: of the event, as for :func:`interop.as_stream`. By default that of the first stream that it is recorded
            on.

    Raises:
        InvalidEventError: *enable_timing* and *interprocess* together; or a flag is not True or False.
        InvalidDeviceError: *device* states no ordinal. If this process sees no such device, the call that creates the
            CUDA event raises it.
    """

    __slots__ = ("__weakref__",)
    __module__ = "interop.event"

    def __init__(
        self,
        enable_timing: bool = False,  # noqa: FBT001, FBT002  (torch.cuda.Event's signature)
        blocking: bool = False,  # noqa: FBT001, FBT002
        interprocess: bool = False,  # noqa: FBT001, FBT002
        device: Device | None = None,
    ) -> None:
        """Keep the flags; CUDA is not called yet."""
        if not type(enable_timing) is type(blocking) is type(interprocess) is bool:
            refuse_flags(enable_timing, blocking, interprocess)
        if enable_timing and interprocess:
            message = "an interprocess event cannot have timing: CUDA wants enable_timing=False with interprocess=True"
            raise InvalidEventError(message)
        self._cuda = _cuda.active()
        self._flags = (
            (0 if enable_timing else _cuda.EVENT_DISABLE_TIMING)
            | (_cuda.EVENT_BLOCKING_SYNC if blocking else 0)
            | (_cuda.EVENT_INTERPROCESS if interprocess else 0)
        )
        self._device = None if device is None else check_device(device, self._cuda)

    @classmethod
    def _borrowed(cls, handle: int, owner: object, adapter: Adapter | None = None) -> Self:
        """An event that another library made and destroys. It counts as recorded: only its library knows."""
        event = cls()
        event._handle = handle
        event._flags = None
        event._adapter = adapter
        event._recorded = bool(handle)
        event._handle_was_shared = True
        event.owner = owner
        return event

    @classmethod
    def from_ipc_handle(cls, device: Device, handle: bytes) -> Self:
        """Open an event of another process, where :meth:`ipc_handle` has given *handle*.

        Example::

            def in_another_process(handle):  # on a GPU
                event = interop.Event.from_ipc_handle(0, handle)
                event.wait(consumer)

        Args:
            device: ordinal, in this process, of the event's device.
            handle: 64 bytes.

        Raises:
            InvalidEventError: *handle* is not 64 bytes.
            InvalidDeviceError: there is no such device.
            CudaError: CUDA does not know the handle. The process that made it cannot open it.
        """
        if not isinstance(handle, bytes | bytearray) or len(handle) != _cuda.IPC_HANDLE_BYTES:
            what = f"{len(handle)} of them" if isinstance(handle, bytes | bytearray) else described(handle)
            message = f"an IPC handle is {_cuda.IPC_HANDLE_BYTES} bytes, from Event.ipc_handle(); got {what}"
            raise InvalidEventError(message)
        event = cls(interprocess=True, device=device)
        event._handle = event._cuda.event_import(
            event._cuda.primary_context(check_device(device, event._cuda)), bytes(handle)
        )
        event._recorded = event._handle_was_shared = True
        return event

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: a handle has one owner, and means nothing to another process."""
        message = "an Event cannot be copied or pickled; for another process, see Event.ipc_handle"
        raise TypeError(message)

    # -- what torch.cuda.Event has -------------------------------------------------------------------------------

    def record(self, stream: object = None) -> None:
        """Record *stream*'s work so far; returns at once.

        Example::

            event = interop.Event()
            event.record(producer)

        Args:
            stream: anything that :func:`interop.as_stream` takes; by default the stream of the innermost
                ``with interop.use(stream):`` around the call.

        Raises:
            InvalidStreamError: no stream was given, and no ``with`` block says which.
            DeviceMismatchError: the event belongs to another device. It keeps what it had recorded.
            CaptureError: *stream* is the legacy default stream, and a blocking stream captures.
        """
        _stream(stream).record_event(self)

    def wait(self, stream: object = None) -> None:
        """Make *stream*'s future work wait for the work that this event recorded; returns at once.

        Example::

            event = producer.record_event()
            event.wait(consumer)

        Args:
            stream: as for :meth:`record`.

        Raises:
            InvalidStreamError: no stream was given, and no ``with`` block says which.
            UnrecordedEventError: the event was never recorded: CUDA would wait for nothing.
            CaptureError: the event was recorded outside the capture that *stream* is part of, or the other way round.
        """
        _stream(stream).wait_event(self)

    def query(self) -> bool:
        """Whether the work that this event recorded is done. Does not block the host.

        Example::

            import time

            event = producer.record_event()
            while not event.query():
                time.sleep(0.001)  # or other work of the host

        Raises:
            UnrecordedEventError: it was never recorded. (PyTorch and CUDA say True here.)
            CaptureError: it was recorded while a graph was captured, and stands for no work that runs.
        """
        done = self._is_done(self._cuda.event_query)
        if done:
            self._tell_finished()
        return done

    def _is_done(self, query: Callable[[int], bool]) -> bool:
        """The answer of *query*; watchers do not learn it."""
        handle = self._handle_of_work("query")
        try:
            return query(handle)
        except CudaError as error:
            captures.explain_event(error, self)
            raise

    def synchronize(self, timeout: float | None = None) -> None:
        """Block the host, with the GIL released, until the work that this event recorded is done.

        Example::

            event = producer.record_event()
            event.synchronize(timeout=60)  # seconds

        Args:
            timeout: the most seconds to wait, a float. With a timeout, the event is queried every 0.02 to 1
                milliseconds. Without one, this is ``cudaEventSynchronize``.

        Raises:
            TimeoutError: the work was not done in time. It goes on.
            ValueError: *timeout* is negative or no number.
            UnrecordedEventError: it was never recorded. (PyTorch and CUDA return at once here.)
            CaptureError: it was recorded while a graph was captured, and stands for no work that runs.
        """
        check_timeout(timeout)
        handle = self._handle_of_work("synchronize")
        try:
            if timeout is None:
                self._cuda.event_synchronize(handle)
            else:
                poll(lambda: self._cuda.event_query(handle), timeout, self)
        except CudaError as error:
            captures.explain_event(error, self)
            raise
        self._tell_finished()

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds from the moment when the device passed this event to the moment when it passed *end*.

        Example::

            start, end = interop.Event(enable_timing=True), interop.Event(enable_timing=True)
            start.record(producer)
            # ... work on producer ...
            end.record(producer)
            end.synchronize()
            print(start.elapsed_time(end))  # on a GPU: the simulator has no clock

        Args:
            end: the later event, of any library. It must have timing.

        Raises:
            NotSupportedError: one of the two was made without ``enable_timing=True``.
            UnrecordedEventError: one of the two was never recorded.
            CudaError: ``cudaErrorNotReady`` if the device has not passed both: synchronise *end* first.
        """
        end = as_event(end)
        if end._cuda is not self._cuda:
            message = f"{self!r} and {end!r} have no common clock: they are not of the same GPU or simulation"
            raise NotSupportedError(message)
        for event in (self, end):
            if event._flags is not None and event._flags & _cuda.EVENT_DISABLE_TIMING:
                message = f"{event!r} has no timing: make it with Event(enable_timing=True)"
                raise NotSupportedError(message)
        try:
            start, stop = (event._handle_of_work("take the time of") for event in (self, end))
            return self._cuda.event_elapsed(start, stop)
        except CudaError as error:
            if error.code != _cuda.INVALID_RESOURCE_HANDLE:
                raise
            message = (
                f"there is no time between {self!r} and {end!r}: one of them was made without timing "
                "(enable_timing=True, or its library's name for that), was never recorded, or is of another device"
            )
            raise NotSupportedError(message) from error

    def ipc_handle(self) -> bytes:
        """64 bytes, from which :meth:`from_ipc_handle` makes this event in another process.

        Example::

            event = interop.Event(interprocess=True)
            event.record(producer)
            handle = event.ipc_handle()  # on a GPU; send it, by a pipe or a file

        Creates the CUDA event if need be, on the event's device or the current one. Keep this object alive for as long
        as another process uses the event.

        Raises:
            NotSupportedError: it was made without ``interprocess=True``.
        """
        if self._flags is None or not self._flags & _cuda.EVENT_INTERPROCESS:
            message = f"{self!r} cannot leave its process: make it with Event(interprocess=True)"
            raise NotSupportedError(message)
        return self._cuda.event_export(self.cuda_event)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _handle_of_work(self, verb: str) -> int:
        """The handle, if the event stands for work that runs: not for a node of a graph."""
        handle = self._recorded_handle(verb)
        captures.refuse_captured(self, verb)
        return handle

    def _event_of_work(self, verb: str) -> "Event":  # noqa: ARG002  (`query` says what is wrong)
        return self

    def _failed(self, call: str, code: int, _other: None) -> None:
        """Raise the error for *code*, which the driver has returned to *call*. The extension in C calls this."""
        try:
            self._cuda.failed(call, code)
        except CudaError as error:
            captures.explain_event(error, self)
            raise

    def __repr__(self) -> str:
        """Handle, flags and state, without calling CUDA."""
        name = f"{'SIMULATED ' if self._cuda.simulation else ''}interop.Event {self._handle:#x}"
        if self._flags is None:
            return f"<{name} of {self._adapter.library}>" if self._adapter else f"<{name}>"
        flags = [
            name
            for name, on in (
                ("timing", not self._flags & _cuda.EVENT_DISABLE_TIMING),
                ("blocking", self._flags & _cuda.EVENT_BLOCKING_SYNC),
                ("interprocess", self._flags & _cuda.EVENT_INTERPROCESS),
            )
            if on
        ]
        state = "captured" if self._capture else "recorded" if self._recorded else "not recorded"
        return f"<{name} {', '.join([*flags, state])}>"


_OF_STREAMS: Final = ". wait_stream waits for a stream, and the record_event() of a stream records an event"


def _stream(stream: object) -> above.Stream:
    return switching.stream_in_use() if stream is None else above.as_stream(stream)


def as_event(obj: object) -> Event:
    """Borrow an event: the same event, as an :class:`Event`, with its owner kept alive. Calls no CUDA.

    Example::

        import torch

        event = interop.as_event(torch.cuda.current_stream().record_event())
        event.synchronize(timeout=60)  # seconds; PyTorch's own has no timeout

    Args:
        obj: an :class:`Event` (returned as it is); an event of PyTorch, CuPy, Numba, cuda.core, Warp or of a library
            with an adapter of its own; a ``cudaEvent_t`` or ``CUevent``; or the address of an event, an int or a
            ``ctypes.c_void_p``.

    Raises:
        InvalidEventError: *obj* is none of these, or its address cannot be that of an event.
    """
    if is_a(obj, Event):
        return obj
    if is_a(obj, int) or is_void_pointer(obj):
        return Event._borrowed(check_handle(obj, "event", _cuda.active()), None)
    for adapter in adapters_of(obj):
        try:
            handle = adapter.event_handle(obj)
        except Exception as error:
            message = f"{described(obj)} cannot be used as an event: {type(error).__name__}: {error}"
            raise InvalidEventError(message) from error
        if handle is not None:
            return Event._borrowed(borrowing.checked_event(adapter, obj, handle), obj, adapter)
    message = (
        f"expected an event: an interop.Event, one of PyTorch, CuPy, Numba, cuda.core or Warp, a cudaEvent_t or "
        f"CUevent, or the address of one as an int; got {described(obj)}"
        f"{_OF_STREAMS if borrowing.is_named(obj, 'Stream') else ''}"
    )
    raise InvalidEventError(message)
