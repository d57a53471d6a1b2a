"""The rules of CUDA streams, events and captures that the simulator follows, one test each.

The same tests run on the simulator and on a GPU. A rule enters the simulator only with a test here. The tests use CUDA
through a :class:`Lab`: ``tests/sim`` builds one on the simulator, ``tests/gpu`` one on a GPU.

A test of order closes a gate on the producer. While the gate is closed, the consumer's copy must stay pending; after
it opens, the copy must have read the new value. Where a rule says that nothing is ordered, the copy must become done
while the gate is closed, with the old value. These tests are also the controls of the others.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import pytest

from tests.threads import in_thread

LEGACY = 1
PER_THREAD = 2

SUCCESS = 0
INVALID_VALUE = 1
INVALID_DEVICE = 101
INVALID_CONTEXT = 201
INVALID_HANDLE = 400
ILLEGAL_STATE = 401
NOT_READY = 600
UNSUPPORTED = 900
INVALIDATED = 901
MERGE = 902
UNMATCHED = 903
UNJOINED = 904
ISOLATION = 905
IMPLICIT = 906
CAPTURED_EVENT = 907
WRONG_THREAD = 908

NONE = 0
ACTIVE = 1
BROKEN = 2

EXTERNAL = 1

GLOBAL = 0
THREAD_LOCAL = 1
RELAXED = 2

STALE = 0
FRESH = 7


class Gate(Protocol):
    """Holds back the work that is put on a stream after it."""

    def open(self) -> None:
        """Let the stream run."""


class Lab(Protocol):
    """CUDA, with what a test of order needs.

    A test makes its streams, events and cells before it closes the first gate, because on a GPU making one may wait for
    the device. After the test, the fixture opens all gates and ends all captures.
    """

    runtime: Any
    driver: Any
    devices: int

    def need_two_devices(self) -> None:
        """Skip the test if there is only one device."""

    def stream(self, *, non_blocking: bool = True, device: int = 0) -> int:
        """A new stream. Device 0 is current before and after."""

    def event(self, *, device: int = 0) -> int:
        """A new event."""

    def cell(self) -> Any:
        """A byte in the memory of device 0, which holds STALE."""

    def gate(self, stream: int) -> Gate:
        """A closed gate on a stream."""

    def put(self, stream: int, cell: Any, value: int) -> None:
        """Write a value to a cell, on a stream."""

    def copy(self, stream: int, source: Any, target: Any) -> None:
        """Copy a cell to another, on a stream."""

    def read(self, cell: Any) -> int:
        """The value of a cell, once everything is done. All gates must be open."""

    def becomes_done(self, query: Callable[[], tuple[Any, ...]]) -> bool:
        """Whether *query* returns success, now or soon. For what a test expects to be done."""

    def stays_pending(self, query: Callable[[], tuple[Any, ...]]) -> bool:
        """Whether *query* returns "not ready", now and for a while. For what a test expects to be held back."""


def value(result: tuple[Any, ...]) -> Any:
    """What a call returned. Fails if the call did."""
    assert result[0] == SUCCESS, result
    return result[1] if len(result) > 1 else None


def held(lab: Lab, stream: int) -> bool:
    return lab.stays_pending(lambda: lab.runtime.cudaStreamQuery(stream))


def done(lab: Lab, stream: int) -> bool:
    return lab.becomes_done(lambda: lab.runtime.cudaStreamQuery(stream))


def record(lab: Lab, event: int, stream: int) -> None:
    value(lab.runtime.cudaEventRecord(event, stream))


def wait(lab: Lab, stream: int, event: int) -> None:
    value(lab.runtime.cudaStreamWaitEvent(stream, event, 0))


def assert_ordered(lab: Lab, producer: int, consumer: int, order: Callable[[], None] = lambda: None) -> None:
    """The consumer's copy, after *order*, waits for what the gated producer writes."""
    source, target = lab.cell(), lab.cell()
    gate = lab.gate(producer)
    lab.put(producer, source, FRESH)
    order()
    lab.copy(consumer, source, target)
    assert held(lab, consumer)
    gate.open()
    assert lab.read(target) == FRESH


def assert_unordered(lab: Lab, producer: int, consumer: int, order: Callable[[], None] = lambda: None) -> None:
    """The consumer's copy, after *order*, is done while the producer is gated, and copies the old value."""
    source, target = lab.cell(), lab.cell()
    copied = lab.event()
    gate = lab.gate(producer)
    lab.put(producer, source, FRESH)
    order()
    lab.copy(consumer, source, target)
    # The event is of the copy alone: a query of the legacy stream would also ask about all blocking streams.
    record(lab, copied, consumer)
    assert lab.becomes_done(lambda: lab.runtime.cudaEventQuery(copied))
    gate.open()
    assert lab.read(source) == FRESH
    assert lab.read(target) == STALE


def assert_held_only_if(lab: Lab, event: int, *, held: bool) -> None:
    """*event* is pending behind a closed gate if *held*, else it is done."""

    def query() -> tuple[Any, ...]:
        answer: tuple[Any, ...] = lab.runtime.cudaEventQuery(event)
        return answer

    assert lab.stays_pending(query) if held else lab.becomes_done(query)


def status(lab: Lab, stream: int) -> int:
    return int(value(lab.runtime.cudaStreamIsCapturing(stream)))


def begin(lab: Lab, stream: int, mode: int = GLOBAL) -> None:
    value(lab.runtime.cudaStreamBeginCapture(stream, lab.runtime.cudaStreamCaptureMode(mode)))


def end(lab: Lab, stream: int) -> int:
    return int(lab.runtime.cudaStreamEndCapture(stream)[0])


@contextlib.contextmanager
def capturing(lab: Lab, stream: int, mode: int = GLOBAL) -> Iterator[None]:
    """Capture on *stream*, and end the capture with whatever code."""
    begin(lab, stream, mode)
    try:
        yield
    finally:
        end(lab, stream)


