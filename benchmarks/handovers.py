"""Hand-overs of arrays, beside the libraries' own conversions; borrowing; and hand-overs in many threads."""

import functools
import threading
import time
import timeit
from collections.abc import Iterator
from typing import Final

from benchmarks import measure
from benchmarks.lab import OURS, Lab
from benchmarks.measure import Batch, Operation, Row

HANDOFF: Final = "interop.handoff(array, consumer, producer=producer)"
INTO_JAX: Final = "interop.handoff(array, producer, producer=producer, into='jax')"
BORROW: Final = "with interop.borrow(array, consumer=consumer, producer=producer): pass"
BORROW_EIGHT: Final = "with interop.borrow(*arrays, consumer=consumer, producer=producer): pass"

OWN: Final[dict[str, dict[str, str]]] = {
    "torch": {
        "torch.from_dlpack": "torch.from_dlpack(array)",
        "torch.as_tensor": "torch.as_tensor(array, device='cuda')",
    },
    "CuPy": {"cupy.asarray": "cupy.asarray(array)", "cupy.from_dlpack": "cupy.from_dlpack(array)"},
    "Numba": {"as_cuda_array(sync=False)": "cuda.as_cuda_array(array, sync=False)"},
    "cuda.core": {"StridedMemoryView": "utils.StridedMemoryView.from_any_interface(array, stream_ptr=-1)"},
    "JAX": {"jax.dlpack.from_dlpack": "jax.dlpack.from_dlpack(array)"},
}
"""The libraries' own conversions of another library's array. These order less than a hand-over, or block the host."""

WAYS: Final = (
    *(("CuPy", "torch"), ("torch", "CuPy"), ("CuPy", "Numba"), ("torch", "Numba"), ("Numba", "CuPy")),
    *(("Numba", "torch"), ("CuPy", "cuda.core"), ("torch", "cuda.core"), ("CuPy", "JAX"), ("torch", "JAX")),
)
"""Producer and consumer. JAX comes last, because it changes the process that loads it."""

MANY: Final = 16
"""How many threads hand over at once."""
IN_THREADS: Final = f"handoff, CuPy to torch, {MANY} threads at once"
ONE_THREAD: Final = "one thread"
_FIRST: Final = 100
"""The number of the threads' first stream and array. Each thread has its own."""
_BATCH: Final = 80
"""Hand-overs in a batch. Each takes about five entries of the launch queue."""


def name(source: str, target: str) -> str:
    """The name of the operation that hands an array from *source* to *target*."""
    return f"handoff, {source} to {target}"


def own(source: str, target: str) -> dict[str, str]:
    """The consumer's own conversions. Those by DLPack are left out for Numba, whose arrays do not have it."""
    return {label: text for label, text in OWN[target].items() if source != "Numba" or "dlpack" not in label}


def all_operations(lab: Lab) -> Iterator[Operation]:
    """Every one, in the order of the report."""
    for source, target in WAYS:
        if target == "JAX":
            continue
        yield _handover(lab, source, target)
    one, eight, handed = (between(lab, text, "CuPy", "torch") for text in (BORROW, BORROW_EIGHT, HANDOFF))
    yield Operation("borrow, one array", [one, _beside("interop.handoff", handed)], _BATCH)
    yield Operation("borrow, eight arrays", [eight, _beside("borrow, one array", one)], _BATCH // 8)
    crowds = [
        (OURS, HANDOFF, MANY),
        (ONE_THREAD, HANDOFF, 1),
        *((label, text, MANY) for label, text in OWN["torch"].items()),
    ]
    rows = [
        Row(label, f"{text}, in {count} threads", functools.partial(in_threads, lab, count, text))
        for label, text, count in crowds
    ]
    yield Operation(IN_THREADS, rows, _BATCH // 2)


def into_jax(lab: Lab) -> Iterator[Operation]:
    """The hand-overs to JAX, which come last."""
    return (_handover(lab, source, target) for source, target in WAYS if target == "JAX")


def _handover(lab: Lab, source: str, target: str) -> Operation:
    ours = between(lab, INTO_JAX if target == "JAX" else HANDOFF, source, target)
    others = [between(lab, text, source, target, label) for label, text in own(source, target).items()]
    return Operation(name(source, target), [ours, *others], _BATCH)


def between(lab: Lab, text: str, source: str, target: str, label: str = OURS) -> Row:
    """A row for a statement with an array of *source*. Both streams are current in their libraries while it runs."""

    def prepare() -> Batch:
        names = lab.names(text, target, array=source, producer=source)
        streams = {source: lab.stream(source, 1)}
        if target != "JAX":
            streams[target] = lab.stream(target)
        lab.library(target)
        return measure.statement(text, names, lambda: lab.current(streams))

    return Row(label, text, prepare)


def _beside(label: str, row: Row) -> Row:
    return Row(label, row.statement, row.prepare)


def in_threads(lab: Lab, count: int, text: str) -> Batch:
    """Each thread does *text* with an array of its own, of CuPy, between streams of its own.

    The result is the wall time divided by the number of threads. So, divided by the calls of one thread, it is the wall
    time divided by all calls.
    """
    timers = []
    for number in range(_FIRST, _FIRST + count):
        names = lab.names(text, "torch", array="CuPy", producer="CuPy")
        names |= {"array": lab.array("CuPy", number), "consumer": lab.stream("torch", number)}
        timers.append(timeit.Timer(text, globals={**names, "producer": lab.stream("CuPy", number)}))

    def batch(n: int) -> float:
        begun, ended, errors = [0] * count, [0] * count, list[BaseException]()
        barrier = threading.Barrier(count)

        def run(number: int, timer: timeit.Timer) -> None:
            try:
                timer.timeit(1)  # sets up what each thread has of its own
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
        return (max(ended) - min(begun)) / count

    return batch
