"""The fake modules: the calls of ``cuda.bindings.runtime`` and ``.driver`` that interop makes, on a simulated CUDA.

They take the same arguments, ints or objects with ``__int__``, and return the same tuples with cuda.bindings' own
enums. Two things differ. A handle that means nothing gets ``cudaErrorInvalidResourceHandle``, where CUDA crashes. And
a stream's or event's handle comes back as a plain int.
"""

# ruff: noqa: N802  (CUDA's names)

import ctypes
import functools
from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, SupportsInt

from interop._cuda.codes import IPC_HANDLE_BYTES
from interop._order.clocks import StreamKind
from interop.errors import NotSupportedError
from interop.sim.codes import (
    INVALID_CONTEXT,
    INVALID_DEVICE,
    INVALID_HANDLE,
    INVALID_VALUE,
    NOT_READY,
    Refused,
)
from interop.sim.machine import GREATEST_PRIORITY, Machine
from interop.sim.state import Capture, Event, Mode, Status, Stream

_EVENT_FLAGS: Final = range(8)
_INTERPROCESS_WITH_TIMING: Final = {4, 5}

P = ParamSpec("P")


class Graph:
    """What ``cudaStreamEndCapture`` returns. It cannot be launched: captured work is not executed here."""

    def __init__(self, capture: Capture) -> None:
        self.nodes = capture.nodes

    def __repr__(self) -> str:
        return f"<SIMULATED graph of {self.nodes} nodes, which cannot be launched in the simulator>"


class _Module:
    """What both modules have: the machine, and the enum of their status codes."""

    _status: str

    def __init__(self, machine: Machine, bindings: Any) -> None:  # noqa: ANN401  (cuda.bindings has no types)
        self.machine = machine
        self._bindings = bindings
        self.code: Callable[[int], object] = getattr(bindings, self._status)

    def __repr__(self) -> str:
        return f"<SIMULATED {self._bindings.__name__}>"

    def __getattr__(self, name: str) -> object:
        message = f"the simulator does not answer {name}: it has streams, events and captures, and no more of CUDA"
        raise AttributeError(message)


def _answers(
    *names: str,
) -> Callable[[Callable[Concatenate[Any, P], Any]], Callable[Concatenate[Any, P], tuple[Any, ...]]]:
    """Make a method return cuda.bindings' tuple: the status code, and the values called *names*."""

    def decorate(method: Callable[Concatenate[Any, P], Any]) -> Callable[Concatenate[Any, P], tuple[Any, ...]]:
        def ask(module: _Module, /, *args: P.args, **kwargs: P.kwargs) -> tuple[Any, ...]:
            # A finaliser may run after the simulation has ended: to destroy its streams and events then succeeds.
            if module.machine.ended and method.__name__ in {"cudaStreamDestroy", "cudaEventDestroy"}:
                return (module.code(0),)
            module.machine.check()
            try:
                result = method(module, *args, **kwargs)
            except Refused as answer:
                return (module.code(answer.code), *(None for _ in names))
            values = result if len(names) > 1 else (result,)[: len(names)]
            return (module.code(0), *values)

        @functools.wraps(method)
        def call(module: _Module, /, *args: P.args, **kwargs: P.kwargs) -> tuple[Any, ...]:
            return module.machine.alone(ask, module, *args, **kwargs)

        return call

    return decorate


