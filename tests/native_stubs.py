"""A CUDA driver that is a stub, written in C (``native_stubs.c``). A test says what each of its functions returns.

The extension calls the stubs directly. The fallback in Python calls them through :class:`Bindings`, in the place of
cuda.bindings. So both can be compared, call by call.
"""

# ruff: noqa: N802, N815  (CUDA's names)

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cuda.bindings import runtime

import interop
from benchmarks import baseline
from interop import _cuda, adapters
from interop._cuda.calls import HOT_CALLS
from interop._native import native
from interop.adapters.base import Adapter

SOURCE = Path(__file__).with_suffix(".c")
KINDS = HOT_CALLS
OWN = 1
"""The context of P, Q and C. The context of each stream is ``handle >> 16``; that of ELSEWHERE is another one."""
P, Q, C, ELSEWHERE = 0x10010, 0x10020, 0x10030, 0x20010
STATED = 0x30000010
"""The stream that :class:`Stating` states. Only this handle is the address of readable memory."""


def compiled(folder: Path) -> str:
    try:
        return str(baseline.compile_library(SOURCE, folder))
    except baseline.CompilerMissingError as error:
        pytest.skip(str(error))


class Call(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("kind", "answer", "gil_held", "mode")),
        *((name, ctypes.c_uint64) for name in ("first", "second", "context")),
        ("flags", ctypes.c_uint),
    )

    @property
    def name(self) -> str:
        return KINDS[self.kind]


class Job(ctypes.Structure):
    """What a thread of ``end_all`` has to do."""

    _fields_ = (
        ("deleter", ctypes.c_void_p),
        ("tensors", ctypes.c_void_p),
        ("count", ctypes.c_long),
        ("missing", ctypes.c_void_p),
    )


class Driver:
    """The stubs: sets what they return, and reads which calls they got."""

    def __init__(self, path: str) -> None:
        self.library = library = ctypes.CDLL(path)
        self._calls = (Call * 1000).in_dll(library, "calls")
        self._answers = ((ctypes.c_int * 4) * len(KINDS)).in_dll(library, "answers")
        held = ctypes.cast(ctypes.pythonapi.PyGILState_Check, ctypes.c_void_p)
        ctypes.c_void_p.in_dll(library, "gil_held").value = held.value
        self.addresses = tuple(ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in HOT_CALLS)
        self.plain: list[str] = []
        """The functions that the fallback called, through :class:`Bindings`."""

    def reset(self, mode: int = 0) -> None:
        """Forget the calls, let every call succeed, and set this thread's capture mode to *mode*."""
        self.library.reset(mode)
        self.plain.clear()

    def number(self, name: str) -> ctypes.c_int:
        return ctypes.c_int.in_dll(self.library, name)

    def count(self, kind: str) -> int:
        """How many calls of *kind* there were; :attr:`calls` has the first thousand of all kinds."""
        return (ctypes.c_int * len(KINDS)).in_dll(self.library, "of_kind")[KINDS.index(kind)]

    def fail(self, kind: str, *codes: int) -> None:
        """Return *codes* from the next calls of *kind*, one each, and the last code from all later calls."""
        self._answers[KINDS.index(kind)][:] = [*codes, *codes[-1:] * (4 - len(codes))]

    def fail_events(self, code: int) -> None:
        """Return *code* from every call with an event, as after a fault of the device."""
        for kind in ("cuEventCreate", "cuEventRecord", "cuStreamWaitEvent", "cuEventDestroy"):
            self.fail(kind, code)

    def fail_for(self, stream: int, kind: str, code: int) -> None:
        """Return *code* from calls of *kind* on *stream*; other streams work."""
        ctypes.c_uint64.in_dll(self.library, "only").value = stream
        self.fail(kind, code)

    def capture(self, stream: int) -> None:
        ctypes.c_uint64.in_dll(self.library, "capturing").value = stream

    def current(self) -> int:
        """The context that is current in this thread. This is no call that :attr:`calls` contains."""
        return self.library.current()

    def bind(self, context: int) -> None:
        """Make a context current in this thread."""
        self.library.cuCtxSetCurrent(ctypes.c_uint64(context))

    @property
    def calls(self) -> list[Call]:
        return self._calls[: self.number("called").value]

    def made(self, *kinds: str) -> list[tuple[int, ...]]:
        return [(call.name, call.first, call.second) for call in self.calls if call.name in kinds]


