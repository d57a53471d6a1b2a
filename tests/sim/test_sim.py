"""The simulator: races, schedules, deadlocks, threads, and the beginning and end of a simulation."""

import asyncio
import gc
import itertools
import random
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interop
from interop import _cuda, sim
from interop.errors import (
    CudaError,
    DeadlockError,
    InteropError,
    InvalidArrayError,
    InvalidStreamError,
    NoDeviceError,
    NotSupportedError,
    RaceError,
)
from interop.sim import SimulatedArray, SimulatedGPU, schedule, work
from tests.interrupts import interrupt
from tests.threads import in_thread

Memory = Any
Program = Callable[[SimulatedGPU], Any]


def fill(memory: Memory) -> None:
    memory[:] = 7


def double(source: Memory, target: Memory) -> None:
    target[:] = 2 * source


@pytest.fixture
def gpu() -> Iterator[SimulatedGPU]:
    with sim.simulate(devices=2) as gpu:
        yield gpu


def handle(stream: sim.SimulatedStream) -> int:
    return stream.__cuda_stream__()[1]


def order(gpu: SimulatedGPU, producer: sim.SimulatedStream, consumer: sim.SimulatedStream) -> int:
    """Make *consumer* wait for *producer*; returns the event."""
    event = gpu.cuda.event_create(gpu.cuda.primary_context(producer.device), 2)
    gpu.cuda.event_record(event, handle(producer))
    gpu.cuda.stream_wait_event(handle(consumer), event)
    return event


# -- races -------------------------------------------------------------------------------------------------------


def test_a_missing_wait_is_a_race(gpu: SimulatedGPU) -> None:
    producer, consumer = gpu.stream("producer"), gpu.stream("consumer")
    data, result = gpu.array([0, 0], "data"), gpu.array([0, 0], "result")
    gpu.launch(producer, fill, writes=[data])
    with pytest.raises(RaceError) as raised:
        gpu.launch(consumer, double, reads=[data], writes=[result])
    text = str(raised.value)
    for part in ("race on data", "'fill' on producer", "'double' on consumer", "which writes it", "which reads it"):
        assert part in text
    assert text.count(f"{__file__}:") == 2
    assert text.endswith("Order them: interop.as_stream(consumer).wait_stream(producer)")
    (race,) = gpu.races
    assert (race.earlier.by, race.later.by, race.later.array) == ("kernel 'fill'", "kernel 'double'", "data")
    assert (race.earlier.kind.verb, race.later.kind.verb) == ("writes", "reads")
    # The kernel that raced was not enqueued: it does not run, and later kernels do not race with it.
    gpu.synchronize()
    assert gpu.read(result).tolist() == [0, 0]
    gpu.launch(producer, fill, writes=[result])


def test_a_wait_prevents_a_race(gpu: SimulatedGPU) -> None:
    producer, consumer = gpu.stream("producer"), gpu.stream("consumer")
    data, result = gpu.array([0, 0]), gpu.array([0, 0])
    gpu.launch(producer, fill, writes=[data])
    order(gpu, producer, consumer)
    gpu.launch(consumer, double, reads=[data], writes=[result])
    gpu.cuda.stream_synchronize(handle(consumer))
    assert gpu.read(result).tolist() == [14, 14]
    assert gpu.races == []


def test_the_suggested_fix_works(gpu: SimulatedGPU) -> None:
    producer, consumer = (interop.as_stream(gpu.stream(name)) for name in ("producer", "consumer"))
    data, result = gpu.array([0, 0]), gpu.array([0, 0])
    gpu.launch(producer, fill, writes=[data])
    with pytest.raises(RaceError):
        gpu.launch(consumer, double, reads=[data], writes=[result])
    exec(gpu.races[0].fix, {"interop": interop, "producer": producer, "consumer": consumer})
    gpu.launch(consumer, double, reads=[data], writes=[result])
    with pytest.raises(RaceError):
        gpu.read(result)
    exec(gpu.races[1].fix, {"interop": interop, "consumer": consumer})
    assert gpu.read(result).tolist() == [14, 14]


def test_the_suggested_fix_identifies_streams_without_names() -> None:
    with sim.simulate(on_race="record") as gpu:
        producer, consumer = interop.new_stream(), interop.new_stream()
        data = gpu.array([0])
        gpu.launch(producer, fill, writes=[data])
        gpu.launch(consumer, fill, writes=[data])
        gpu.read(data)
        assert [race.fix for race in gpu.races] == [
            "interop.as_stream(consumer).wait_stream(producer), where consumer is stream 2 and producer is stream 1",
            "interop.as_stream(producer).synchronize(), where producer is stream 1",
            "interop.as_stream(producer).synchronize(), where producer is stream 2",
        ]


def test_a_write_after_a_read_is_a_race(gpu: SimulatedGPU) -> None:
    reader, writer, data, result = gpu.stream("reader"), gpu.stream("writer"), gpu.array([1]), gpu.array([0])
    gpu.launch(reader, double, reads=[data], writes=[result])
    with pytest.raises(RaceError, match=r"'double' on reader .*, which reads it"):
        gpu.launch(writer, fill, writes=[data])


def test_reads_do_not_race(gpu: SimulatedGPU) -> None:
    data = gpu.array([1])
    for _ in range(2):
        gpu.launch(gpu.stream(), double, reads=[data], writes=[gpu.array([0])])
    assert gpu.read(data).tolist() == [1]


def test_every_race_of_a_launch_is_reported() -> None:
    with sim.simulate(on_race="record") as gpu:
        data = gpu.array([1], "data")
        for name in ("first", "second", "third"):
            gpu.launch(gpu.stream(name), fill, writes=[data], name=name)
        pairs = [(race.earlier.by, race.later.by) for race in gpu.races]
        assert pairs == [
            ("kernel 'first'", "kernel 'second'"),
            ("kernel 'first'", "kernel 'third'"),
            ("kernel 'second'", "kernel 'third'"),
        ]


def test_a_host_access_can_race(gpu: SimulatedGPU) -> None:
    stream, data = gpu.stream("stream"), gpu.array([0], "data")
    gpu.launch(stream, fill, writes=[data])
    with pytest.raises(RaceError, match=r"the host on MainThread .*, which reads it") as raised:
        gpu.read(data)
    assert str(raised.value).endswith("Order them: interop.as_stream(stream).synchronize()")
    with pytest.raises(RaceError, match=r"the host on MainThread .*, which writes it"):
        gpu.write(data, [1])
    gpu.cuda.stream_synchronize(handle(stream))
    assert gpu.read(data).tolist() == [7]
    gpu.write(data, [1])
    assert gpu.read(data).tolist() == [1]
    gpu.launch(stream, fill, writes=[data])


def test_a_query_that_returns_true_orders_like_synchronize(gpu: SimulatedGPU) -> None:
    stream, data = gpu.stream(), gpu.array([0])
    gpu.launch(stream, fill, writes=[data])
    assert not gpu.cuda.stream_query(handle(stream))
    with pytest.raises(RaceError):
        gpu.read(data)
    assert gpu.cuda.stream_query(handle(stream))
    assert gpu.read(data).tolist() == [7]