@contextlib.contextmanager
def exchanged(lab: Lab, mode: int) -> Iterator[int]:
    """Set another capture mode in this thread; yields the mode before."""
    runtime = lab.runtime
    previous = value(runtime.cudaThreadExchangeStreamCaptureMode(runtime.cudaStreamCaptureMode(mode)))
    try:
        yield int(previous)
    finally:
        value(runtime.cudaThreadExchangeStreamCaptureMode(previous))


class Bench:
    """The streams and events of the calls in the tables below: one stream captures, the others do not."""

    def __init__(self, lab: Lab, *, non_blocking: bool) -> None:
        self.lab = lab
        self.runtime = lab.runtime
        self.driver = lab.driver
        self.captured = lab.stream(non_blocking=non_blocking)
        self.context = int(value(lab.driver.cuStreamGetCtx(self.captured)))
        self.other = lab.stream()
        self.spare = lab.event()
        self.event = lab.event()
        record(lab, self.event, self.other)
        value(lab.runtime.cudaStreamSynchronize(self.other))

    def recorded(self) -> int:
        """The spare event, recorded on the stream that captures."""
        record(self.lab, self.spare, self.captured)
        return self.spare


Call = Callable[[Bench], tuple[Any, ...]]

# What each call returns while a non-blocking stream captures, and whether it invalidates the capture; in every mode.
RELATED: dict[str, tuple[Call, int, bool]] = {
    "query the stream": (lambda b: b.runtime.cudaStreamQuery(b.captured), UNSUPPORTED, True),
    "synchronize the stream": (lambda b: b.runtime.cudaStreamSynchronize(b.captured), UNSUPPORTED, True),
    "synchronize the device": (lambda b: b.runtime.cudaDeviceSynchronize(), UNSUPPORTED, True),
    "query its event": (lambda b: b.runtime.cudaEventQuery(b.recorded()), CAPTURED_EVENT, True),
    "synchronize its event": (lambda b: b.runtime.cudaEventSynchronize(b.recorded()), CAPTURED_EVENT, True),
    "legacy waits for its event": (
        lambda b: b.runtime.cudaStreamWaitEvent(LEGACY, b.recorded(), 0),
        IMPLICIT,
        True,
    ),
    "it waits for an event from outside": (
        lambda b: b.runtime.cudaStreamWaitEvent(b.captured, b.event, 0),
        ISOLATION,
        True,
    ),
    "it waits for an event from outside, as an external node": (
        lambda b: b.runtime.cudaStreamWaitEvent(b.captured, b.event, EXTERNAL),
        SUCCESS,
        False,
    ),
    "it records an event from outside, as an external node": (
        lambda b: b.runtime.cudaEventRecordWithFlags(b.event, b.captured, EXTERNAL),
        SUCCESS,
        False,
    ),
    "record its context": (lambda b: b.driver.cuCtxRecordEvent(b.context, b.event), UNSUPPORTED, True),
    "id of the stream": (lambda b: b.runtime.cudaStreamGetId(b.captured), UNSUPPORTED, True),
    "device of the stream": (lambda b: b.runtime.cudaStreamGetDevice(b.captured), UNSUPPORTED, True),
    "flags of the stream": (lambda b: b.runtime.cudaStreamGetFlags(b.captured), UNSUPPORTED, True),
    "priority of the stream": (lambda b: b.runtime.cudaStreamGetPriority(b.captured), SUCCESS, False),
    "context of the stream": (lambda b: b.driver.cuStreamGetCtx(b.captured), SUCCESS, False),
    "capture info of the stream": (lambda b: b.runtime.cudaStreamGetCaptureInfo(b.captured), SUCCESS, False),
    "id of another": (lambda b: b.runtime.cudaStreamGetId(b.other), SUCCESS, False),
    "device of another": (lambda b: b.runtime.cudaStreamGetDevice(b.other), SUCCESS, False),
    "priority of another": (lambda b: b.runtime.cudaStreamGetPriority(b.other), SUCCESS, False),
    "flags of another": (lambda b: b.runtime.cudaStreamGetFlags(b.other), SUCCESS, False),
    "context of another": (lambda b: b.driver.cuStreamGetCtx(b.other), SUCCESS, False),
    "id of legacy": (lambda b: b.runtime.cudaStreamGetId(LEGACY), SUCCESS, False),
    "device of legacy": (lambda b: b.runtime.cudaStreamGetDevice(LEGACY), SUCCESS, False),
    "is legacy capturing": (lambda b: b.runtime.cudaStreamIsCapturing(LEGACY), SUCCESS, False),
    "is per-thread capturing": (lambda b: b.runtime.cudaStreamIsCapturing(PER_THREAD), SUCCESS, False),
    "capture info of legacy": (lambda b: b.runtime.cudaStreamGetCaptureInfo(LEGACY), SUCCESS, False),
    "create an event": (lambda b: b.runtime.cudaEventCreateWithFlags(2), SUCCESS, False),
    "destroy an event": (
        lambda b: b.runtime.cudaEventDestroy(b.runtime.cudaEventCreateWithFlags(2)[1]),
        SUCCESS,
        False,
    ),
    "create a stream": (lambda b: b.runtime.cudaStreamCreateWithFlags(1), SUCCESS, False),
    "record another": (lambda b: b.runtime.cudaEventRecord(b.event, b.other), SUCCESS, False),
    "another waits": (lambda b: b.runtime.cudaStreamWaitEvent(b.other, b.event, 0), SUCCESS, False),
    "record legacy": (lambda b: b.runtime.cudaEventRecord(b.event, LEGACY), SUCCESS, False),
    "legacy waits": (lambda b: b.runtime.cudaStreamWaitEvent(LEGACY, b.event, 0), SUCCESS, False),
    "retain the context": (lambda b: b.driver.cuDevicePrimaryCtxRetain(0), SUCCESS, False),
    "state of the context": (lambda b: b.driver.cuDevicePrimaryCtxGetState(0), SUCCESS, False),
    "current device": (lambda b: b.runtime.cudaGetDevice(), SUCCESS, False),
}