class Runtime(_Module):
    """A simulated ``cuda.bindings.runtime``."""

    _status = "cudaError_t"

    def __init__(self, machine: Machine, bindings: Any) -> None:  # noqa: ANN401  (cuda.bindings has no types)
        super().__init__(machine, bindings)
        self.cudaError_t = bindings.cudaError_t
        self.cudaStreamCaptureMode = bindings.cudaStreamCaptureMode
        self.cudaStreamCaptureStatus = bindings.cudaStreamCaptureStatus
        self.cudaIpcEventHandle_t = bindings.cudaIpcEventHandle_t

    def cudaGetErrorString(self, error: object) -> object:
        """CUDA's own words; this needs no GPU."""
        return self._bindings.cudaGetErrorString(error)

    # -- devices -------------------------------------------------------------------------------------------------

    @_answers("count")
    def cudaGetDeviceCount(self) -> int:
        return self.machine.devices

    @_answers("device")
    def cudaGetDevice(self) -> int:
        """As CUDA: no context becomes current."""
        return self.machine.device()

    @_answers()
    def cudaSetDevice(self, device: SupportsInt) -> None:
        self.machine.set_device(int(device))

    @_answers("leastPriority", "greatestPriority")
    def cudaDeviceGetStreamPriorityRange(self) -> tuple[int, int]:
        """As CUDA on an H200."""
        return 0, GREATEST_PRIORITY

    @_answers()
    def cudaDeviceSynchronize(self) -> None:
        """As CUDA, and :class:`~interop.errors.DeadlockError` behind a closed gate."""
        machine = self.machine
        context = machine.context()
        machine.captures.refuse_context(context)
        machine.captures.refuse_unsafe(machine.thread())
        machine.reach(machine.clocks.of_context(context), f"device {machine.device()}")

    # -- streams -------------------------------------------------------------------------------------------------

    @_answers("stream")
    def cudaStreamCreateWithFlags(self, flags: SupportsInt) -> int:
        return self._create_stream(flags, 0)

    @_answers("stream")
    def cudaStreamCreateWithPriority(self, flags: SupportsInt, priority: SupportsInt) -> int:
        """As CUDA: a priority out of range is clamped."""
        return self._create_stream(flags, priority)

    def _create_stream(self, flags: SupportsInt, priority: SupportsInt) -> int:
        if int(flags) not in (0, 1):
            raise Refused(INVALID_VALUE)
        kind = StreamKind.NON_BLOCKING if int(flags) else StreamKind.BLOCKING
        return self.machine.create_stream(self.machine.context(), kind, int(priority))

    @_answers()
    def cudaStreamDestroy(self, stream: SupportsInt) -> None:
        """As CUDA. Succeeds when the simulation has ended, too."""
        self.machine.destroy_stream(int(stream))

    @_answers("device")
    def cudaStreamGetDevice(self, stream: SupportsInt) -> int:
        """As CUDA: illegal while the stream captures."""
        found = self.machine.stream(int(stream))
        self.machine.captures.refuse_stream(found)
        return self.machine.contexts.index(found.context)

    @_answers("streamId")
    def cudaStreamGetId(self, stream: SupportsInt) -> int:
        """As CUDA: illegal while the stream captures."""
        return self._uncaptured(stream).number

    @_answers("flags")
    def cudaStreamGetFlags(self, stream: SupportsInt) -> int:
        """As CUDA: illegal while the stream captures."""
        return int(self._uncaptured(stream).kind is StreamKind.NON_BLOCKING)

    @_answers("priority")
    def cudaStreamGetPriority(self, stream: SupportsInt) -> int:
        """As CUDA: legal while the stream captures."""
        self.machine.context()
        return self.machine.stream(int(stream)).priority

    @_answers()
    def cudaStreamQuery(self, stream: SupportsInt) -> None:
        """As CUDA; the scheduler decides what has run by now."""
        found = self._stream_to_ask(stream)
        if not self.machine.query(self.machine.clocks.of_stream(found), found.name):
            raise Refused(NOT_READY)

    @_answers()
    def cudaStreamSynchronize(self, stream: SupportsInt) -> None:
        """As CUDA, and :class:`~interop.errors.DeadlockError` behind a closed gate."""
        found = self._stream_to_ask(stream)
        self.machine.reach(self.machine.clocks.of_stream(found), found.name)

    @_answers()
    def cudaStreamWaitEvent(self, stream: SupportsInt, event: SupportsInt, flags: SupportsInt) -> None:
        """As CUDA; 1 is cudaEventWaitExternal."""
        self.machine.context()
        if int(flags) not in (0, 1):
            raise Refused(INVALID_VALUE)
        found, other = self.machine.stream(int(stream)), self.machine.event(int(event))
        if int(flags):
            self.machine.captures.add_event_node(found, other)
        else:
            self.machine.wait(found, other)

    def _uncaptured(self, stream: SupportsInt) -> Stream:
        """The stream, which must not be capturing."""
        self.machine.context()
        found = self.machine.stream(int(stream))
        self.machine.captures.refuse_stream(found)
        return found

    def _stream_to_ask(self, stream: SupportsInt) -> Stream:
        """The stream, whose work may be asked about, or waited for."""
        found = self._uncaptured(stream)
        self.machine.captures.refuse_unsafe(self.machine.thread())
        return found

    # -- captures ------------------------------------------------------------------------------------------------

    @_answers()
    def cudaStreamBeginCapture(self, stream: SupportsInt, mode: SupportsInt) -> None:
        """As CUDA. Captured work is not executed."""
        self.machine.context()
        self.machine.captures.begin(self.machine.stream(int(stream)), Mode(int(mode)), self.machine.thread())

    @_answers("pGraph")
    def cudaStreamEndCapture(self, stream: SupportsInt) -> Graph:
        """As CUDA, but the graph is a :class:`Graph`, which cannot be launched."""
        self.machine.context()
        return Graph(self.machine.captures.end(self.machine.stream(int(stream)), self.machine.thread()))

    @_answers()
    def cudaGraphDestroy(self, graph: Graph) -> None:
        """As CUDA: there is nothing to free."""
        del graph
        self.machine.context()

    @_answers("pCaptureStatus")
    def cudaStreamIsCapturing(self, stream: SupportsInt) -> object:
        """As CUDA: breaks nothing."""
        self.machine.context()
        capture = self.machine.captures.of(self.machine.stream(int(stream)))
        return self.cudaStreamCaptureStatus(int(capture.status) if capture else 0)

    @_answers("captureStatus", "id", "graph", "dependencies", "edgeData", "numDependencies")
    def cudaStreamGetCaptureInfo(self, stream: SupportsInt) -> tuple[object, ...]:
        """As CUDA, but the graph and its nodes are left out: status and id."""
        self.machine.context()
        capture = self.machine.captures.of(self.machine.stream(int(stream)))
        status = self.cudaStreamCaptureStatus(int(capture.status) if capture else 0)
        active = capture is not None and capture.status is Status.ACTIVE
        return status, capture.number if capture and active else 0, None, [], [], 0

    @_answers("mode")
    def cudaThreadExchangeStreamCaptureMode(self, mode: SupportsInt) -> object:
        self.machine.context()
        thread = self.machine.thread()
        previous, thread.mode = thread.mode, Mode(int(mode))
        return self.cudaStreamCaptureMode(int(previous))

    # -- events --------------------------------------------------------------------------------------------------

    @_answers("event")
    def cudaEventCreateWithFlags(self, flags: SupportsInt) -> int:
        if int(flags) not in _EVENT_FLAGS or int(flags) in _INTERPROCESS_WITH_TIMING:
            raise Refused(INVALID_VALUE)
        return self.machine.create_event()

    @_answers()
    def cudaEventDestroy(self, event: SupportsInt) -> None:
        """As CUDA. Succeeds when the simulation has ended, too."""
        self.machine.destroy_event(int(event))

    @_answers()
    def cudaEventRecord(self, event: SupportsInt, stream: SupportsInt) -> None:
        """As CUDA: an event of another context gets cudaErrorInvalidResourceHandle."""
        self.machine.context()
        self.machine.record(self.machine.event(int(event)), self.machine.stream(int(stream)))

    @_answers()
    def cudaEventRecordWithFlags(self, event: SupportsInt, stream: SupportsInt, flags: SupportsInt) -> None:
        """As CUDA; 1 is cudaEventRecordExternal. The event stands for what it stood for: no graph is launched."""
        self.machine.context()
        if int(flags) not in (0, 1):
            raise Refused(INVALID_VALUE)
        found, other = self.machine.event(int(event)), self.machine.stream(int(stream))
        if int(flags):
            self.machine.captures.add_event_node(other)
        else:
            self.machine.record(found, other)

    @_answers()
    def cudaEventQuery(self, event: SupportsInt) -> None:
        """As CUDA; the scheduler decides what has run by now."""
        found = self._event_to_ask(event)
        if not self.machine.query(self.machine.clocks.of_event(found), found.name):
            raise Refused(NOT_READY)

    @_answers()
    def cudaEventSynchronize(self, event: SupportsInt) -> None:
        """As CUDA, and :class:`~interop.errors.DeadlockError` behind a closed gate."""
        found = self._event_to_ask(event)
        self.machine.reach(self.machine.clocks.of_event(found), f"{found.name}, recorded on {found.stream}")

    def _event_to_ask(self, event: SupportsInt) -> Event:
        """The event, which may be asked about, or waited for."""
        self.machine.context()
        found = self.machine.event(int(event))
        self.machine.captures.refuse_event(found)
        self.machine.captures.refuse_unsafe(self.machine.thread())
        return found

    def cudaPointerGetAttributes(self, ptr: SupportsInt) -> tuple[Any, ...]:
        """Refuse: a simulated array is no address."""
        del ptr
        message = (
            "arrays cannot be handed over in a simulation: it has one kind of array, which "
            "gpu.launch(stream, function, reads=[x]) takes as it is"
        )
        raise NotSupportedError(message)

    @_answers("ms")
    def cudaEventElapsedTime(self, start: SupportsInt, end: SupportsInt) -> float:
        """Refuse."""
        del start, end
        message = "the simulator has no clock: time between events needs a real GPU"
        raise NotSupportedError(message)

    @_answers("handle")
    def cudaIpcGetEventHandle(self, event: SupportsInt) -> object:
        """As CUDA. The simulated processes of one simulation can open it."""
        self.machine.event(int(event))
        handle = self._bindings.cudaIpcEventHandle_t()
        ctypes.memmove(handle.getPtr(), int(event).to_bytes(IPC_HANDLE_BYTES, "little"), IPC_HANDLE_BYTES)
        return handle

    @_answers("event")
    def cudaIpcOpenEventHandle(self, handle: Any) -> int:  # noqa: ANN401
        """As CUDA, but the process that made the event can open it, too."""
        self.machine.context()
        return self.machine.open_event(int.from_bytes(ctypes.string_at(handle.getPtr(), IPC_HANDLE_BYTES), "little"))


