"""The seam between interop and CUDA: the only package that imports ``cuda.bindings``.

Everything else talks to a :class:`Cuda` object. There is one for the real GPU, started at the first call that needs
it, and one for each simulation; a stream or event keeps the one it was made under, so that a handle of a simulation
can never reach the driver.

Handles and contexts are plain ints. The parameter called *needs* is the context that a call has to make current, or 0:
the default-stream handles 1 and 2 mean a stream *of the current context*, every other handle knows its own.

The codes that mean "no driver" or "no device" become :class:`~interop.errors.NoDeviceError`; every other failure
becomes :class:`~interop.errors.CudaError`. No result goes unchecked.
"""

import contextlib
import errno
import functools
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, starmap
from typing import Any, Final, NoReturn, TypeVar

from interop._environment import switch
from interop._native import Pool, native
from interop._safety import forks
from interop.errors import CudaError, InteropError, InvalidDeviceError, NoDeviceError

T = TypeVar("T")

LEGACY: Final = 1
"""cudaStreamLegacy: the default stream that waits for, and holds up, all blocking streams of its context."""
PER_THREAD: Final = 2
"""cudaStreamPerThread: another stream in every thread."""

NON_BLOCKING: Final = 1
"""cudaStreamNonBlocking."""
EVENT_BLOCKING_SYNC: Final = 1
"""cudaEventBlockingSync."""
EVENT_DISABLE_TIMING: Final = 2
"""cudaEventDisableTiming."""
EVENT_INTERPROCESS: Final = 4
"""cudaEventInterprocess."""

_PEER_ACCESS_ALREADY_ENABLED: Final = 704
_MEMORY_KINDS: Final = {1: 3, 2: 2, 3: 13}
"""DLPack's device type for cudaMemoryTypeHost, Device and Managed."""
_INITIALIZATION_ERROR: Final = 3

NOT_READY: Final = 600
"""cudaErrorNotReady: not a failure, the answer "still running"."""
CAPTURE_IMPLICIT: Final = 906
"""cudaErrorStreamCaptureImplicit: the legacy stream would become part of a capture."""
CAPTURE_CODES: Final = range(900, 909)
"""cudaErrorStreamCaptureUnsupported to cudaErrorStreamCaptureWrongThread."""

BROKEN: Final = -1
"""In place of the id of a capture: CUDA has invalidated it, and it only waits for its end."""

NO_DEVICE_CODES: Final = frozenset({34, 35, 46, 100, 802, 803, 804})
"""The codes of cudaErrorStubLibrary, InsufficientDriver, DevicesUnavailable, NoDevice, SystemNotReady,
SystemDriverMismatch and CompatNotSupportedOnDevice."""

WAY_OUT: Final = "To work without a GPU, use the simulator: `with interop.sim.simulate() as gpu:`."


def per_thread_by_default() -> bool:
    """Whether cuda.bindings takes the null handle as the per-thread default stream in this process."""
    # Read as cuda.bindings reads it, which fails to import if it is no number.
    return bool(int(os.environ.get("CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM", "0")))


CHECK: Final = bool(switch("INTEROP_CHECK", on="check the stream before every operation", off="leave that out"))
"""Whether every operation first makes sure that the stream it was given is still the one that was borrowed.

Python does that: the extension in C is not used then.
"""

_FIRST_PAGE: Final = 4096

# rt_sigprocmask(2) by architecture: CUDA's two Linux platforms.
_RT_SIGPROCMASK: Final = {"x86_64": 14, "aarch64": 135}


