"""Single calls on streams and events: those of each library, and those from C."""

from collections.abc import Iterator
from typing import Final

from benchmarks.lab import FOREIGN, LEGACY, OURS, PATHS, Lab
from benchmarks.measure import Operation, Row

CALLS: Final[dict[str, dict[str, str]]] = {
    "query": {
        OURS: "stream.query()",
        "CuPy": "stream.done",
        "torch": "stream.query()",
        "cuda.bindings": "runtime.cudaStreamQuery(stream)",
    },
    "synchronize": {
        OURS: "stream.synchronize()",
        "cuda.core": "stream.sync()",
        "CuPy": "stream.synchronize()",
        "torch": "stream.synchronize()",
        "Numba": "stream.synchronize()",
        "cuda.bindings": "runtime.cudaStreamSynchronize(stream)",
    },
    "record, event reused": {
        OURS: "stream.record_event(event)",
        "cuda.core": "stream.record(event)",
        "CuPy": "stream.record(event)",
        "torch": "stream.record_event(event)",
        "Numba": "event.record(stream)",
        "cuda.bindings": "runtime.cudaEventRecord(event, stream)",
    },
    "record, new event": {
        OURS: "stream.record_event()",
        "cuda.core": "stream.record()",
        "CuPy": "stream.record(cupy.cuda.Event(disable_timing=True))",
        "torch": "stream.record_event()",
        "Numba": "event = cuda.event(timing=False); event.record(stream)",
        "cuda.bindings": (
            "_, event = runtime.cudaEventCreateWithFlags(2); runtime.cudaEventRecord(event, stream); "
            "runtime.cudaEventDestroy(event)"
        ),
    },
    "wait_event": {
        OURS: "stream.wait_event(event)",
        "cuda.core": "stream.wait(event)",
        "CuPy": "stream.wait_event(event)",
        "torch": "stream.wait_event(event)",
        "Numba": "event.wait(stream)",
        "cuda.bindings": "runtime.cudaStreamWaitEvent(stream, event, 0)",
    },
    # The statements that a user of each library would write, with events without timing.
    "wait_stream": {
        OURS: "stream.wait_stream(producer)",
        "cuda.core": "stream.wait(producer)",
        "CuPy": "stream.wait_event(producer.record(cupy.cuda.Event(disable_timing=True)))",
        "torch": "stream.wait_stream(producer)",
        "Numba": "event = cuda.event(timing=False); event.record(producer); event.wait(stream)",
        "cuda.bindings": (
            "_, event = runtime.cudaEventCreateWithFlags(2); runtime.cudaEventRecord(event, producer); "
            "runtime.cudaStreamWaitEvent(stream, event, 0); runtime.cudaEventDestroy(event)"
        ),
    },
    "wait_stream, by an event that the caller keeps": {
        OURS: "stream.wait_stream(producer)",
        "cuda.core": "stream.wait(producer.record(event))",
        "CuPy": "stream.wait_event(producer.record(event))",
        "torch": "stream.wait_event(producer.record_event(event))",
        "Numba": "event.record(producer); event.wait(stream)",
        "cuda.bindings": "runtime.cudaEventRecord(event, producer); runtime.cudaStreamWaitEvent(stream, event, 0)",
    },
    "wait_stream, the default stream": {
        OURS: "stream.wait_stream(default)",
        "cuda.core": "stream.wait(default)",
        "CuPy": "stream.wait_event(default.record(cupy.cuda.Event(disable_timing=True)))",
        "torch": "stream.wait_stream(default)",
        "Numba": "event = cuda.event(timing=False); event.record(default); event.wait(stream)",
    },
    "wait_stream, three streams": {
        OURS: "stream.wait_stream(a, b, c)",
        "cuda.core": "stream.wait(a); stream.wait(b); stream.wait(c)",
        "CuPy": "; ".join(f"stream.wait_event({each}.record(cupy.cuda.Event(disable_timing=True)))" for each in "abc"),
        "torch": "stream.wait_stream(a); stream.wait_stream(b); stream.wait_stream(c)",
    },
    "wait_stream, an object with __cuda_stream__": {
        OURS: "stream.wait_stream(protocol)",
        "cuda.core": "stream.wait(protocol)",
    },
    "wait_stream, a new torch object": {
        OURS: "stream.wait_stream(torch.cuda.current_stream())",
        "torch": "stream.wait_stream(torch.cuda.current_stream())",
    },
    "as_stream, an address": {
        OURS: "interop.as_stream(address)",
        "cuda.core": "core.Stream.from_handle(address)",
        "torch": "torch.cuda.ExternalStream(address)",
        "Numba": "cuda.external_stream(address)",
        "cuda.bindings": "runtime.cudaStream_t(address)",
    },
    "as_stream, an object with __cuda_stream__": {
        OURS: "interop.as_stream(protocol)",
        "cuda.core": "device.create_stream(protocol)",
        "CuPy": "cupy.cuda.Stream.from_external(protocol)",
    },
    "as_stream, a new torch object": {
        OURS: "interop.as_stream(torch.cuda.current_stream())",
        "torch": "torch.cuda.current_stream()",
    },
    "current_handle, CuPy": {
        OURS: "interop.current_handle('cupy')",
        "CuPy": "cupy.cuda.get_current_stream().ptr",
    },
    "current_handle, torch": {
        OURS: "interop.current_handle('torch')",
        "torch": "torch._C._cuda_getCurrentRawStream(torch._C._cuda_getDevice())",
    },
    "use, CuPy": {OURS: "with interop.use(stream, 'cupy'): pass", "CuPy": "with stream: pass"},
    "use, torch": {OURS: "with interop.use(stream, 'torch'): pass", "torch": "with torch.cuda.stream(stream): pass"},
    "use, CuPy and torch together (torch: alone)": {
        OURS: "with interop.use(stream, 'cupy', 'torch'): pass",
        "torch": "with torch.cuda.stream(stream): pass",
    },
    "use, torch, after another stream": {
        OURS: "with interop.use(stream, 'torch', after=producer): pass",
        "torch": "stream.wait_stream(producer)\nwith torch.cuda.stream(stream): pass",
    },
    "use, every loaded library": {OURS: "with stream: pass"},
}
"""Each operation, and the statement of each library."""