# These calls are not about the capture, but CUDA takes them for unsafe during one.
UNRELATED: dict[str, Call] = {
    "query a stream": lambda b: b.runtime.cudaStreamQuery(b.other),
    "synchronize a stream": lambda b: b.runtime.cudaStreamSynchronize(b.other),
    "query an event": lambda b: b.runtime.cudaEventQuery(b.event),
    "synchronize an event": lambda b: b.runtime.cudaEventSynchronize(b.event),
    "query legacy": lambda b: b.runtime.cudaStreamQuery(LEGACY),
    "synchronize per-thread": lambda b: b.runtime.cudaStreamSynchronize(PER_THREAD),
}

# What each call returns on the legacy stream while a *blocking* stream of its context captures, and whether the call
# invalidates the capture.
ON_LEGACY: dict[str, tuple[Call, int, bool]] = {
    "is it capturing": (lambda b: b.runtime.cudaStreamIsCapturing(LEGACY), IMPLICIT, False),
    "capture info": (lambda b: b.runtime.cudaStreamGetCaptureInfo(LEGACY), IMPLICIT, False),
    "record": (lambda b: b.runtime.cudaEventRecord(b.event, LEGACY), IMPLICIT, True),
    "wait": (lambda b: b.runtime.cudaStreamWaitEvent(LEGACY, b.event, 0), IMPLICIT, True),
    "query": (lambda b: b.runtime.cudaStreamQuery(LEGACY), IMPLICIT, True),
    "synchronize": (lambda b: b.runtime.cudaStreamSynchronize(LEGACY), IMPLICIT, True),
    "id": (lambda b: b.runtime.cudaStreamGetId(LEGACY), IMPLICIT, True),
    "device": (lambda b: b.runtime.cudaStreamGetDevice(LEGACY), IMPLICIT, True),
}

MODES = pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED], ids=["global", "thread_local", "relaxed"])


def assert_answer(bench: Bench, call: Call, mode: int, code: int, *, breaks: bool) -> None:
    """Make *call* while a stream captures: it returns *code*, and invalidates the capture if it *breaks* it."""
    lab = bench.lab
    with capturing(lab, bench.captured, mode):
        assert call(bench)[0] == code
        assert status(lab, bench.captured) == (BROKEN if breaks else ACTIVE)
        assert end(lab, bench.captured) == (INVALIDATED if breaks else SUCCESS)
        assert status(lab, bench.captured) == NONE


