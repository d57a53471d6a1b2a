"""Measure what repeated calls leave allocated."""

import gc
import sys
import tracemalloc
from collections.abc import Callable


def assert_no_leak(work: Callable[[], object]) -> None:
    """Check that 2,000 calls of *work* leave no block of memory each."""
    for _ in range(10):
        work()
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(2000):
        work()
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 500  # a leak would leave 2000 or more; caches hold about 100


def bytes_left_by(work: Callable[[], object], settle: Callable[[], object] = lambda: None) -> float:
    """The bytes of Python's memory that a call of *work* leaves, by tracemalloc: the mean of 4,000 calls.

    Of two rounds, the one that leaves less counts: a block that is allocated once is in one of them, such as the 4 kB
    in which a free-threaded interpreter notes what to free later.

    *settle* is called before each measurement: it waits until everything can be released.
    """

    def traced(calls: int) -> int:
        for _ in range(calls):
            work()
        settle()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = traced(500)  # what these allocate once is not counted when it is replaced
        middle = traced(4000)
        return min(middle - before, traced(4000) - middle) / 4000
    finally:
        tracemalloc.stop()
