"""The handle of an ``Event``: the CUDA event, which is created where it is first needed."""

from typing import Final

from interop import _cuda
from interop._core import borrowing
from interop._core.identity import StreamIdentity
from interop._cuda import Cuda
from interop._native import EventFields, Pool
from interop._safety import forks
from interop.adapters.base import Adapter
from interop.errors import UnrecordedEventError

_creating: Final = forks.lock()


class EventHandle(EventFields):
    """The CUDA event, and whether it was recorded. A base class of ``Event``."""

    __slots__ = ()

    _adapter: Adapter | None
    _cuda: Cuda

    @property
    def cuda_event(self) -> int:
        """The address of the ``cudaEvent_t``, for code that takes a raw one.

        Example::

            import ctypes

            event = producer.record_event()
            address = ctypes.c_void_p(event.cuda_event)  # for a function of C; event must live on

        Creates the CUDA event if need be, on the event's device or, by default, the current one. interop cannot see
        what is done with the handle: from then on, a wait for this event is no error if the event was never recorded.
        As in CUDA, it waits for nothing then.
        """
        if not self._handle_or_0():
            if self._adapter is not None:
                raise self._unrecorded("read the handle of")
            device = self._device
            self._create(self._cuda.current_context() if device is None else self._cuda.primary_context(device), None)
        self._recorded = self._handle_was_shared = True
        return self._handle

    def __int__(self) -> int:
        """The same as :attr:`cuda_event`, for calls that take the address as an int: ``int(event)``.

        An int keeps nothing alive: the CUDA event is destroyed with this object.
        """
        return self.cuda_event

    @property
    def _as_parameter_(self) -> object:
        """The address as a ``c_void_p``, for functions that are called by ctypes; it keeps nothing alive."""
        import ctypes  # noqa: PLC0415  (a third of the time of `import interop`)

        return ctypes.c_void_p(self.cuda_event)

    @property
    def ptr(self) -> int:
        """The same as :attr:`cuda_event`, under CuPy's name."""
        return self.cuda_event

    @property
    def device(self) -> int | None:
        """The ordinal of the device that the event belongs to.

        None for an event that was neither recorded nor made for a *device* yet, and for an event of another library:
        CUDA does not tell its device.
        """
        device = self._device
        if device is None and self._context:
            device = self._device = self._cuda.device_of(self._context)
        return device

    @property
    def _owned(self) -> bool:
        """Whether the CUDA event exists, and is destroyed with this object."""
        return bool(self._handle) and self._flags is not None

    def _handle_or_0(self) -> int:
        """The handle, or 0 if there is no CUDA event yet. An event of another library is asked again."""
        if not self._handle and self._adapter is not None:
            handle = self._adapter.event_handle(self.owner) or 0
            self._handle = borrowing.checked_event(self._adapter, self.owner, handle)
            self._recorded = bool(self._handle)
        return self._handle

    def _create(self, context: int, pool: Pool | None) -> None:
        if self._flags is None:
            raise self._unrecorded("use")
        # CUDA is not called under the lock: a call can start a garbage collection, whose finalisers create events too.
        # A signal handler can raise anywhere: at each point, one owner is responsible for the CUDA event.
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
            # Another thread has just used this event for the first time, and created it.
            if pool is not None and _cuda.noted(kept, pool.give, made[0]):
                return
            kept = [False]
            self._cuda.event_discard(made[0])
        except BaseException:
            if made and made[0] and not kept:
                self._cuda.event_discard(made[0])
            raise

    def _create_for(self, stream: StreamIdentity) -> None:
        """Create the CUDA event if need be, in the context of *stream*, which is known."""
        if not self._handle_or_0():
            is_plain = self._flags == _cuda.EVENT_DISABLE_TIMING and self._device is None
            pool = self._cuda.pool(stream._context_id) if is_plain else None
            device = self._device
            self._create(stream._context if device is None else self._cuda.primary_context(device), pool)

    def _record_on(self, stream: StreamIdentity, capture: int) -> None:
        """Record on *stream*, whose context is known, and which is part of *capture*. Creates the event if need be."""
        self._create_for(stream)
        self._cuda.event_record(self._handle, stream._handle, stream._needs)
        self._recorded = True
        self._capture = capture

    def _record_in_graph(self, stream: StreamIdentity) -> None:
        """Let the graph that *stream* captures record the event at each launch."""
        handle = self._handle_in_graph(stream)
        self._cuda.event_record(handle, stream._handle, stream._needs, external=True)
        self._recorded = True  # by a launch, which interop does not see

    def _record_on_device(self, context: int) -> None:
        """Record all work so far of a device, whose primary context is *context*. The event must be new."""
        self._create(context, None)
        self._cuda.context_record(context, self._handle)
        self._recorded = True

    def _handle_in_graph(self, stream: StreamIdentity) -> int:
        """The handle, for a graph that *stream* captures. The graph has it from then on, so no other event may get it.

        Creates the event if need be; not from the pool, whose events may have been recorded in captures: of such an
        event, CUDA makes no external node.
        """
        if not self._handle_or_0():
            device = self._device
            self._create(stream._context if device is None else self._cuda.primary_context(device), None)
        self._handle_was_shared = True
        return self._handle

    def _recorded_handle(self, verb: str) -> int:
        """The handle, if the event was recorded, as far as interop knows. *verb* is for the message of the error."""
        if not self._handle_or_0() or not self._recorded:
            raise self._unrecorded(verb)
        return self._handle

    def _unrecorded(self, verb: str) -> UnrecordedEventError:
        return UnrecordedEventError(
            f"cannot {verb} {self!r}: it was never recorded, so it stands for no work, and CUDA would order nothing. "
            "Record it first, on the stream whose work it stands for: producer.record_event(event)"
        )
