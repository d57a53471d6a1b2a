"""What is measured, call by call: the same operation, as each library has it, and as C does it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import interop
from benchmarks.baseline import Baseline
from benchmarks.lab import FOREIGN, LEGACY, Lab
from benchmarks.measure import Batch, Operation, Row, Statement, Timed

OURS: Final = "interop"
C: Final = "C"
DRIVER: Final = "C, driver"
"""C too, by the functions of the driver, which those of the runtime call, and interop too."""
QUEUE: Final = 400
"""Entries of the launch queue that a batch may take."""
MANY: Final = 2000
"""Calls in a batch at most, where none takes an entry."""

_MODULES: Final = {"CuPy": "cupy", "torch": "torch", "Numba": "cuda", "cuda.core": "core", "cuda.bindings": "runtime"}
"""What each library's module is called in the statements."""

_QUERY: Final = {"CuPy": "stream.done", "torch": "stream.query()", "cuda.bindings": "runtime.cudaStreamQuery(stream)"}
_SYNCHRONIZE: Final = {
    "cuda.core": "stream.sync()",
    "CuPy": "stream.synchronize()",
    "torch": "stream.synchronize()",
    "Numba": "stream.synchronize()",
    "cuda.bindings": "runtime.cudaStreamSynchronize(stream)",
}
_RECORD: Final = {
    "cuda.core": "stream.record(event)",
    "CuPy": "stream.record(event)",
    "torch": "stream.record_event(event)",
    "Numba": "event.record(stream)",
    "cuda.bindings": "runtime.cudaEventRecord(event, stream)",
}
_RECORD_NEW: Final = {
    "cuda.core": "stream.record()",
    "CuPy": "stream.record(cupy.cuda.Event(disable_timing=True))",
    "torch": "stream.record_event()",
    "Numba": "event = cuda.event(timing=False); event.record(stream)",
    "cuda.bindings": (
        "_, event = runtime.cudaEventCreateWithFlags(2); runtime.cudaEventRecord(event, stream); "
        "runtime.cudaEventDestroy(event)"
    ),
}
_WAIT_EVENT: Final = {
    "cuda.core": "stream.wait(event)",
    "CuPy": "stream.wait_event(event)",
    "torch": "stream.wait_event(event)",
    "Numba": "event.wait(stream)",
    "cuda.bindings": "runtime.cudaStreamWaitEvent(stream, event, 0)",
}
# What a user of each would write, with events without timing; those without such a call record and wait.
WAIT_STREAM: Final = {
    "cuda.core": "stream.wait(producer)",
    "CuPy": "stream.wait_event(producer.record(cupy.cuda.Event(disable_timing=True)))",
    "torch": "stream.wait_stream(producer)",
    "Numba": "event = cuda.event(timing=False); event.record(producer); event.wait(stream)",
    "cuda.bindings": (
        "_, event = runtime.cudaEventCreateWithFlags(2); runtime.cudaEventRecord(event, producer); "
        "runtime.cudaStreamWaitEvent(stream, event, 0); runtime.cudaEventDestroy(event)"
    ),
}
_WAIT_STREAM_REUSED: Final = {
    "cuda.core": "stream.wait(producer.record(event))",
    "CuPy": "stream.wait_event(producer.record(event))",
    "torch": "stream.wait_event(producer.record_event(event))",
    "Numba": "event.record(producer); event.wait(stream)",
    "cuda.bindings": "runtime.cudaEventRecord(event, producer); runtime.cudaStreamWaitEvent(stream, event, 0)",
}
_WAIT_FOR_THREE: Final = {
    "cuda.core": "stream.wait(a); stream.wait(b); stream.wait(c)",
    "CuPy": "; ".join(f"stream.wait_event({each}.record(cupy.cuda.Event(disable_timing=True)))" for each in "abc"),
    "torch": "stream.wait_stream(a); stream.wait_stream(b); stream.wait_stream(c)",
}
_WRAP_ADDRESS: Final = {
    "cuda.core": "core.Stream.from_handle(address)",
    "torch": "torch.cuda.ExternalStream(address)",
    "Numba": "cuda.external_stream(address)",
    "cuda.bindings": "runtime.cudaStream_t(address)",
}
_WRAP_OBJECT: Final = {
    "cuda.core": "device.create_stream(protocol)",
    "CuPy": "cupy.cuda.Stream.from_external(protocol)",
}
_WRAP_AS: Final = {
    "cuda.core": "device.create_stream(protocol)",
    "CuPy": "cupy.cuda.Stream.from_external(protocol)",
    "torch": "torch.cuda.get_stream_from_external(address, device)",
    "Numba": "cuda.external_stream(address)",
}
_CONVERT: Final = {
    "CuPy": "cupy.asarray(array)",
    "torch": "torch.as_tensor(array, device='cuda')",
    "Numba": "cuda.as_cuda_array(array, sync=False)",
}
"""The conversion alone: nothing is ordered by it, or the host is blocked."""