class Bindings:
    """Stands for both modules of cuda.bindings, with the functions that interop calls in these tests."""

    cudaError_t = runtime.cudaError_t
    cudaStreamCaptureMode = runtime.cudaStreamCaptureMode
    cudaStreamCaptureStatus = runtime.cudaStreamCaptureStatus
    cudaGetErrorString = staticmethod(runtime.cudaGetErrorString)

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def _answer(self, name, *arguments):
        self._driver.plain.append(name)
        passed = [ctypes.c_uint64(argument) if isinstance(argument, int) else argument for argument in arguments]
        return self.cudaError_t(getattr(self._driver.library, name)(*passed))

    def __getattr__(self, name):
        # Interned: the cache of attributes keeps each name that is not, which looks like a leak.
        return lambda *arguments: (self._answer(sys.intern(name.replace("cuda", "cu", 1)), *arguments),)

    def cudaGetDeviceCount(self):
        return self.cudaError_t(0), 2

    def cudaGetDevice(self):
        return self.cudaError_t(0), 0

    def cuDevicePrimaryCtxRetain(self, device):
        return self.cudaError_t(0), OWN + device

    def cuStreamGetCtx(self, stream):
        context = ctypes.c_uint64()
        return self._answer("cuStreamGetCtx", stream, ctypes.byref(context)), context.value

    def cuCtxGetId(self, context):
        number = ctypes.c_uint64()
        return self._answer("cuCtxGetId", context, ctypes.byref(number)), number.value

    def cuCtxGetCurrent(self):
        context = ctypes.c_uint64()
        return self._answer("cuCtxGetCurrent", ctypes.byref(context)), context.value

    def cudaStreamIsCapturing(self, stream):
        status = ctypes.c_int()
        code = self._answer("cuStreamIsCapturing", stream, ctypes.byref(status))
        return code, self.cudaStreamCaptureStatus(status.value)

    def cudaStreamGetId(self, stream):
        return self.cudaError_t(0), stream

    def cudaStreamGetFlags(self, _stream):
        return self.cudaError_t(0), 1

    def cudaStreamGetCaptureInfo(self, stream):
        return self.cudaError_t(0), None, 7 if stream else 0

    def cudaThreadExchangeStreamCaptureMode(self, mode):
        other = ctypes.c_int(int(mode))
        code = self._answer("cuThreadExchangeStreamCaptureMode", ctypes.byref(other))
        return code, self.cudaStreamCaptureMode(other.value)

    def cudaEventCreateWithFlags(self, flags):
        event = ctypes.c_uint64()
        return self._answer("cuEventCreate", ctypes.byref(event), flags), event.value


@contextmanager
def bound(driver: Driver) -> Iterator[_cuda.Cuda]:
    """Let interop use the stubs as the driver of the GPU."""
    bindings = Bindings(driver)
    cuda = _cuda.Cuda(lambda: (bindings, bindings), lambda _address: True)
    before = _cuda.activate(cuda)
    if native is not None:
        native.bind(driver.addresses, cuda, cuda._pools)
        cuda.uses_extension = True
    driver.reset()
    try:
        yield cuda
    finally:
        _cuda.activate(before)


def spare(pool) -> list[int]:
    """The events in a pool, newest first. The pool stays as it is."""
    events = []
    while event := pool.take():
        events.append(event)
    for event in reversed(events):
        pool.give(event)
    return events


class Stating:
    """An object with ``__cuda_stream__`` that no adapter knows."""

    def __cuda_stream__(self):
        return (0, STATED)


class Foreign:
    """An event of another library, which has an adapter."""

    def __init__(self, handle):
        self.handle = handle


class ForeignAdapter(Adapter):
    library = "foreign"

    def event_handle(self, event):
        return event.handle


class World:
    """Streams and events that were used before, so that the fast path can take them, and spare events."""

    def __init__(self, driver: Driver, cuda: _cuda.Cuda) -> None:
        self.p, self.q, self.c, self.elsewhere = map(interop.ExternalStream, (P, Q, C, ELSEWHERE))
        for stream in (self.p, self.q, self.c, self.elsewhere):
            stream.query()
        self.legacy, self.other_legacy = interop.ExternalStream(1, 0), interop.ExternalStream(1, 1)
        self.legacy.query()
        self.other_legacy.query()
        self.pool = cuda.pool(OWN)
        for _ in range(6):
            self.pool.give(cuda.event_create(OWN, _cuda.EVENT_DISABLE_TIMING))
        cuda.pool(OWN + 1).give(cuda.event_create(OWN + 1, _cuda.EVENT_DISABLE_TIMING))
        self.stating = Stating()
        self.stated = interop.as_stream(self.stating)
        self.stated.query()
        self.apart = cuda.pool(self.stated._context_id)
        self.apart.give(cuda.event_create(self.stated._context, _cuda.EVENT_DISABLE_TIMING))
        adapters.by_type[Foreign] = (ForeignAdapter(),)
        self.foreign = Foreign(STATED + 16)
        self.event = self.p.record_event()
        self.fresh = interop.Event()
        self.aside: list[int] = []
        driver.fail("cuEventRecord", 400)
        with pytest.raises(interop.errors.DeviceMismatchError):
            self.p.record_event(self.fresh)  # the event gets a handle, but its record fails
        driver.reset()

    def emptied(self, left: int = 0) -> "World":
        """Take spare events out of the pool until *left* of them are left."""
        while len(spare(self.pool)) > left:
            self.aside.append(self.pool.take())
        return self