def test_a_legacy_handle_is_of_the_device_of_its_object(gpu: SimulatedGPU) -> None:
    class Foreign:
        cuda_stream = 1
        device = 1

    data = gpu.array([0])
    gpu.launch(Foreign(), fill, writes=[data])
    with pytest.raises(RaceError, match="the legacy default stream of device 1"):
        gpu.launch(1, fill, writes=[data])
    gpu.synchronize(1)
    assert gpu.read(data).tolist() == [7]


# -- what runs when ----------------------------------------------------------------------------------------------


def test_kernels_run_only_when_the_host_waits(gpu: SimulatedGPU) -> None:
    ran: list[str] = []
    first, second = gpu.stream("first"), gpu.stream("second")
    gpu.launch(second, lambda: ran.append("second"))
    gpu.launch(first, lambda: ran.append("first"))
    assert ran == []
    gpu.cuda.stream_synchronize(handle(first))
    assert ran == ["first"]
    gpu.synchronize()
    assert ran == ["first", "second"]


def test_pending_kernels_run_at_the_end() -> None:
    ran: list[str] = []
    with sim.simulate(devices=2) as gpu:
        stream = gpu.stream(device=1)
        gpu.launch(stream, lambda: ran.append("kernel"))
        del stream
        gc.collect()
    assert ran == ["kernel"]


def test_each_query_runs_one_pending_kernel(gpu: SimulatedGPU) -> None:
    stream = gpu.stream()
    for _ in range(3):
        gpu.launch(stream, lambda: None)
    assert [gpu.cuda.stream_query(handle(stream)) for _ in range(5)] == [False, False, False, True, True]


def test_a_gate_holds_back_later_work(gpu: SimulatedGPU) -> None:
    stream, data = gpu.stream("stream"), gpu.array([0])
    gpu.launch(stream, fill, writes=[data])
    gate = gpu.gate(stream)
    gpu.launch(stream, double, reads=[data], writes=[data])
    assert not gate.is_open
    assert not any(gpu.cuda.stream_query(handle(stream)) for _ in range(10))
    gate.open()
    gate.open()
    assert gate.is_open
    gpu.cuda.stream_synchronize(handle(stream))
    assert gpu.read(data).tolist() == [14]


def test_a_gate_opens_at_the_end_of_its_block(gpu: SimulatedGPU) -> None:
    stream = gpu.stream()
    with gpu.gate(stream) as gate:
        assert not gpu.cuda.stream_query(handle(stream))
    assert gate.is_open
    assert gpu.cuda.stream_query(handle(stream))


def test_a_deadlock_says_who_waits_for_what(gpu: SimulatedGPU) -> None:
    producer, consumer = gpu.stream("producer"), gpu.stream("consumer")
    data = gpu.array([0])
    with gpu.gate(producer):
        gpu.launch(producer, fill, writes=[data])
        event = order(gpu, producer, consumer)
        gpu.launch(consumer, double, reads=[data], writes=[data])
        with pytest.raises(DeadlockError) as raised:
            gpu.cuda.stream_synchronize(handle(consumer))
        text = str(raised.value)
        for part in (
            "the host (MainThread) waits for consumer",
            "kernel 'double' on consumer",
            f"consumer waits for event {event:#x}, recorded on producer",
            "producer is held by the closed gate",
            f"{__file__}:",
        ):
            assert part in text
        with pytest.raises(DeadlockError, match=rf"waits for event {event:#x}, recorded on producer"):
            gpu.cuda.event_synchronize(event)
        with pytest.raises(DeadlockError, match="waits for device 0"):
            gpu.synchronize()
    gpu.synchronize()


def test_a_gate_that_stays_closed_is_a_deadlock_at_the_end() -> None:
    with pytest.raises(DeadlockError, match="the end of the simulation"), sim.simulate() as gpu:
        gpu.gate(1)
    assert _cuda.active() is _cuda.GPU


def test_kernels_cannot_write_what_they_only_read(gpu: SimulatedGPU) -> None:
    gpu.launch(1, fill, reads=[gpu.array([0])])
    with pytest.raises(ValueError, match="read-only"):
        gpu.synchronize()
    # The kernel that failed counts as run. It does not run again.
    gpu.synchronize()


def test_the_trace_lists_what_ran_and_what_the_host_did(gpu: SimulatedGPU) -> None:
    stream, data = gpu.stream("stream"), gpu.array([0], "data")
    gpu.launch(stream, fill, writes=[data])
    gpu.cuda.stream_synchronize(handle(stream))
    gpu.read(data)
    lines = str(gpu.schedule).splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        "  1. kernel 'fill' ran on stream",
        "  2. the host has waited for stream",
        "  3. the host reads data",
    ]
    assert gpu.schedule.choices == ()


# -- arrays and streams ------------------------------------------------------------------------------------------


def test_array_and_read_copy(gpu: SimulatedGPU) -> None:
    values = np.array([1.0, 2.0])
    data = gpu.array(values)
    values[:] = 0
    seen = gpu.read(data)
    seen[:] = 0
    assert gpu.read(data).tolist() == [1.0, 2.0]
    assert data.shape == (2,)
    assert data.dtype == float


def test_every_object_with_a_handle_is_a_stream(gpu: SimulatedGPU) -> None:
    class Torch:
        cuda_stream = 2

    stream = gpu.stream("ours")
    legacy, per_thread = (
        "the legacy default stream of device 0",
        "the per-thread default stream of MainThread of device 0",
    )
    for given_stream, name in (
        (stream, "ours"),
        (handle(stream), "ours"),
        (1, legacy),
        (0, legacy),
        (Torch(), per_thread),
    ):
        gpu.launch(given_stream, lambda: None)
        gpu.synchronize()
        assert f"on {name} (" in gpu.schedule.trace[-2]
    with pytest.raises(CudaError) as raised:
        gpu.launch(handle(stream) + 8, lambda: None)
    assert (raised.value.code, raised.value.call) == (400, "gpu.launch")


@pytest.mark.parametrize("nonsense", [None, "stream", 1.0, True, -1, object()])
def test_an_object_without_a_handle_is_no_stream(gpu: SimulatedGPU, nonsense: object) -> None:
    with pytest.raises(InvalidStreamError, match="a stream is an object with __cuda_stream__"):
        gpu.launch(nonsense, lambda: None)


def test_addresses_of_streams_are_reused(gpu: SimulatedGPU) -> None:
    first, second = gpu.stream(), gpu.stream()
    addresses, ids = [handle(first), handle(second)], [gpu.cuda.stream_id(handle(s)) for s in (first, second)]
    del first, second
    gc.collect()
    third, fourth = gpu.stream(), gpu.stream()
    assert [handle(third), handle(fourth)] == addresses[::-1]
    assert {gpu.cuda.stream_id(handle(s)) for s in (third, fourth)}.isdisjoint(ids)


def test_a_new_stream_at_an_old_address_is_not_ordered_with_it(gpu: SimulatedGPU) -> None:
    data = gpu.array([0])
    old = gpu.stream("old")
    gpu.launch(old, fill, writes=[data])
    address = handle(old)
    del old
    gc.collect()
    new = gpu.stream("new")
    assert handle(new) == address
    with pytest.raises(RaceError):
        gpu.launch(new, fill, writes=[data])


