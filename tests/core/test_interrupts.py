"""After a signal handler raised in the middle of a call, blocks, contexts, modes and events are as before."""

import pytest

import interop
from interop import sim
from interop._core import switching
from interop._order import watchers
from interop._safety import forks
from tests.core.test_current import StandIn, handles, libraries
from tests.interrupts import interrupt

native_stubs = pytest.importorskip("tests.native_stubs")

# Python drops an exception that a signal handler raises in a finaliser.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

__all__ = ["StandIn", "libraries"]


@pytest.fixture
def gpu():
    with sim.simulate(devices=2) as gpu:
        yield gpu


WAYS = {
    "use": interop.use,
    "use of one library": lambda stream: interop.use(stream, "beta"),
    "stream": lambda stream: stream,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_interrupted_blocks_restore_the_current_streams(gpu, libraries, way):
    gpu.runtime.cudaSetDevice(1)
    first, second = interop.new_stream(0), interop.new_stream(1)

    def work():
        with way(first):
            assert handles(libraries)[1] == first.cuda_stream
            with way(second):
                assert handles(libraries)[1] == second.cuda_stream
            assert handles(libraries)[1] == first.cuda_stream

    def check():
        assert switching._thread.blocks == []
        assert handles(libraries) == [None, None]
        assert gpu.runtime.cudaGetDevice()[1] == 1
        libraries[0].log.clear()

    interrupt(work, check)


PLAIN = {
    "query": lambda world: world.q.query(),
    "query of the legacy stream": lambda world: world.legacy.query(),
    "synchronize the legacy stream": lambda world: world.legacy.synchronize(),
    "query of an event": lambda world: world.event.query(),
    "record": lambda world: world.p.record_event(world.event),
    "wait_event on the legacy stream": lambda world: world.legacy.wait_event(world.event),
    "wait_stream": lambda world: world.c.wait_stream(world.p),
    "wait_stream of the legacy stream": lambda world: world.c.wait_stream(world.legacy),
    "wait_stream of another device's": lambda world: world.legacy.wait_stream(world.other_legacy),
    "device": lambda world: setattr(world.q, "_device", None) or world.q.device,
}


@pytest.mark.parametrize("way", ["C", "Python"])
@pytest.mark.parametrize("name", PLAIN)
def test_interrupted_calls_restore_context_mode_and_events(driver, way, name):
    """The current context, the capture mode and the spare events are the same as before."""
    mode, current = 1, native_stubs.OWN + 1  # thread-local mode, and a context without any of the streams
    watcher = watchers.Watcher()
    with native_stubs.bound(driver) as cuda:
        world = native_stubs.World(driver, cuda)
        pools = [cuda.pool(native_stubs.OWN), cuda.pool(native_stubs.OWN + 1)]
        before = [sorted(native_stubs.spare(pool)) for pool in pools]

        def work():
            PLAIN[name](world)

        def check():
            assert driver.current() == current
            assert driver.library.capture_mode() == mode
            gone = {call.first for call in driver.calls if call.name == "cuEventDestroy"}
            for pool, events in zip(pools, before, strict=True):
                found = native_stubs.spare(pool)
                assert sorted([*found, *gone & {*events}]) == events
                for event in gone & {*events}:
                    pool.give(event)  # to the stubs, an event is only a number
            driver.reset(mode)

        driver.reset(mode)
        driver.library.make_current(native_stubs.ctypes.c_uint64(current))
        try:
            if way == "Python":
                watchers.watch(watcher)
            work()  # interop reads the capture mode once
            check()
            interrupt(work, check)
        finally:
            watchers.unwatch(watcher)
            driver.library.make_current(native_stubs.ctypes.c_uint64(0))


def test_interrupted_blocks_of_a_lock_leave_it_free():
    lock = forks.lock()

    def work():
        for _ in range(1000):
            with lock, lock:
                pass

    interrupt(work, lambda: None)
    assert not lock._is_owned()


@pytest.mark.parametrize(
    "call",
    [
        lambda: interop.new_stream(0),
        lambda: interop.new_stream(0, priority=-1).query(),
        lambda: interop.new_stream(0).to("alpha"),
        lambda: interop.new_stream(0).record_event().query(),
    ],
    ids=["new_stream", "query", "to", "record_event"],
)
def test_interrupted_calls_on_another_device_restore_the_context(gpu, libraries, call):
    gpu.runtime.cudaSetDevice(1)
    context = gpu.cuda.bound_context()

    def check():
        assert gpu.cuda.bound_context() == context
        assert gpu.runtime.cudaThreadExchangeStreamCaptureMode(0)[1] == 0

    interrupt(call, check, 500)


@pytest.mark.parametrize("interrupted", ["before", "after"])
def test_a_stream_is_not_destroyed_twice(gpu, monkeypatch, interrupted):
    """cuda.bindings runs Python code after the call of CUDA, and a signal handler can raise there."""
    destroyed = []
    destroy = gpu.runtime.cudaStreamDestroy

    def destroying(handle):
        if interrupted == "before":
            raise KeyboardInterrupt
        destroyed.append(handle)
        destroy(handle)
        raise KeyboardInterrupt

    gone = interop.new_stream().cuda_stream
    monkeypatch.setattr(gpu.runtime, "cudaStreamDestroy", destroying)
    with pytest.raises(KeyboardInterrupt):
        interop.new_stream()
    assert destroyed == ([] if interrupted == "before" else [gone])
    monkeypatch.undo()
    _, other = gpu.runtime.cudaStreamCreateWithPriority(1, 0)
    assert interop.new_stream().cuda_stream != int(other), "the new stream at the old address was destroyed"