@functools.cache
def _memory_probe() -> Callable[[int], bool]:
    """Make the function that tells whether eight bytes at an address can be read."""
    if sys.platform != "linux" or os.uname().machine not in _RT_SIGPROCMASK:
        return lambda _address: True
    import ctypes  # noqa: PLC0415  (a third of the time of `import interop`)

    number = _RT_SIGPROCMASK[os.uname().machine]
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

    def readable(address: int) -> bool:
        # The kernel copies the eight bytes of the signal set before it looks at `how`, and -1 is no legal `how`: so
        # the call changes nothing and fails with EFAULT if the bytes cannot be read, with EINVAL if they can.
        # Unlike a look at /proc/self/maps it also knows the address space that CUDA reserves without access, where
        # device pointers lie.
        ctypes.set_errno(0)
        syscall(number, -1, address & ~7, None, 8)
        return ctypes.get_errno() != errno.EFAULT

    return readable


def _readable(address: int) -> bool:
    """Whether this process can read the eight bytes at *address*; True where that cannot be found out."""
    # Nothing is ever mapped into the first page; and a NULL set of signals would not be read at all.
    return address >= _FIRST_PAGE and _memory_probe()(address)


_HOT_CALLS: Final = (
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuEventDestroy",
    "cuStreamWaitEvent",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamIsCapturing",
    "cuThreadExchangeStreamCaptureMode",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuEventCreate",
    "cuStreamGetCtx",
    "cuCtxGetId",
)
"""What the extension in C calls itself, in the order that it takes them."""
_CUDA_12: Final = 12000
"""The version of CUDA whose behaviour is asked of them."""