def test_creating_a_stream_leaves_the_current_device(gpu: SimulatedGPU) -> None:
    gpu.cuda.primary_context(1)
    stream = gpu.stream(device=1)
    assert int(gpu.cuda.drive("cuStreamGetCtx", handle(stream))) == gpu.cuda.primary_context(1)
    assert gpu.cuda.current_device() == 0
    with pytest.raises(NoDeviceError, match="no simulated device 2"):
        gpu.stream(device=2)


def test_the_repr_of_everything_says_that_it_is_simulated(gpu: SimulatedGPU) -> None:
    stream, mode = gpu.stream("stream"), gpu.runtime.cudaStreamCaptureMode(0)
    gpu.runtime.cudaStreamBeginCapture(handle(stream), mode)
    gpu.launch(stream, fill, writes=[gpu.array([0])])
    _, graph = gpu.runtime.cudaStreamEndCapture(handle(stream))
    with gpu.gate(stream) as gate:
        closed = repr(gate)
    things = [gpu, stream, gpu.array([0], "data"), gate, graph, gpu.runtime, gpu.driver, sim.explore(lambda _: None)]
    for text in (closed, *map(repr, things)):
        assert text.startswith("<SIMULATED ")
    assert (closed, repr(gate)) == ("<SIMULATED closed gate on stream>", "<SIMULATED open gate on stream>")
    assert "1 nodes, which cannot be launched" in repr(graph)
    assert repr(interop.as_stream(stream)).startswith("<SIMULATED ")


# -- interop's own queries -----------------------------------------------------------------------------------------


def make_streams(gpu: SimulatedGPU, data: SimulatedArray) -> None:
    """Each new stream also destroys streams that nothing refers to, if a query says that their work is done."""
    gpu.launch(interop.new_stream(), fill, writes=[data])
    for _ in range(3):
        interop.new_stream()


def hold_objects(gpu: SimulatedGPU, data: SimulatedArray) -> None:
    """Each hold also releases earlier objects, if a query says that their work is done."""
    stream = interop.new_stream()
    gpu.launch(stream, fill, writes=[data])
    for _ in range(3):
        interop.hold(stream, object())


@pytest.mark.parametrize("housekeeping", [make_streams, hold_objects])
def test_interops_own_queries_do_not_order_the_host(
    gpu: SimulatedGPU, housekeeping: Callable[[SimulatedGPU, SimulatedArray], None]
) -> None:
    data = gpu.array([0], "data")
    housekeeping(gpu, data)
    with pytest.raises(RaceError):
        gpu.read(data)
    assert not any("asks" in line for line in gpu.schedule.trace)


# -- captures ----------------------------------------------------------------------------------------------------


def test_captured_work_neither_runs_nor_races(gpu: SimulatedGPU) -> None:
    stream, data, mode = gpu.stream("stream"), gpu.array([0]), gpu.runtime.cudaStreamCaptureMode(0)
    gpu.launch(gpu.stream(), fill, writes=[data])
    gpu.runtime.cudaStreamBeginCapture(handle(stream), mode)
    gpu.launch(stream, fill, writes=[data])
    with pytest.raises(NotSupportedError, match="a gate cannot be captured"):
        gpu.gate(stream)
    _, graph = gpu.runtime.cudaStreamEndCapture(handle(stream))
    assert graph.nodes == 1
    assert gpu.races == []


def test_a_launch_that_a_capture_forbids_is_an_error(gpu: SimulatedGPU) -> None:
    blocking = gpu.stream(non_blocking=False)
    gpu.runtime.cudaStreamBeginCapture(handle(blocking), gpu.runtime.cudaStreamCaptureMode(0))
    with pytest.raises(CudaError) as raised:
        gpu.launch(1, lambda: None)
    assert raised.value.name == "cudaErrorStreamCaptureImplicit"
    with pytest.raises(CudaError) as raised:
        gpu.launch(blocking, lambda: None)
    assert raised.value.name == "cudaErrorStreamCaptureInvalidated"
    assert gpu.runtime.cudaStreamEndCapture(handle(blocking))[0] == 901


def test_a_capture_ends_with_the_stream_it_began_on(gpu: SimulatedGPU) -> None:
    origin, joined = gpu.stream(), gpu.stream()
    gpu.runtime.cudaStreamBeginCapture(handle(origin), gpu.runtime.cudaStreamCaptureMode(0))
    order(gpu, origin, joined)
    assert gpu.cuda.stream_capture(handle(joined))
    del origin
    gc.collect()
    assert not gpu.cuda.stream_capture(handle(joined))
    gpu.synchronize()


# -- threads -----------------------------------------------------------------------------------------------------


def test_a_wait_in_one_thread_does_not_order_another(gpu: SimulatedGPU) -> None:
    stream, data = gpu.stream("stream"), gpu.array([0])
    first, second = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)

    def wait() -> None:
        gpu.cuda.current_device()
        first.wait()
        gpu.cuda.stream_synchronize(handle(stream))
        second.wait()
        second.wait()

    other = threading.Thread(target=wait, name="other")
    other.start()
    gpu.launch(stream, fill, writes=[data])
    first.wait()
    second.wait()
    with pytest.raises(RaceError, match="the host on MainThread"):
        gpu.read(data)
    gpu.hear(other)
    assert gpu.read(data).tolist() == [7]
    second.wait()
    other.join()


def test_a_join_orders_after_the_thread(gpu: SimulatedGPU) -> None:
    stream, data = gpu.stream("stream"), gpu.array([0])
    gpu.launch(stream, fill, writes=[data])
    in_thread(lambda: gpu.cuda.stream_synchronize(handle(stream)))
    assert gpu.read(data).tolist() == [7]


def test_a_new_thread_comes_after_its_start(gpu: SimulatedGPU) -> None:
    stream, data = gpu.stream("stream"), gpu.array([0])
    gpu.launch(stream, fill, writes=[data])
    gpu.cuda.stream_synchronize(handle(stream))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: gpu.read(data).tolist()).result() == [7]


@pytest.mark.parametrize(
    ("name", "fix"),
    [("other", "gpu.hear(other), once"), ("Thread 2", "gpu.hear(thread), where thread is Thread 2, once")],
)
def test_a_host_write_races_with_what_another_thread_launches(gpu: SimulatedGPU, name: str, fix: str) -> None:
    stream, data = gpu.stream("stream"), gpu.array([0])
    barrier = threading.Barrier(2, timeout=30)

    def write() -> None:
        gpu.cuda.current_device()
        barrier.wait()
        gpu.write(data, [1])
        barrier.wait()
        barrier.wait()

    other = threading.Thread(target=write, name=name)
    other.start()
    gpu.cuda.current_device()
    barrier.wait()
    barrier.wait()
    with pytest.raises(RaceError, match=re.escape(f"Order them: {fix}")):
        gpu.launch(stream, fill, writes=[data])
    # Accesses of two host threads never race: they are no business of CUDA.
    gpu.write(data, [2])
    barrier.wait()
    other.join()


def test_many_threads_may_use_one_simulation(gpu: SimulatedGPU) -> None:
    def work(number: int) -> list[int]:
        device = number % 2
        gpu.runtime.cudaSetDevice(device)
        producer, consumer = gpu.stream(device=device), gpu.stream(device=1 - device)
        data, result = gpu.array([number]), gpu.array([0])
        for _ in range(20):
            gpu.launch(producer, double, reads=[data], writes=[data])
            order(gpu, producer, consumer)
            gpu.launch(consumer, double, reads=[data], writes=[result])
            order(gpu, consumer, producer)
        gpu.cuda.stream_synchronize(handle(producer))
        assert gpu.cuda.current_device() == device
        seen: list[int] = gpu.read(result).tolist()
        return seen

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(16))) == [[number * 2**21] for number in range(16)]


