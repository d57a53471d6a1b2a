"""Streams and events awaited in an asyncio loop, on the simulator."""

import asyncio
import concurrent.futures
import functools
import gc
import inspect
import threading
import time
import weakref

import pytest

import interop
from interop._core import waiting
from interop.errors import CaptureError, CudaError, InteropError, NotSupportedError, RaceError, UnrecordedEventError
from interop.testing import device, gate


@pytest.fixture
def gpu():
    with interop.sim.simulate() as gpu:
        yield gpu


class Loop(asyncio.SelectorEventLoop):
    """Keeps the pauses of the poller, and those of its timers that are still set."""

    def __init__(self):
        super().__init__()
        self.pauses = []
        self.timers = []
        self.frozen_at = None
        self._told = self.paused_at = 0.0

    def time(self):
        self._told = super().time() if self.frozen_at is None else self.frozen_at
        return self._told

    def call_at(self, when, callback, *args, **kwargs):
        told = self._told  # the time that the poller counts from; on a busy machine it is later by now
        handle = super().call_at(when, callback, *args, **kwargs)
        if getattr(callback, "__func__", None) is waiting._Poller._ask:
            self.paused_at = told
            self.pauses.append(when - told)
            self.timers.append(handle)
        return handle

    def set_timers(self):
        now = self.time()
        return [timer for timer in self.timers if not timer.cancelled() and timer.when() > now]


def run(coroutine):
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(asyncio.wait_for(coroutine, 30))


def in_a_loop(test):
    """Make a test of a coroutine function."""

    @functools.wraps(test)
    def synchronous(*args, **kwargs):
        return run(test(*args, **kwargs))

    synchronous.__signature__ = inspect.signature(test)
    return synchronous


def write(x):
    x[...] = 7


# -- await ---------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_the_host_may_read_after_await(gpu):
    stream, x = interop.new_stream(), gpu.array([0])
    gpu.launch(stream, write, writes=[x])
    assert await stream is None
    assert gpu.read(x) == [7]


@in_a_loop
async def test_control_without_await_there_is_a_race(gpu):
    stream, x = interop.new_stream(), gpu.array([0])
    gpu.launch(stream, write, writes=[x])
    with pytest.raises(RaceError):
        gpu.read(x)


@in_a_loop
async def test_an_event(gpu):
    stream, x = interop.new_stream(), gpu.array([0])
    gpu.launch(stream, write, writes=[x])
    event = stream.record_event()
    assert await event is None
    assert gpu.read(x) == [7]


@in_a_loop
async def test_an_idle_stream_does_not_go_through_the_loop(gpu):
    await interop.new_stream()
    assert asyncio.get_running_loop().timers == []


@in_a_loop
async def test_await_waits_only_for_the_work_so_far(gpu):
    stream, x = interop.new_stream(), gpu.array([0])
    first = gpu.gate(stream)
    gpu.launch(stream, write, writes=[x])
    awaited = asyncio.ensure_future(stream)
    await asyncio.sleep(0)  # the await has begun
    with gpu.gate(stream):
        await asyncio.sleep(0.02)
        assert not awaited.done()
        first.open()
        await awaited
        assert not stream.query()
    assert gpu.read(x) == [7]


@in_a_loop
async def test_the_record_is_made_at_the_await_and_not_later(gpu):
    stream = interop.new_stream()
    coming = stream.__await__()
    with gpu.gate(stream), pytest.raises(StopIteration):
        next(coming)


@in_a_loop
async def test_a_hundred_streams_in_one_loop_and_one_is_cancelled(gpu):
    loop = asyncio.get_running_loop()
    threads = threading.active_count()
    streams = [interop.new_stream() for _ in range(100)]
    gates = [gpu.gate(stream) for stream in streams]
    tasks = [asyncio.ensure_future(stream) for stream in streams]
    turns = 0

    async def turn():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.ensure_future(turn())
    while turns < 100:  # noqa: ASYNC110  (the loop is free, on whatever machine; or else the test runs out of time)
        await asyncio.sleep(0.01)
    assert not any(task.done() for task in tasks)
    assert len(loop.set_timers()) <= 1  # all coroutines share one timer
    assert threading.active_count() == threads

    tasks[50].cancel()
    for shut in reversed(gates[1:]):
        shut.open()
    results = await asyncio.gather(*tasks[1:], return_exceptions=True)
    assert [type(result) for result in results].count(asyncio.CancelledError) == 1
    assert results[:49] == [None] * 49
    assert isinstance(results[49], asyncio.CancelledError)
    assert results[50:] == [None] * 49
    assert not tasks[0].done()  # the control: its gate is still shut
    gates[0].open()
    await tasks[0]
    turning.cancel()
    assert loop.set_timers() == []
    assert threading.active_count() == threads


