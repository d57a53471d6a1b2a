"""Streams: borrowed from any library, ordered against each other on the device, handed back to any library."""

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

from interop import _cuda, _switching
from interop._cuda.addresses import check_device, check_handle, exact_int, is_a, stands_for_another
from interop._native import StreamFields, native
from interop._order import watchers
from interop._show.text import described
from interop.adapters import adapter_named, adapters_of, by_type
from interop.adapters.base import Adapter, Source
from interop.errors import (
    AdapterError,
    CaptureError,
    CudaError,
    DeviceMismatchError,
    InvalidStreamError,
    NoDeviceError,
    NotSupportedError,
    StaleStreamError,
)
from interop.event import Event, as_event, check_timeout, is_binding, poll, refuse_event

if TYPE_CHECKING:
    from asyncio import Task
    from concurrent.futures import Executor

T = TypeVar("T")


class _Thread(threading.local):
    """A token of the calling thread, which no later thread gets: identifiers of threads are reused."""

    def __init__(self) -> None:
        self.token = object()


_thread: Final = _Thread()


class ExternalStream(StreamFields):
    """A CUDA stream that was made elsewhere, with the surface of ``torch.cuda.ExternalStream``.

    It is never destroyed from here. An *owner* is kept alive for as long as this object; without one, as with a bare
    address, keeping the stream alive is the caller's business. Usable from every thread and whichever device is
    current, which stays as it was; only the per-thread default stream belongs to the thread that borrowed it.

    Nothing here blocks the host except :meth:`synchronize`. Every CUDA call releases the GIL, but for the look at which
    context is current in the calling thread.

    Args:
        stream_ptr: the address of the ``cudaStream_t``. 1 is the legacy default stream, 2 the per-thread default
            stream of the calling thread, and 0 the one of them that cuda.bindings takes it for in this process (the
            legacy one, unless ``CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM=1``). These three are of *device*, by
            default of the context that is current now.
        device: ordinal of the stream's device, if known. It is checked. By default it is found out.
        owner: an object to keep alive.

    Raises:
        InvalidStreamError: *stream_ptr* is no int, out of range, or the address of no memory. An address of memory
            that holds no stream cannot be told apart; CUDA crashes on it.
        DeviceMismatchError: the stream is on another device than *device*.
        InvalidDeviceError: *device* is no ordinal, or not one that this process sees.
        NoDeviceError: *device* is given, and cannot be checked: there is no driver, or no device.
    """

    __slots__ = ("__weakref__",)

    def __init__(self, stream_ptr: int, device: int | None = None, *, owner: object = None) -> None:
        """Check the address without CUDA, and *device* with it."""
        self._cuda = cuda = _cuda.active()
        self._handle = handle = check_handle(stream_ptr, "stream", cuda)
        self.owner = owner
        if handle > _cuda.PER_THREAD and device is None and not _cuda.CHECK:
            return  # the common case: the rest is found out when it is needed
        if handle == 0:
            self._handle = _cuda.PER_THREAD if _cuda.per_thread_by_default() else _cuda.LEGACY
        if self._handle == _cuda.PER_THREAD:
            self._thread = _thread.token
        declared = None if device is None else check_device(device)
        # Without a driver a stream can be borrowed and passed on, and every operation on it says that there is none.
        with contextlib.suppress(NoDeviceError) if declared is None else contextlib.nullcontext():
            self._locate(declared)

    def _locate(self, declared: int | None) -> None:
        """Find what is needed now: a default stream is of the context that is current *now*; the rest can wait."""
        cuda = self._cuda
        if self._handle <= _cuda.PER_THREAD:
            self._context = cuda.current_context() if declared is None else cuda.primary_context(declared)
            self._device = declared
        elif declared is not None and self.device != declared:
            message = f"device={declared} was given for stream {self._handle:#x}, which is on device {self.device}"
            raise DeviceMismatchError(message)
        if _cuda.CHECK:
            self._check()

    # -- what it is ----------------------------------------------------------------------------------------------

    @property
    def cuda_stream(self) -> int:
        """The address of the ``cudaStream_t``, or 1 or 2 for the default streams; never 0."""
        return self._handle

    @property
    def ptr(self) -> int:
        """The same as :attr:`cuda_stream`, under CuPy's name."""
        return self._handle

    @property
    def device(self) -> int:
        """The ordinal of the stream's device."""
        device = self._device
        if device is None:
            device = self._device = self._cuda.device_of(self._ready())
        return device

    @property
    def priority(self) -> int:
        """The stream's priority: the lower the number, the sooner its work is taken up; 0 is the default."""
        self._ready()
        self._priority = self._cuda.stream_priority(self._handle, self._needs)
        return self._priority

    @property
    def stream_id(self) -> int:
        """A number that no other stream of this process has, ever. Addresses are reused, these are not.

        Raises:
            CaptureError: it was not asked before, and the stream captures: CUDA would break the capture.
        """
        self._ready()
        if self._id is None:
            self._refuse_capture("tell the id of")
            self._id = self._cuda.stream_id(self._handle, self._needs)
        return self._id

    def is_capturing(self) -> bool:
        """Whether a CUDA graph is being captured on the stream.

        The legacy default stream of a device's primary context cannot capture; that of a green context can.
        """
        self._ready()
        try:
            return bool(self._cuda.stream_capture(self._handle, self._needs))
        except CudaError as error:
            # While a blocking stream captures, CUDA answers no question about the legacy stream.
            if self._handle == _cuda.LEGACY and error.code == _cuda.CAPTURE_IMPLICIT:
                return False
            raise

    def capture_id(self) -> int:
        """The id of the graph capture that the stream is part of, or 0. Two streams of one capture have the same.

        Raises:
            CaptureError: the capture is broken.
        """
        return self._capture() if self.is_capturing() else 0

    def __cuda_stream__(self) -> tuple[int, int]:
        """The stream, for every library that speaks the protocol: version 0, and the handle."""
        return (0, self._handle)

    def __eq__(self, other: object) -> bool:
        """Whether both are one stream; default streams are compared with their context and thread."""
        if not is_a(other, ExternalStream):
            return NotImplemented
        return (
            self._handle == other._handle
            and self._needs == other._needs
            and self._thread is other._thread
            and self._cuda is other._cuda
        )

    def __hash__(self) -> int:
        """Of all that is compared: default streams of two devices, or threads, have two hashes."""
        return hash((self._handle, self._needs, id(self._thread), id(self._cuda)))

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: a handle means nothing to another process."""
        message = "an ExternalStream cannot be copied or pickled: it is the stream of this process; borrow it again"
        raise TypeError(message)

    def __repr__(self) -> str:
        """Whose, which, and where, and its priority if that is known and not 0; without calling CUDA.

        Reprs end up in messages about streams that are gone, in logs, and in finalisers; and CUDA crashes on a stream
        that is gone. So what is not known yet is left out, and whether the stream captures, which may be different by
        the next moment, is not shown. In a notebook, where a person asks about a stream that is there, more is.
        """
        name = _cuda.DEFAULT_NAMES.get(self._handle, f"{self._handle:#x}")
        origin = f" of {self._adapter.library}" if self._adapter else ""
        device = "" if self._device is None else f" on device {self._device}"
        priority = f", priority {self._priority}" if self._priority else ""
        simulated = "SIMULATED " if self._cuda.simulation else ""
        return f"<{simulated}interop.{type(self).__name__} {name}{origin}{device}{priority}>"

    def _repr_html_(self) -> str:
        """For notebooks: what CUDA can be asked without danger, of a stream that something keeps alive."""
        from interop._core.inspection import look_at  # noqa: PLC0415  (it imports this module)
        from interop._show import html  # noqa: PLC0415  (only in notebooks)

        simulated = "SIMULATED " if self._cuda.simulation else ""
        return html.table(f"{simulated}interop.{type(self).__name__}", look_at(self).rows())

    # -- what torch.cuda.ExternalStream has ------------------------------------------------------------------------

    def query(self) -> bool:
        """Whether all work submitted so far is done. Does not block the host.

        Raises:
            CaptureError: the stream captures: it has no work that could be done. The capture goes on.
        """
        self._ready()
        self._refuse_capture("query")
        done = self._cuda.stream_query(self._handle, self._needs)
        if done:
            self._finished()
        return done

    def synchronize(self, timeout: float | None = None) -> None:
        """Block the host, with the GIL released, until all work submitted so far is done.

        Args:
            timeout: seconds to wait at most. With one, the stream is polled, every 0.02 to 1 milliseconds, which also
                sees work that is submitted meanwhile; without, this is ``cudaStreamSynchronize``.

        Raises:
            TimeoutError: the work was not done in time. It goes on.
            ValueError: *timeout* is negative or no number.
            CaptureError: the stream captures: it has no work to wait for. The capture goes on.
        """
        check_timeout(timeout)
        self._ready()
        self._refuse_capture("synchronize")
        if timeout is None:
            self._cuda.stream_synchronize(self._handle, self._needs)
        else:
            poll(lambda: self._cuda.stream_query(self._handle, self._needs), timeout, self)
        self._finished()

    def record_event(self, event: object = None) -> Event:
        """Record the work submitted so far in an event; returns at once.

        Args:
            event: what to record in: an :class:`Event`, or anything :func:`as_event` takes. By default a new one,
                without timing.

        Returns:
            The event: *event* itself if it is an :class:`Event`.

        Raises:
            DeviceMismatchError: *event* belongs to another device. It keeps what it had recorded.
            CaptureError: this is the legacy default stream, and a blocking stream captures. The capture goes on.
            InvalidEventError: *event* is no event.
        """
        if event is None:
            event = Event()
            event._cuda = self._cuda
        event = as_event(event)
        self._same_world(event)
        context = self._ready()
        if not event._existing() and event._adapter is not None:
            event._adapter.record(event.owner, self.to(event._adapter.library))
            self._recorded(event)
            return event
        capture = self._capture()
        try:
            event._record_on(self._handle, context, self._context_id, self._needs, capture)
        except CudaError as error:
            self._explain_record(error, event)
            raise
        self._recorded(event)
        return event

    def wait_event(self, event: object) -> None:
        """Make all future work of this stream wait for an event; returns at once.

        Args:
            event: anything that :func:`as_event` takes, of any device.

        Raises:
            UnrecordedEventError: *event* was never recorded, as far as can be known. CUDA would wait for nothing.
            CaptureError: the wait would cross the border of a capture. The capture goes on, except where the event is
                another library's and was recorded outside: that, only CUDA can tell, and it breaks the capture.
            InvalidEventError: *event* is no event.
        """
        event = as_event(event)
        self._same_world(event)
        self._ready()
        capture = self._capture()
        handle = event._awaited(capture)
        if self._handle == _cuda.LEGACY and event._capture != capture and not event._exposed:
            message = f"{self!r} cannot wait for {event!r}: the legacy default stream cannot join a graph capture"
            raise CaptureError(message)
        try:
            self._cuda.stream_wait_event(self._handle, handle, self._needs)
        except CudaError as error:
            self._explain_wait(error, event)
            raise
        for watcher in watchers.active:
            watcher.waited(self, event)

    def wait_stream(self, *streams: object) -> None:
        """Make all future work of this stream wait for the work submitted to other streams so far; returns at once.

        In the steady state this is one ``cudaEventRecord`` and one ``cudaStreamWaitEvent`` a stream: the events are
        kept, per context. For the stream itself there is nothing to do, and nothing is done.

        Args:
            streams: any number of streams, of any library and any device; anything that :func:`as_stream` takes.

        Raises:
            InvalidStreamError: one of them is no stream. Then none was waited for.
            CaptureError: a wait would cross the border of a capture. The capture goes on.
        """
        producers = [as_stream(stream) for stream in streams]
        producers = [producer for producer in producers if producer != self]
        if not producers:
            return
        self._ready()
        for producer in producers:
            producer._ready()
            self._same_world(producer)
        capture = self._capture()
        if capture or len(producers) > 1 or _cuda.LEGACY in (self._handle, producers[0]._handle):
            producers = self._legal_order(capture, producers)
        for producer in producers:
            try:
                self._cuda.order(
                    self._handle,
                    self._needs,
                    producer._handle,
                    producer._needs,
                    producer._context,
                    producer._context_id,
                )
            except CudaError as error:
                self._explain(error, producer)
                raise
            for watcher in watchers.active:
                watcher.joined(self, producer)

    # -- asyncio -------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, None]:
        """Wait, in a coroutine, until all work submitted so far is done, while the asyncio loop runs on.

        No thread is made, and the host is not blocked: one timer a loop asks the device about all that is awaited in
        it, every 1 to 5 milliseconds, and uses at most a twentieth of the loop's time. What can be cancelled in asyncio
        can be cancelled here; the work on the device goes on.

        Raises:
            CaptureError: the stream captures: it has no work to wait for. The capture goes on.
            CudaError: the work, or earlier work on the device, has failed.
            NotSupportedError: no asyncio loop runs the coroutine.
        """
        from interop._core.waiting import done  # noqa: PLC0415  (asyncio is slow to import)

        return done(self._marked("await")).__await__()

    def when_done(self, callback: Callable[..., T], *args: object, executor: "Executor | None" = None) -> "Task[T]":
        """Call *callback* with *args* once all work submitted so far is done; returns at once.

        Args:
            callback: a plain function. It is called in the asyncio loop that runs now, or by *executor*.
            args: what to call it with.
            executor: where to call it instead, such as a ``concurrent.futures.ThreadPoolExecutor``.

        Returns:
            A task. Its result is what *callback* returned; if the work on the device failed, *callback* is not called,
            and the failure is the task's. Cancelling it before takes the callback back. The loop keeps it alive.

        Raises:
            CaptureError: the stream captures: it has no work to wait for. The capture goes on.
            NotSupportedError: no asyncio loop runs in this thread.
            TypeError: *callback* is no plain function.
        """
        from interop._core.waiting import call_when_done  # noqa: PLC0415  (asyncio is slow to import)

        return call_when_done(lambda: self._marked("wait for"), callback, args, executor)

    def _marked(self, verb: str) -> Event:
        """An event that stands for the work submitted so far."""
        self._ready()
        self._refuse_capture(verb)
        return self.record_event()

    # -- to other libraries ----------------------------------------------------------------------------------------

    def to(self, library: str) -> object:
        """The same stream as an object of *library*'s own type, for calls that take no other.

        The object keeps this stream's owner alive. There is one for each stream and library: asking again gives the
        same object, and a stream that was borrowed from *library* gives the object that it was borrowed from.

        Args:
            library: import path of the library: ``"cupy"``, ``"numba"``, ``"torch"``, ``"cuda.core"``, ``"rmm"``,
                ``"warp"``, or one with an adapter of its own. It is imported if it was not yet.

        Raises:
            NotSupportedError: the library takes no stream from outside; the message says what to do.
            LibraryNotFoundError: it is not installed, or not known.
        """
        context = self._ready()
        if self._natives is None:
            self._natives = {}
        natives = self._natives
        if self._needs and library in natives:
            self._refuse_elsewhere(adapter_named(library))
        try:
            native = natives.get(library)
        except TypeError:  # no hashable name; adapter_named says what one is
            native = None
        if native is None:
            adapter = adapter_named(library)
            self._refuse_elsewhere(adapter)
            if adapter.simulated is (self._cuda.simulation is None):
                message = f"{library} cannot use {self!r}: one of the two is simulated, and the other is not"
                raise NotSupportedError(message)
            if adapter is self._adapter:
                native = self.owner
            else:
                source = Source(self._handle, self.device, self.owner)
                native = self._cuda.within(context, adapter.make_stream, source)
            # Another thread may have been faster: there is one.
            native = natives.setdefault(library, native)
        return native

    def _refuse_elsewhere(self, adapter: Adapter) -> None:
        """Refuse to hand out the default stream of a device as an object that means the one of the current device."""
        if self._needs and not adapter.default_streams_have_devices and self._cuda.current_context() != self._needs:
            message = (
                f"{self!r} cannot be told to {adapter.library} while another device is current: its default streams "
                "are those of the current one. Do it inside `with interop.use(stream):`, or take a stream of its own"
            )
            raise NotSupportedError(message)

    def __enter__(self) -> Self:
        """The same as entering :func:`interop.use` with this stream."""
        _switching.enter(self, self)
        return self

    __exit__ = _switching.Exit()

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _needs(self) -> int:
        """The context that must be current for a CUDA call about this stream; 0 if any may be."""
        return self._context if self._handle <= _cuda.PER_THREAD else 0

    @property
    def _is_of_another_thread(self) -> bool:
        """Whether this is the per-thread default stream of a thread that is not the calling one."""
        return self._thread is not None and self._thread is not _thread.token

    @property
    def _is_closed(self) -> bool:
        """Whether its owner has closed it, where that can be done: then no call may be made with the handle."""
        if self._adapter is None or not self._adapter.streams_close or self._handle <= _cuda.PER_THREAD:
            return False  # a default stream is there whatever becomes of an object that stands for it
        return not _states(self.owner, self._handle)

    def _legacy(self) -> "ExternalStream":
        """The legacy default stream of the same context."""
        stream = ExternalStream.__new__(ExternalStream)
        stream._context = self._context or self._ready()
        stream._cuda = self._cuda
        stream._handle = _cuda.LEGACY
        return stream

    def _ready(self) -> int:
        """Make sure that the stream can be used here and now; its context."""
        if self._is_of_another_thread:
            message = (
                f"{self!r} was borrowed in another thread: the per-thread default stream is a different stream in "
                "every thread. Borrow it in this one, or record an event there and wait for it here"
            )
            raise InvalidStreamError(message)
        if _cuda.CHECK:
            self._check()
        if not self._context_id:
            if self._handle > _cuda.PER_THREAD:
                self._context = self._cuda.stream_context(self._handle)
            elif not self._context:
                self._locate(None)
            self._context_id = self._cuda.context_id(self._context)
            if self._cuda.uses_extension and self._handle != _cuda.PER_THREAD:
                self._pool = self._cuda.pool(self._context_id)
                known = _known.get(id(self.owner))
                if known is not None and known._handle == self._handle:  # now it is known that well
                    known._context, known._context_id, known._pool = self._context, self._context_id, self._pool
        return self._context

    def _check(self) -> None:
        if self._handle <= _cuda.PER_THREAD:
            return
        if not self._cuda.readable(self._handle):
            message = f"{self!r} is gone: its address is no memory any more. Was it destroyed by its library?"
            raise StaleStreamError(message)
        if not self._cuda.stream_capture(self._handle):  # CUDA would break the capture
            now = self._cuda.stream_id(self._handle)
            if self._id is None:
                self._id = now
            if now != self._id:
                message = (
                    f"{self!r} is gone: it was stream number {self._id}, and its address belongs to number {now} now. "
                    "Keep the object that made the stream alive for as long as this one is used"
                )
                raise StaleStreamError(message)

    def _recorded(self, event: Event) -> None:
        for watcher in watchers.active:
            watcher.recorded(self, event)

    def _finished(self) -> None:
        for watcher in watchers.active:
            watcher.finished(self)

    def _of(self, owner: object) -> "ExternalStream":
        """The same stream, with another owner."""
        stream = ExternalStream.__new__(ExternalStream)
        stream._handle = self._handle
        stream._context = self._context
        stream._context_id = self._context_id
        stream._pool = self._pool
        stream._adapter = self._adapter
        stream._cuda = self._cuda
        stream._device = self._device
        stream._id = self._id
        stream._priority = self._priority
        stream.owner = owner
        return stream

    def _same_world(self, other: "ExternalStream | Event") -> None:
        """Refuse to mix a simulation with a GPU, or with another simulation: their handles mean nothing to CUDA."""
        if other._cuda is not self._cuda:
            message = f"{self!r} and {other!r} cannot be ordered: they are not of the same GPU or simulation"
            raise NotSupportedError(message)

    def _capture(self) -> int:
        """The id of the capture that this stream is part of, or 0."""
        try:
            capture = self._cuda.stream_capture(self._handle, self._needs)
        except CudaError as error:
            self._explain(error)
            raise
        if capture == _cuda.BROKEN:
            message = f"the graph capture of {self!r} was broken by an earlier call: end it, and begin again"
            raise CaptureError(message)
        return capture

    def _refuse_capture(self, verb: str) -> None:
        if self._capture():
            message = (
                f"cannot {verb} {self!r} while it captures a graph: the work that is submitted to it is only noted "
                "down, and would break the capture. End the capture first"
            )
            raise CaptureError(message)

    def _legal_order(self, capture: int, producers: "list[ExternalStream]") -> "list[ExternalStream]":
        """The producers, in an order in which they can be waited for; those outside of captures first.

        Raises:
            CaptureError: for the waits that CUDA would punish by breaking a capture. It has not been asked yet.
        """
        captures = [producer._capture() for producer in producers]
        for producer, theirs in zip(producers, captures, strict=True):
            if capture and theirs != capture:
                what = "is part of another capture" if theirs else "is not part of it"
                message = (
                    f"{self!r} captures a graph, and {producer!r} {what}: a wait cannot cross its border. Make "
                    f"{producer!r} wait for the capturing stream first, which takes it into the capture"
                )
                raise CaptureError(message)
            if theirs != capture and self._handle == _cuda.LEGACY:
                message = f"{self!r} cannot wait for {producer!r}, which captures: the legacy stream cannot join it"
                raise CaptureError(message)
        if len({theirs for theirs in captures if theirs}) > 1:
            message = f"{self!r} cannot wait for all of {producers!r}: they are parts of different graph captures"
            raise CaptureError(message)
        return [producer for _, producer in sorted(zip(captures, producers, strict=True), key=lambda pair: pair[0])]

    def _failed(self, call: str, code: int, other: "ExternalStream | Event | None") -> None:
        """Raise what it means that the driver has answered *code*, no success, to *call*. For the extension in C.

        Args:
            call: the name of the runtime's function that is like it, or of the driver's.
            code: the answer.
            other: the event or the producer, if it is ours.
        """
        try:
            self._cuda.failed(call, code)
        except CudaError as error:
            if isinstance(other, ExternalStream):
                self._explain(error, other)
            elif call == "cudaEventRecord" and other is not None:
                self._explain_record(error, other)
            elif call == "cudaStreamWaitEvent":
                self._explain_wait(error, other)
            raise

    def _explain_record(self, error: CudaError, event: Event) -> None:
        if error.code == _cuda.INVALID_RESOURCE_HANDLE:
            message = (
                f"{event!r} cannot be recorded on {self!r}: an event belongs to the device it was first recorded "
                f"on, and to its context. Take a new one for this stream: record_event() without an argument"
            )
            raise DeviceMismatchError(message) from error
        self._explain(error)

    def _explain_wait(self, error: CudaError, event: Event | None) -> None:
        if error.code == _cuda.INVALID_VALUE and event is not None and event._capture:
            message = f"{self!r} cannot wait for {event!r}: the capture that it was recorded in is over"
            raise CaptureError(message) from error
        self._explain(error)

    def _explain(self, error: CudaError, other: "ExternalStream | None" = None) -> None:
        """Raise the error in terms of the streams, if it is about a capture."""
        if error.code not in _cuda.CAPTURE_CODES:
            return
        both = f"{self!r} and {other!r}" if other else f"{self!r}"
        if error.code == _cuda.CAPTURE_IMPLICIT:
            message = (
                f"{both}: a blocking stream of the same context captures a graph, and the legacy default stream waits "
                f"for all blocking streams, so it cannot be used meanwhile. Use a stream of its own ({error})"
            )
        else:
            message = f"{both}: not legal while a graph is captured; CUDA has invalidated the capture ({error})"
        raise CaptureError(message) from error


class _Handle:
    """The owner of a stream that interop made, which is destroyed some time after the last reference goes."""

    __slots__ = ("__weakref__", "_cuda", "_next", "handle")

    def __init__(self, cuda: _cuda.Cuda, handle: int = 0) -> None:
        self.handle = handle  # 0 before there is a stream: it is set in one step when there is
        self._cuda = cuda

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At interpreter exit the driver may be gone already, and frees everything itself.
        if getattr(self, "handle", 0) and not _finalizing():
            self._cuda.stream_retire(self.handle, weakref.ref(self))

    def keep(self) -> None:
        """A finaliser has kept what it had the stream from: let another one, which goes with this one, retire it."""
        self._next = _Handle(self._cuda, self.handle)


def new_stream(device: int | None = None, *, priority: int = 0, non_blocking: bool = True) -> ExternalStream:
    """Make a stream. Once nothing refers to it any more, and its work is done, the next call of this destroys it.

    Every object that :meth:`ExternalStream.to` makes of it counts as a reference.

    Args:
        device: ordinal of the device, by default the current one. The current device stays as it was.
        priority: the lower, the sooner its work is taken up. A number outside the device's range is brought to its
            nearest end, by CUDA.
        non_blocking: whether it is exempt from waiting for, and holding up, the legacy default stream.

    Raises:
        NoDeviceError: there is no driver, or no device.
        InvalidDeviceError: there is no such device.
    """
    cuda = _cuda.active()
    context = cuda.current_context() if device is None else cuda.primary_context(check_device(device))
    owner = _Handle(cuda)
    owner.handle = handle = cuda.stream_create(context, non_blocking=non_blocking, priority=priority)
    stream = ExternalStream(handle, owner=owner)
    stream._priority = cuda.stream_priority(handle, context) if priority else 0
    return stream


def as_stream(obj: object, device: int | None = None) -> ExternalStream:
    """Borrow a stream: the same stream, under interop's surface, its owner kept alive.

    Args:
        obj: an :class:`ExternalStream` (returned as it is); a stream of CuPy, Numba, PyTorch, cuda.core, RMM, Warp or
            of a library with an adapter of its own, and of subclasses; any object with ``__cuda_stream__``, be it a
            method or an attribute; a ``cudaStream_t`` or ``CUstream``; an object with an int ``handle``, as in PyCUDA;
            or the address of a stream as an int.
        device: ordinal of its device, if it shall be checked; for the default streams 0, 1 and 2, which device's.

    Raises:
        InvalidStreamError: *obj* is no stream, or what it says of itself cannot be one.
        DeviceMismatchError: the stream is on another device than *device*.
    """
    if device is not None:
        check_device(device)
    if is_a(obj, ExternalStream):
        if device is not None and obj.device != device:
            message = f"device={device} was given for {obj!r}, which is on device {obj.device}"
            raise DeviceMismatchError(message)
        return obj
    if is_a(obj, int):
        return ExternalStream(obj, device)
    known = _still_known(obj)
    if known is not None and device is None and known._cuda is _cuda.active():
        return known._of(obj)
    adapters = adapters_of(obj)
    for adapter in adapters:
        try:
            handle = adapter.stream_handle(obj)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
            _refuse(obj, adapter, error)
        if handle is not None:
            return _from_adapter(adapter, obj, handle, device)
    return ExternalStream(_stated_handle(obj, known=bool(adapters)), device, owner=obj)


def _from_adapter(adapter: Adapter, obj: object, handle: int, device: int | None) -> ExternalStream:
    number = exact_int(handle)
    if not number:
        message = (
            f"the adapter for {adapter.library!r} gave {described(handle)} for {described(obj)}: a handle is an int, "
            "and never 0"
        )
        raise AdapterError(message)
    if adapter.simulated is (_cuda.active().simulation is None):
        message = f"{described(obj)} of {adapter.library} is no stream here: one of the two is simulated"
        raise NotSupportedError(message)
    if number <= _cuda.PER_THREAD:
        place = adapter.stream_device(obj)
        if device is not None and place is not None and place != device:
            message = f"device={device} was given for {described(obj)}, the default stream of device {place}"
            raise DeviceMismatchError(message)
        device = place if device is None else device
    stream = ExternalStream(number, device, owner=obj)
    stream._adapter = adapter
    if adapter.streams_stay_the_same and number > _cuda.PER_THREAD and not _cuda.CHECK:
        life = adapter.life(obj)
        if life is not None:
            _know(obj, life, stream._of(None))
    return stream


_known: Final[dict[int, ExternalStream]] = {}
"""By the identity of another library's object, the stream that it is, without an owner: borrowed again, it is found."""
_objects: Final[dict[int, weakref.ref[object]]] = {}
"""By the identity likewise, a weak reference that takes the object out before its identity can become another's."""