def test_a_host_access_does_not_hide_a_race_of_another_thread() -> None:
    with sim.simulate(on_race="record") as gpu, ThreadPoolExecutor(1) as pool:
        stream, data = gpu.stream("stream"), gpu.array([0])
        pool.submit(gpu.cuda.current_device).result()
        gpu.launch(stream, fill, writes=[data])
        gpu.cuda.stream_synchronize(handle(stream))
        gpu.write(data, [1])
        assert gpu.races == []
        pool.submit(gpu.write, data, [2]).result()
        (race,) = gpu.races
        assert (race.earlier.by, race.later.by) == ("kernel 'fill'", "the host")
        # The control: after gpu.hear, the other thread knows of the kernel.
        pool.submit(gpu.hear, threading.current_thread()).result()
        pool.submit(gpu.write, data, [3]).result()
        assert len(gpu.races) == 1


class Model:
    """A model of which access comes before which, by sets of accesses. The simulator uses clocks instead."""

    THREADS, STREAMS, EVENTS, ARRAYS = range(2), range(4), range(2), range(2)

    def __init__(self) -> None:
        nothing = frozenset[int]()
        # The streams: the legacy one, two blocking ones, and a non-blocking one.
        self.streams = [nothing for _ in self.STREAMS]
        self.events: list[frozenset[int] | None] = [None for _ in self.EVENTS]
        self.threads = [nothing for _ in self.THREADS]
        self.accesses: list[tuple[int, bool, bool]] = []

    def before(self, thread: int, stream: int | None) -> frozenset[int]:
        """The accesses that come before the next one."""
        known = self.threads[thread]
        if stream is not None:
            known |= self.streams[stream]
            known |= frozenset().union(*self.streams[1:3]) if stream == 0 else frozenset()
            known |= self.streams[0] if stream in (1, 2) else frozenset()
        return known

    def step(self, thread: int, step: str, *what: Any) -> bool | None:
        """Take a step. Returns whether it races, if it is an access."""
        match step, what:
            case "record", [event, stream]:
                self.events[event] = self.before(thread, stream)
                if stream == 0:
                    self.streams[0] = self.before(thread, 0)
            case "wait", [stream, event] if (recorded := self.events[event]) is not None:
                self.streams[stream] |= recorded | (self.before(thread, 0) if stream == 0 else frozenset())
            case "synchronize", [stream]:
                self.threads[thread] |= self.streams[stream]
                self.threads[thread] |= frozenset().union(*self.streams[1:3]) if stream == 0 else frozenset()
            case "hear", [other]:
                self.threads[thread] |= self.threads[other]
            case "access", [stream, array, writes]:
                known = self.before(thread, stream)
                number, on_host = len(self.accesses), stream is None
                self.accesses.append((array, writes, on_host))
                if stream is None:
                    self.threads[thread] = known | {number}
                else:
                    self.streams[stream] = known | {number}
                return any(
                    of == array and (writes or wrote) and not (on_host and was_on_host) and earlier not in known
                    for earlier, (of, wrote, was_on_host) in enumerate(self.accesses[:number])
                )
        return None


def random_program(seed: int) -> list[tuple[Any, ...]]:
    choose = random.Random(seed).choice
    steps = []
    for _ in range(20):
        stream, event, array = choose(Model.STREAMS), choose(Model.EVENTS), choose(Model.ARRAYS)
        kinds: list[tuple[Any, ...]] = [
            ("record", event, stream),
            ("wait", stream, event),
            ("synchronize", stream),
            ("hear", choose(Model.THREADS)),
            *[("access", choose([stream, None]), array, choose([True, False])) for _ in range(3)],
        ]
        steps.append((choose(Model.THREADS), *choose(kinds)))
    return steps


def disagreements(seeds: Iterable[int]) -> list[int]:
    """The seeds of the random programs for which simulator and model find different races."""
    found = []
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for seed in seeds:
            with sim.simulate(on_race="record") as gpu:
                model = Model()
                streams: list[Any] = [1, *(gpu.stream(non_blocking=number > 1) for number in range(3))]
                events = [gpu.cuda.event_create(gpu.cuda.current_context(), 2) for _ in Model.EVENTS]
                arrays = [gpu.array([0]) for _ in Model.ARRAYS]
                pools = [first, second]
                threads = [pool.submit(threading.current_thread).result() for pool in pools]
                for pool in pools:
                    pool.submit(gpu.cuda.current_device).result()
                for thread, step, *what in random_program(seed):
                    count = len(gpu.races)
                    do = simulated(gpu, streams, events, arrays, threads, step, what)
                    pools[thread].submit(do).result()
                    races = model.step(thread, step, *what)
                    if races is not None and races is not (len(gpu.races) > count):
                        found.append(seed)
                        break
    return found


def simulated(
    gpu: SimulatedGPU,
    streams: list[Any],
    events: list[int],
    arrays: list[SimulatedArray],
    threads: list[threading.Thread],
    step: str,
    what: list[Any],
) -> Callable[[], object]:
    """A function that takes the step on the simulator."""
    number = [1, *map(handle, streams[1:])]
    match step, what:
        case "record", [event, stream]:
            return lambda: gpu.cuda.event_record(events[event], number[stream])
        case "wait", [stream, event]:
            return lambda: gpu.cuda.stream_wait_event(number[stream], events[event])
        case "synchronize", [stream]:
            return lambda: gpu.cuda.stream_synchronize(number[stream])
        case "hear", [other]:
            return lambda: gpu.hear(threads[other])
        case _, [None, array, writes]:
            return lambda: gpu.write(arrays[array], [1]) if writes else gpu.read(arrays[array])
        case _, [stream, array, writes]:
            touched = [arrays[array]]
            return lambda: gpu.launch(
                number[stream], no_work, reads=[] if writes else touched, writes=touched if writes else []
            )
    raise AssertionError


def no_work(*memory: Memory) -> None:
    pass


def test_random_programs_race_as_in_the_model() -> None:
    # The number is needed: some faults of the clocks show in a few of a thousand programs.
    assert disagreements(range(1000)) == []


# -- cost of long simulations ------------------------------------------------------------------------------------


def pass_on(gpu: SimulatedGPU, *, blocking: bool = False) -> Callable[[], None]:
    """Each step makes a stream and an array, and orders them on the device. The host never waits."""
    weights, main = gpu.array([1]), interop.new_stream()

    def step() -> None:
        stream, data = gpu.stream(non_blocking=not blocking), gpu.array([0])
        interop.as_stream(stream).wait_stream(main)
        gpu.launch(stream, no_work, reads=[weights], writes=[data])
        main.wait_stream(stream)
        gpu.launch(1 if blocking else main, no_work, reads=[data])

    return step


def come_and_go(gpu: SimulatedGPU) -> Callable[[], None]:
    """Each step makes a thread, which uses its per-thread stream and waits for it."""
    weights = gpu.array([1])

    def work() -> None:
        gpu.launch(2, no_work, reads=[weights])
        gpu.cuda.stream_synchronize(2)

    def step() -> None:
        in_thread(work)

    return step