@in_a_loop
async def test_a_cancelled_wait_leaves_no_timer(gpu):
    stream = interop.new_stream()
    with gate(stream):
        event = stream.record_event()
        gone = weakref.ref(event)
        task = asyncio.ensure_future(event)
        del event
        await asyncio.sleep(0.005)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.005)
        del task
        await asyncio.sleep(0)
        assert asyncio.get_running_loop().set_timers() == []
        gc.collect()
        assert gone() is None
    await stream


def test_a_loop_that_is_closed_meanwhile_is_garbage(gpu):
    stream = interop.new_stream()
    shut = gpu.gate(stream)
    loop = Loop()
    task = loop.create_task(waiting.done(stream.record_event()))
    loop.run_until_complete(asyncio.sleep(0.005))
    task._log_destroy_pending = False
    gone = weakref.ref(loop)
    loop.close()
    del loop, task
    gc.collect()
    assert gone() is None
    shut.open()


@in_a_loop
async def test_pauses_grow_and_are_short_again_for_a_new_coroutine(gpu, monkeypatch):
    monkeypatch.setattr(waiting, "_REST", 0)  # queries of the simulator are slow
    loop = asyncio.get_running_loop()
    old, new = interop.new_stream(), interop.new_stream()
    with gate(old), gate(new):
        waiting_long = asyncio.ensure_future(old)
        await asyncio.sleep(0.15)
        pauses = list(loop.pauses)
        assert pauses[0] == pytest.approx(0.001)
        assert max(pauses) == pytest.approx(0.005)
        assert len(pauses) < 100
        del loop.pauses[:]
        while not loop.pauses:  # noqa: ASYNC110  (until the poller has asked, and has a long pause before it)
            await asyncio.sleep(0)
        loop.frozen_at = loop.paused_at
        waiting_short = asyncio.ensure_future(new)
        await asyncio.sleep(0)
        loop.frozen_at = None
        assert loop.pauses == [pytest.approx(0.005), pytest.approx(0.001)]
    await asyncio.gather(waiting_long, waiting_short)


@in_a_loop
async def test_slow_queries_are_made_less_often(gpu, monkeypatch):
    loop = asyncio.get_running_loop()
    stream = interop.new_stream()
    with gate(stream):
        event = stream.record_event()
        ask = gpu.cuda.event_query
        monkeypatch.setattr(gpu.cuda, "event_query", lambda handle: time.sleep(0.002) or ask(handle))
        task = asyncio.ensure_future(event)
        await asyncio.sleep(0.05)
        assert max(loop.pauses) >= 19 * 0.002 - 1e-4
        monkeypatch.undo()
    await task


@in_a_loop
async def test_a_steady_flow_of_new_coroutines_does_not_delay_the_others(gpu):
    streams = [interop.new_stream() for _ in range(200)]
    with gate(streams[0]) as first:
        gates = [gpu.gate(stream) for stream in streams[1:]]
        waits = [asyncio.ensure_future(streams[0])]
        await asyncio.sleep(0)
        first.open()
        for stream in streams[1:]:
            waits.append(asyncio.ensure_future(stream))
            await asyncio.sleep(0)
            if waits[0].done():
                break
            time.sleep(0.0005)  # noqa: ASYNC251  (less than a pause, and the loop is to be busy)
        assert waits[0].done()
        for shut in gates:
            shut.open()
    await asyncio.gather(*waits)


# -- what goes wrong -----------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_failure_reaches_all_who_wait_for_that_stream_and_no_others(gpu, monkeypatch):
    good, bad = interop.new_stream(), interop.new_stream()
    shut, failing = gpu.gate(good), gpu.gate(bad)
    event = bad.record_event()
    tasks = [asyncio.ensure_future(thing) for thing in (event, good, event)]
    await asyncio.sleep(0.003)
    ask = gpu.cuda.event_query

    def fail(handle):
        if handle == event._handle:
            raise CudaError(700, "cudaErrorIllegalAddress", "cudaEventQuery")
        return ask(handle)

    monkeypatch.setattr(gpu.cuda, "event_query", fail)
    for task in (tasks[0], tasks[2]):
        with pytest.raises(CudaError, match="cudaErrorIllegalAddress"):
            await task
    assert not tasks[1].done()
    shut.open()
    failing.open()
    await tasks[1]