def _know(obj: object, life: object, stream: ExternalStream) -> None:
    """Remember that *obj* is *stream*, which has no owner, for as long as *life* lives."""
    identity = id(obj)
    if life is not obj:  # so that it can be seen whether it is still the object's
        stream.owner = weakref.ref(life)

    def forget(gone: object) -> None:
        if _objects.get(identity) is gone:
            _known.pop(identity, None)
            del _objects[identity]

    _objects[identity] = weakref.ref(life, forget)
    _known[identity] = stream


def _still_known(obj: object) -> ExternalStream | None:
    """The stream that *obj* is, if that is known of this very object.

    What lives as long as an object may outlive it in a copy of it, and another object be at its address.
    """
    stream = _known.get(id(obj))
    if stream is None or stream.owner is None:
        return stream
    reference: Any = stream.owner
    life = reference()
    return stream if life is not None and getattr(obj, "_interop_life", None) is life else None


def _states(obj: Any, handle: int) -> bool:  # noqa: ANN401
    """Whether an object that can be closed has that handle still."""
    try:
        return bool(obj.__cuda_stream__() == (0, handle))
    except Exception:  # noqa: BLE001  (it has been closed; who uses it is told what is wrong with it)
        return False


def _stated_handle(obj: object, *, known: bool) -> int:
    """The handle that an object states itself; *known* if its library has an adapter, which took it for no stream."""
    if not is_a(obj, type):
        if hasattr(type(obj), "__cuda_stream__") or "__cuda_stream__" in _attributes(obj):
            return _protocol_handle(obj)
        if is_binding(obj, "cudaStream_t", "CUstream"):
            return int(obj)  # type: ignore[call-overload, no-any-return]
        # As PyCUDA has it, whose events have one too; and so have many things that are neither.
        is_other = known or any(cls.__name__.endswith(("Event", "Context")) for cls in type(obj).__mro__)
        if not is_other and not stands_for_another(obj):
            try:
                handle = exact_int(getattr(obj, "handle", None))
            except Exception as error:
                message = f"the handle of {described(obj)} raised {type(error).__name__}: {error}"
                raise InvalidStreamError(message) from error
            if handle is not None:
                return handle
    message = (
        "expected a stream: an interop.ExternalStream, a stream of CuPy, Numba, PyTorch, cuda.core, RMM or Warp, an "
        "object with __cuda_stream__, a cudaStream_t or CUstream, or the address of one as an int; got "
        f"{described(obj)}"
    )
    raise InvalidStreamError(message)