def look(gpu: SimulatedGPU) -> Callable[[], None]:
    """Each step makes an array, a stream and an event, and the host waits for the event."""

    def step() -> None:
        stream, data = interop.new_stream(), gpu.array([0])
        gpu.launch(stream, fill, writes=[data])
        stream.record_event().synchronize()
        gpu.read(data)

    return step


LOOPS: dict[str, Callable[[SimulatedGPU], Callable[[], None]]] = {
    "streams that the device orders": pass_on,
    "blocking streams": lambda gpu: pass_on(gpu, blocking=True),
    "threads": come_and_go,
    "arrays and streams that the host waits for": look,
}


@pytest.mark.parametrize("loop", LOOPS)
def test_memory_does_not_grow_with_the_number_of_steps(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "TRACED", 100)
    monkeypatch.setattr(schedule, "PENDING", 64)
    peaks = []
    with sim.simulate() as gpu:
        step = LOOPS[loop](gpu)
        tracemalloc.start()
        try:
            for _ in range(3):
                tracemalloc.reset_peak()
                for _ in range(600):
                    step()
                peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[2] - peaks[1] < 600 * 1000, "less than a kilobyte a step"


def test_the_cost_of_a_kernel_does_not_grow_with_the_pending_ones() -> None:
    # If each kernel that runs looked at each pair of pending ones, this would take 50 s.
    with sim.simulate() as gpu:
        first, streams = gpu.stream(), [gpu.stream() for _ in range(200)]
        with gpu.gate(first):
            for stream in streams:
                order(gpu, first, stream)
                for _ in range(4):
                    gpu.launch(stream, no_work, writes=[gpu.array([0])])
            assert not any(gpu.cuda.stream_query(handle(stream)) for stream in streams)
            start = time.perf_counter()
        for stream in streams:
            gpu.cuda.stream_synchronize(handle(stream))
        assert time.perf_counter() - start < 5


def test_the_memory_of_a_capture_does_not_grow_with_its_kernels(gpu: SimulatedGPU) -> None:
    origin, other = gpu.stream(), gpu.stream()
    gpu.cuda.call("cudaStreamBeginCapture", handle(origin), 2)
    peaks = []
    tracemalloc.start()
    try:
        for _ in range(3):
            tracemalloc.reset_peak()
            for _ in range(200):
                interop.as_stream(other).wait_stream(origin)
                gpu.launch(other, no_work)
                interop.as_stream(origin).wait_stream(other)
                gpu.launch(origin, no_work)
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert gpu.cuda.call("cudaStreamEndCapture", handle(origin)).nodes == 1200
    assert peaks[2] - peaks[1] < 5000, "bytes, for 400 kernels"


def test_the_cost_of_awaiting_a_stream_does_not_grow_with_the_others() -> None:
    async def program(gpu: SimulatedGPU) -> None:
        first, streams = gpu.stream(), [interop.new_stream() for _ in range(200)]
        with gpu.gate(first):
            for stream in streams:
                stream.wait_stream(first)
                for _ in range(4):
                    gpu.launch(stream, no_work, writes=[gpu.array([0])])

        async def wait(stream: interop.ExternalStream) -> None:
            await stream

        await asyncio.wait_for(asyncio.gather(*map(wait, streams)), 10)

    # If each kernel that runs looked at each pair of pending ones, this would take 180 s.
    with sim.simulate() as gpu:
        asyncio.run(program(gpu))


@pytest.mark.skipif(sys.platform == "win32", reason="setitimer")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # finalisers are interrupted too
def test_the_simulator_survives_signal_handlers_that_raise(gpu: SimulatedGPU) -> None:
    main = gpu.stream()

    def work() -> None:
        stream, data = gpu.stream(), gpu.array([0])
        gpu.launch(stream, no_work, writes=[data])
        gpu.cuda.event_destroy(order(gpu, stream, main))
        gpu.launch(main, no_work, reads=[data])
        gpu.cuda.stream_query(handle(main))

    interrupt(work, lambda: None)
    assert gc.isenabled()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gpu.synchronize).result(timeout=30)
    data = gpu.array([0])
    gpu.launch(main, fill, writes=[data])
    gpu.synchronize()
    assert gpu.read(data).tolist() == [7]


def test_too_much_pending_work_runs_by_itself() -> None:
    ran: list[int] = []
    with sim.simulate() as gpu:
        stream = gpu.stream()
        for number in range(2000):
            gpu.launch(stream, lambda number=number: ran.append(number))
        assert 1000 < len(ran) < 2000
        with gpu.gate(stream):
            for number in range(2000, 4000):
                gpu.launch(stream, lambda number=number: ran.append(number))
            assert len(ran) == 2000
    assert ran == list(range(4000))


def test_the_trace_keeps_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "TRACED", 2)
    with sim.simulate() as gpu:
        for _ in range(3):
            gpu.launch(1, no_work)
        gpu.synchronize()
        lines = str(gpu.schedule).splitlines()
        assert lines[0] == "(2 lines before these are left out)"
        assert lines[2] == "  4. the host has waited for device 0"


class Finalised:
    """Owns a stream, an event or an array. Its finaliser notes whether this thread holds the simulator's lock."""

    def __init__(self, gpu: SimulatedGPU, owned: object, seen: list[bool]) -> None:
        self.owned, self.lock, self.seen = owned, gpu._machine._lock, seen

    def run(self, *memory: Memory) -> None:
        pass

    def __del__(self) -> None:
        self.seen.append(self.lock._is_owned())  # type: ignore[attr-defined]
        interop.release()


OWNED: dict[str, Callable[[SimulatedGPU], object]] = {
    "a foreign stream": lambda gpu: gpu.stream(non_blocking=False),
    "a stream": lambda _: interop.new_stream(non_blocking=False),
    "an event": lambda _: interop.new_stream().record_event(),
    "an array": lambda gpu: gpu.array([0]),
}


@pytest.mark.parametrize("owned", OWNED)
def test_a_finaliser_never_runs_inside_the_simulators_lock(gpu: SimulatedGPU, owned: str) -> None:
    # Inside the lock, a finaliser would find half-made streams. It could also deadlock with another thread.
    seen: list[bool] = []
    kept = [gpu.stream(non_blocking=False) for _ in range(20)]
    event = gpu.cuda.event_create(gpu.cuda.current_context(), 2)
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(300):
            garbage: Any = Finalised(gpu, OWNED[owned](gpu), seen)
            if number % 2:
                garbage.me = garbage.run
            else:
                gpu.launch(1, garbage.run)  # is garbage once the kernel has run
            del garbage
            gpu.cuda.event_record(event, 1)
            gpu.synchronize()
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert len(seen) == 300
    assert not any(seen)
    assert gc.isenabled()
    assert kept