class Cuda:
    """The CUDA calls that interop makes, each with its result checked.

    Args:
        load: returns the runtime and driver modules (``cuda.bindings``' or the simulator's); called once, at the
            first use.
        readable: tells, without CUDA, whether an address can be that of a stream.
        simulation: the simulated GPU behind the modules; None if they are real.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Any, Any]],
        readable: Callable[[int], bool],
        simulation: Any = None,  # noqa: ANN401
    ) -> None:
        self._load = load
        self._runtime: Any = None
        self._driver: Any = None
        self._primary: dict[int, int] = {}
        self._peers: dict[tuple[int, int], bool] = {}
        self._pools: dict[int, Pool] = {}
        self._retired: deque[tuple[int, weakref.ref[Any]]] = deque()
        self.readable = readable
        self.simulation = simulation
        self._modes = threading.local()
        self.uses_extension = False
        self.was_forked = False
        """Whether CUDA was started in a process that this one was forked from."""
        if simulation is None:
            forks.in_child(self, Cuda._after_fork)

    def start(self) -> Any:  # noqa: ANN401  (cuda.bindings has no types)
        """Load the bindings and make sure that there is a device; the runtime module.

        Raises:
            NoDeviceError: there is no driver or no device.
        """
        runtime, driver = self._load()
        code, count = runtime.cudaGetDeviceCount()
        if code or not count:
            raise no_device(code, runtime)
        if native is not None and self is GPU and not CHECK:
            addresses = tuple(_entry_point(call, runtime) for call in _HOT_CALLS)
            if all(addresses):  # an old driver may lack one; Python does without
                native.bind(addresses, self, self._pools)
                self.uses_extension = True
        self._driver = driver
        self._runtime = runtime
        return runtime

    def _after_fork(self) -> None:
        """Let every later call fail at once, in a child of a process that had started CUDA: the driver would hang."""
        if self._runtime is None:
            return
        self.was_forked = True
        self.uses_extension = False
        self._runtime = self._driver = _Forked()
        if native is not None:
            native.watch(True)  # noqa: FBT003  (then it calls the methods in Python, which say so)

    def discard(self, destroy: Callable[[int], None], handle: int) -> None:
        """Destroy what nothing refers to any more, from a finaliser: it has nobody to raise to.

        A process that was forked has no CUDA, and what it inherited belongs to its parent; and after a fault on the
        device, or the end of a context, there is nothing left to be destroyed.
        """
        if not self.was_forked:
            with contextlib.suppress(InteropError):
                destroy(handle)

    # -- how calls are made ----------------------------------------------------------------------------------------

    def runtime(self) -> Any:  # noqa: ANN401  (cuda.bindings has no types)
        """The runtime module, for its enums and constants."""
        return self._runtime or self.start()

    def call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401  (cuda.bindings has no types)
        """Call a function of the runtime; what it gives beside its code."""
        runtime = self._runtime or self.start()
        return _value(getattr(runtime, name)(*arguments), name, runtime)

    def drive(self, name: str, *arguments: object) -> Any:  # noqa: ANN401  (cuda.bindings has no types)
        """Call a function of the driver; what it gives beside its code."""
        runtime = self._runtime or self.start()
        return _value(getattr(self._driver, name)(*arguments), name, runtime)

    def within(self, context: int, function: Callable[..., T], *arguments: object) -> T:
        """Call *function* with *context* current, and make current again what was before, even if that was none.

        That holds wherever a signal handler raises.
        """
        # Not by cudaSetDevice: setting the old device again would create a context on it if it had none. And in one
        # function, without a context manager in Python, whose exit can be interrupted before its first step.
        runtime = self._runtime or self.start()
        bind = self._driver.cuCtxSetCurrent
        before = self.bound_context()
        try:
            result = bind(context)
            if result[0]:
                # Somebody has reset the device: its primary context is another one now.
                self._primary.clear()
                _value(result, "cuCtxSetCurrent", runtime)
            return function(*arguments)
        finally:
            try:
                result = bind(before)
            except BaseException:
                bind(before)  # a simulator's is Python, and can be interrupted too
                raise
            _value(result, "cuCtxSetCurrent", runtime)

    def relaxed(self, function: Callable[..., T], *arguments: object) -> T:
        """Call *function* in this thread's relaxed capture mode, and then set the mode that was before.

        In the modes "global" and "thread local", CUDA forbids every query and synchronise, and much else, related to a
        capture or not, and punishes one by invalidating the capture. Relaxed, it forbids only the related ones.
        """
        runtime = self._runtime or self.start()
        exchange, modes = runtime.cudaThreadExchangeStreamCaptureMode, runtime.cudaStreamCaptureMode
        # What it was the last time, if the call is interrupted where it makes its result and nobody learns of that.
        last = getattr(self._modes, "before", modes.cudaStreamCaptureModeGlobal)
        answers: list[Any] = []
        try:
            _value(
                noted(answers, exchange, modes.cudaStreamCaptureModeRelaxed),
                "cudaThreadExchangeStreamCaptureMode",
                runtime,
            )
            return function(*arguments)
        finally:
            if not answers or not answers[0][0]:
                mode = answers[0][1] if answers else last
                try:
                    result = exchange(mode)
                except BaseException:
                    exchange(mode)
                    raise
                self._modes.before = mode
                _value(result, "cudaThreadExchangeStreamCaptureMode", runtime)

    def failed(self, call: str, code: int) -> None:
        """Raise that the driver has answered *code*, no success, to what *call* stands for. For the extension."""
        runtime = self._runtime
        _value((runtime.cudaError_t(code),), call, runtime)

    # -- contexts and devices ------------------------------------------------------------------------------------

    def device_count(self) -> int:
        """How many devices this process sees."""
        return int(self.call("cudaGetDeviceCount"))

    def current_device(self) -> int:
        """The ordinal of the calling thread's current device. Creates no context."""
        return int(self.call("cudaGetDevice"))

    def current_context(self) -> int:
        """The calling thread's current context, or the primary context of its current device if it has none."""
        return self.bound_context() or self.primary_context(self.current_device())

    def primary_context(self, device: int) -> int:
        """The primary context of *device*: the one that the runtime, and so every library, shares.

        Raises:
            InvalidDeviceError: there is no such device.
        """
        context = self._primary.get(device)
        if context is None:
            count = self.device_count()
            if not 0 <= device < count:
                message = f"there is no device {device}: this process sees {count}, numbered 0 to {count - 1}"
                raise InvalidDeviceError(message)
            context = self._primary[device] = int(self.drive("cuDevicePrimaryCtxRetain", device))
        return context

    def context_id(self, context: int) -> int:
        """A number that no other context of this process has, ever. Addresses are reused."""
        return int(self.drive("cuCtxGetId", context))

    def bound_context(self) -> int:
        """The context that the calling thread is bound to, or 0."""
        return int(self.drive("cuCtxGetCurrent"))

    def bind_context(self, context: int) -> None:
        """Bind the calling thread to *context*, or to none if it is 0. For as long as code of users runs."""
        try:
            self.drive("cuCtxSetCurrent", context)
        except CudaError:
            self._primary.clear()  # as in `within`
            raise

    def device_of(self, context: int) -> int:
        """The ordinal of the device of *context*."""
        return self.within(context, self.current_device)

    # -- streams -------------------------------------------------------------------------------------------------

    def stream_create(self, context: int, *, non_blocking: bool, priority: int) -> int:
        """Create a stream in *context*."""
        for _ in range(len(self._retired)):
            self._destroy_if_over()
        flags = NON_BLOCKING if non_blocking else 0
        return self._create(context, self.stream_destroy, "cudaStreamCreateWithPriority", flags, priority)

    def _create(self, context: int, destroy: Callable[[int], None], name: str, *arguments: object) -> int:
        """Make something in *context*; if a signal handler raises in the middle, *destroy* it again."""
        made: list[Any] = []
        try:
            runtime = self._runtime or self.start()
            return int(_value(self.within(context, noted, made, getattr(runtime, name), *arguments), name, runtime))
        except BaseException:
            for code, handle in made:
                if not code:
                    self.discard(destroy, int(handle))
            raise

    def stream_destroy(self, handle: int) -> None:
        """Destroy a stream; CUDA lets its pending work finish."""
        self.call("cudaStreamDestroy", handle)

    def stream_retire(self, handle: int, owner: weakref.ref[Any]) -> None:
        """Destroy a stream when a later one is created, if *owner*, which is about to go, is gone, and the work done.

        Not at once: other finalisers of the same cycle may still use the stream, and even keep it. And not while there
        is work, though CUDA lets that finish: the address could be given to the next stream, and memory pools, which
        know streams by address, would hand it memory that the pending work of this one still uses.
        """
        self._retired.append((handle, owner))

    def _destroy_if_over(self) -> None:
        """Destroy the stream that was retired first, or put it last."""
        taken: list[tuple[int, weakref.ref[Any]]] = []
        try:
            handle, owner = noted(taken, self._retired.popleft)
            kept = owner()
            is_over = kept is None and not self.stream_capture(handle) and self.stream_query(handle)
            # From here on an interrupt may lose the stream, and never gives it two owners: cuda.bindings can be
            # interrupted after CUDA has destroyed a stream, and to destroy it twice would crash.
            one = taken.pop()
            if kept is not None:
                kept.keep()  # its own finaliser will not run again
            elif is_over:
                self.stream_destroy(handle)
            else:
                self._retired.append(one)
        except (InteropError, IndexError):  # there is nothing left to be destroyed; or another thread was faster
            pass
        except BaseException:
            self._retired.extend(taken)
            raise

    def stream_context(self, handle: int) -> int:
        """The context of a stream with a handle of its own. Legal while the stream captures."""
        return int(self.drive("cuStreamGetCtx", handle))

    def stream_id(self, handle: int, needs: int = 0) -> int:
        """The stream's id, unique for the process's life. Breaks a capture on the stream: ask first."""
        if needs:
            return self.within(needs, self.stream_id, handle)
        return int(self.call("cudaStreamGetId", handle))

    def stream_blocks(self, handle: int) -> bool:
        """Whether the stream, no default one, waits for the legacy one, and holds it up. Breaks a capture on it."""
        return not self.call("cudaStreamGetFlags", handle) & NON_BLOCKING

    def stream_priority(self, handle: int, needs: int = 0) -> int:
        """The stream's priority: the lower the number, the earlier it runs. Legal while the stream captures."""
        if needs:
            return self.within(needs, self.stream_priority, handle)
        return int(self.call("cudaStreamGetPriority", handle))

    def stream_capture(self, handle: int, needs: int = 0) -> int:
        """The id of the capture that the stream is part of, :data:`BROKEN` if it was invalidated, or 0.

        Raises:
            CudaError: with :data:`CAPTURE_IMPLICIT` for the legacy stream while a blocking stream of its context
                captures. That capture stays whole.
        """
        if needs:
            return self.within(needs, self.stream_capture, handle)
        runtime = self._runtime or self.start()
        status = _value(runtime.cudaStreamIsCapturing(handle), "cudaStreamIsCapturing", runtime)
        if not status:
            return 0
        if status == runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusInvalidated:
            return BROKEN
        result = runtime.cudaStreamGetCaptureInfo(handle)
        _value(result, "cudaStreamGetCaptureInfo", runtime)
        return int(result[2])

    def stream_query(self, handle: int, needs: int = 0) -> bool:
        """Whether the stream's work is done. Breaks a capture on the stream: ask first."""
        if needs:
            return self.within(needs, self.stream_query, handle)
        return self._ask("cudaStreamQuery", handle)

    def stream_synchronize(self, handle: int, needs: int = 0) -> None:
        """Block the host until the stream's work is done. Breaks a capture on the stream: ask first."""
        if needs:
            return self.within(needs, self.stream_synchronize, handle)
        self._ask("cudaStreamSynchronize", handle)
        return None

    def stream_wait_event(self, handle: int, event: int, needs: int = 0) -> None:
        """Make the stream's future work wait for *event*; returns at once."""
        if needs:
            return self.within(needs, self.stream_wait_event, handle, event)
        runtime = self._runtime or self.start()
        _value(runtime.cudaStreamWaitEvent(handle, event, 0), "cudaStreamWaitEvent", runtime)
        return None

    def order(
        self, consumer: int, consumer_needs: int, producer: int, needs: int, context: int, context_id: int
    ) -> None:
        """Make the consumer's future work wait for the producer's work so far; returns at once.

        Args:
            consumer: the handle of the stream that shall wait.
            consumer_needs: its *needs*.
            producer: the handle of the stream to wait for.
            needs: its *needs*.
            context: the producer's context, where the event must live.
            context_id: the context's id.
        """
        # Taken from a pool and given back, so that nobody else records it meanwhile: another thread, or a signal
        # handler or finaliser that runs between the record and the wait.
        pool = self.pool(context_id)
        events: list[int] = []
        given: list[bool] = []
        try:
            event = noted(events, pool.take)
            if not event:
                event = events[0] = self.event_create(context, EVENT_DISABLE_TIMING)
            self.event_record(event, producer, needs)
            self.stream_wait_event(consumer, event, consumer_needs)
            if not noted(given, pool.give, event):
                self.event_discard(event)
        except BaseException:
            if events and events[0] and not given:
                self.event_discard(events[0])  # it may stand for anything, or be no good at all
            raise

    def pool(self, context_id: int) -> Pool:
        """The spare events of a context."""
        # By the id, and not the address: the events of a context that is gone are gone too, and their handles wild.
        pool = self._pools.get(context_id)
        if pool is None:
            pool = self._pools.setdefault(context_id, Pool())
        return pool

    # -- events --------------------------------------------------------------------------------------------------

    def event_create(self, context: int, flags: int) -> int:
        """Create an event in *context*: it can be recorded only on streams of that context."""
        return self._create(context, self.event_destroy, "cudaEventCreateWithFlags", flags)

    def event_discard(self, event: int, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Destroy an event that nothing refers to any more, once the device has passed it; raises nothing."""
        # At interpreter exit the driver may be gone already, and frees everything itself.
        if not _finalizing():
            self.discard(self.event_destroy, event)

    def event_batch(self, context: int, flags: int, count: int, events: list[int]) -> None:
        """Create *count* events in *context*, and append each to *events*."""
        wanted = len(events) + count
        if native is not None and self.uses_extension:
            made = starmap(native.create_events, ((count, flags),))
            self.within(context, events.extend, chain.from_iterable(made))  # made and appended in one step of C
        while len(events) < wanted:
            events.append(self.event_create(context, flags))

    def event_destroy(self, event: int) -> None:
        """Destroy an event; waits already placed on it stay."""
        self.call("cudaEventDestroy", event)

    def event_record(self, event: int, handle: int, needs: int = 0) -> None:
        """Record the stream's work so far in *event*; returns at once."""
        if needs:
            return self.within(needs, self.event_record, event, handle)
        runtime = self._runtime or self.start()
        _value(runtime.cudaEventRecord(event, handle), "cudaEventRecord", runtime)
        return None

    def event_query(self, event: int) -> bool:
        """Whether the work that the event recorded is done."""
        return self._ask("cudaEventQuery", event)

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

    # -- memory --------------------------------------------------------------------------------------------------

    def pointer_place(self, address: int) -> tuple[int, int]:
        """The kind of memory, as DLPack counts (2 a device's, 3 pinned, 13 managed, 0 no GPU's), and its device."""
        attributes = self.call("cudaPointerGetAttributes", address)
        return _MEMORY_KINDS.get(int(attributes.type), 0), int(attributes.device)

    def peer_access(self, device: int, other: int, address: int) -> bool:
        """Let *device* use memory of *other*, for the rest of the process; False if it cannot.

        That is all memory of *other*'s primary context; or, if *address* lies in a stream-ordered pool
        (cudaMallocAsync), which has an access list of its own, the memory of that pool.
        """
        if (device, other) not in self._peers:
            able = bool(self.call("cudaDeviceCanAccessPeer", device, other))
            if able:
                runtime = self._runtime
                result = self.within(self.primary_context(device), runtime.cudaDeviceEnablePeerAccess, other, 0)
                if result[0] != _PEER_ACCESS_ALREADY_ENABLED:
                    _value(result, "cudaDeviceEnablePeerAccess", runtime)
            self._peers[device, other] = able
        return self._peers[device, other] and self._pool_access(device, address)

    def _pool_access(self, device: int, address: int) -> bool:
        driver = self._driver
        attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE
        pool = self.drive("cuPointerGetAttribute", attribute, address)
        if not int(pool):
            return True
        place = driver.CUmemLocation()
        place.type, place.id = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE, device
        access = driver.CUmemAccess_flags
        if self.drive("cuMemPoolGetAccess", pool, place):
            return True
        wanted = driver.CUmemAccessDesc()
        wanted.location, wanted.flags = place, access.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        with contextlib.suppress(CudaError):  # a pool of another process has the access that it came with
            self.drive("cuMemPoolSetAccess", pool, [wanted], 1)
            return True
        return False

    # -- for interop.doctor: nothing here creates a context ------------------------------------------------------

    def versions(self) -> tuple[int, int]:
        """The versions of CUDA that the driver and the runtime are for, as 1000 * major + 10 * minor; 0: no driver."""
        runtime, _ = self._load()
        driver_version = _value(runtime.cudaDriverGetVersion(), "cudaDriverGetVersion", runtime)
        return int(driver_version), int(_value(runtime.cudaRuntimeGetVersion(), "cudaRuntimeGetVersion", runtime))

    def has_context(self, device: int) -> bool:
        """Whether the primary context of *device* is there already."""
        runtime = self._runtime or self.start()
        result = self._driver.cuDevicePrimaryCtxGetState(device)
        _value(result, "cuDevicePrimaryCtxGetState", runtime)
        return bool(result[2])

    def device_facts(self, device: int) -> tuple[str, int, tuple[int, int]]:
        """The name of *device*, its memory in bytes, and its compute capability."""
        # By the driver: nobody promises that cudaGetDeviceProperties creates no context.
        name = self.drive("cuDeviceGetName", 256, device)
        memory = self.drive("cuDeviceTotalMem", device)
        attribute = self._driver.CUdevice_attribute
        major, minor = (
            int(self.drive("cuDeviceGetAttribute", which, device))
            for which in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        return name.split(b"\0")[0].decode(), int(memory), (major, minor)

    # -- inside --------------------------------------------------------------------------------------------------

    def _ask(self, call: str, handle: int) -> bool:
        """Query or synchronise a stream or event, without breaking the capture of some *other* stream.

        Returns:
            False for "still running".
        """
        runtime = self._runtime or self.start()
        result = self.relaxed(getattr(runtime, call), handle)
        if result[0] == NOT_READY:
            return False
        _value(result, call, runtime)
        return True


def noted(results: list[T], function: Callable[..., T], *arguments: object) -> T:
    """Call *function*, and append what it returns to *results*, in one step of C if *function* is one of C's.

    A signal handler that raises then comes before both or after both, and *results* says which.
    """
    results.extend(starmap(function, (arguments,)))
    return results[-1]


class _Forked:
    """What stands for cuda.bindings in a process that was forked from one that had started CUDA."""

    def __getattr__(self, call: str) -> NoReturn:
        text = "CUDA was started before this process was forked, and does not work in it: start workers with 'spawn'"
        raise CudaError(_INITIALIZATION_ERROR, "cudaErrorInitializationError", call, text)


def _entry_point(call: str, runtime: Any) -> int:  # noqa: ANN401  (cuda.bindings has no types)
    """The address of a function of the driver; 0 if it has none, or does not tell."""
    code, address, *_ = runtime.cudaGetDriverEntryPointByVersion(call.encode(), _CUDA_12, 0)
    return 0 if code else int(address or 0)


IPC_HANDLE_BYTES: Final = 64
"""CUDA_IPC_HANDLE_SIZE."""


def _value(result: Sequence[Any], call: str, runtime: Any) -> Any:  # noqa: ANN401  (cuda.bindings has no types)
    """The value beside a status code; the one check that every CUDA call goes through."""
    code = result[0]
    if not code:
        return result[1] if len(result) > 1 else None
    if code in NO_DEVICE_CODES:
        raise no_device(code, runtime)
    text = error_text(code, runtime)
    raise CudaError(int(code), code.name, call, text)


def error_text(code: Any, runtime: Any) -> str:  # noqa: ANN401  (cuda.bindings has no types)
    """CUDA's own words for a status code; the driver's numbers mean the same as the runtime's."""
    try:
        return str(runtime.cudaGetErrorString(runtime.cudaError_t(int(code)))[1].decode())
    except ValueError:
        return ""


def no_device(code: Any, runtime: Any) -> NoDeviceError:  # noqa: ANN401  (cuda.bindings has no types)
    """The error for a machine, or a process, without a usable GPU."""
    # CUDA's own words for a driver that is not there are that it is too old; and its version is 0 then.
    is_there = any(runtime.cudaDriverGetVersion())
    text = error_text(code, runtime) if is_there else "there is no NVIDIA driver here"
    cause = f"{code.name} ({int(code)}): {text}" if code else "the driver lists no device"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "" if visible is None else f" CUDA_VISIBLE_DEVICES is set to {visible!r}."
    return NoDeviceError(f"no CUDA device can be used here: {cause}.{hint} {WAY_OUT}")


def _load_bindings() -> tuple[Any, Any]:
    from cuda.bindings import driver, runtime

    return runtime, driver


GPU: Final = Cuda(_load_bindings, _readable if native is None else native.readable)
"""The real thing."""

_active = GPU
if native is not None:
    native.activate(GPU)


def active() -> Cuda:
    """What new streams and events are made under: the GPU, or the simulation that is running."""
    return _active


def activate(cuda: Cuda) -> Cuda:
    """Make *cuda* the active one; the one that was."""
    global _active
    previous, _active = _active, cuda
    if native is not None:
        native.activate(cuda)
    return previous