def _attributes(obj: object) -> dict[str, object]:
    """The attributes that only *obj* has, and not its class; none if it stands for another object."""
    if stands_for_another(obj):
        return {}
    try:
        attributes = obj.__dict__
    except Exception:  # noqa: BLE001  (it has none, or no code that works)
        return {}
    return attributes if is_a(attributes, dict) else {}


def _refuse(obj: object, adapter: Adapter | None, error: Exception) -> NoReturn:
    """Raise that *obj* could not be asked which stream it is: by *adapter*, or by the protocol."""
    if adapter is None:
        what = f"{type(obj).__qualname__}.__cuda_stream__ of {described(obj)} raised"
    else:
        what = f"{described(obj)} cannot be used as a stream:"
    message = f"{what} {type(error).__name__}: {error}"
    raise InvalidStreamError(message) from error


def _protocol_handle(obj: object) -> int:
    """The handle in what ``__cuda_stream__`` says: ``(0, int)``, from a method or, as some have it, an attribute.

    https://nvidia.github.io/cuda-python/cuda-core/latest/interoperability.html#cuda-stream-protocol
    """
    name = f"{type(obj).__qualname__}.__cuda_stream__"
    try:
        stated = obj.__cuda_stream__  # type: ignore[attr-defined]
        if callable(stated):
            stated = stated()
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
        _refuse(obj, None, error)
    if not is_a(stated, tuple) or len(stated) != 2:  # noqa: PLR2004  (the protocol's pair)
        message = f"{name} must give the pair (0, handle); {described(obj)} gave {described(stated)}"
        raise InvalidStreamError(message)
    version, handle = stated
    if exact_int(version) != 0:
        message = f"{name} has version {described(version)}; interop knows version 0 of the protocol"
        raise InvalidStreamError(message)
    number = exact_int(handle)
    if number is None:
        message = f"{name} must give an int as handle; {described(obj)} gave {described(handle)}"
        raise InvalidStreamError(message)
    return number


if native is not None:
    as_stream = native.accelerate(
        ExternalStream,
        Event,
        as_stream,
        _known,
        by_type,
        _cuda.EVENT_DISABLE_TIMING,
        refuse_event,
    )