class Driver(_Module):
    """A simulated ``cuda.bindings.driver``. No call of it makes a context current that was not asked for."""

    _status = "CUresult"

    @_answers("pctx")
    def cuCtxGetCurrent(self) -> int:
        """As CUDA: 0 for none."""
        contexts = self.machine.thread().contexts
        return contexts[-1] if contexts else 0

    @_answers()
    def cuCtxPushCurrent(self, context: SupportsInt) -> None:
        self._ordinal(context)
        self.machine.thread().contexts.append(int(context))

    @_answers("pctx")
    def cuCtxPopCurrent(self) -> int:
        contexts = self.machine.thread().contexts
        if not contexts:
            raise Refused(INVALID_CONTEXT)
        return contexts.pop()

    @_answers()
    def cuCtxSetCurrent(self, context: SupportsInt) -> None:
        """As CUDA: in place of the topmost one; 0 takes that away."""
        if int(context):
            self._ordinal(context)
        self.machine.thread().contexts[-1:] = [int(context)] if int(context) else []

    @_answers("ctxId")
    def cuCtxGetId(self, context: SupportsInt) -> int:
        """As CUDA: from 1."""
        return self._ordinal(context) + 1

    @_answers()
    def cuCtxRecordEvent(self, context: SupportsInt, event: SupportsInt) -> None:
        """As CUDA: illegal, whatever the mode, while a stream of the context captures."""
        self._ordinal(context)
        self.machine.record_context(self.machine.event(int(event)), int(context))

    def _ordinal(self, context: SupportsInt) -> int:
        """The device of a context."""
        if int(context) not in self.machine.contexts:
            raise Refused(INVALID_CONTEXT)
        return self.machine.contexts.index(int(context))

    @_answers("pctx")
    def cuDevicePrimaryCtxRetain(self, device: SupportsInt) -> int:
        """As CUDA. It is never released: simulated contexts live as long as the simulation."""
        if not 0 <= int(device) < self.machine.devices:
            raise Refused(INVALID_DEVICE)
        return self.machine.contexts[int(device)]

    @_answers("flags", "active")
    def cuDevicePrimaryCtxGetState(self, device: SupportsInt) -> tuple[int, int]:
        """As CUDA, of a context that was used: simulated contexts are there from the start."""
        if not 0 <= int(device) < self.machine.devices:
            raise Refused(INVALID_DEVICE)
        return 0, 1

    @_answers("pctx")
    def cuStreamGetCtx(self, stream: SupportsInt) -> int:
        """As CUDA: legal while the stream captures; the default streams are of the current context."""
        contexts = self.machine.thread().contexts
        if int(stream) in (0, 1, 2):
            if not contexts:
                raise Refused(INVALID_CONTEXT)
            return contexts[-1]
        if int(stream) not in self.machine.streams:
            raise Refused(INVALID_HANDLE)
        return self.machine.stream(int(stream)).context