def test_a_finaliser_and_a_thread_may_release_at_once() -> None:
    script = """
import faulthandler, gc, threading
import interop

class Last:
    def __init__(self):
        self.me = self
    def __del__(self):
        interop.release()

faulthandler.dump_traceback_later(30, exit=True)
gc.set_threshold(1)
with interop.sim.simulate() as gpu:
    stream, other, stop = interop.new_stream(), gpu.stream(), threading.Event()
    def hold():
        while not stop.is_set():
            interop.hold(stream, object())
            interop.release()
    thread = threading.Thread(target=hold)
    thread.start()
    for _ in range(500):
        Last()
        gpu.launch(other, lambda: None)
    stop.set()
    thread.join()
print("through")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "through\n", done.stderr


# -- the beginning and the end -----------------------------------------------------------------------------------


def test_a_simulation_ends_with_its_block() -> None:
    before = _cuda.active()
    with sim.simulate() as outer:
        with sim.simulate() as gpu:
            assert _cuda.active() is gpu.cuda
            stream, data = gpu.stream(), gpu.array([0])
            gate = gpu.gate(stream)
            gate.open()
            assert gpu.cuda.readable(handle(stream))
            assert not gpu.cuda.readable(handle(stream) + 8)
            event = gpu.cuda.event_create(gpu.cuda.current_context(), 2)
            assert gpu.cuda.readable(event)
        assert _cuda.active() is outer.cuda
    assert _cuda.active() is before
    calls: list[Callable[[], object]] = [
        gpu.synchronize,
        gpu.stream,
        gate.open,
        lambda: gpu.array([0]),
        lambda: gpu.gate(stream),
        lambda: gpu.launch(stream, fill, writes=[data]),
        lambda: gpu.read(data),
        lambda: gpu.write(data, [1]),
        lambda: gpu.hear(threading.current_thread()),
        lambda: gpu.cuda.stream_query(handle(stream)),
        gpu.cuda.current_device,
        gpu.driver.cuCtxGetCurrent,
    ]
    for call in calls:
        with pytest.raises(InteropError, match="this simulation has ended"):
            call()
    # A finaliser may still call these two.
    gpu.cuda.event_destroy(event)
    gpu.cuda.stream_destroy(handle(stream))
    assert repr(gpu) == "<SIMULATED GPU, 1 device(s), ended>"


def test_an_error_in_the_block_is_raised_despite_a_closed_gate() -> None:
    def fail() -> None:
        with sim.simulate() as gpu:
            gpu.gate(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert _cuda.active() is _cuda.GPU


@pytest.mark.parametrize("devices", [0, -1, True, 1.0])
def test_a_wrong_number_of_devices_is_refused(devices: Any) -> None:
    with pytest.raises(ValueError, match="devices is how many"), sim.simulate(devices=devices):
        pass


def test_a_wrong_on_race_is_refused() -> None:
    wrong: Any = "ignore"
    with pytest.raises(ValueError, match='on_race is "raise" or "record"'), sim.simulate(on_race=wrong):
        pass


def test_the_simulator_measures_no_time(gpu: SimulatedGPU) -> None:
    event = gpu.cuda.event_create(gpu.cuda.current_context(), 0)
    with pytest.raises(NotSupportedError, match="the simulator has no clock"):
        gpu.cuda.event_elapsed(event, event)


def test_an_event_of_another_process_has_a_handle_of_its_own(gpu: SimulatedGPU) -> None:
    producer = interop.as_stream(gpu.stream())
    event = interop.Event(interprocess=True)
    gate = gpu.gate(producer)
    opened = interop.Event.from_ipc_handle(0, event.ipc_handle())
    opened.record(producer)
    handle = opened.ipc_handle()
    del opened
    assert event.query() is False
    gate.open()
    with pytest.raises(CudaError) as raised:
        gpu.cuda.event_import(gpu.cuda.current_context(), handle)
    assert raised.value.name == "cudaErrorInvalidResourceHandle"


@pytest.mark.parametrize("call", ["read", "write", "launch, reads", "launch, writes"])
@pytest.mark.parametrize("array", [np.zeros(3), None])
def test_arrays_of_others_are_refused(gpu: SimulatedGPU, call: str, array: Any) -> None:
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: gpu.read(array),
        "write": lambda: gpu.write(array, 1),
        "launch, reads": lambda: gpu.launch(gpu.stream(), double, reads=[array]),
        "launch, writes": lambda: gpu.launch(gpu.stream(), fill, writes=[array]),
    }
    with pytest.raises(InvalidArrayError, match=r"expected an array of this simulation, made by gpu.array\(\); got "):
        calls[call]()


def test_a_hand_over_in_a_simulation_is_refused(gpu: SimulatedGPU) -> None:
    class Foreign:
        __cuda_array_interface__: ClassVar = {
            "shape": (3,),
            "typestr": "<f8",
            "data": (0x1000, False),
            "version": 3,
            "stream": None,
        }

    producer, consumer = interop.new_stream(), interop.new_stream()
    with pytest.raises(NotSupportedError, match="arrays cannot be handed over in a simulation"):
        interop.handoff(Foreign(), consumer, producer=producer)
    with (
        pytest.raises(NotSupportedError, match="arrays cannot be handed over in a simulation"),
        interop.borrow(Foreign(), consumer=consumer, producer=producer),
    ):
        pass


def test_functions_that_are_not_simulated_are_missing(gpu: SimulatedGPU) -> None:
    assert not hasattr(gpu.driver, "cuLaunchKernel")
    with pytest.raises(AttributeError, match="the simulator does not answer cudaGraphLaunch"):
        gpu.runtime.cudaGraphLaunch  # noqa: B018


# -- every schedule ----------------------------------------------------------------------------------------------


def produce_and_consume(gpu: SimulatedGPU, *, wait: bool) -> object:
    producer, consumer = gpu.stream("producer"), gpu.stream("consumer")
    data, result = gpu.array([0, 0], "data"), gpu.array([0, 0], "result")
    gpu.launch(producer, fill, writes=[data])
    if wait:
        order(gpu, producer, consumer)
    gpu.launch(consumer, double, reads=[data], writes=[result])
    gpu.cuda.stream_synchronize(handle(consumer))
    return gpu.read(result)


def test_every_outcome_of_a_race_is_found() -> None:
    found = sim.explore(lambda gpu: produce_and_consume(gpu, wait=False))
    assert found.outcomes == {(0, 0), (14, 14)}
    assert (found.schedules, found.complete, found.failure) == (2, True, None)
    (race,) = found.races
    assert race.fix == "interop.as_stream(consumer).wait_stream(producer)"


def test_an_ordered_program_has_one_outcome() -> None:
    found = sim.explore(lambda gpu: produce_and_consume(gpu, wait=True))
    assert found.outcomes == {(14, 14)}
    assert (found.schedules, found.complete, found.failure, found.races) == (1, True, None, ())


def test_a_failing_schedule_can_be_replayed() -> None:
    def program(gpu: SimulatedGPU) -> None:
        seen: Any = produce_and_consume(gpu, wait=False)
        assert seen[0] == 14, "stale"

    found = sim.explore(program)
    assert found.schedules == 2
    assert found.failure is not None
    assert isinstance(found.failure.error, AssertionError)
    first, *_ = found.failure.trace.splitlines()
    assert first.startswith("  1. kernel 'double' ran on consumer (launched at ")
    assert "\n     AssertionError: stale" in str(found.failure)
    for found_schedule in (found.failure.schedule, found.failure.schedule.choices):
        with pytest.raises(AssertionError, match="stale"):
            sim.replay(program, found_schedule)
    other = 1 - found.failure.schedule.choices[0]
    sim.replay(program, [other])
    assert "one failed with AssertionError" in repr(found)


def digits(*numbers: int) -> Program:
    """A program of unordered kernels, which each append a digit to one number."""

    def program(gpu: SimulatedGPU) -> int:
        data = gpu.array([0])
        for digit in numbers:
            gpu.launch(gpu.stream(), append(digit), writes=[data])
        gpu.synchronize()
        return int(gpu.read(data)[0])

    return program


def test_an_exploration_says_how_much_its_limit_covered() -> None:
    found = sim.explore(digits(1, 2, 3, 4), limit=6, samples=0)
    assert (found.schedules, found.covered, found.complete) == (6, 0.25, False)
    assert found.outcomes == {1000 + tail for tail in (234, 243, 324, 342, 423, 432)}
    assert "6 schedules, not all there are: they cover 25 %; none failed, 6 races>" in repr(found)


@pytest.mark.parametrize(("limit", "samples"), [(0, 1000), (1, 1000), (5, 1000), (24, 0), (25, 0)])
def test_each_schedule_is_counted_once(limit: int, samples: int) -> None:
    found = sim.explore(digits(1, 2, 3, 4), limit=limit, samples=samples)
    assert (found.schedules, found.covered, found.complete, len(found.outcomes)) == (24, 1.0, True, 24)


def test_samples_past_the_limit_vary_the_first_choices() -> None:
    def program(gpu: SimulatedGPU) -> None:
        number = digits(*range(1, 7))(gpu)
        assert number // 100_000 != 6, "the last kernel ran first"

    in_order = sim.explore(program, limit=50, samples=0)
    assert "none failed" in repr(in_order)
    found = sim.explore(program, limit=50, samples=50)
    assert found.failure is not None
    assert found.schedules > 90
    assert found.covered == pytest.approx(found.schedules / 720)
    with pytest.raises(AssertionError, match="the last kernel ran first"):
        sim.replay(program, found.failure.schedule)
    again = sim.explore(program, limit=50, samples=50)
    assert again.failure is not None
    assert again.failure.schedule.choices == found.failure.schedule.choices
    other = sim.explore(program, limit=50, samples=50, seed=1)
    assert other.outcomes != found.outcomes or other.covered != found.covered or other.failure != found.failure


def ordered(gpu: SimulatedGPU) -> object:
    return produce_and_consume(gpu, wait=True)


def unordered(gpu: SimulatedGPU) -> object:
    return produce_and_consume(gpu, wait=False)


def fails(gpu: SimulatedGPU) -> None:
    del gpu
    raise ZeroDivisionError


def polls(gpu: SimulatedGPU) -> None:
    for _ in range(10):
        gpu.launch(1, no_work)
        gpu.cuda.stream_query(1)


def test_the_truth_value_of_an_exploration_is_its_verdict() -> None:
    assert sim.explore(ordered)
    assert not sim.explore(unordered)
    assert not sim.explore(fails)
    assert "none failed, 1 race>" in repr(sim.explore(unordered))


@pytest.mark.parametrize("ask", [bool, lambda found: found.failure], ids=["truth value", "failure"])
def test_without_all_schedules_there_is_no_verdict(ask: Callable[[sim.Exploration], object]) -> None:
    with pytest.raises(InteropError, match=r"no verdict: none of 1 schedules failed, .* they cover 0\.\d+ %"):
        ask(sim.explore(polls, limit=1, samples=0))
    # One schedule that failed or raced is enough for a verdict.
    assert not sim.explore(unordered, limit=1, samples=0)
    assert sim.explore(fails, limit=1, samples=0).failure is not None


def test_a_query_may_be_early_or_late() -> None:
    def program(gpu: SimulatedGPU) -> tuple[bool, bool]:
        stream = gpu.stream()
        gpu.launch(stream, lambda: None)
        return gpu.cuda.stream_query(handle(stream)), gpu.cuda.stream_query(handle(stream))

    assert sim.explore(program).outcomes == {(False, False), (False, True), (True, True)}


def test_a_polling_loop_ends() -> None:
    def program(gpu: SimulatedGPU) -> int:
        stream = gpu.stream()
        gpu.launch(stream, lambda: None)
        return next(count for count in itertools.count() if gpu.cuda.stream_query(handle(stream)))

    assert sim.explore(program).outcomes == {0, 1, 2, 3}
    assert sim.explore(program, polls=1).outcomes == {0, 1}


def test_a_deadlock_is_a_failure() -> None:
    def wait(gpu: SimulatedGPU) -> None:
        gpu.gate(1)
        gpu.synchronize()

    def poll(gpu: SimulatedGPU) -> None:
        gpu.gate(1)
        while not gpu.cuda.stream_query(1):
            pass

    def leave(gpu: SimulatedGPU) -> None:
        gpu.gate(1)

    for program in (wait, poll, leave):
        failure = sim.explore(program).failure
        assert failure is not None
        assert isinstance(failure.error, DeadlockError)
        assert "gate" in str(failure.error)


def test_orders_that_make_no_difference_are_tried_once() -> None:
    def program(gpu: SimulatedGPU) -> list[int]:
        arrays = [gpu.array([number]) for number in range(6)]
        streams = [gpu.stream() for _ in arrays]
        for _ in range(2):
            for stream, array in zip(streams, arrays, strict=True):
                gpu.launch(stream, double, reads=[array], writes=[array])
        gpu.synchronize()
        return [int(gpu.read(array)[0]) for array in arrays]

    found = sim.explore(program)
    assert found.outcomes == {(0, 4, 8, 12, 16, 20)}
    assert found.schedules == 1


def test_kernels_that_conflict_run_in_every_order() -> None:
    found = sim.explore(digits(1, 2, 3))
    assert found.outcomes == {123, 132, 213, 231, 312, 321}
    assert found.schedules == 6


def test_a_kernel_that_fails_is_a_failure() -> None:
    def program(gpu: SimulatedGPU) -> None:
        gpu.launch(1, fill, reads=[gpu.array([0])])

    failure = sim.explore(program).failure
    assert failure is not None
    assert isinstance(failure.error, ValueError)


def test_a_program_must_do_the_same_each_time() -> None:
    runs = itertools.count()

    def program(gpu: SimulatedGPU) -> None:
        data = gpu.array([0])
        for _ in range(2 + next(runs)):
            gpu.launch(gpu.stream(), fill, writes=[data])
        gpu.synchronize()

    with pytest.raises(InteropError, match="not deterministic"):
        sim.explore(program)


def test_a_schedule_must_fit_the_program() -> None:
    def program(gpu: SimulatedGPU) -> object:
        return produce_and_consume(gpu, wait=False)

    with pytest.raises(InteropError, match="option 5, but there are only 2"):
        sim.replay(program, [5])
    with pytest.raises(InteropError, match="3 choices, and the program made only 1"):
        sim.replay(program, [0, 0, 0])


def test_outcomes_become_hashable() -> None:
    def program(gpu: SimulatedGPU) -> object:
        del gpu
        return {"array": np.array([[1], [2]]), "list": [1, {2}], "number": np.float64(3), "object": slice(1)}

    expected = {("array", ((1,), (2,))), ("list", (1, frozenset({2}))), ("number", 3.0)}
    (outcome,) = sim.explore(program).outcomes
    assert isinstance(outcome, frozenset)
    assert expected < outcome


# -- every schedule, compared with a plain search -------------------------------------------------------------------

STREAMS, EVENTS, ARRAYS = range(3), range(2), range(2)
Step = tuple[Any, ...]
Known = tuple[frozenset[int], ...]


def append(digit: int) -> Callable[..., None]:
    """A kernel that appends a digit: the digits show in which order kernels ran."""

    def kernel(*memory: Memory) -> None:
        memory[-1][:] = (10 * memory[0] + digit) % 1_000_000

    return kernel


def run_simulated(gpu: SimulatedGPU, program: list[Step]) -> tuple[list[object], list[SimulatedArray]]:
    """Run *program*; returns what the host saw, and the arrays."""
    streams = [gpu.stream(non_blocking=number > 0) for number in STREAMS]
    events = [gpu.cuda.event_create(gpu.cuda.current_context(), 2) for _ in EVENTS]
    arrays = [gpu.array([0]) for _ in ARRAYS]
    seen: list[object] = []
    for number, (step, *arguments) in enumerate(program, 1):
        match step, arguments:
            case "launch", [stream, source, target]:
                gpu.launch(streams[stream], append(number), reads=[arrays[source]], writes=[arrays[target]])
            case "record", [event, stream]:
                gpu.cuda.event_record(events[event], handle(streams[stream]))
            case "wait", [stream, event]:
                gpu.cuda.stream_wait_event(handle(streams[stream]), events[event])
            case "synchronize", [stream]:
                gpu.cuda.stream_synchronize(handle(streams[stream]))
            case "query", [stream]:
                seen.append(gpu.cuda.stream_query(handle(streams[stream])))
            case "read", [array]:
                seen.append(int(gpu.read(arrays[array])[0]))
    return seen, arrays


@dataclass(frozen=True)
class State:
    """A state of the plain search: the host's position, the pending kernels, the memory, and what the host has seen.

    A kernel is its place in the program. Streams and events are the sets of kernels that they come after.
    """

    position: int = 0
    pending: tuple[tuple[int, frozenset[int]], ...] = ()
    memory: tuple[int, ...] = (0,) * len(ARRAYS)
    streams: Known = (frozenset(),) * len(STREAMS)
    events: Known = (frozenset(),) * len(EVENTS)
    seen: tuple[object, ...] = ()

    def is_done(self, after: frozenset[int]) -> bool:
        return after.isdisjoint(kernel for kernel, _ in self.pending)

    def kernels(self, program: list[Step]) -> Iterator["State"]:
        """Every state after a kernel that can run now."""
        for kernel, after in self.pending:
            if self.is_done(after):
                _, _, source, target = program[kernel]
                result = (10 * self.memory[source] + kernel + 1) % 1_000_000
                rest = tuple(entry for entry in self.pending if entry[0] != kernel)
                yield replace(self, pending=rest, memory=put(self.memory, target, result))

    def host(self, program: list[Step]) -> "State | None":
        """The state after the host's next step, or None if it cannot go on yet."""
        here, (step, *arguments) = self.position, program[self.position]
        changes: dict[str, object] = {}
        match step, arguments:
            case "launch", [stream, _, _]:
                after = self.streams[stream]
                changes = {
                    "pending": (*self.pending, (here, after)),
                    "streams": put(self.streams, stream, after | {here}),
                }
            case "record", [event, stream]:
                changes = {"events": put(self.events, event, self.streams[stream])}
            case "wait", [stream, event]:
                changes = {"streams": put(self.streams, stream, self.streams[stream] | self.events[event])}
            case "synchronize", [stream] if not self.is_done(self.streams[stream]):
                return None
            case "query", [stream]:
                changes = {"seen": (*self.seen, self.is_done(self.streams[stream]))}
            case "read", [array]:
                changes = {"seen": (*self.seen, self.memory[array])}
        return replace(self, position=here + 1, **changes)  # type: ignore[arg-type]