def test_the_end_of_the_simulation_reaches_the_awaiter():
    async def main():
        with interop.sim.simulate() as gpu:
            stream = interop.new_stream()
            shut = gpu.gate(stream)
            event = stream.record_event()
            task = asyncio.ensure_future(event)
            await asyncio.sleep(0.003)
            gpu.cuda.simulation._machine.queue.pending.clear()
            shut.open()
            loop = asyncio.get_running_loop()
            for timer in loop.set_timers():
                timer.cancel()
        poller = waiting._pollers[loop]()
        poller._ask()
        with pytest.raises(InteropError, match="this simulation has ended"):
            await task

    run(main())


@in_a_loop
async def test_a_capturing_stream_is_refused_and_its_capture_goes_on(gpu):
    stream = interop.new_stream()
    device.capture_begin(gpu.cuda, stream.cuda_stream)
    with pytest.raises(CaptureError, match="cannot await"):
        await stream
    with pytest.raises(CaptureError, match="cannot wait for"):
        stream.when_done(print)
    event = stream.record_event()
    with pytest.raises(CaptureError, match="stands for no work"):
        await event
    device.capture_end(gpu.cuda, stream.cuda_stream)


@in_a_loop
async def test_an_event_that_was_never_recorded_cannot_be_awaited(gpu):
    with pytest.raises(UnrecordedEventError):
        await interop.Event()


def test_without_a_loop(gpu):
    stream = interop.new_stream()
    with pytest.raises(NotSupportedError, match=r"no asyncio loop runs.*asyncio\.run"):
        stream.when_done(print)
    with pytest.raises(NotSupportedError, match="no asyncio loop runs"):
        next(stream.__await__())


# -- callbacks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["stream", "event"])
@in_a_loop
async def test_a_callback_runs_in_the_loop_when_the_work_is_done(gpu, what):
    stream, x = interop.new_stream(), gpu.array([0])
    shut = gpu.gate(stream)
    gpu.launch(stream, write, writes=[x])
    awaited = stream if what == "stream" else stream.record_event()
    called = []

    def callback(*args):
        called.append((threading.current_thread(), args, gpu.read(x)[0]))
        return "result"

    task = awaited.when_done(callback, 1, 2)
    with gpu.gate(stream):  # work that is submitted later is not waited for
        await asyncio.sleep(0.01)
        assert called == []
        shut.open()
        assert await task == "result"
    assert called == [(threading.current_thread(), (1, 2), 7)]


@in_a_loop
async def test_a_callback_in_an_executor(gpu):
    with concurrent.futures.ThreadPoolExecutor(1, "interop-test") as executor:
        task = interop.new_stream().when_done(lambda: threading.current_thread().name, executor=executor)
        assert (await task).startswith("interop-test")


@in_a_loop
async def test_a_cancelled_callback_is_not_called(gpu):
    stream = interop.new_stream()
    called = []
    with gate(stream):
        task = stream.when_done(called.append, 1)
        other = stream.when_done(called.append, 2)
        await asyncio.sleep(0.003)
        task.cancel()
    await other
    assert called == [2]
    assert task.cancelled()


@in_a_loop
async def test_a_callback_is_not_called_when_the_work_failed(gpu, monkeypatch):
    stream = interop.new_stream()
    called = []

    def fail(handle):
        raise CudaError(700, "cudaErrorIllegalAddress", "cudaEventQuery")

    task = stream.when_done(called.append, 1)
    monkeypatch.setattr(gpu.cuda, "event_query", fail)
    with pytest.raises(CudaError):
        await task
    assert called == []


@in_a_loop
async def test_an_error_of_a_callback_is_the_error_of_its_task(gpu):
    with pytest.raises(ZeroDivisionError):
        await interop.new_stream().when_done(lambda: 1 / 0)


@in_a_loop
async def test_the_loop_keeps_a_callback_alive(gpu):
    stream = interop.new_stream()
    called = []
    with gate(stream):
        stream.when_done(called.append, 1)
        await asyncio.sleep(0.003)
        gc.collect()
    await asyncio.sleep(0.02)
    assert called == [1]


async def coroutine():
    pass


class Coroutine:
    async def __call__(self):
        pass


@in_a_loop
async def test_an_object_that_is_no_executor_is_refused(gpu):
    with pytest.raises(TypeError, match="an executor is one of"):
        interop.new_stream().when_done(len, (), executor="no")


@pytest.mark.parametrize(
    "callback",
    [
        None,
        1,
        coroutine,
        Coroutine(),
        Coroutine().__call__,
        functools.partial(coroutine),
        functools.partial(Coroutine()),
    ],
    ids=["None", "int", "function", "object", "method", "partial function", "partial object"],
)
@in_a_loop
async def test_an_object_that_is_no_callback_is_refused(gpu, callback):
    with pytest.raises(TypeError, match="a callback is a plain function; got"):
        interop.new_stream().when_done(callback)