class CudaRules:
    """The rules. A subclass has a fixture ``lab``."""

    # -- order ---------------------------------------------------------------------------------------------------

    def test_a_stream_runs_in_order(self, lab: Lab) -> None:
        stream = lab.stream()
        assert_ordered(lab, stream, stream)

    def test_two_streams_are_not_ordered(self, lab: Lab) -> None:
        assert_unordered(lab, lab.stream(), lab.stream())

    def test_a_wait_orders(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(), lab.stream(), lab.event()

        def order() -> None:
            record(lab, event, producer)
            wait(lab, consumer, event)

        assert_ordered(lab, producer, consumer, order)

    def test_a_record_alone_orders_nothing(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(), lab.stream(), lab.event()
        assert_unordered(lab, producer, consumer, lambda: record(lab, event, producer))

    def test_a_wait_the_wrong_way_round_orders_nothing(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(), lab.stream(), lab.event()

        def order() -> None:
            record(lab, event, consumer)
            wait(lab, producer, event)

        assert_unordered(lab, producer, consumer, order)

    def test_a_chain_of_waits_orders(self, lab: Lab) -> None:
        producer, middle, consumer = lab.stream(), lab.stream(), lab.stream()
        first, second = lab.event(), lab.event()

        def order() -> None:
            record(lab, first, producer)
            wait(lab, middle, first)
            record(lab, second, middle)
            wait(lab, consumer, second)

        assert_ordered(lab, producer, consumer, order)

    def test_a_chain_of_waits_in_the_wrong_order_orders_nothing(self, lab: Lab) -> None:
        producer, middle, consumer = lab.stream(), lab.stream(), lab.stream()
        first, second = lab.event(), lab.event()

        def order() -> None:
            record(lab, first, producer)
            record(lab, second, middle)
            wait(lab, middle, first)
            wait(lab, consumer, second)

        assert_unordered(lab, producer, consumer, order)

    def test_a_wait_is_for_the_record_before_it(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(), lab.stream(), lab.event()
        record(lab, event, producer)
        wait(lab, consumer, event)
        # The wait above is for the record above, not for the record below.
        assert_unordered(lab, producer, consumer, lambda: record(lab, event, producer))

    def test_a_later_record_does_not_change_a_wait(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(), lab.stream(), lab.event()

        def order() -> None:
            record(lab, event, producer)
            wait(lab, consumer, event)
            record(lab, event, consumer)

        assert_ordered(lab, producer, consumer, order)

    def test_a_second_record_replaces_the_first(self, lab: Lab) -> None:
        producer, idle, consumer, event = lab.stream(), lab.stream(), lab.stream(), lab.event()

        def order() -> None:
            record(lab, event, producer)
            assert lab.stays_pending(lambda: lab.runtime.cudaEventQuery(event))
            record(lab, event, idle)
            assert lab.becomes_done(lambda: lab.runtime.cudaEventQuery(event))
            wait(lab, consumer, event)

        assert_unordered(lab, producer, consumer, order)

    def test_an_unrecorded_event_orders_nothing(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(), lab.stream(), lab.event()
        assert lab.runtime.cudaEventQuery(event)[0] == SUCCESS
        assert lab.runtime.cudaEventSynchronize(event)[0] == SUCCESS
        assert_unordered(lab, producer, consumer, lambda: wait(lab, consumer, event))

    @pytest.mark.parametrize("non_blocking", [False, True], ids=["blocking", "non-blocking"])
    def test_a_record_on_a_context_covers_its_streams(self, lab: Lab, *, non_blocking: bool) -> None:
        producer, consumer, event = lab.stream(non_blocking=non_blocking), lab.stream(), lab.event()
        context = int(value(lab.driver.cuStreamGetCtx(producer)))

        def order() -> None:
            value(lab.driver.cuCtxRecordEvent(context, event))
            wait(lab, consumer, event)

        assert_ordered(lab, producer, consumer, order)

    def test_a_record_on_a_context_covers_no_later_work(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(), lab.stream(), lab.event()
        value(lab.driver.cuCtxRecordEvent(int(value(lab.driver.cuStreamGetCtx(producer))), event))
        wait(lab, consumer, event)
        assert_unordered(lab, producer, consumer)

    def test_a_wait_outlives_its_event(self, lab: Lab) -> None:
        producer, consumer = lab.stream(), lab.stream()
        event = int(value(lab.runtime.cudaEventCreateWithFlags(2)))

        def order() -> None:
            record(lab, event, producer)
            wait(lab, consumer, event)
            value(lab.runtime.cudaEventDestroy(event))

        assert_ordered(lab, producer, consumer, order)

    def test_query_says_whether_work_is_pending(self, lab: Lab) -> None:
        stream, other, event = lab.stream(), lab.stream(), lab.event()
        assert done(lab, stream)
        gate = lab.gate(stream)
        record(lab, event, stream)
        assert held(lab, stream)
        assert lab.stays_pending(lambda: lab.runtime.cudaEventQuery(event))
        assert done(lab, other)
        gate.open()
        assert lab.runtime.cudaEventSynchronize(event)[0] == SUCCESS
        assert lab.runtime.cudaEventQuery(event)[0] == SUCCESS
        assert lab.runtime.cudaStreamSynchronize(stream)[0] == SUCCESS
        assert lab.runtime.cudaStreamQuery(stream)[0] == SUCCESS

    # -- the default streams -------------------------------------------------------------------------------------

    def test_legacy_waits_for_a_blocking_stream(self, lab: Lab) -> None:
        assert_ordered(lab, lab.stream(non_blocking=False), LEGACY)

    def test_legacy_does_not_wait_for_a_non_blocking_stream(self, lab: Lab) -> None:
        assert_unordered(lab, lab.stream(), LEGACY)

    def test_a_blocking_stream_waits_for_legacy(self, lab: Lab) -> None:
        assert_ordered(lab, LEGACY, lab.stream(non_blocking=False))

    def test_a_non_blocking_stream_does_not_wait_for_legacy(self, lab: Lab) -> None:
        assert_unordered(lab, LEGACY, lab.stream())

    def test_two_blocking_streams_are_not_ordered(self, lab: Lab) -> None:
        assert_unordered(lab, lab.stream(non_blocking=False), lab.stream(non_blocking=False))

    def test_a_record_on_legacy_orders_two_blocking_streams(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(non_blocking=False), lab.stream(non_blocking=False), lab.event()
        assert_ordered(lab, producer, consumer, lambda: record(lab, event, LEGACY))

    def test_a_record_on_legacy_covers_all_blocking_streams(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(non_blocking=False), lab.stream(), lab.event()

        def order() -> None:
            record(lab, event, LEGACY)
            wait(lab, consumer, event)

        assert_ordered(lab, producer, consumer, order)

    def test_a_record_on_legacy_does_not_cover_non_blocking_streams(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(non_blocking=False), lab.stream(), lab.event()
        assert_unordered(lab, producer, consumer, lambda: record(lab, event, LEGACY))

    def test_a_wait_on_legacy_holds_up_blocking_streams(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(), lab.stream(non_blocking=False), lab.event()

        def order() -> None:
            record(lab, event, producer)
            wait(lab, LEGACY, event)

        assert_ordered(lab, producer, consumer, order)

    def test_a_wait_on_legacy_does_not_hold_up_non_blocking_streams(self, lab: Lab) -> None:
        producer, consumer, event = lab.stream(), lab.stream(), lab.event()

        def order() -> None:
            record(lab, event, producer)
            wait(lab, LEGACY, event)

        assert_unordered(lab, producer, consumer, order)

    def test_a_wait_on_legacy_orders_two_blocking_streams(self, lab: Lab) -> None:
        producer, consumer = lab.stream(non_blocking=False), lab.stream(non_blocking=False)
        third, event = lab.stream(), lab.event()
        source, target = lab.cell(), lab.cell()
        gate, other_gate = lab.gate(producer), lab.gate(third)
        record(lab, event, third)
        lab.put(producer, source, FRESH)
        wait(lab, LEGACY, event)
        lab.copy(consumer, source, target)
        other_gate.open()
        assert lab.becomes_done(lambda: lab.runtime.cudaEventQuery(event))
        assert held(lab, consumer)
        gate.open()
        assert lab.read(target) == FRESH

    def test_a_wait_on_legacy_for_a_done_event_orders_two_blocking_streams(self, lab: Lab) -> None:
        producer, consumer = lab.stream(non_blocking=False), lab.stream(non_blocking=False)
        third, event = lab.stream(), lab.event()
        record(lab, event, third)
        assert lab.runtime.cudaEventSynchronize(event)[0] == SUCCESS
        assert_ordered(lab, producer, consumer, lambda: wait(lab, LEGACY, event))

    def test_a_wait_on_a_blocking_stream_holds_up_legacy(self, lab: Lab) -> None:
        producer, blocking, event = lab.stream(), lab.stream(non_blocking=False), lab.event()

        def order() -> None:
            record(lab, event, producer)
            wait(lab, blocking, event)

        assert_ordered(lab, producer, LEGACY, order)

    def test_a_record_on_a_blocking_stream_covers_legacy_too(self, lab: Lab) -> None:
        consumer, blocking, event = lab.stream(), lab.stream(non_blocking=False), lab.event()

        def order() -> None:
            record(lab, event, blocking)
            wait(lab, consumer, event)

        assert_ordered(lab, LEGACY, consumer, order)

    def test_a_record_on_a_blocking_stream_does_not_make_it_pending(self, lab: Lab) -> None:
        blocking, event = lab.stream(non_blocking=False), lab.event()
        gate = lab.gate(LEGACY)
        record(lab, event, blocking)
        assert lab.stays_pending(lambda: lab.runtime.cudaEventQuery(event))
        assert done(lab, blocking)
        gate.open()
        assert lab.runtime.cudaEventSynchronize(event)[0] == SUCCESS

    def test_a_query_of_legacy_covers_blocking_streams(self, lab: Lab) -> None:
        blocking = lab.stream(non_blocking=False)
        other = lab.stream(non_blocking=False)
        gate = lab.gate(blocking)
        assert held(lab, LEGACY)
        assert done(lab, other)
        assert done(lab, PER_THREAD)
        gate.open()
        assert lab.runtime.cudaStreamSynchronize(LEGACY)[0] == SUCCESS
        assert lab.runtime.cudaStreamQuery(blocking)[0] == SUCCESS

    def test_a_query_of_legacy_does_not_cover_non_blocking_streams(self, lab: Lab) -> None:
        stream = lab.stream()
        gate = lab.gate(stream)
        assert done(lab, LEGACY)
        gate.open()

    @pytest.mark.parametrize("non_blocking", [False, True], ids=["blocking", "non-blocking"])
    def test_legacy_waits_for_a_blocking_stream_that_was_destroyed(self, lab: Lab, *, non_blocking: bool) -> None:
        # The non-blocking stream is the control.
        stream = int(value(lab.runtime.cudaStreamCreateWithFlags(1 if non_blocking else 0)))
        source, target, copied = lab.cell(), lab.cell(), lab.event()
        gate = lab.gate(stream)
        lab.put(stream, source, FRESH)
        value(lab.runtime.cudaStreamDestroy(stream))
        lab.copy(LEGACY, source, target)
        record(lab, copied, LEGACY)
        assert_held_only_if(lab, copied, held=not non_blocking)
        gate.open()
        assert lab.read(target) == (STALE if non_blocking else FRESH)
        assert lab.read(source) == FRESH

    @pytest.mark.parametrize("non_blocking", [False, True], ids=["blocking", "non-blocking"])
    def test_a_blocking_stream_that_is_made_later_waits_for_legacy(self, lab: Lab, *, non_blocking: bool) -> None:
        # The non-blocking stream is the control.
        source, target, copied = lab.cell(), lab.cell(), lab.event()
        gate = lab.gate(LEGACY)
        lab.put(LEGACY, source, FRESH)
        late = lab.stream(non_blocking=non_blocking)
        lab.copy(late, source, target)
        record(lab, copied, late)
        assert_held_only_if(lab, copied, held=not non_blocking)
        gate.open()
        assert lab.read(target) == (STALE if non_blocking else FRESH)
        assert lab.read(source) == FRESH

    def test_a_wait_for_a_done_event_does_not_make_a_blocking_stream_pending(self, lab: Lab) -> None:
        blocking, other, before, after = lab.stream(non_blocking=False), lab.stream(), lab.event(), lab.event()
        record(lab, before, other)
        value(lab.runtime.cudaEventSynchronize(before))
        gate = lab.gate(LEGACY)
        wait(lab, blocking, before)
        assert done(lab, blocking)
        # The control: an event that is recorded next waits for the legacy stream.
        record(lab, after, blocking)
        assert_held_only_if(lab, after, held=True)
        gate.open()
        assert lab.runtime.cudaEventSynchronize(after)[0] == SUCCESS

    def test_a_waiting_blocking_stream_is_done_as_soon_as_its_event(self, lab: Lab) -> None:
        # The legacy stream still has work, but only the next work of the blocking stream would wait for that.
        blocking, producer, event = lab.stream(non_blocking=False), lab.stream(), lab.event()
        gate, first = lab.gate(LEGACY), lab.gate(producer)
        record(lab, event, producer)
        wait(lab, blocking, event)
        assert held(lab, blocking)
        first.open()
        assert done(lab, blocking)
        gate.open()

    def test_per_thread_is_blocking_as_a_consumer(self, lab: Lab) -> None:
        assert_ordered(lab, LEGACY, PER_THREAD)

    def test_per_thread_is_blocking_as_a_producer(self, lab: Lab) -> None:
        assert_ordered(lab, PER_THREAD, LEGACY)

    def test_per_thread_is_another_stream_in_every_thread(self, lab: Lab) -> None:
        def ids() -> tuple[int, int]:
            runtime = lab.runtime
            return int(value(runtime.cudaStreamGetId(LEGACY))), int(value(runtime.cudaStreamGetId(PER_THREAD)))

        here, there = ids(), in_thread(ids)
        assert here[0] == there[0]
        assert len({*here, *there}) == 3
        assert ids() == here

    def test_per_thread_of_two_threads_are_not_ordered(self, lab: Lab) -> None:
        source, target = lab.cell(), lab.cell()
        closed, ready, seconds = threading.Event(), threading.Event(), 30

        def consume() -> bool:
            # The first use creates the stream, which may wait for the device. So this comes before the gate.
            value(lab.runtime.cudaStreamSynchronize(PER_THREAD))
            ready.set()
            assert closed.wait(seconds)
            lab.copy(PER_THREAD, source, target)
            return done(lab, PER_THREAD)

        value(lab.runtime.cudaStreamSynchronize(PER_THREAD))
        with ThreadPoolExecutor(1) as pool:
            consumer = pool.submit(consume)
            assert ready.wait(seconds)
            gate = lab.gate(PER_THREAD)
            lab.put(PER_THREAD, source, FRESH)
            closed.set()
            assert consumer.result(seconds)
        gate.open()
        assert lab.read(source) == FRESH
        assert lab.read(target) == STALE

    # -- devices and contexts ------------------------------------------------------------------------------------

    def test_a_wait_orders_across_devices(self, lab: Lab) -> None:
        lab.need_two_devices()
        first, second = lab.stream(), lab.stream(device=1)
        here, there = lab.event(), lab.event(device=1)
        gate = lab.gate(first)
        record(lab, there, second)
        # The control: without a wait, the second stream is done.
        assert lab.becomes_done(lambda: lab.runtime.cudaEventQuery(there))
        record(lab, here, first)
        wait(lab, second, here)
        record(lab, there, second)
        assert lab.stays_pending(lambda: lab.runtime.cudaEventQuery(there))
        gate.open()
        assert lab.runtime.cudaEventSynchronize(there)[0] == SUCCESS

    def test_an_event_of_another_context_cannot_be_recorded(self, lab: Lab) -> None:
        lab.need_two_devices()
        there, event = lab.stream(device=1), lab.event()
        assert lab.runtime.cudaEventRecord(event, there)[0] == INVALID_HANDLE
        # The event counts as never recorded: the wait succeeds, and orders nothing.
        assert lab.runtime.cudaStreamWaitEvent(lab.stream(), event, 0)[0] == SUCCESS

    def test_legacy_is_of_the_current_device(self, lab: Lab) -> None:
        lab.need_two_devices()
        runtime, driver = lab.runtime, lab.driver
        other = int(value(driver.cuStreamGetCtx(lab.stream(device=1))))
        here = value(runtime.cudaStreamGetId(LEGACY))
        value(driver.cuCtxPushCurrent(other))
        assert value(runtime.cudaGetDevice()) == 1
        assert value(runtime.cudaStreamGetDevice(LEGACY)) == 1
        assert value(runtime.cudaStreamGetId(LEGACY)) != here
        value(driver.cuCtxPopCurrent())
        assert value(runtime.cudaGetDevice()) == 0
        assert value(runtime.cudaStreamGetId(LEGACY)) == here

    def test_legacy_of_another_device_is_not_ordered(self, lab: Lab) -> None:
        lab.need_two_devices()
        there, event = lab.stream(non_blocking=False, device=1), lab.event(device=1)
        gate = lab.gate(LEGACY)
        record(lab, event, there)
        assert lab.becomes_done(lambda: lab.runtime.cudaEventQuery(event))
        gate.open()

    def test_streams_work_whichever_device_is_current(self, lab: Lab) -> None:
        lab.need_two_devices()
        there, event = lab.stream(device=1), lab.event(device=1)
        record(lab, event, there)
        wait(lab, there, event)
        assert lab.runtime.cudaStreamSynchronize(there)[0] == SUCCESS
        assert lab.runtime.cudaStreamQuery(there)[0] == SUCCESS
        assert value(lab.runtime.cudaStreamGetDevice(there)) == 1
        assert value(lab.runtime.cudaGetDevice()) == 0

    def test_some_calls_make_a_context_current(self, lab: Lab) -> None:
        stream = lab.stream()
        context = int(value(lab.driver.cuStreamGetCtx(stream)))

        def look() -> list[int]:
            def current() -> int:
                return int(value(lab.driver.cuCtxGetCurrent()))

            seen = [current()]
            assert lab.driver.cuStreamGetCtx(LEGACY)[0] == INVALID_CONTEXT
            assert int(value(lab.driver.cuStreamGetCtx(stream))) == context
            value(lab.runtime.cudaGetDevice())
            value(lab.runtime.cudaStreamGetDevice(stream))
            seen.append(current())
            value(lab.runtime.cudaStreamIsCapturing(stream))
            seen.append(current())
            assert int(value(lab.driver.cuStreamGetCtx(LEGACY))) == context
            return seen

        assert in_thread(look) == [0, 0, context]

    def test_pop_restores_the_context_before(self, lab: Lab) -> None:
        context = int(value(lab.driver.cuStreamGetCtx(lab.stream())))

        def look() -> list[int]:
            value(lab.driver.cuCtxPushCurrent(context))
            value(lab.runtime.cudaEventCreateWithFlags(2))
            return [int(value(lab.driver.cuCtxPopCurrent())), int(value(lab.driver.cuCtxGetCurrent()))]

        assert in_thread(look) == [context, 0]

    def test_a_device_that_is_not_there_is_refused(self, lab: Lab) -> None:
        assert lab.runtime.cudaSetDevice(99)[0] == INVALID_DEVICE
        assert lab.driver.cuDevicePrimaryCtxRetain(99)[0] == INVALID_DEVICE
        assert lab.driver.cuDevicePrimaryCtxGetState(99)[0] == INVALID_DEVICE
        assert value(lab.runtime.cudaGetDeviceCount()) == lab.devices

    def test_a_stream_is_of_the_primary_context(self, lab: Lab) -> None:
        primary = int(value(lab.driver.cuDevicePrimaryCtxRetain(0)))
        assert int(value(lab.driver.cuStreamGetCtx(lab.stream()))) == primary

    def test_the_primary_context_of_a_stream_is_active(self, lab: Lab) -> None:
        lab.stream()
        code, _, active = lab.driver.cuDevicePrimaryCtxGetState(0)
        assert (int(code), int(active)) == (SUCCESS, 1)

    # -- what streams and events are -----------------------------------------------------------------------------

    def test_a_reused_address_has_a_new_id(self, lab: Lab) -> None:
        ids = []
        for _ in range(4):
            stream = int(value(lab.runtime.cudaStreamCreateWithFlags(1)))
            ids.append(int(value(lab.runtime.cudaStreamGetId(stream))))
            value(lab.runtime.cudaStreamDestroy(stream))
        assert len(set(ids)) == len(ids)

    def test_flags_of_streams(self, lab: Lab) -> None:
        runtime = lab.runtime
        flags = [lab.stream(), lab.stream(non_blocking=False), LEGACY, PER_THREAD]
        assert [value(runtime.cudaStreamGetFlags(stream)) for stream in flags] == [1, 0, 0, 0]

    def test_a_priority_out_of_range_is_clamped(self, lab: Lab) -> None:
        runtime = lab.runtime
        code, least, greatest = runtime.cudaDeviceGetStreamPriorityRange()
        assert code == SUCCESS
        for asked, given in ((77, least), (-77, greatest), (greatest, greatest)):
            stream = int(value(runtime.cudaStreamCreateWithPriority(1, asked)))
            assert value(runtime.cudaStreamGetPriority(stream)) == given
            value(runtime.cudaStreamDestroy(stream))

    @pytest.mark.parametrize(
        ("flags", "code"), [(0, 0), (1, 0), (2, 0), (3, 0), (6, 0), (4, INVALID_VALUE), (64, INVALID_VALUE)]
    )
    def test_flags_of_events(self, lab: Lab, flags: int, code: int) -> None:
        assert lab.runtime.cudaEventCreateWithFlags(flags)[0] == code

    # -- captures ------------------------------------------------------------------------------------------------

    @MODES
    @pytest.mark.parametrize("name", RELATED)
    def test_calls_about_the_capture(self, lab: Lab, name: str, mode: int) -> None:
        call, code, breaks = RELATED[name]
        assert_answer(Bench(lab, non_blocking=True), call, mode, code, breaks=breaks)

    @MODES
    @pytest.mark.parametrize("name", UNRELATED)
    def test_unrelated_calls_during_a_capture(self, lab: Lab, name: str, mode: int) -> None:
        strict = mode != RELAXED
        code = UNSUPPORTED if strict else SUCCESS
        assert_answer(Bench(lab, non_blocking=True), UNRELATED[name], mode, code, breaks=strict)

    @MODES
    @pytest.mark.parametrize("name", UNRELATED)
    def test_a_relaxed_thread_may_make_unrelated_calls(self, lab: Lab, name: str, mode: int) -> None:
        bench = Bench(lab, non_blocking=True)
        with capturing(lab, bench.captured, mode):
            with exchanged(lab, RELAXED) as previous:
                assert previous == GLOBAL
                assert UNRELATED[name](bench)[0] == SUCCESS
            assert status(lab, bench.captured) == ACTIVE
            assert end(lab, bench.captured) == SUCCESS

    @pytest.mark.parametrize("name", ["id of the stream", "device of the stream", "query the stream"])
    def test_a_relaxed_thread_may_not_ask_about_the_capture(self, lab: Lab, name: str) -> None:
        bench = Bench(lab, non_blocking=True)
        with capturing(lab, bench.captured):
            with exchanged(lab, RELAXED):
                assert RELATED[name][0](bench)[0] == UNSUPPORTED
            assert status(lab, bench.captured) == BROKEN

    @MODES
    def test_unrelated_calls_of_another_thread_during_a_capture(self, lab: Lab, mode: int) -> None:
        bench = Bench(lab, non_blocking=True)
        with capturing(lab, bench.captured, mode):
            code = in_thread(lambda: lab.runtime.cudaStreamQuery(bench.other))[0]
            assert code == (UNSUPPORTED if mode == GLOBAL else SUCCESS)
            assert status(lab, bench.captured) == (BROKEN if mode == GLOBAL else ACTIVE)

    @MODES
    @pytest.mark.parametrize("name", ON_LEGACY)
    def test_calls_on_legacy_while_a_blocking_stream_captures(self, lab: Lab, name: str, mode: int) -> None:
        call, code, breaks = ON_LEGACY[name]
        assert_answer(Bench(lab, non_blocking=False), call, mode, code, breaks=breaks)

    def test_legacy_cannot_capture(self, lab: Lab) -> None:
        mode = lab.runtime.cudaStreamCaptureMode(RELAXED)
        assert lab.runtime.cudaStreamBeginCapture(LEGACY, mode)[0] == UNSUPPORTED

    def test_per_thread_can_capture(self, lab: Lab) -> None:
        with capturing(lab, PER_THREAD):
            assert status(lab, PER_THREAD) == ACTIVE
            assert end(lab, PER_THREAD) == SUCCESS
        assert status(lab, PER_THREAD) == NONE

    def test_exchanging_the_mode_returns_the_old_one(self, lab: Lab) -> None:
        with exchanged(lab, RELAXED) as first, exchanged(lab, THREAD_LOCAL) as second:
            assert (first, second) == (GLOBAL, RELAXED)

    @MODES
    def test_a_wait_joins_a_capture(self, lab: Lab, mode: int) -> None:
        first, second, event = lab.stream(), lab.stream(), lab.event()
        with capturing(lab, first, mode):
            assert status(lab, second) == NONE
            record(lab, event, first)
            wait(lab, second, event)
            assert status(lab, second) == ACTIVE
            infos = [lab.runtime.cudaStreamGetCaptureInfo(stream) for stream in (first, second)]
            assert len(infos[0]) == 7
            assert [int(info[1]) for info in infos] == [ACTIVE, ACTIVE]
            assert infos[0][2] == infos[1][2] > 0
            record(lab, event, second)
            wait(lab, first, event)
            assert end(lab, first) == SUCCESS
        assert [status(lab, stream) for stream in (first, second)] == [NONE, NONE]

    def test_a_capture_joins_across_devices(self, lab: Lab) -> None:
        lab.need_two_devices()
        first, second = lab.stream(), lab.stream(device=1)
        here, there = lab.event(), lab.event(device=1)
        with capturing(lab, first, RELAXED):
            record(lab, here, first)
            wait(lab, second, here)
            assert status(lab, second) == ACTIVE
            record(lab, there, second)
            wait(lab, first, there)
            assert end(lab, first) == SUCCESS

    def test_every_capture_has_an_id_of_its_own(self, lab: Lab) -> None:
        stream, ids = lab.stream(), []
        for _ in range(2):
            with capturing(lab, stream):
                ids.append(int(lab.runtime.cudaStreamGetCaptureInfo(stream)[2]))
        assert ids[0] != ids[1]

    def test_a_fork_without_work_need_not_be_joined(self, lab: Lab) -> None:
        first, second, event = lab.stream(), lab.stream(), lab.event()
        with capturing(lab, first):
            record(lab, event, first)
            wait(lab, second, event)
            assert end(lab, first) == SUCCESS
        assert status(lab, second) == NONE

    def test_a_fork_with_work_must_be_joined(self, lab: Lab) -> None:
        first, second, event, cell = lab.stream(), lab.stream(), lab.event(), lab.cell()
        with capturing(lab, first):
            record(lab, event, first)
            wait(lab, second, event)
            lab.put(second, cell, FRESH)
            assert end(lab, first) == UNJOINED

    def test_a_fork_with_work_can_be_joined(self, lab: Lab) -> None:
        first, second, event, cell = lab.stream(), lab.stream(), lab.event(), lab.cell()
        with capturing(lab, first):
            record(lab, event, first)
            wait(lab, second, event)
            lab.put(second, cell, FRESH)
            record(lab, event, second)
            wait(lab, first, event)
            assert end(lab, first) == SUCCESS

    def test_captured_work_does_not_run(self, lab: Lab) -> None:
        stream, cell = lab.stream(), lab.cell()
        with capturing(lab, stream):
            lab.put(stream, cell, FRESH)
            assert end(lab, stream) == SUCCESS
        assert lab.read(cell) == STALE

    def test_two_captures_cannot_merge(self, lab: Lab) -> None:
        first, second, event = lab.stream(), lab.stream(), lab.event()
        with capturing(lab, first, RELAXED), capturing(lab, second, RELAXED):
            record(lab, event, first)
            assert lab.runtime.cudaStreamWaitEvent(second, event, 0)[0] == MERGE
            assert [status(lab, stream) for stream in (first, second)] == [BROKEN, BROKEN]
            assert [end(lab, stream) for stream in (first, second)] == [INVALIDATED, INVALIDATED]

    def test_an_event_of_an_ended_capture_is_invalid(self, lab: Lab) -> None:
        first, second, event = lab.stream(), lab.stream(), lab.event()
        with capturing(lab, first, RELAXED):
            record(lab, event, first)
        runtime = lab.runtime
        assert runtime.cudaStreamWaitEvent(second, event, 0)[0] == INVALID_VALUE
        assert runtime.cudaEventQuery(event)[0] == INVALID_VALUE
        assert runtime.cudaEventSynchronize(event)[0] == INVALID_VALUE
        record(lab, event, second)
        assert lab.becomes_done(lambda: runtime.cudaEventQuery(event))

    def test_no_external_node_waits_for_an_event_of_an_ended_capture(self, lab: Lab) -> None:
        first, second, event = lab.stream(), lab.stream(), lab.event()
        with capturing(lab, first, RELAXED):
            record(lab, event, first)
        with capturing(lab, second, RELAXED):
            assert lab.runtime.cudaStreamWaitEvent(second, event, EXTERNAL)[0] == INVALID_VALUE
            assert end(lab, second) == INVALIDATED
        record(lab, event, first)
        with capturing(lab, second, RELAXED):
            value(lab.runtime.cudaStreamWaitEvent(second, event, EXTERNAL))
            assert end(lab, second) == SUCCESS

    def test_external_nodes_are_for_captures_only(self, lab: Lab) -> None:
        stream, event = lab.stream(), lab.event()
        assert lab.runtime.cudaEventRecordWithFlags(event, stream, EXTERNAL)[0] == ILLEGAL_STATE
        record(lab, event, stream)
        assert lab.runtime.cudaStreamWaitEvent(stream, event, EXTERNAL)[0] == ILLEGAL_STATE
        value(lab.runtime.cudaEventRecordWithFlags(event, stream, 0))
        wait(lab, stream, event)
        assert done(lab, stream)

    def test_an_external_node_leaves_the_event_outside_of_the_capture(self, lab: Lab) -> None:
        first, second, event = lab.stream(), lab.stream(), lab.event()
        with capturing(lab, first, RELAXED):
            value(lab.runtime.cudaEventRecordWithFlags(event, first, EXTERNAL))
            wait(lab, second, event)
            assert status(lab, second) == NONE
            assert end(lab, first) == SUCCESS

    def test_an_external_node_of_a_fork_must_be_joined(self, lab: Lab) -> None:
        first, second, event, other = lab.stream(), lab.stream(), lab.event(), lab.event()
        with capturing(lab, first):
            record(lab, event, first)
            wait(lab, second, event)
            value(lab.runtime.cudaStreamWaitEvent(second, other, EXTERNAL))
            assert end(lab, first) == UNJOINED

    def test_a_broken_capture_refuses_more_work(self, lab: Lab) -> None:
        first, second, event = lab.stream(), lab.stream(), lab.event()
        with capturing(lab, first, RELAXED):
            assert lab.runtime.cudaStreamQuery(first)[0] == UNSUPPORTED
            assert lab.runtime.cudaEventRecord(event, first)[0] == INVALIDATED
            assert lab.runtime.cudaStreamQuery(first)[0] == UNSUPPORTED
            assert lab.runtime.cudaStreamQuery(second)[0] == SUCCESS

    def test_a_strict_capture_ends_in_its_thread(self, lab: Lab) -> None:
        stream = lab.stream()
        with capturing(lab, stream, GLOBAL):
            assert in_thread(lambda: end(lab, stream)) == WRONG_THREAD

    def test_a_relaxed_capture_ends_in_any_thread(self, lab: Lab) -> None:
        stream = lab.stream()
        begin(lab, stream, RELAXED)
        assert in_thread(lambda: end(lab, stream)) == SUCCESS

    def test_a_capture_ends_on_the_stream_it_began_on(self, lab: Lab) -> None:
        first, second, event = lab.stream(), lab.stream(), lab.event()
        with capturing(lab, first):
            record(lab, event, first)
            wait(lab, second, event)
            assert end(lab, second) == UNMATCHED

    def test_a_stream_captures_once_at_a_time(self, lab: Lab) -> None:
        stream = lab.stream()
        assert end(lab, stream) == ILLEGAL_STATE
        with capturing(lab, stream):
            mode = lab.runtime.cudaStreamCaptureMode(GLOBAL)
            assert lab.runtime.cudaStreamBeginCapture(stream, mode)[0] == ILLEGAL_STATE
