"""A ledger that stays open for long: its memory, and the time of a call, do not grow with the streams it has seen."""

import gc
import sys
import time
import weakref
from collections import deque
from types import MappingProxyType

import pytest

import interop
from interop._order.findings import Kind
from interop.ledger.layout import block
from interop.ordering import check
from tests.threads import in_thread


@pytest.fixture(autouse=True)
def _a_small_heap():
    """Collections look at what the test makes: not at what the tests before it have left, which takes far longer."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Program:
    """Each public method is a step that a program repeats. Its name says which objects live for that step only."""

    def __init__(self, gpu, ledger):
        self.gpu, self.ledger = gpu, ledger
        self.main, self.other = interop.new_stream(), interop.new_stream()
        self.x = gpu.array([0.0])

    def streams_in_order(self, **kind):
        stream = interop.new_stream(**kind)
        stream.wait_stream(self.main)
        self.ledger.writes(self.x, stream)
        self.main.wait_stream(stream)

    def blocking_streams(self):
        self.streams_in_order(non_blocking=False)

    def streams_that_read(self):
        stream = interop.new_stream()
        stream.wait_stream(self.main)
        self.ledger.reads(self.x, stream)
        self.main.wait_stream(stream)

    def streams_that_nobody_waits_for(self):
        self.ledger.reads(self.x, interop.new_stream())

    def streams_that_race(self):
        self.ledger.writes(self.x, interop.new_stream())

    def streams_at_bare_addresses(self):
        stream = self.gpu.stream()
        self.ledger.reads(self.x, stream.__cuda_stream__()[1])

    def streams_that_the_host_waits_for(self):
        stream = interop.new_stream()
        self.ledger.writes(self.x, stream)
        stream.synchronize()

    def threads(self):
        self.read_in_a_thread(self.main)

    def threads_with_their_default_stream(self):
        self.read_in_a_thread(2)

    def threads_with_a_stream(self):
        self.read_in_a_thread(interop.new_stream())

    def read_in_a_thread(self, stream):
        in_thread(lambda: self.ledger.reads(self.x, stream))

    def arrays(self):
        array = self.gpu.array([0.0])
        self.ledger.writes(array, self.main)
        self.ledger.reads(array, self.other)

    def events(self):
        event = interop.Event()
        self.main.record_event(event)
        self.other.wait_event(event)
        self.ledger.writes(self.x, self.other)
        self.main.wait_stream(self.other)

    number = 0

    def arrays_of_any_size_in_a_pool(self):
        self.number += 1
        start, size = 64 * (self.number * 7919 % 64), 64 * (1 + self.number * 104729 % 8)
        self.ledger.pool_allocated(self.main, block(start, size), "a new array")
        self.ledger.accessed(self.main, [("it", block(start, size), Kind.WRITE)], "work")


KINDS = [name for name in vars(Program) if not name.startswith(("_", "read_", "number"))]
TIMES = 400


@pytest.fixture
def again():
    """A function that calls a method of :class:`Program` again and again."""
    with interop.sim.simulate(on_race="record") as gpu, check(raises=False) as ledger:
        program = Program(gpu, ledger)

        def again(kind, times):
            call = getattr(program, kind)
            for _ in range(times):
                call()
            gc.collect()

        again.ledger = ledger
        yield again


def kept_by(ledger):
    """The size in bytes of all objects of the ledger's own classes, with their containers and strings."""
    plain = (dict, list, tuple, set, deque, str, int, weakref.ref, weakref.WeakKeyDictionary, MappingProxyType)
    todo, seen = [ledger], {}
    while todo:
        one = todo.pop()
        if id(one) not in seen and (isinstance(one, plain) or type(one).__module__.startswith(OURS)):
            seen[id(one)] = sys.getsizeof(one)
            todo += gc.get_referents(one)
    return sum(seen.values())


OURS = ("interop.ledger", "interop.ordering", "interop._order")


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_of_a_ledger_does_not_grow(kind, again):
    def most():
        kept = []
        for _ in range(16):
            again(kind, TIMES // 4)
            kept.append(kept_by(again.ledger))
        return max(kept)

    early = most()
    assert early > 1000
    assert most() < 1.2 * early + 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_the_time_of_a_call_does_not_grow(kind, again):
    def cost():
        costs = []
        for _ in range(5):
            start = time.thread_time()
            again(kind, TIMES // 10)
            costs.append(time.thread_time() - start)
        return min(costs)

    again(kind, TIMES // 2)
    early = cost()
    again(kind, 3 * TIMES)
    assert cost() < 2 * early
