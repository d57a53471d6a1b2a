"""How the cost grows: with the streams that are joined, with threads, with the arrays that are borrowed."""

import threading
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from benchmarks.lab import Lab, value
from benchmarks.measure import Batch, Operation, Row, Timed
from benchmarks.operations import OURS, QUEUE, WAIT_STREAM, C, Calls, peers, statement

STREAMS: Final = (1, 2, 4, 8, 16, 32, 64)
THREADS: Final = (1, 2, 4, 8, 16)
ARRAYS: Final = (1, 2, 4, 8)
IN_THREADS: Final = "wait_stream, in many threads"
"""The operation whose size is how many threads make it at once."""

_FIRST_OF_THREADS: Final = 100
"""The streams of the threads have numbers of their own: the pairs of threads share nothing."""
_THREAD_CALLS: Final = QUEUE // 2

_JOIN: Final = {library: f"for producer in producers: {text}" for library, text in WAIT_STREAM.items()}
_IN_THREADS: Final = {
    OURS: "stream.wait_stream(producer)",
    **{library: WAIT_STREAM[library] for library in ("cuda.core", "CuPy", "torch")},
}


def all_operations(lab: Lab) -> list[Operation]:
    """Every one, in the order of the report."""
    return [*_joins(lab), *_threads(lab), *_borrows(lab)]


def _joins(lab: Lab) -> Iterator[Operation]:
    def streams(count: int) -> Callable[[str], object]:
        return lambda library: [lab.stream(library, number) for number in range(1, count + 1)]

    for count in STREAMS:
        each: dict[str, Callable[[str], object]] = {
            "stream": lambda library: lab.stream(library, 0),
            "producers": streams(count),
        }
        ours = statement(
            OURS, "stream.wait_stream(*producers)", **{name: partial(make, OURS) for name, make in each.items()}
        )
        rows: list[Row] = [Calls(lab).c_wait(count), ours, *peers(lab, _JOIN, **each)]
        yield Operation("wait_stream, of many streams", rows, max(5, QUEUE // (2 * count)), group="growth", size=count)


def _threads(lab: Lab) -> Iterator[Operation]:
    for count in THREADS:
        consumers = range(_FIRST_OF_THREADS, _FIRST_OF_THREADS + 2 * count, 2)

        def from_c(consumers: Sequence[int] = consumers) -> Batch:
            events = [lab.event_handle(number) for number in consumers]
            handles = [lab.handle(number) for number in consumers]
            producers = [lab.handle(number + 1) for number in consumers]
            return lambda n: lab.baseline.wait_stream_in_threads(n, handles, events, producers) / len(handles)

        rows: list[Row] = [Timed(C, "cudaEventRecord, cudaStreamWaitEvent, in threads", from_c)]
        for library, text in _IN_THREADS.items():
            rows.append(Timed(library, f"{text}, in threads", partial(_in_threads, lab, library, text, consumers)))
        yield Operation(IN_THREADS, rows, _THREAD_CALLS, group="growth", size=count)


def _in_threads(lab: Lab, library: str, text: str, consumers: Sequence[int]) -> Batch:
    """Each thread has a consumer and a producer of its own; nanoseconds by the clock, shared by all the threads."""
    pairs = [(lab.stream(library, number), lab.stream(library, number + 1)) for number in consumers]
    names = {"cupy": lab.module("CuPy")} if library == "CuPy" else {}
    timers = [
        timeit.Timer(text, globals={"stream": stream, "producer": producer, **names}) for stream, producer in pairs
    ]
    prelude = _make_current(lab, library)

    def batch(n: int) -> float:
        begun, ended, errors = [0] * len(timers), [0] * len(timers), list[BaseException]()
        barrier = threading.Barrier(len(timers))

        def run(number: int, timer: timeit.Timer) -> None:
            try:
                prelude()
                timer.timeit(1)  # what a thread sets up for itself
                barrier.wait(timeout=10)
                begun[number] = time.perf_counter_ns()
                timer.timeit(n)
                ended[number] = time.perf_counter_ns()
            except BaseException as error:
                errors.append(error)
                barrier.abort()

        threads = [threading.Thread(target=run, args=pair) for pair in enumerate(timers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
        return (max(ended) - min(begun)) / len(timers)

    return batch


def _make_current(lab: Lab, library: str) -> Callable[[], Any]:
    """What a new thread does before it uses *library*."""
    if library == OURS:
        return lambda: None
    if library == "cuda.core":
        return lambda: lab.module(library).Device(0).set_current()
    return lambda: value(lab.module("cuda.bindings").cudaSetDevice(0))


def _borrows(lab: Lab) -> Iterator[Operation]:
    def arrays(count: int) -> Callable[[], object]:
        return lambda: [lab.array("CuPy", number) for number in range(count)]

    for count in ARRAYS:
        ours = statement(
            OURS,
            "with interop.borrow(*arrays, consumer=consumer, producer=producer): pass",
            arrays=arrays(count),
            consumer=partial(lab.lasting, "torch", 0),
            producer=partial(lab.lasting, "CuPy", 1),
        )
        rows: list[Row] = [Calls(lab).c_there_and_back(mark_the_end=False), ours]
        # One wait there and one back; and the way back of each array once more, when it goes.
        yield Operation("borrow, of many arrays", rows, QUEUE // (4 + 3 * count), group="growth", size=count)