def put(values: tuple[Any, ...], index: int, value: object) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


def all_outcomes(program: list[Step]) -> set[object]:
    """All that the host can see, if between two of its steps any kernels run that can."""
    outcomes: set[object] = set()
    been: set[State] = set()
    to_do = [State()]
    while to_do:
        state = to_do.pop()
        if state in been:
            continue
        been.add(state)
        to_do += state.kernels(program)
        if state.position == len(program):
            outcomes.add(state.seen)
        elif following := state.host(program):
            to_do.append(following)
    return outcomes


STREAM, EVENT, ARRAY = st.sampled_from(STREAMS), st.sampled_from(EVENTS), st.sampled_from(ARRAYS)
LAUNCH = st.tuples(st.just("launch"), STREAM, ARRAY, ARRAY)
ORDER = st.one_of(
    st.tuples(st.just("record"), EVENT, STREAM),
    st.tuples(st.just("wait"), STREAM, EVENT),
    st.tuples(st.just("synchronize"), STREAM),
)
LOOK = st.one_of(st.tuples(st.just("query"), STREAM), st.tuples(st.just("read"), ARRAY))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.one_of(LAUNCH, LAUNCH, ORDER, LOOK), min_size=6, max_size=12))
def test_an_exploration_finds_exactly_the_possible_outcomes(program: list[Step]) -> None:
    # There cannot be more queries than steps, so no polling loop is cut short.
    found = sim.explore(lambda gpu: run_simulated(gpu, program)[0], limit=20_000, polls=len(program))
    assert found.complete
    assert found.failure is None
    assert found.outcomes == all_outcomes(program)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.one_of(LAUNCH, ORDER), min_size=4, max_size=12))
