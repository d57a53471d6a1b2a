"""The CUDA operations that interop needs: contexts, streams and events, as methods over checked calls.

Handles and contexts are plain ints. A parameter called *needs* is the context that must be current for a call, or 0:
the default-stream handles 1 and 2 mean a stream *of the current context*, and every other handle knows its own context.
"""

import sys
import weakref
from collections.abc import Callable
from typing import Any

from interop._cuda.calls import Calls, noted
from interop._cuda.codes import BROKEN, EVENT_EXTERNAL, IPC_HANDLE_BYTES, NON_BLOCKING, checked
from interop._native import Pool
from interop.errors import CudaError, InteropError, InvalidDeviceError


class Cuda(Calls):
    """A GPU, real or simulated: the calls of its driver, and the operations made of them."""

    # -- contexts and devices ------------------------------------------------------------------------------------

    def device_count(self) -> int:
        """How many devices this process sees."""
        return int(self.call("cudaGetDeviceCount"))

    def current_device(self) -> int:
        """The ordinal of the calling thread's current device. Creates no context."""
        return int(self.call("cudaGetDevice"))

    def current_context(self) -> int:
        """The calling thread's current context; if it has none, the primary context of its current device."""
        return self.bound_context() or self.primary_context(self.current_device())

    def primary_context(self, device: int) -> int:
        """The primary context of *device*: the one that the runtime, and so every library, shares.

        Raises:
            InvalidDeviceError: there is no such device.
        """
        context = self.primary.get(device)
        if context is None:
            count = self.device_count()
            if not 0 <= device < count:
                message = f"there is no device {device}: this process sees {count}, numbered 0 to {count - 1}"
                raise InvalidDeviceError(message)
            context = self.primary[device] = int(self.drive("cuDevicePrimaryCtxRetain", device))
        return context

    def context_id(self, context: int) -> int:
        """A number that no other context of this process ever has. CUDA reuses the addresses of contexts."""
        return int(self.drive("cuCtxGetId", context))

    def bound_context(self) -> int:
        """The calling thread's current context, or 0."""
        return int(self.drive("cuCtxGetCurrent"))

    def bind_context(self, context: int) -> None:
        """Make *context* current in the calling thread; 0 for none. For as long as code of users runs."""
        try:
            self.drive("cuCtxSetCurrent", context)
        except CudaError:
            self.primary.clear()  # as in `within`
            raise

    def device_of(self, context: int) -> int:
        """The ordinal of the device of *context*."""
        return self.within(context, self.current_device)

    # -- streams -------------------------------------------------------------------------------------------------

    def stream_create(self, context: int, *, non_blocking: bool, priority: int) -> int:
        """Create a stream in *context*."""
        for _ in range(len(self._retired)):
            self._destroy_if_done()
        flags = NON_BLOCKING if non_blocking else 0
        return self._create(context, self.stream_destroy, "cudaStreamCreateWithPriority", flags, priority)

    def stream_destroy(self, handle: int) -> None:
        """Destroy a stream; CUDA lets its pending work finish."""
        self.call("cudaStreamDestroy", handle)

    def stream_retire(self, handle: int, owner: weakref.ref[Any]) -> None:
        """Put a stream down, to be destroyed when a later one is created, if *owner* is gone and the work is done.

        The stream is not destroyed at once, because *owner* is only being finalised: other finalisers of the same cycle
        may still use the stream, and even keep *owner*. It is not destroyed while it has work, though CUDA would let
        that finish: its address could be given to the next stream. Memory pools know streams by address, and would
        hand that next stream memory which the pending work still uses.
        """
        self._retired.append((handle, owner))

    def _destroy_if_done(self) -> None:
        """Destroy the stream that was retired first, or put it last."""
        taken: list[tuple[int, weakref.ref[Any]]] = []
        try:
            handle, owner = noted(taken, self._retired.popleft)
            kept = owner()
            is_done = kept is None and not self.stream_capture(handle) and self.stream_is_done(handle)
            # From here on, a signal handler that raises may leak the stream, but never leaves it with two owners:
            # cuda.bindings can be interrupted after CUDA has destroyed a stream, and to destroy it twice would crash.
            one = taken.pop()
            if kept is not None:
                kept.keep()  # the finaliser will not run again
            elif is_done:
                self.stream_destroy(handle)
            else:
                self._retired.append(one)
        except (InteropError, IndexError):  # CUDA has destroyed it already; or another thread has taken the last one
            pass
        except BaseException:
            self._retired.extend(taken)
            raise

    def stream_id(self, handle: int, needs: int = 0) -> int:
        """The stream's id, which no other stream of this process ever has. Breaks a capture on the stream."""
        return int(self.within(needs, self.call, "cudaStreamGetId", handle))

    def stream_blocks(self, handle: int) -> bool:
        """Whether the stream, not a default one, waits for the legacy one, and that for it. Breaks a capture on it."""
        return not self.call("cudaStreamGetFlags", handle) & NON_BLOCKING

    def stream_priority(self, handle: int, needs: int = 0) -> int:
        """The stream's priority: work with a lower number runs earlier. Legal while the stream captures."""
        return int(self.within(needs, self.call, "cudaStreamGetPriority", handle))

    def stream_capture(self, handle: int, needs: int = 0) -> int:
        """The id of the capture that the stream is part of; :data:`BROKEN` if CUDA has invalidated it; 0 for none.

        Raises:
            CudaError: with :data:`CAPTURE_IMPLICIT`, if the stream is the legacy one and a blocking stream of its
                context captures. The capture stays valid.
        """
        if needs:
            return self.within(needs, self.stream_capture, handle)
        runtime = self._runtime or self.start()
        status = checked(runtime.cudaStreamIsCapturing(handle), "cudaStreamIsCapturing", runtime)
        if not status:
            return 0
        if status == runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusInvalidated:
            return BROKEN
        result = runtime.cudaStreamGetCaptureInfo(handle)
        checked(result, "cudaStreamGetCaptureInfo", runtime)
        return int(result[2])

    def stream_query(self, handle: int, needs: int = 0) -> bool:
        """Whether the stream's work is done. Breaks a capture on the stream."""
        return self.within(needs, self._ask, "cudaStreamQuery", handle)

    def stream_is_done(self, handle: int) -> bool:
        """As :meth:`stream_query`, for interop's own purposes: a simulated host thread does not learn the answer."""
        return self.stream_query(handle) if self.simulation is None else self.simulation.is_done(handle)

    def stream_synchronize(self, handle: int, needs: int = 0) -> None:
        """Block the host until the stream's work is done. Breaks a capture on the stream."""
        self.within(needs, self._ask, "cudaStreamSynchronize", handle)

    def stream_wait_event(self, handle: int, event: int, needs: int = 0, *, external: bool = False) -> None:
        """Make the stream's future work wait for *event*; returns at once. *external* is legal in a capture only."""
        self.within(needs, self.call, "cudaStreamWaitEvent", handle, event, EVENT_EXTERNAL if external else 0)

    def pool(self, context_id: int) -> Pool:
        """The spare events of a context."""
        # By the id, not by the address, which is reused: when a context ends, its events end, and their handles are
        # no longer valid.
        pool = self._pools.get(context_id)
        if pool is None:
            pool = self._pools.setdefault(context_id, Pool())
        return pool

    # -- events --------------------------------------------------------------------------------------------------

    def event_create(self, context: int, flags: int) -> int:
        """Create an event in *context*: it can be recorded only on streams of that context."""
        return self._create(context, self.event_destroy, "cudaEventCreateWithFlags", flags)

    def event_batch(self, context: int, flags: int, count: int, events: list[int]) -> None:
        """Create *count* events in *context*, and append each to *events*."""
        create = (int(self.call("cudaEventCreateWithFlags", flags)) for _ in range(count))
        self.within(context, events.extend, create)

    def event_destroy(self, event: int) -> None:
        """Destroy an event; streams that wait for it still do."""
        self.call("cudaEventDestroy", event)

    def event_discard(self, event: int, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Destroy an event without references; CUDA frees it once the device has passed it.

        Raises no CUDA error.
        """
        # At the exit of the interpreter the driver may be gone already; it frees everything itself.
        if not _finalizing():
            self.discard(self.event_destroy, event)

    def event_record(self, event: int, handle: int, needs: int = 0, *, external: bool = False) -> None:
        """Record the stream's work so far in *event*; returns at once. *external* is legal in a capture only."""
        if external:
            self.within(needs, self.call, "cudaEventRecordWithFlags", event, handle, EVENT_EXTERNAL)
        else:
            self.within(needs, self.call, "cudaEventRecord", event, handle)

    def context_record(self, context: int, event: int) -> None:
        """Record the work so far of all streams of *context*, which is the event's; returns at once.

        While one of them captures, CUDA refuses it and breaks the capture.
        """
        self.drive("cuCtxRecordEvent", context, event)

    def event_query(self, event: int) -> bool:
        """Whether the work that the event recorded is done."""
        return self._ask("cudaEventQuery", event)

    def event_is_done(self, event: int) -> bool:
        """As :meth:`event_query`, for interop's own purposes: a simulated host thread does not learn the answer."""
        return self.event_query(event) if self.simulation is None else self.simulation.is_done(event)

    def event_synchronize(self, event: int) -> None:
        """Block the host until the work that the event recorded is done."""
        self._ask("cudaEventSynchronize", event)

    def event_elapsed(self, start: int, end: int) -> float:
        """Milliseconds between two events."""
        return float(self.call("cudaEventElapsedTime", start, end))

    def event_export(self, event: int) -> bytes:
        """The event's handle for other processes."""
        handle = self.call("cudaIpcGetEventHandle", event)
        import ctypes  # noqa: PLC0415  (a third of the time of `import interop`)

        return ctypes.string_at(handle.getPtr(), IPC_HANDLE_BYTES)

    def event_import(self, context: int, handle: bytes) -> int:
        """Open another process's event in *context*."""
        import ctypes  # noqa: PLC0415  (a third of the time of `import interop`)

        raw = (self._runtime or self.start()).cudaIpcEventHandle_t()
        ctypes.memmove(raw.getPtr(), handle, IPC_HANDLE_BYTES)
        return self._create(context, self.event_destroy, "cudaIpcOpenEventHandle", raw)
