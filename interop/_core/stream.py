"""The class ``ExternalStream``."""

from typing import Any, Self

from interop import _cuda
from interop._core import above, captures, names, switching
from interop._core.event import Event, as_event
from interop._core.identity import thread
from interop._core.polling import check_timeout, poll
from interop._core.properties import StreamProperties
from interop._core.waiting import Waitable
from interop._cuda.addresses import Address, Device, check_device, check_handle
from interop._order import watchers
from interop.adapters import adapter_named
from interop.adapters.base import Adapter, Source
from interop.errors import (
    CudaError,
    NoDeviceError,
    NotSupportedError,
)


class ExternalStream(Waitable, StreamProperties):
    """A CUDA stream that was made elsewhere, with the surface of ``torch.cuda.ExternalStream``.

    Example::

        address = producer.cuda_stream  # a cudaStream_t, such as C++ has
        stream = interop.ExternalStream(address, owner=producer)  # producer lives at least as long as stream
        consumer.wait_stream(stream)

    interop never destroys the stream. It keeps *owner* alive for as long as this object lives; without one, keep the
    stream alive yourself. Any thread can use the object, whichever device is current, and the current device stays as
    it was. Only a per-thread default stream belongs to the thread that borrowed it.

    Calls of other libraries take it as it is if they take ``__cuda_stream__``, an ``int`` (by ``int(stream)``), or an
    argument of ctypes; :meth:`to` makes what the others want. An int keeps nothing alive, this object does.

    Nothing here blocks the host except :meth:`synchronize`. Every CUDA call releases the GIL, except the one that asks
    which context is current in the calling thread.

    Args:
        stream_ptr: the address of the ``cudaStream_t``. 1 is the legacy default stream, 2 the per-thread default
            stream of the calling thread. 0 is one of these two, as cuda.bindings has it in this process: the per-thread
            one with ``CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM=1``, else the legacy one. All three belong to
            *device*, by default to the current context.
        device: as for :func:`interop.as_stream`. By default interop finds it out when it is needed.
        owner: an object to keep alive.

    Raises:
        InvalidStreamError: *stream_ptr* is no int and no ``ctypes.c_void_p``, is out of range, or is not the address of
            readable memory. Readable memory that holds no stream cannot be told from a stream; CUDA crashes on it.
        DeviceMismatchError: the stream is on another device than *device*.
        InvalidDeviceError: *device* states no ordinal, or no device that this process sees.
        NoDeviceError: *device* is given and cannot be checked, because there is no driver or no device.
    """

    __slots__ = ("__weakref__",)
    __module__ = "interop.stream"

    def __init__(self, stream_ptr: Address, device: Device | None = None, *, owner: object = None) -> None:
        """Check the address without CUDA. Check *device* with CUDA, if it is given."""
        self._cuda = cuda = _cuda.active()
        self._handle = handle = check_handle(stream_ptr, "stream", cuda)
        self.owner = owner
        if handle > _cuda.PER_THREAD and device is None and not _cuda.CHECK and not names.addresses:
            return  # the common case: the rest is found out when it is needed
        if handle == 0:
            self._handle = _cuda.null_handle()
        if self._handle == _cuda.PER_THREAD:
            self._thread = thread.token
        declared = None if device is None else check_device(device, cuda)
        try:
            self._find_context(declared)
        except NoDeviceError:
            if declared is not None:
                raise
            # Without a driver a stream can still be borrowed and passed on. Every operation on it raises NoDeviceError.

    def _repr_html_(self) -> str:
        """For notebooks: all that CUDA can be asked without danger, if something keeps the stream alive."""
        from interop._core.inspection import look_at  # noqa: PLC0415  (only in notebooks)
        from interop._show import html  # noqa: PLC0415  (only in notebooks)

        return html.table(self._class_name, look_at(self).rows())

    # -- what torch.cuda.ExternalStream has ------------------------------------------------------------------------

    def query(self) -> bool:
        """Whether all work submitted so far is done. Does not block the host.

        Example::

            import time

            while not producer.query():
                time.sleep(0.001)  # or other work of the host

        Raises:
            CaptureError: the stream captures: it has no work that runs. The capture goes on.
        """
        self._usable_context()
        captures.refuse_capturing(self, "query")
        done = self._cuda.stream_query(self._handle, self._needs)
        if done:
            self._tell_finished()
        return done

    def synchronize(self, timeout: float | None = None) -> None:
        """Block the host, with the GIL released, until all work submitted so far is done.

        Example::

            producer.synchronize(timeout=60)  # seconds

        Args:
            timeout: the most seconds to wait, a float. With a timeout, the stream is queried every 0.02 to 1
                milliseconds, and work that is submitted during the wait counts too. Without one, this is
                ``cudaStreamSynchronize``.

        Raises:
            TimeoutError: the work was not done in time. It goes on.
            ValueError: *timeout* is negative or no number.
            CaptureError: the stream captures: it has no work that runs. The capture goes on.
        """
        check_timeout(timeout)
        self._usable_context()
        captures.refuse_capturing(self, "synchronize")
        if timeout is None:
            self._cuda.stream_synchronize(self._handle, self._needs)
        else:
            poll(lambda: self._cuda.stream_query(self._handle, self._needs), timeout, self)
        self._tell_finished()

    def record_event(self, event: object = None, *, external: bool = False) -> Event:
        """Record the work submitted so far in an event; returns at once.

        Example::

            half = producer.record_event()
            # ... the other half of producer's work ...
            consumer.wait_event(half)  # and not for the other half

        Args:
            event: an :class:`Event`, or anything that :func:`as_event` takes. By default a new one, without timing.
            external: a bool; in a graph capture, let each launch of the graph record the event, so that streams outside
                of the graph can wait for this point of it. Keep the event alive as long as the graph. Outside of a
                capture it makes no difference.

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
        self._require_same_cuda(event)
        self._usable_context()
        capture = captures.capture_of(self)
        in_graph = external and capture != 0
        if not (in_graph or event._handle_or_0()) and event._adapter is not None:
            event._adapter.record(event.owner, self.to(event._adapter.library))
        else:
            try:
                if in_graph:
                    event._record_in_graph(self)
                else:
                    event._record_on(self, capture)
            except CudaError as error:
                captures.explain(error, self, event)
                raise
        for watcher in watchers.active:
            watcher.recorded(self, event)
        return event

    def wait_event(self, event: object, *, external: bool = False) -> None:
        """Make all future work of this stream wait for an event; returns at once.

        Example::

            event = producer.record_event()  # or an event of any library
            consumer.wait_event(event)

        Args:
            event: anything that :func:`as_event` takes, of any device.
            external: a bool; in a graph capture, let each launch of the graph wait for what *event*, which is recorded
                outside of the graph, has recorded by then; it need not be recorded yet. Keep the event alive as long as
                the graph. Outside of a capture it makes no difference.

        Raises:
            UnrecordedEventError: *event* was never recorded, as far as interop knows. CUDA would wait for nothing.
            CaptureError: the event was recorded outside the capture that this stream is part of, and *external* is
                False, or the other way round. The capture goes on, with one exception: only CUDA knows where an event
                of another library was recorded, and it invalidates the capture.
            InvalidEventError: *event* is no event.
        """
        event = as_event(event)
        self._require_same_cuda(event)
        self._usable_context()
        capture = captures.capture_of(self)
        in_graph = external and capture != 0
        if in_graph:
            handle = event._handle_in_graph(self)
        else:
            handle = event._recorded_handle("wait for")
            captures.check_wait(self, capture, event)
        try:
            self._cuda.stream_wait_event(self._handle, handle, self._needs, external=in_graph)
        except CudaError as error:
            captures.explain(error, self, event)
            raise
        for watcher in watchers.active:
            watcher.waited(self, event)

    def wait_stream(self, *streams: object) -> None:
        """Make all future work of this stream wait for the work submitted to other streams so far; returns at once.

        Example::

            consumer.wait_stream(producer)  # or any other library's stream

        For each stream this is one ``cudaEventRecord`` and one ``cudaStreamWaitEvent``: the events are kept, for each
        context, and used again. For this stream itself nothing is done.

        Args:
            streams: any number of streams, of any library and any device; anything that :func:`as_stream` takes.

        Raises:
            InvalidStreamError: one of them is no stream. Then no wait was made.
            CaptureError: one of the streams is part of a capture, and the other is not. The capture goes on.
        """
        producers: list[ExternalStream] = [above.as_stream(stream) for stream in streams]
        producers = [producer for producer in producers if producer != self]
        if not producers:
            return
        self._usable_context()
        for producer in producers:
            producer._usable_context()
            self._require_same_cuda(producer)
        capture = captures.capture_of(self)
        # One producer that captures takes a consumer that does not into its capture: there is nothing to check then.
        if capture or len(producers) > 1 or _cuda.LEGACY in (self._handle, producers[0]._handle):
            producers = captures.order_of_waits(self, capture, producers)
        for producer in producers:
            try:
                self._wait_for(producer)
            except CudaError as error:
                captures.explain(error, self, producer)
                raise
            for watcher in watchers.active:
                watcher.joined(self, producer)

    def _wait_for(self, producer: "ExternalStream") -> None:
        # The event is taken from a pool and given back. So nobody else can record it between the record and the wait:
        # no other thread, no signal handler and no finaliser.
        cuda = self._cuda
        pool = cuda.pool(producer._context_id)
        events: list[int] = []
        given: list[bool] = []
        try:
            event = _cuda.noted(events, pool.take)
            if not event:
                event = events[0] = cuda.event_create(producer._context, _cuda.EVENT_DISABLE_TIMING)
            cuda.event_record(event, producer._handle, producer._needs)
            cuda.stream_wait_event(self._handle, event, self._needs)
            if not _cuda.noted(given, pool.give, event):
                cuda.event_discard(event)
        except BaseException:
            if events and events[0] and not given:
                cuda.event_discard(events[0])  # what it has recorded, and whether it is valid, is not known
            raise

    # -- to other libraries ----------------------------------------------------------------------------------------

    def to(self, library: str) -> Any:  # noqa: ANN401  (of the library's own type)
        """The same stream as an object of *library*'s own type, for calls that take no other.

        Example::

            from numba import cuda

            x = cuda.device_array(1 << 20, stream=producer.to("numba"))

        The object keeps this stream's owner alive. There is one object for each stream and library: a second call gives
        the same one. A stream that was borrowed from *library* gives the object that it was borrowed from.

        Args:
            library: import path of the library: ``"cupy"``, ``"numba"``, ``"torch"``, ``"cuda.core"``, ``"rmm"``,
                ``"warp"``, or one with an adapter of its own. It is imported if need be. ``"cuda.bindings"`` gives a
                ``cuda.bindings.driver.CUstream``, which some libraries want exactly.

        Raises:
            NotSupportedError: the library takes no stream from outside; the message says what to do.
            LibraryNotFoundError: it is not installed, or not known.
        """
        context = self._usable_context()
        adapter = adapter_named(library)
        self._require_current_context(adapter)
        if self._natives is None:
            self._natives = {}
        native = self._natives.get(adapter.library)
        if native is None:
            if adapter.simulated is (self._cuda.simulation is None):
                places = ("is simulated", "on a GPU") if adapter.simulated else ("works on a GPU", "simulated")
                message = f"{library} cannot use {self!r}: {library} {places[0]}, and the stream is {places[1]}"
                raise NotSupportedError(message)
            if adapter is self._adapter:
                native = self.owner
            else:
                source = Source(self._handle, self.device, self.owner)
                native = self._cuda.within(context, adapter.make_stream, source)
            # If another thread was faster, its object is the one.
            native = self._natives.setdefault(adapter.library, native)
        return native

    def _require_current_context(self, adapter: Adapter) -> None:
        """For a default stream of a library whose default streams are those of the current device: require that device.

        Raises:
            NotSupportedError: another device is current, so the library's object would mean another stream.
        """
        if self._needs and not adapter.default_streams_have_devices and self._cuda.current_context() != self._needs:
            message = (
                f"{self!r} cannot be handed to {adapter.library} while another device is current: its default streams "
                "are those of the current device. Do it inside `with interop.use(stream):`, or take a stream that is "
                "not a default stream"
            )
            raise NotSupportedError(message)

    def __enter__(self) -> Self:
        """The same as entering :func:`interop.use` with this stream."""
        switching.enter(self, self)
        return self

    __exit__ = switching.Exit()

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _is_closed(self) -> bool:
        """Whether the owner has closed the stream. Then CUDA must not be called with the handle."""
        if self._adapter is None or not self._adapter.streams_close or self._handle <= _cuda.PER_THREAD:
            return False  # a default stream never ends, whatever happens to an object that stands for it
        try:
            return bool(self.owner.__cuda_stream__() != (0, self._handle))  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001  (it was closed)
            return True

    def _legacy(self) -> "ExternalStream":
        """The legacy default stream of the same context."""
        stream = ExternalStream.__new__(ExternalStream)
        stream._context = self._context or self._usable_context()
        stream._cuda = self._cuda
        stream._handle = _cuda.LEGACY
        return stream

    def _with_owner(self, owner: object) -> "ExternalStream":
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

    def _require_same_cuda(self, other: "ExternalStream | Event") -> None:
        """Refuse to mix a simulation with a GPU or another simulation: a handle of one means nothing to the other."""
        if other._cuda is not self._cuda:
            message = f"{self!r} and {other!r} cannot be ordered: they are not of the same GPU or simulation"
            raise NotSupportedError(message)

    def _event_of_work(self, verb: str) -> Event:
        self._usable_context()
        captures.refuse_capturing(self, verb)
        return self.record_event()

    def _failed(self, call: str, code: int, other: object) -> None:
        """Raise the error for *code*, which the driver has returned. The extension in C calls this.

        Args:
            call: the name of the runtime's function that does the same, or of the driver's.
            code: the driver's code, which is not that of success.
            other: the event, or the stream to wait for, if it is one of ours; else None.
        """
        try:
            self._cuda.failed(call, code)
        except CudaError as error:
            if call in ("cudaEventRecord", "cudaStreamWaitEvent"):
                captures.explain(error, self, other)
            raise