def test_a_program_without_races_has_one_outcome(program: list[Step]) -> None:
    def run(gpu: SimulatedGPU) -> list[int]:
        _, arrays = run_simulated(gpu, program)
        gpu.synchronize()
        return [int(gpu.read(array)[0]) for array in arrays]

    found = sim.explore(run, limit=20_000)
    assert found.complete
    assert found.races or len(found.outcomes) == 1


def test_an_error_in_a_kernel_names_its_launch() -> None:
    def bad(_: object) -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError) as caught, sim.simulate() as gpu:
        gpu.launch(gpu.stream("a"), bad, writes=[gpu.array(0)])
    line = bad.__code__.co_firstlineno + 4
    assert caught.value.__notes__ == [f"raised by kernel 'bad', which was launched on a at {__file__}:{line}"]
    failure = sim.explore(lambda gpu: gpu.launch(gpu.stream("a"), bad, writes=[gpu.array(0)])).failure
    assert "\n     ArithmeticError\nraised by kernel 'bad', which was launched on a at " in str(failure)


def test_a_kernel_with_other_parameters_is_refused_at_its_launch(gpu: SimulatedGPU) -> None:
    def square(x: object, y: object) -> None:
        raise AssertionError

    x, stream = gpu.array(0, "x"), gpu.stream()
    with pytest.raises(TypeError, match=r"square\(x.*, y.*\).* cannot be called as square\(x\).*missing.*'y'"):
        gpu.launch(stream, square, writes=[x])
    with pytest.raises(TypeError, match="a kernel is a function; got 3 of type int"):
        gpu.launch(stream, 3, writes=[x])  # type: ignore[arg-type]
    assert gpu.is_done(interop.as_stream(stream).cuda_stream)
    gpu.launch(stream, max, reads=[x], writes=[x])  # a function of C that does not tell its parameters