_WRAP: Final = {
    "CuPy": "cupy.cuda.Stream.from_external(protocol)",
    "torch": "torch.cuda.ExternalStream(address)",
    "Numba": "cuda.external_stream(address)",
    "cuda.core": "device.create_stream(protocol)",
}
_WAIT: Final = "wait_stream"
"""The operation whose row in C stands beside calls that make no CUDA call, for comparison."""
_BATCH: Final = 200
"""Calls in a batch. Each takes one or two entries of the launch queue."""
_MOST: Final = {"query": 2000, "synchronize": 2000, "wait_stream, three streams": 60}


def all_operations(lab: Lab) -> Iterator[Operation]:
    """Every one, in the order of the report."""
    for name, texts in CALLS.items():
        rows = [lab.row(label, text) for label, text in texts.items()]
        if name == "wait_stream, three streams":  # interop waits for streams of three libraries
            rows[0] = lab.row(OURS, texts[OURS], a="CuPy", b="torch", c="Numba")
        yield _operation(lab, name, *rows)
    for library in FOREIGN:
        path = PATHS[library]
        waits = CALLS["wait_event"][OURS], CALLS[_WAIT][OURS]
        yield _operation(lab, f"wait_event, {library}'s event", lab.row(OURS, waits[0], event=library))
        yield _operation(lab, f"wait_stream, {library}'s stream", lab.row(OURS, waits[1], producer=library))
        ours = lab.row(OURS, "interop.as_stream(stream)", stream=library)
        yield _operation(lab, f"as_stream, {library}'s stream", ours)
        first = lab.row(OURS, f"interop.ExternalStream(address).to('{path}')")
        yield _operation(lab, f"to({path}), the first time", first, lab.row(library, _WRAP[library]))
        yield _operation(lab, f"to({path}), again", lab.row(OURS, f"stream.to('{path}')"))


def _operation(lab: Lab, name: str, ours: Row, *peers: Row) -> Operation:
    return Operation(name, [ours, c_row(lab, name), *peers], _MOST.get(name, _BATCH))


def c_row(lab: Lab, name: str) -> Row:
    """The row in C: the CUDA calls of the operation, or a record and a wait if the operation makes none."""
    call = name.partition(",")[0]
    if call == "query":
        return lab.c_row("cudaStreamQuery", "query", lambda: (lab.handle(),))
    if call == "synchronize":
        return lab.c_row("cudaStreamSynchronize", "synchronize", lambda: (lab.handle(),))
    if name == "record, event reused":
        return lab.c_row("cudaEventRecord", "record", lambda: (lab.event_handle(), lab.handle()))
    if name == "record, new event":
        functions = "cudaEventCreateWithFlags, cudaEventRecord, cudaEventDestroy"
        return lab.c_row(functions, "record_new", lambda: (lab.handle(),))
    if call == "wait_event":
        return lab.c_row("cudaStreamWaitEvent", "wait_event", lambda: (lab.handle(), lab.event_handle()))
    legacy, count = name.endswith("default stream"), 3 if name.endswith("three streams") else 1

    def arguments() -> tuple[int | list[int], ...]:
        numbers = range(1, count + 1)
        producers = [LEGACY] if legacy else [lab.handle(number) for number in numbers]
        return lab.handle(), count, [lab.event_handle(number) for number in numbers], producers

    return lab.c_row(f"(cudaEventRecord, cudaStreamWaitEvent) x {count}", "wait_streams", arguments)