def statement(label: str, text: str, **values: Callable[[], object]) -> Statement:
    """A row whose names are made when it is prepared."""
    return Statement(label, text, lambda: {"interop": interop, **{name: make() for name, make in values.items()}})


def peers(lab: Lab, statements: Mapping[str, str], **values: Callable[[str], object]) -> Iterator[Row]:
    """A row for each library; what each name stands for depends on the library."""
    for library, text in statements.items():
        made: dict[str, Callable[[], object]] = {name: partial(make, library) for name, make in values.items()}
        yield statement(library, text, **{_MODULES[library]: partial(lab.module, library)}, **made)


def _kept(row: Statement) -> Mapping[str, object]:
    """The names of a hand-over, and the array that came of it, which is still there when it is handed over again."""
    names = dict(row.names())
    view = interop.handoff(names["array"], names["consumer"], producer=names["producer"])
    return {**names, "view": view}


class Calls:
    """The operations, made of what is in a lab."""

    def __init__(self, lab: Lab) -> None:
        """Make nothing yet."""
        self._lab = lab

    def all(self) -> list[Operation]:
        """Every one, in the order of the report."""
        return [*self._wraps(), *self._streams_and_events(), *self._waits(), *self._to(), *self._use(), *self._arrays()]

    def _stream(self, library: str, number: int = 0) -> Callable[[], object]:
        return partial(self._lab.stream, library, number)

    def _event(self, library: str) -> Callable[[], object]:
        return partial(self._lab.event, library, 1)

    def _each_stream(self, number: int = 0) -> Callable[[str], object]:
        return lambda library: self._lab.stream(library, number)

    def _each_event(self) -> Callable[[str], object]:
        return lambda library: self._lab.event(library, 1)

    def _ours(self, text: str, **values: Callable[[], object]) -> Statement:
        return statement(OURS, text, **values)

    # -- from C ----------------------------------------------------------------------------------------------------

    def _from_c(self, functions: str, make: Callable[[Baseline], Batch]) -> tuple[Row, Row]:
        """By functions of the runtime, and by those of the driver."""
        lab, of_the_driver = self._lab, functions.replace("WithFlags", "").replace("cuda", "cu")
        return Timed(C, functions, lambda: make(lab.baseline)), Timed(DRIVER, of_the_driver, lambda: make(lab.driver))

    def c_wait(self, producers: int = 1) -> Row:
        """Record and wait, for each of the streams 1 to *producers*."""
        return self._c_waits(producers)[0]

    def _c_waits(self, producers: int = 1, *, legacy: bool = False) -> tuple[Row, Row]:
        lab = self._lab
        numbers = range(1, producers + 1)

        def make(c: Baseline) -> Batch:
            events, handles = [lab.event_handle(i) for i in numbers], [lab.handle(i) for i in numbers]
            handles = [LEGACY] if legacy else handles
            return lambda n: c.wait_streams(n, lab.handle(0), events, handles)

        times = f", {producers} times" if producers > 1 else ""
        return self._from_c(f"cudaEventRecord, cudaStreamWaitEvent{times}", make)

    def c_there_and_back(self, *, mark_the_end: bool) -> Row:
        """Stream 0 waits for stream 1, and back."""
        lab = self._lab

        def make() -> Batch:
            events = [lab.event_handle(i) for i in (1, 2, 3)]
            consumer, producer = lab.handle(0), lab.handle(1)
            return lambda n: lab.baseline.there_and_back(n, consumer, producer, events, mark_the_end=mark_the_end)

        text = "cudaEventRecord, cudaStreamWaitEvent, there and back"
        return Timed(C, f"{text}; cudaEventRecord" if mark_the_end else text, make)

    # -- the operations ----------------------------------------------------------------------------------------------

    def _wraps(self) -> Iterator[Operation]:
        lab = self._lab
        address, protocol = partial(lab.handle, 0), partial(lab.stream, "protocol", 0)
        rows = peers(lab, _WRAP_ADDRESS, address=lambda _library: lab.handle(0))
        ours: Row = self._ours("interop.as_stream(address)", address=address)
        yield Operation("wrap an address", [self.c_wait(), ours, *rows], QUEUE // 2, same=False)
        rows = peers(lab, _WRAP_OBJECT, protocol=lambda _library: protocol(), device=self._device)
        ours = self._ours("interop.as_stream(protocol)", protocol=protocol)
        yield Operation("wrap an object with __cuda_stream__", [self.c_wait(), ours, *rows], QUEUE // 2, same=False)
        for library in FOREIGN:
            ours = self._ours("interop.as_stream(stream)", stream=self._stream(library))
            yield Operation(f"as_stream, {library}'s stream", [self.c_wait(), ours], QUEUE // 2, same=False)
        anew = {OURS: "interop.as_stream(torch.cuda.current_stream())", "torch": "torch.cuda.current_stream()"}
        new = [self._of_a_new_object(label, text) for label, text in anew.items()]
        yield Operation("as_stream, a new torch object", [self.c_wait(), *new], QUEUE // 2, same=False)

    def _of_a_new_object(self, label: str, text: str) -> Row:
        """Torch makes an object whenever it is asked for its current stream, which is stream 1 here."""
        lab = self._lab
        row = statement(label, text, stream=self._stream(label), torch=partial(lab.module, "torch"))
        return replace(row, within=lambda: lab.module("torch").cuda.stream(lab.stream("torch", 1)))

    def _device(self, library: str) -> object:
        """Device 0, for the libraries whose wrapping wants it."""
        if library == "torch":
            return self._lab.torch_device()
        return self._lab.module("cuda.core").Device(0) if library == "cuda.core" else None

    def _streams_and_events(self) -> Iterator[Operation]:
        lab, stream = self._lab, self._stream(OURS)
        c = self._from_c("cudaStreamQuery", lambda c: lambda n: c.query(n, lab.handle(0)))
        rows = peers(lab, _QUERY, stream=self._each_stream())
        yield Operation("query", [*c, self._ours("stream.query()", stream=stream), *rows], MANY)
        c = self._from_c("cudaStreamSynchronize", lambda c: lambda n: c.synchronize(n, lab.handle(0)))
        rows = peers(lab, _SYNCHRONIZE, stream=self._each_stream())
        yield Operation("synchronize", [*c, self._ours("stream.synchronize()", stream=stream), *rows], MANY)
        c = self._from_c("cudaEventRecord", lambda c: lambda n: c.record(n, lab.event_handle(1), lab.handle(0)))
        rows = peers(lab, _RECORD, stream=self._each_stream(), event=self._each_event())
        ours = self._ours("stream.record_event(event)", stream=stream, event=self._event(OURS))
        yield Operation("record, event reused", [*c, ours, *rows], QUEUE)
        functions = "cudaEventCreateWithFlags, cudaEventRecord, cudaEventDestroy"
        c = self._from_c(functions, lambda c: lambda n: c.record_new(n, lab.handle(0)))
        rows = peers(lab, _RECORD_NEW, stream=self._each_stream())
        yield Operation("record, new event", [*c, self._ours("stream.record_event()", stream=stream), *rows], QUEUE)
        c = self._from_c("cudaStreamWaitEvent", lambda c: lambda n: c.wait_event(n, lab.handle(0), lab.event_handle(1)))
        rows = peers(lab, _WAIT_EVENT, stream=self._each_stream(), event=self._each_event())
        ours = self._ours("stream.wait_event(event)", stream=stream, event=self._event(OURS))
        yield Operation("wait_event", [*c, ours, *rows], QUEUE)
        for library in FOREIGN:
            ours = self._ours("stream.wait_event(event)", stream=stream, event=self._event(library))
            yield Operation(f"wait_event, {library}'s event", [c[0], ours], QUEUE)

    def _waits(self) -> Iterator[Operation]:
        lab, stream = self._lab, self._stream(OURS)
        text = "stream.wait_stream(producer)"
        ours = self._ours(text, stream=stream, producer=self._stream(OURS, 1))
        both = {"stream": self._each_stream(), "producer": self._each_stream(1)}
        yield Operation("wait_stream", [*self._c_waits(), ours, *peers(lab, WAIT_STREAM, **both)], QUEUE // 2)
        reusing = peers(lab, _WAIT_STREAM_REUSED, **both, event=self._each_event())
        yield Operation("wait_stream, by an event that the caller keeps", [self.c_wait(), ours, *reusing], QUEUE // 2)
        for library in FOREIGN:
            ours = self._ours(text, stream=stream, producer=self._stream(library, 1))
            yield Operation(f"wait_stream, {library}'s stream", [self.c_wait(), ours], QUEUE // 2)
        default = {"stream": self._each_stream(), "producer": lab.default_stream}
        ours = self._ours(text, stream=stream, producer=partial(lab.default_stream, OURS))
        rows: list[Row] = [*self._c_waits(legacy=True), ours, *peers(lab, WAIT_STREAM, **default)]
        yield Operation("wait_stream, the default stream", rows, QUEUE // 2)
        anew = "stream.wait_stream(torch.cuda.current_stream())"
        rows = [self._of_a_new_object(label, anew) for label in (OURS, "torch")]
        yield Operation("wait_stream, a new torch object", [self.c_wait(), *rows], QUEUE // 2)
        given = {"producer": self._stream("protocol", 1)}
        core = statement("cuda.core", WAIT_STREAM["cuda.core"], stream=self._stream("cuda.core"), **given)
        rows = [self._ours(text, stream=stream, **given), core]
        yield Operation("wait_stream, an object with __cuda_stream__", [self.c_wait(), *rows], QUEUE // 2)
        producers = {"a": self._stream("CuPy", 1), "b": self._stream("torch", 2), "c": self._stream("Numba", 3)}
        ours = self._ours("stream.wait_stream(a, b, c)", stream=stream, **producers)
        each = {name: self._each_stream(number) for number, name in enumerate("abc", 1)}
        rows = [*peers(lab, _WAIT_FOR_THREE, stream=self._each_stream(), **each)]
        yield Operation("wait_stream, of three libraries at once", [*self._c_waits(3), ours, *rows], QUEUE // 6)

    def _to(self) -> Iterator[Operation]:
        lab = self._lab
        for library, path in FOREIGN.items():
            ours = self._ours(f"interop.ExternalStream(address).to('{path}')", address=partial(lab.handle, 0))
            each: dict[str, Callable[[str], object]] = {
                "address": lambda _library: lab.handle(0),
                "protocol": lambda _library: lab.stream("protocol", 0),
                "device": self._device,
            }
            rows = peers(lab, {library: _WRAP_AS[library]}, **each)
            yield Operation(f"wrap, and to({path}) first", [self.c_wait(), ours, *rows], QUEUE // 2, same=False)
            again = self._ours(f"stream.to('{path}')", stream=self._stream(OURS))
            yield Operation(f"to({path}) again", [self.c_wait(), again], QUEUE // 2, same=False)

    def _use(self) -> Iterator[Operation]:
        lab, stream = self._lab, self._stream(OURS)
        own = {"CuPy": "with stream: pass", "torch": "with torch.cuda.stream(stream): pass"}
        for library, text in own.items():
            ours = self._ours(f"with interop.use(stream, '{FOREIGN[library]}'): pass", stream=stream)
            rows = peers(lab, {library: text}, stream=self._each_stream())
            yield Operation(f"enter and leave, {library}", [self.c_wait(), ours, *rows], QUEUE // 2, same=False)
        ours = self._ours("with interop.use(stream, 'cupy', 'torch'): pass", stream=stream)
        alone = peers(lab, {"torch": own["torch"]}, stream=self._each_stream())
        name = "enter and leave, CuPy and torch together (torch: alone)"
        yield Operation(name, [self.c_wait(), ours, *alone], QUEUE // 2, same=False)
        ours = self._ours("with stream: pass", stream=stream)
        yield Operation("enter and leave, every loaded library", [self.c_wait(), ours], QUEUE // 2, same=False)

    def _arrays(self) -> Iterator[Operation]:
        lab = self._lab
        ways = [(source, target) for source in _CONVERT for target in _CONVERT if source != target]
        for source, target in ways:
            array = partial(lab.array, source)
            ours = self._between("interop.handoff(array, consumer, producer=producer)", source, target)
            alone = statement(target, _CONVERT[target], **{_MODULES[target]: partial(lab.module, target)}, array=array)
            c = self.c_there_and_back(mark_the_end=True)
            yield Operation(f"handoff, {source} to {target} (peer: conversion alone)", [c, ours, alone], QUEUE // 5)
        for source, target in ways:
            text = "interop.handoff(array, consumer, producer=producer)"
            first = self._between(text, source, target)
            again = Statement(OURS, text, partial(_kept, first))
            yield Operation(f"handoff, {source} to {target}, again", [self.c_wait(), again], QUEUE // 2)
        for source, target in ways:
            text = "with interop.borrow(array, consumer=consumer, producer=producer): pass"
            c = self.c_there_and_back(mark_the_end=False)
            rows = [c, self._between(text, source, target)]
            yield Operation(f"borrow, {source} to {target}", rows, QUEUE // 8)

    def _between(self, text: str, source: str, target: str) -> Statement:
        lab = self._lab
        consumer, producer = partial(lab.lasting, target, 0), partial(lab.lasting, source, 1)
        return self._ours(text, array=partial(lab.array, source), consumer=consumer, producer=producer)
