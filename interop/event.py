"""Events: points in a stream's work that other streams, and the host, can wait for."""

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

from interop import _cuda, _switching
from interop._cuda.addresses import check_device, check_handle, exact_int, is_a
from interop._native import EventFields, Pool
from interop._order import watchers
from interop._safety import forks
from interop._show.text import described
from interop.adapters import adapters_of
from interop.errors import (
    AdapterError,
    CaptureError,
    CudaError,
    InvalidEventError,
    NotSupportedError,
    UnrecordedEventError,
)

if TYPE_CHECKING:
    from asyncio import Task
    from concurrent.futures import Executor

    from interop.adapters.base import Adapter
    from interop.stream import ExternalStream

T = TypeVar("T")

_FIRST_PAUSE: Final = 20e-6
_LONGEST_PAUSE: Final = 1e-3
_FOREVER: Final = 1e9
"""Seconds: 30 years. More may be no float."""

_creating: Final = forks.lock()


class Event(EventFields):
    """A CUDA event, with the surface of ``torch.cuda.Event``.

    It is created on the GPU when it is first recorded, on the device of that stream, and destroyed with its last
    reference; waits that were placed on it stay. It may be recorded again, on streams of the same device: waits placed
    before keep the earlier record. Streams of any device, and of any library, may wait for it. Any thread may use it.

    To use it where another library wants an event of its own, pass it as it is: PyTorch's
    ``Stream.wait_event(event)`` and ``record_event(event)`` call its ``wait`` and ``record``, CuPy's
    ``Stream.wait_event(event)`` and ``record(event)`` read its ``ptr``. What is done with the raw handle cannot be
    seen: from then on an event that nobody has recorded can be waited for, as in CUDA, and orders nothing.

    Args:
        enable_timing: whether :meth:`elapsed_time` shall work.
        blocking: whether :meth:`synchronize` lets the processor do other work meanwhile, instead of spinning.
        interprocess: whether :meth:`ipc_handle` shall work. Not together with *enable_timing* (a rule of CUDA's).
        device: ordinal of the device that the event shall belong to. By default that of the first stream that it
            is recorded on.

    Raises:
        InvalidEventError: *enable_timing* and *interprocess* together.
        InvalidDeviceError: *device* is no ordinal; or not one that this process sees, which shows when the event is
            created there.
    """

    __slots__ = ("__weakref__",)

    def __init__(
        self,
        enable_timing: bool = False,  # noqa: FBT001, FBT002  (torch.cuda.Event's signature)
        blocking: bool = False,  # noqa: FBT001, FBT002
        interprocess: bool = False,  # noqa: FBT001, FBT002
        device: int | None = None,
    ) -> None:
        """Remember what kind of event it shall be; CUDA is not called yet."""
        if enable_timing and interprocess:
            message = "an interprocess event cannot have timing: CUDA wants enable_timing=False with interprocess=True"
            raise InvalidEventError(message)
        self._cuda = _cuda.active()
        self._flags = (
            (0 if enable_timing else _cuda.EVENT_DISABLE_TIMING)
            | (_cuda.EVENT_BLOCKING_SYNC if blocking else 0)
            | (_cuda.EVENT_INTERPROCESS if interprocess else 0)
        )
        self._device = None if device is None else check_device(device)

    @classmethod
    def _borrowed(cls, handle: int, owner: object, adapter: "Adapter | None" = None) -> Self:
        """An event that somebody else made and destroys. Whether it was recorded is not known."""
        event = cls()
        event._handle = handle
        event._flags = None
        event._adapter = adapter
        event._recorded = bool(handle)
        event._exposed = True
        event.owner = owner
        return event

    @classmethod
    def from_ipc_handle(cls, device: int, handle: bytes) -> Self:
        """Open an event of another process; :meth:`ipc_handle` there gave *handle*.

        Args:
            device: ordinal, in this process, of the device that the event shall be used on.
            handle: 64 bytes.

        Raises:
            InvalidEventError: *handle* is not 64 bytes.
            InvalidDeviceError: there is no such device.
            CudaError: CUDA does not know the handle; it cannot be opened in the process that made it.
        """
        if not isinstance(handle, bytes | bytearray) or len(handle) != _cuda.IPC_HANDLE_BYTES:
            what = f"{len(handle)} of them" if isinstance(handle, bytes | bytearray) else described(handle)
            message = f"an IPC handle is {_cuda.IPC_HANDLE_BYTES} bytes, from Event.ipc_handle(); got {what}"
            raise InvalidEventError(message)
        event = cls(interprocess=True, device=device)
        event._handle = event._cuda.event_import(event._cuda.primary_context(check_device(device)), bytes(handle))
        event._recorded = event._exposed = True
        return event

    # -- the handle ----------------------------------------------------------------------------------------------

    @property
    def cuda_event(self) -> int:
        """The address of the ``cudaEvent_t``, for code that wants a raw one.

        Creates the event if it was neither created nor recorded yet, on its device or, by default, the current one.
        From then on interop cannot tell whether somebody recorded it, and no longer reports that nobody did.
        """
        if not self._existing():
            if self._adapter is not None:
                raise self._unrecorded("read the handle of")
            device = self._device
            self._create(self._cuda.current_context() if device is None else self._cuda.primary_context(device), None)
        self._recorded = self._exposed = True
        return self._handle

    @property
    def ptr(self) -> int:
        """The same as :attr:`cuda_event`, under CuPy's name."""
        return self.cuda_event

    @property
    def device(self) -> int | None:
        """The ordinal of the device that the event belongs to.

        None as long as that is open, for an event that was neither recorded nor made for a *device*; and for an event
        that another library made, whose device CUDA does not tell.
        """
        device = self._device
        if device is None and self._context:
            device = self._device = self._cuda.device_of(self._context)
        return device

    @property
    def _owned(self) -> bool:
        """Whether the CUDA event exists, and goes with this object."""
        return bool(self._handle) and self._flags is not None

    def _existing(self) -> int:
        """The handle, or 0 if the event was not created yet; a foreign one may have been in the meantime."""
        if not self._handle and self._adapter is not None:
            self._handle = _checked(self._adapter, self.owner, self._adapter.event_handle(self.owner) or 0)
            self._recorded = bool(self._handle)
        return self._handle

    def _create(self, context: int, pool: Pool | None) -> None:
        if self._flags is None:
            raise self._unrecorded("use")
        # CUDA is asked without the lock: garbage may be collected meanwhile, and finalisers then make events too, and
        # wait for whoever does. A signal handler may raise anywhere: the event is always somebody's.
        made: list[int] = []
        kept: list[bool] = []
        try:
            if pool is None or not _cuda.noted(made, pool.take):
                made = [self._cuda.event_create(context, self._flags)]
            with _creating:
                if not self._handle:
                    if pool is not None:
                        self._pool = pool
                    self._context = context
                    self._handle, kept = made[0], [True]
                    return
            # Another thread has used it for the first time just now.
            if pool is not None and _cuda.noted(kept, pool.give, made[0]):
                return
            kept = [False]
            self._cuda.event_discard(made[0])
        except BaseException:
            if made and made[0] and not kept:
                self._cuda.event_discard(made[0])
            raise

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: a handle has one owner, and means nothing to another process."""
        message = "an Event cannot be copied or pickled; for another process, see Event.ipc_handle"
        raise TypeError(message)

    # -- what torch.cuda.Event has -------------------------------------------------------------------------------

    def record(self, stream: object = None) -> None:
        """Record *stream*'s work so far; returns at once.

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

        Args:
            stream: as for :meth:`record`.

        Raises:
            InvalidStreamError: no stream was given, and no ``with`` block says which.
            UnrecordedEventError: the event was never recorded: CUDA would wait for nothing.
            CaptureError: the wait would cross the border of a capture.
        """
        _stream(stream).wait_event(self)

    def query(self) -> bool:
        """Whether the work that this event recorded is done. Does not block the host.

        Raises:
            UnrecordedEventError: it was never recorded. (PyTorch and CUDA say True here.)
            CaptureError: it was recorded while a graph was captured, and stands for no work of its own.
        """
        done = self._is_done(self._cuda.event_query)
        if done:
            self._finished()
        return done

    def _is_done(self, query: Callable[[int], bool]) -> bool:
        """The answer of *query*; watchers do not learn it."""
        handle = self._asked("query")
        try:
            return query(handle)
        except CudaError as error:
            self._explain(error)
            raise

    def synchronize(self, timeout: float | None = None) -> None:
        """Block the host, with the GIL released, until the work that this event recorded is done.

        Args:
            timeout: seconds to wait at most. With one, the event is polled, every 0.02 to 1 milliseconds; without,
                this is ``cudaEventSynchronize``.

        Raises:
            TimeoutError: the work was not done in time. It goes on.
            ValueError: *timeout* is negative or no number.
            UnrecordedEventError: it was never recorded. (PyTorch and CUDA return at once here.)
            CaptureError: it was recorded while a graph was captured, and stands for no work of its own.
        """
        check_timeout(timeout)
        handle = self._asked("synchronize")
        try:
            if timeout is None:
                self._cuda.event_synchronize(handle)
            else:
                poll(lambda: self._cuda.event_query(handle), timeout, self)
        except CudaError as error:
            self._explain(error)
            raise
        self._finished()

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds between this event and *end*, as the device passed them.

        Args:
            end: the later event; any library's, as long as it has timing.

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
            return self._cuda.event_elapsed(self._asked("take the time of"), end._asked("take the time of"))
        except CudaError as error:
            if error.code != _cuda.INVALID_RESOURCE_HANDLE:
                raise
            message = (
                f"no time between {self!r} and {end!r}: one was made without timing (enable_timing=True, or what its "
                "library calls that), was never recorded, or is of another device"
            )
            raise NotSupportedError(message) from error

    def ipc_handle(self) -> bytes:
        """64 bytes that :meth:`from_ipc_handle` turns into this event in another process.

        Creates the event, on its device or the current one, if it was never recorded. Keep it alive for as long as
        another process uses it.

        Raises:
            NotSupportedError: it was made without ``interprocess=True``.
        """
        if self._flags is None or not self._flags & _cuda.EVENT_INTERPROCESS:
            message = f"{self!r} cannot leave its process: make it with Event(interprocess=True)"
            raise NotSupportedError(message)
        return self._cuda.event_export(self.cuda_event)

    # -- asyncio -------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, None]:
        """Wait, in a coroutine, until the work that this event recorded is done, while the asyncio loop runs on.

        As :meth:`interop.ExternalStream.__await__`. If the event is recorded again meanwhile, the new record counts.

        Raises:
            UnrecordedEventError: it was never recorded.
            CaptureError: it was recorded while a graph was captured, and stands for no work of its own.
            CudaError: the work, or earlier work on the device, has failed.
            NotSupportedError: no asyncio loop runs the coroutine.
        """
        from interop._core.waiting import done  # noqa: PLC0415  (asyncio is slow to import)

        return done(self).__await__()

    def when_done(self, callback: Callable[..., T], *args: object, executor: "Executor | None" = None) -> "Task[T]":
        """Call *callback* with *args* once the work that this event recorded is done; returns at once.

        As :meth:`interop.ExternalStream.when_done`. What :meth:`query` would raise is the task's failure.

        Raises:
            NotSupportedError: no asyncio loop runs in this thread.
            TypeError: *callback* is no plain function.
        """
        from interop._core.waiting import call_when_done  # noqa: PLC0415  (asyncio is slow to import)

        return call_when_done(lambda: self, callback, args, executor)

    # -- for stream.py -------------------------------------------------------------------------------------------

    def _record_on(self, handle: int, context: int, context_id: int, needs: int, capture: int) -> None:
        """Record on a stream of *context*, which is part of *capture*; creates the event if need be."""
        if not self._existing():
            is_plain = self._flags == _cuda.EVENT_DISABLE_TIMING and self._device is None
            pool = self._cuda.pool(context_id) if is_plain else None
            self._create(context if self._device is None else self._cuda.primary_context(self._device), pool)
        self._cuda.event_record(self._handle, handle, needs)
        self._recorded = True
        self._capture = capture

    def _awaited(self, capture: int) -> int:
        """The handle, for a stream that is part of *capture* (0: of none) to wait for.

        Raises:
            UnrecordedEventError: nothing was recorded.
            CaptureError: it is known that the wait would cross into *capture*.
        """
        if not self._existing() or not self._recorded:
            raise self._unrecorded("wait for")
        if capture and not self._exposed and self._capture != capture:
            message = (
                f"{self!r} was recorded outside the graph capture that the waiting stream is part of: record it, "
                "inside the capture, on a stream that the capture has forked to"
            )
            raise CaptureError(message)
        return self._handle

    def _asked(self, verb: str) -> int:
        if not self._existing() or not self._recorded:
            raise self._unrecorded(verb)
        if self._capture and not self._exposed:
            message = f"cannot {verb} {self!r}: it was recorded while a graph was captured, and stands for no work yet"
            raise CaptureError(message)
        return self._handle

    def _finished(self) -> None:
        for watcher in watchers.active:
            watcher.finished(self)

    def _failed(self, call: str, code: int, _other: None) -> None:
        """Raise what it means that the driver has answered *code*, no success, to *call*. For the extension in C."""
        try:
            self._cuda.failed(call, code)
        except CudaError as error:
            self._explain(error)
            raise

    def _explain(self, error: CudaError) -> None:
        """Raise the error in terms of the event, if it is about a capture."""
        if error.code in _cuda.CAPTURE_CODES:
            message = f"{self!r} was recorded while a graph was captured; CUDA has invalidated the capture ({error})"
            raise CaptureError(message) from error

    def _unrecorded(self, verb: str) -> UnrecordedEventError:
        return UnrecordedEventError(
            f"cannot {verb} {self!r}: it was never recorded, so it stands for no work, and CUDA would order nothing. "
            "Record it first, on the stream whose work it shall stand for: producer.record_event(event)"
        )

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


def _stream(stream: object) -> "ExternalStream":
    from interop.stream import as_stream  # noqa: PLC0415  (it imports this module)

    return _switching.stream_in_use() if stream is None else as_stream(stream)


def as_event(obj: object) -> Event:
    """Borrow an event: the same event, under interop's surface, its owner kept alive. Calls no CUDA.

    Args:
        obj: an :class:`Event` (returned as it is); an event of PyTorch, CuPy, Numba, cuda.core, Warp or of a library
            with an adapter of its own; a ``cudaEvent_t`` or ``CUevent``; or the address of one as an int.

    Raises:
        InvalidEventError: *obj* is none of these, or its address cannot be an event's.
    """
    if is_a(obj, Event):
        return obj
    if is_a(obj, int):
        return Event._borrowed(check_handle(obj, "event", _cuda.active()), None)
    for adapter in adapters_of(obj):
        try:
            handle = adapter.event_handle(obj)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
            refuse_event(obj, adapter, error)
        if handle is not None:
            return Event._borrowed(_checked(adapter, obj, handle), obj, adapter)
    if is_binding(obj, "cudaEvent_t", "CUevent"):
        return Event._borrowed(check_handle(int(obj), "event", _cuda.active()), obj)  # type: ignore[call-overload]
    message = (
        f"expected an event: an interop.Event, one of PyTorch, CuPy, Numba, cuda.core or Warp, a cudaEvent_t or "
        f"CUevent, or the address of one as an int; got {described(obj)}"
    )
    raise InvalidEventError(message)


def refuse_event(obj: object, _adapter: "Adapter", error: Exception) -> NoReturn:
    """Raise that *obj* could not be asked by *_adapter* which event it is."""
    message = f"{described(obj)} cannot be used as an event: {type(error).__name__}: {error}"
    raise InvalidEventError(message) from error


def _checked(adapter: "Adapter", obj: object, handle: int) -> int:
    """The handle that *adapter* gives for *obj*, as it is; 0 is an event that its library has not created yet."""
    number = exact_int(handle)
    if number is None:
        message = (
            f"the adapter for {adapter.library!r} gave {described(handle)} for {described(obj)}: a handle is an int"
        )
        raise AdapterError(message)
    return check_handle(number, "event", _cuda.active()) if number else 0


def is_binding(obj: object, *names: str) -> bool:
    """Whether *obj* is one of cuda.bindings' handle types, told without importing cuda.bindings."""
    classes = (cls for cls in type(obj).__mro__ if cls.__name__ in names)
    return any(is_a(cls.__module__, str) and cls.__module__.startswith("cuda.bindings.") for cls in classes)


def check_timeout(timeout: object) -> None:
    """Make sure that *timeout* is a number of seconds, or None.

    Raises:
        ValueError: it is not.
    """
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        message = f"timeout is a number of seconds, 0 or more, or None to wait without limit; got {described(timeout)}"
        raise ValueError(message)


def poll(done: Callable[[], bool], timeout: float, what: object) -> None:
    """Ask *done*, with growing pauses in which other threads run, until it says True.

    Raises:
        TimeoutError: it did not within *timeout* seconds.
    """
    deadline = time.monotonic() + min(timeout, _FOREVER)
    pause = _FIRST_PAUSE
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            message = f"{what!r} was not done after {timeout} s; its work goes on"
            raise TimeoutError(message)
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
