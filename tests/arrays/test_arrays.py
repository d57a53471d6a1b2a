"""handoff, borrow and hold on the simulator: the order there and back, what is kept alive, what is refused."""

import contextlib
import gc
import threading
import weakref

import numpy as np
import pytest

import interop
from interop import _cuda, sim
from interop._arrays import keepalive
from interop._native import native, why_not
from interop.adapters import dlpack
from interop.adapters.base import Adapter
from interop.adapters.tensor import DataType, Tensor
from interop.errors import (
    CaptureError,
    DeviceMismatchError,
    InvalidArrayError,
    InvalidStreamError,
    NotSupportedError,
    ProducerUnknownError,
    RaceError,
)
from interop.testing import gate
from tests.threads import in_thread, in_threads

needs_native = pytest.mark.skipif(native is None, reason=why_not)


class Owner:
    """A source with ``__cuda_array_interface__``, over NumPy's memory. The arguments replace parts of the interface."""

    def __init__(self, values=None, **said):
        self.values = np.arange(12, dtype="<f4").reshape(3, 4) if values is None else values
        self.said = said

    @property
    def __cuda_array_interface__(self):
        interface = dict(self.values.__array_interface__)
        interface["strides"] = self.values.strides
        return {**interface, "version": 3, **self.said}


class Array:
    """An array of the invented library, made over a holder."""

    def __init__(self, holder):
        self.holder = holder
        self.interface = holder.__cuda_array_interface__

    @property
    def __cuda_array_interface__(self):
        return self.interface


class Part:
    """The last row of an array of three."""

    def __init__(self, array):
        self.base = array
        whole = array.__cuda_array_interface__
        (address, read_only), (_, count) = whole["data"], whole["shape"]
        self.__cuda_array_interface__ = {**whole, "data": (address + 2 * 4 * count, read_only), "shape": (count,)}
        self.__cuda_array_interface__["strides"] = None


class Library(Adapter):
    library = "standin"
    simulated = True

    def stream_handle(self, stream):  # noqa: ARG002
        return None

    def make_array(self, tensor, holder):  # noqa: ARG002
        return Array(holder)


@pytest.fixture
def gpu(monkeypatch):
    with sim.simulate(devices=2) as gpu:
        # The simulator knows no real addresses. Here, all memory is on device 0, and device 1 cannot access it.
        monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (2, 0))
        monkeypatch.setattr(_cuda.memory, "peer_access", lambda *_: False)
        yield gpu
        interop.release()


@pytest.fixture
def library(add_library):
    add_library(Library())


@pytest.fixture
def streams(gpu):
    return interop.new_stream(), interop.new_stream()


def touch(gpu, stream, array):
    gpu.launch(stream, lambda _: None, writes=[array])


# -- the order -----------------------------------------------------------------------------------------------------


def test_handoff_makes_the_consumer_wait_for_the_producer(gpu, streams, library):
    p, c = streams
    memory = gpu.array([0])
    touch(gpu, p, memory)
    view = interop.handoff(Owner(), c, producer=p, into="standin")
    touch(gpu, c, memory)
    assert isinstance(view, Array)


def test_control_handoff_orders_no_other_stream(gpu, streams, library):
    p, c = streams
    memory = gpu.array([0])
    touch(gpu, p, memory)
    interop.handoff(Owner(), interop.new_stream(), producer=p, into="standin")
    with pytest.raises(RaceError):
        touch(gpu, c, memory)


def test_the_last_view_orders_the_way_back(gpu, streams, library):
    p, c = streams
    memory = gpu.array([0])
    views = [interop.handoff(Owner(), c, producer=p, into="standin")]
    touch(gpu, c, memory)
    with pytest.raises(RaceError):
        touch(gpu, p, memory)
    views.clear()
    touch(gpu, p, memory)


def test_borrow_orders_the_way_back_whichever_device_is_current(gpu, library):
    # The handle of a default stream means another stream while another device is current.
    p, memory = interop.new_stream(0), gpu.array([0])
    with interop.borrow(Owner(), consumer=1, producer=p, into="standin"):
        touch(gpu, interop.ExternalStream(1, 0), memory)
        gpu.runtime.cudaSetDevice(1)
    touch(gpu, p, memory)


def test_the_way_back_is_ordered_although_another_one_fails(gpu, streams, library, monkeypatch):
    p, c = streams
    q, memory = interop.new_stream(), gpu.array([0])
    real = interop.ExternalStream._wait_for

    def order(consumer, producer):
        if consumer == q:
            raise KeyError
        real(consumer, producer)

    states = [Owner(stream=p.cuda_stream), Owner(stream=q.cuda_stream)]
    block = interop.borrow(*states, consumer=c, into="standin")
    block.__enter__()
    touch(gpu, c, memory)
    monkeypatch.setattr(interop.ExternalStream, "_wait_for", order)
    with pytest.raises(KeyError):
        block.__exit__(None, None, None)
    touch(gpu, p, memory)


@pytest.mark.parametrize("fails", [False, True])
def test_borrow_orders_the_way_back_on_exit(gpu, streams, library, fails):
    p, c = streams
    memory, kept = gpu.array([0]), []
    with (
        contextlib.suppress(ZeroDivisionError),
        interop.borrow(Owner(), consumer=c, producer=p, into="standin") as view,
    ):
        kept.append(view)
        touch(gpu, c, memory)
        _ = 1 / (not fails)
    touch(gpu, p, memory)


def test_borrow_makes_one_wait_for_each_distinct_producer(gpu, streams, library, monkeypatch):
    p, c = streams
    q, waits = interop.new_stream(), []
    real = interop.ExternalStream._wait_for
    monkeypatch.setattr(interop.ExternalStream, "_wait_for", lambda *a: waits.append(a) or real(*a))
    states = [Owner(stream=stream.cuda_stream) for stream in (p, q, p, q, p)]
    with interop.borrow(*states, consumer=c, into="standin") as views:
        assert len(views) == 5
        assert len(waits) == 2
    assert len(waits) == 4


def test_no_call_blocks_the_host(gpu, streams, library):
    p, c = streams
    with gate(p), gate(c):
        with interop.borrow(Owner(), consumer=c, producer=p, into="standin"):
            pass
        interop.hold(c, object())
        assert interop.release() >= 1


# -- chains: a consumer's array is handed on -------------------------------------------------------------------------


def assert_let_go(alive, *streams):
    for stream in streams:
        stream.synchronize()
    assert interop.release() == 0
    assert alive() is None


def handed_on(array, consumer, producer):
    return interop.handoff(array, consumer, producer=producer, into="standin")


@pytest.mark.parametrize("first_to_go", ["the first", "the last"])
@pytest.mark.parametrize("what", [lambda view: view, Part], ids=["all", "a part"])
@pytest.mark.parametrize("into", ["standin", None])
def test_the_first_producer_of_a_chain_waits_for_all_consumers(gpu, streams, library, first_to_go, what, into):
    p, c = streams
    d, e, memory = interop.new_stream(), interop.new_stream(), gpu.array([0])
    touch(gpu, p, memory)
    chain = [interop.handoff(Owner(), c, producer=p, into=into)]
    touch(gpu, c, memory)
    chain.append(handed_on(what(chain[-1]), d, c))
    touch(gpu, d, memory)
    with interop.borrow(chain[-1], consumer=e, producer=d, into="standin") as view:
        touch(gpu, e, memory)
    chain.append(view)
    del view
    with pytest.raises(RaceError):
        touch(gpu, p, memory)
    if first_to_go == "the last":
        chain.reverse()
    while chain:
        del chain[0]
    touch(gpu, p, memory)


def test_the_way_back_of_a_chain_is_ordered_at_once(gpu, streams, library):
    p, c = streams
    d, memory = interop.new_stream(), gpu.array([0])
    with gate(d):
        interop.hold(d, object())
        view = handed_on(Owner(), c, p)
        last = handed_on(view, d, c)
        touch(gpu, d, memory)
        del view, last
        touch(gpu, p, memory)


@pytest.mark.parametrize("what", [lambda view: view, Part], ids=["all", "a part"])
def test_the_source_of_a_chain_is_kept_until_its_last_consumer_is_done(gpu, streams, library, what):
    p, c = streams
    d, source = interop.new_stream(), Owner()
    alive = weakref.ref(source)
    with gate(d):
        view = handed_on(source, c, p)
        last = handed_on(what(view), d, c)
        del source, view, last
        interop.release()
        assert alive() is not None
    assert_let_go(alive, d, c)


def test_two_handovers_of_one_source_are_no_chain(gpu, streams, library):
    # The producer of the second is the consumer of the first, but it hands over the source itself.
    p, c = streams
    d, source = interop.new_stream(), Owner()
    alive = weakref.ref(source)
    with gate(d):
        first = handed_on(source, c, p)
        second = handed_on(source, d, c)
        del first, source, second
        interop.release()
        assert alive() is not None
    assert_let_go(alive, d)


def test_arrays_over_the_same_memory_are_kept_alive_separately(gpu, streams, library):
    # A second array, which owns nothing, is handed to this one's producer, and ends first.
    p, c = streams
    d, source = interop.new_stream(), Owner()
    alive = weakref.ref(source)
    with gate(d):
        bare = handed_on(Owner(source.values), c, p)
        view = handed_on(source, d, c)
        del bare
        del source, view
        interop.release()
        assert alive() is not None
    assert_let_go(alive, d)


@pytest.mark.parametrize("how", ["an empty part", "from another stream", "from an address"])
def test_a_handover_that_is_no_chain_holds_up_no_other_way_back(gpu, streams, library, how):
    p, c = streams
    d, x, memory = interop.new_stream(), interop.new_stream(), gpu.array([0])
    view = handed_on(Owner(), c, p)
    touch(gpu, c, memory)
    with gate(d):
        gpu.launch(d, lambda: None)
        if how == "an empty part":
            part = Part(view)
            part.__cuda_array_interface__["shape"] = (0,)
            last = handed_on(part, d, c)
            del part
        elif how == "from another stream":
            x.wait_stream(c)
            last = handed_on(view, d, x)
        else:
            last = handed_on(view, d, c.cuda_stream)
            touch(gpu, d, memory)
        del last
        c.wait_stream(x)
        del view
        touch(gpu, p, memory)


def test_a_borrow_whose_end_failed_keeps_the_source(gpu, streams, library, monkeypatch):
    p, c = streams
    d, source = interop.new_stream(), Owner()
    alive = weakref.ref(source)
    mode = gpu.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    with gate(d):
        view = handed_on(source, c, p)
        block = interop.borrow(view, consumer=d, producer=c, into="standin")
        last = block.__enter__()
        gpu.runtime.cudaStreamBeginCapture(c.cuda_stream, mode)
        with pytest.raises(CaptureError):
            block.__exit__(None, None, None)
        assert not gpu.runtime.cudaStreamEndCapture(c.cuda_stream)[0]
        del source, view, last, block
        interop.release()
        assert alive() is not None
    d.synchronize()
    c.synchronize()
    gc.collect()
    assert interop.release() == 0
    assert alive() is None


def test_a_chain_that_ends_in_a_capture_keeps_the_source(gpu, streams, library):
    p, c = streams
    d, source = interop.new_stream(), Owner()
    alive = weakref.ref(source)
    mode = gpu.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    with gate(d):
        view = handed_on(source, c, p)
        last = handed_on(view, d, c)
        gpu.runtime.cudaStreamBeginCapture(c.cuda_stream, mode)
        d.wait_stream(c)
        del source, view, last
        interop.release()
        c.wait_stream(d)
        assert not gpu.runtime.cudaStreamEndCapture(c.cuda_stream)[0]
        interop.release()
        c.synchronize()
        interop.release()
        assert alive() is not None
    assert_let_go(alive, d)


def test_a_delayed_way_back_waits_for_its_own_work_only(gpu, library):
    p, q, c = (interop.new_stream() for _ in range(3))
    memories = {stream: gpu.array([0]) for stream in (p, q)}
    mode = gpu.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    with gate(c):
        for memory in memories.values():
            touch(gpu, c, memory)
        views = [handed_on(Owner(), c, p), handed_on(Owner(), c, q)]
        gpu.runtime.cudaStreamBeginCapture(c.cuda_stream, mode)
        views.clear()
        assert not gpu.runtime.cudaStreamEndCapture(c.cuda_stream)[0]
        assert interop.release() == 2
        for stream, memory in memories.items():
            touch(gpu, stream, memory)


def test_the_extent_of_elements_smaller_than_a_byte():
    tensor = Tensor(1000, (512,), None, DataType(2, 4, 1), 2, 0, read_only=False, owner=None)
    assert tensor.extent() == (1000, 1256)
    assert tensor._replace(shape=(3,)).extent() == (1000, 1002)
    assert tensor._replace(dtype=DataType(2, 32, 1), shape=(3, 4), strides=(-4, 1)).extent() == (968, 1016)
    assert tensor._replace(shape=(0, 4)).extent() == (1000, 1000)
    assert tensor._replace(shape=()).extent() == (1000, 1001)


def test_an_interrupted_hold_keeps_nothing(gpu, streams, monkeypatch):
    _, c = streams

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(keepalive.PendingRelease, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            interop.hold(c, object())
    interop.hold(c, object())
    c.synchronize()
    assert interop.release() == 0


def test_overlapping_handovers_do_not_keep_earlier_sources(gpu, streams, library):
    p, c = streams
    d, values = interop.new_stream(), np.zeros(4, "f4")
    handed_on_first = handed_on(Owner(values), c, p)  # the memory is found in this hand-over first
    source = Owner(values)
    alive = weakref.ref(source)
    view = handed_on(source, d, c)
    del handed_on_first, source
    for stream in (c, d, c):
        newer = handed_on(Owner(values), stream, p)
        view = newer
        del newer
    for stream in (p, c, d):
        stream.synchronize()
    interop.release()
    assert view is not None
    assert alive() is None


def test_a_borrowed_view_keeps_nothing_after_its_block(gpu, streams, library):
    p, c = streams
    d, source = interop.new_stream(), Owner()
    alive = weakref.ref(source)
    with gate(d):
        with interop.borrow(source, consumer=c, producer=p, into="standin") as lent:
            second = handed_on(source, d, c)
        del source, second
        del lent
        interop.release()
        assert alive() is not None
    assert_let_go(alive, d)


def test_default_streams_of_two_devices_are_no_chain(gpu, library, monkeypatch):
    monkeypatch.setattr(_cuda.memory, "peer_access", lambda *_: True)
    p, d, source = interop.new_stream(0), interop.new_stream(0), Owner()
    alive = weakref.ref(source)
    with gate(d):
        first = handed_on(source, interop.ExternalStream(1, 1), p)
        second = handed_on(source, d, interop.ExternalStream(1, 0))
        del source, second
        del first
        interop.release()
        assert alive() is not None
    assert_let_go(alive, d)


def test_a_handover_back_to_the_producer_keeps_the_source(gpu, streams, library):
    p, c = streams
    source = Owner()
    alive = weakref.ref(source)
    with gate(p), gate(c):
        view = handed_on(source, c, p)
        back = handed_on(view, p, c)
        del view, source, back
        interop.release()
        assert alive() is not None
    assert_let_go(alive, p, c)


# -- lifetimes -----------------------------------------------------------------------------------------------------


def test_the_source_lives_as_long_as_any_view(gpu, streams, library):
    p, c = streams
    source = Owner()
    alive = weakref.ref(source)
    views = [interop.handoff(source, c, producer=p, into="standin") for _ in range(2)]
    del source
    gc.collect()
    assert alive() is not None
    views.pop()
    gc.collect()
    assert alive() is not None
    views.pop()
    gc.collect()
    assert alive() is None


def test_a_garbage_cycle_may_contain_a_view_and_its_streams(gpu, library):
    p, c = interop.new_stream(), interop.new_stream()
    handles = p.cuda_stream, c.cuda_stream
    bag = [p, c, interop.handoff(Owner(), c, producer=p, into="standin")]
    bag.append(bag)
    del p, c, bag
    gc.collect()  # an exception in a finaliser fails the test
    gpu.synchronize()
    again = interop.new_stream()
    assert all(gpu.runtime.cudaStreamQuery(handle)[0] for handle in handles if handle != again.cuda_stream)


def test_a_producer_known_by_address_only_is_not_made_to_wait(gpu, library):
    p, c = interop.new_stream(), interop.new_stream()
    source = Owner(stream=p.cuda_stream)
    alive = weakref.ref(source)
    view = interop.handoff(source, c, into="standin")
    address = p.cuda_stream
    del p
    other = interop.new_stream()
    assert other.cuda_stream == address, "a new stream has the old address"
    with gate(c):
        del source, view
        interop.release()
        assert other.query(), "the new stream was not made to wait"
        assert alive() is not None, "the consumer may still be at work"
    c.synchronize()
    interop.release()
    assert alive() is None


def test_the_address_of_a_stream_in_use_is_kept_alive_by_its_owner(gpu, streams, library):
    p, c = streams
    memory = gpu.array([0])
    with p:
        view = interop.handoff(Owner(stream=p.cuda_stream), c, into="standin")
    touch(gpu, c, memory)
    with pytest.raises(RaceError):
        touch(gpu, p, memory)
    del view
    touch(gpu, p, memory)


def test_the_legacy_stream_is_made_to_wait_without_an_owner(gpu, library):
    c, memory = interop.new_stream(), gpu.array([0])
    view = interop.handoff(Owner(stream=1), c, into="standin")
    touch(gpu, c, memory)
    del view
    touch(gpu, 1, memory)


def test_a_per_thread_stream_is_not_asked_to_wait_in_another_thread(gpu, library):
    c, source = interop.new_stream(), Owner(stream=2)
    alive = weakref.ref(source)
    views = [interop.handoff(source, c, into="standin")]
    del source
    in_thread(views.clear)
    c.synchronize()
    interop.release()
    assert alive() is None


def test_the_source_is_kept_while_the_consumer_captures(gpu, streams, library):
    p, c = streams
    source = Owner()
    alive = weakref.ref(source)
    view = interop.handoff(source, c, producer=p, into="standin")
    mode = gpu.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    gpu.runtime.cudaStreamBeginCapture(c.cuda_stream, mode)
    del source, view
    gc.collect()
    assert interop.release() == 1
    assert alive() is not None
    assert not gpu.runtime.cudaStreamEndCapture(c.cuda_stream)[0], "the capture was broken"
    assert interop.release() == 0
    assert alive() is None


def test_hold_keeps_an_object_until_the_stream_is_done(gpu, streams):
    _, c = streams
    thing = Owner()
    alive = weakref.ref(thing)
    with gate(c):
        interop.hold(c, thing)
        del thing
        assert interop.release() == 1
        assert alive() is not None
    c.synchronize()
    assert interop.release() == 0
    assert alive() is None


def test_hold_does_not_wait_for_later_work(gpu, streams):
    _, c = streams
    interop.hold(c, object())
    with gate(c):
        assert interop.release() == 0


def test_many_threads_may_hand_over_at_once(gpu, library):
    def work():
        p, c = interop.new_stream(), interop.new_stream()
        for _ in range(50):
            interop.handoff(Owner(), c, producer=p, into="standin")
            interop.hold(c, object())
        c.synchronize()

    in_threads(*[work] * 4)
    assert interop.release() == 0


def test_the_source_is_kept_until_the_consumer_is_done(gpu, streams, library):
    # A memory pool returns the block to the stream that it was allocated on, which interop does not know.
    p, c = streams
    source = Owner()
    alive = weakref.ref(source)
    with gate(c):
        view = interop.handoff(source, c, producer=p, into="standin")
        del source, view
        interop.release()
        assert alive() is not None
    c.synchronize()
    interop.release()
    assert alive() is None


def test_the_way_back_is_captured_with_its_handover(gpu, streams, library):
    p, c = streams
    mode = gpu.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    gpu.runtime.cudaStreamBeginCapture(p.cuda_stream, mode)
    view = interop.handoff(Owner(), c, producer=p, into="standin")
    gpu.launch(c, lambda: None)
    del view
    assert not gpu.runtime.cudaStreamEndCapture(p.cuda_stream)[0], "the consumer was not joined"
    interop.release()


def test_a_poll_queries_the_oldest_event_only(gpu, streams, monkeypatch):
    _, c = streams
    queries = []
    real = gpu.cuda.event_query
    monkeypatch.setattr(gpu.cuda, "event_query", lambda event: queries.append(event) or real(event))
    with gate(c):
        for _ in range(100):
            interop.hold(c, object())
        assert len(queries) <= 200
    c.synchronize()
    assert interop.release() == 0


def test_an_error_of_one_pending_release_does_not_fail_another_call(gpu, streams, library, monkeypatch):
    p, c = streams
    with gate(c):
        interop.hold(c, object())
        error = gpu.runtime.cudaError_t.cudaErrorIllegalAddress
        with monkeypatch.context() as broken:
            broken.setattr(gpu.runtime, "cudaEventQuery", lambda _: (error,), raising=False)
            interop.handoff(Owner(), interop.new_stream(), producer=p, into="standin")


def test_objects_held_in_an_ended_simulation_are_released():
    with sim.simulate() as gpu:
        c = interop.new_stream()
        gpu.launch(c, lambda: None)
        interop.hold(c, object())
    assert interop.release() == 0


def test_a_view_may_go_while_an_event_is_created(gpu, streams, library, monkeypatch):
    p, c = streams
    views = [interop.handoff(Owner(stream=p.cuda_stream), c, into="standin")]
    real = gpu.cuda.event_create
    monkeypatch.setattr(gpu.cuda, "event_create", lambda *a: views.clear() or real(*a))
    interop.new_stream().record_event(interop.Event(enable_timing=True))  # is created: the pool has none with timing
    assert views == []


def test_release_may_be_called_during_a_release(gpu, streams, monkeypatch):
    _, c = streams
    done, pending = Owner(), Owner()
    alive = weakref.ref(pending)
    real = gpu.cuda.event_is_done
    inside = []

    def is_done(event):
        answer = real(event)
        if answer and not inside:
            inside.append(True)
            interop.hold(c, object())
            interop.release()
        return answer

    with gate(c) as first:
        interop.hold(c, done)
        first.open()
        with gate(c):
            monkeypatch.setattr(gpu.cuda, "event_is_done", is_done)
            interop.hold(c, pending)
            del pending
            interop.release()
            assert inside
            assert alive() is not None
    c.synchronize()
    assert interop.release() == 0


def finished(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(5)
    return not thread.is_alive()


# A finaliser can run anywhere, also in a thread that holds a lock. If it waited for another thread that wants the lock,
# both would wait for ever.


def test_a_finaliser_does_not_wait_for_a_thread_that_makes_an_event(gpu, monkeypatch):
    making, go_on, first = threading.Event(), threading.Event(), []
    create = _cuda.Cuda.event_create

    def created(cuda, *how):
        if not first:
            first.append(True)
            making.set()
            assert go_on.wait(10)
        return create(cuda, *how)

    monkeypatch.setattr(_cuda.Cuda, "event_create", created)
    thread = threading.Thread(target=lambda: interop.Event().cuda_event)
    thread.start()
    assert making.wait(10)
    try:
        assert finished(lambda: interop.Event().cuda_event)
    finally:
        go_on.set()
        thread.join()


def test_a_hold_during_another_threads_release_is_released(gpu, streams, monkeypatch):
    _, c = streams
    looking, go_on = threading.Event(), threading.Event()
    is_done, things = keepalive.PendingRelease.is_done, [Owner(), Owner()]
    alive = [weakref.ref(thing) for thing in things]

    def looked(back, *, asked):
        if threading.current_thread() is other:
            looking.set()
            assert go_on.wait(10)
        return is_done(back, asked=asked)

    other = threading.Thread(target=interop.release, daemon=True)
    with gate(c):
        interop.hold(c, things.pop())
        monkeypatch.setattr(keepalive.PendingRelease, "is_done", looked)
        other.start()
        assert looking.wait(10)
        assert finished(lambda: interop.hold(c, things.pop()))  # as in a finaliser: it waits for no thread
    c.synchronize()
    go_on.set()
    other.join(10)
    assert [gone() for gone in alive] == [None, None]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_hold_keeps_the_object(gpu, streams, library, monkeypatch, error):
    _, c = streams
    thing = Owner()
    alive = weakref.ref(thing)

    def interrupted(*_):
        raise error

    with gate(c):
        with monkeypatch.context() as broken:
            broken.setattr(gpu.cuda, "stream_capture", interrupted)
            with pytest.raises(error):
                keepalive.keepalive.release_later(c, thing)
        del thing
        assert interop.release() == 1
        assert alive() is not None
    c.synchronize()
    assert interop.release() == 0
    assert alive() is None


@pytest.mark.parametrize("call", ["cudaEventCreateWithFlags", "cudaStreamWaitEvent"])
def test_the_way_back_is_ordered_later_if_memory_is_out(gpu, streams, library, monkeypatch, call):
    p, c = streams
    source, memory = Owner(), gpu.array([0])
    alive = weakref.ref(source)
    spare = interop.new_stream().record_event()  # so that the pool is empty
    with gate(c):
        views = [handed_on(source, c, p)]
        del source
        touch(gpu, c, memory)
        taken = [interop.new_stream().record_event() for _ in range(8)]
        with monkeypatch.context() as broken:
            full = gpu.runtime.cudaError_t.cudaErrorMemoryAllocation
            broken.setattr(gpu.runtime, call, lambda *_: (full, None), raising=False)
            views.clear()
            assert interop.release() == 1
        assert interop.release() == 1
        assert alive() is not None
        touch(gpu, p, memory)
    c.synchronize()
    assert interop.release() == 0
    assert alive() is None
    assert spare
    assert taken


def test_hold_refuses_the_per_thread_stream_of_another_thread(gpu):
    theirs = in_thread(lambda: interop.ExternalStream(2))
    with pytest.raises(InvalidStreamError, match="another thread"):
        interop.hold(theirs, object())


# -- the descriptions of memory ------------------------------------------------------------------------------------

VIEWS = {
    "c": lambda a: a,
    "every other": lambda a: a[:, ::2],
    "transposed": lambda a: a.T,
    "reversed": lambda a: a[::-1],
    "0-d": lambda a: a[1:2, 1:2].reshape(()),
    "empty": lambda a: a[:0],
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "<i4", "<i8", "<f2", "<f4", "<f8", "<c8", "<c16"])
def test_a_view_has_the_elements_of_its_source(gpu, streams, library, name, dtype):
    p, c = streams
    values = VIEWS[name](np.arange(12).reshape(3, 4).astype(dtype))
    view = interop.handoff(Owner(values), c, producer=p, into="standin")
    said = {**view.interface, "version": 3}
    assert said.pop("stream") is None
    again = np.asarray(type("Again", (), {"__array_interface__": said}))
    assert again.dtype == values.dtype
    assert again.strides == values.strides or not values.size
    np.testing.assert_array_equal(again, values)


def test_a_handover_states_the_consumer(gpu, streams):
    p, c = streams
    holder = interop.handoff(Owner(), c, producer=p)
    assert isinstance(holder, interop.Handover)
    assert holder.__cuda_array_interface__["stream"] == c.cuda_stream
    assert "SIMULATED" in repr(holder)


def test_a_stated_stream_is_the_producer(gpu, streams, library):
    p, c = streams
    memory = gpu.array([0])
    touch(gpu, p, memory)
    interop.handoff(Owner(stream=p.cuda_stream), c, into="standin")
    touch(gpu, c, memory)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [{}, {"stream": None}])
def test_without_a_stated_stream_the_producer_is_unknown(gpu, streams, library, said):
    with pytest.raises(ProducerUnknownError, match=r"Owner object.*Say producer="):
        interop.handoff(Owner(**said), streams[1], into="standin")


class Fails:
    """Has a ``__cuda_array_interface__`` that raises."""

    def __init__(self, error):
        self.error = error

    @property
    def __cuda_array_interface__(self):
        raise self.error


class Packed:
    """Has a ``__dlpack__`` that raises, and a ``__dlpack_device__`` that returns or raises what the test says."""

    def __init__(self, device):
        self.device = device

    def __dlpack_device__(self):
        if isinstance(self.device, type):
            raise self.device
        return self.device

    def __dlpack__(self, **_):
        raise LookupError


class Record(Owner):
    """An array of records, as CuPy has them: its ``__dlpack__`` refuses them."""

    def __init__(self, typestr, descr):
        super().__init__(typestr=typestr, descr=descr)

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **_):
        raise BufferError


REFUSED = {
    "no array": (lambda: [1, 2], InvalidArrayError, "expected an array on a GPU"),
    "none": (lambda: None, InvalidArrayError, "expected an array on a GPU"),
    "on the CPU": (lambda: np.zeros(3), InvalidArrayError, "not on a GPU"),
    "stream 0": (lambda: Owner(stream=0), InvalidStreamError, "forbids"),
    "structured": (lambda: Owner(typestr="|V8"), NotSupportedError, "structured"),
    "big-endian": (lambda: Owner(typestr=">f4"), NotSupportedError, "big-endian"),
    "no address": (lambda: Owner(data=None), InvalidArrayError, "no CUDA array interface"),
    "no shape": (lambda: Owner(shape=None), InvalidArrayError, "no CUDA array interface"),
    "negative shape": (lambda: Owner(shape=(-3, 4)), InvalidArrayError, "no CUDA array interface"),
    "fractional shape": (lambda: Owner(shape=(3.7, 4)), InvalidArrayError, "no CUDA array interface"),
    "shape in words": (lambda: Owner(shape="34"), InvalidArrayError, "no CUDA array interface"),
    "stretched": (lambda: Owner(strides=(2**66, 4)), InvalidArrayError, "no CUDA array interface"),
    "endless": (lambda: Owner(shape=(2**63,), strides=None), InvalidArrayError, "no CUDA array interface"),
    "negative address": (lambda: Owner(data=(-5, False)), InvalidArrayError, "no CUDA array interface"),
    "address beyond": (lambda: Owner(data=(2**64, False)), InvalidArrayError, "no CUDA array interface"),
    "interface that fails": (lambda: Fails(OSError), InvalidArrayError, "Fails object.*OSError"),
    "DLPack without a device": (lambda: Packed(AttributeError), InvalidArrayError, "Packed object.*AttributeError"),
    "DLPack on nonsense": (lambda: Packed((2,)), InvalidArrayError, "Packed object.*ValueError"),
    "DLPack that fails": (lambda: Packed((2, 0)), InvalidArrayError, "Packed object.*LookupError"),
    "a record of one field": (lambda: Record("|V4", [("a", "<f4")]), NotSupportedError, "structured"),
    "too few strides": (lambda: Owner(strides=(16,)), InvalidArrayError, "no CUDA array interface"),
    "masked": (lambda: Owner(mask=Owner()), NotSupportedError, "mask"),
    "strides": (lambda: Owner(strides=(16, 3)), NotSupportedError, "no multiples"),
    "read-only": (lambda: Owner(data=(64, True)), NotSupportedError, "read-only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_array_is_refused_before_anything_is_ordered(gpu, streams, library, case, monkeypatch):
    make, error, text = REFUSED[case]
    p, c = streams
    monkeypatch.setattr(interop.ExternalStream, "_wait_for", lambda *_: pytest.fail("ordered"))
    producer = None if case == "stream 0" else p
    with pytest.raises(error, match=text):
        interop.handoff(make(), c, producer=producer, into="standin")
    lent = interop.borrow(Owner(stream=p.cuda_stream), make(), consumer=c, producer=producer, into="standin")
    with pytest.raises(error, match=text):
        lent.__enter__()


def test_memory_without_peer_access_is_refused(gpu, library):
    with pytest.raises(DeviceMismatchError, match="no peer access"):
        interop.handoff(Owner(), interop.new_stream(1), producer=interop.new_stream(0), into="standin")


@pytest.mark.needs("rmm")
def test_a_library_without_arrays_is_refused(gpu, streams):
    with pytest.raises(NotSupportedError, match="rmm makes no arrays"):
        interop.handoff(Owner(), streams[1], producer=streams[0], into="rmm")


def test_an_error_of_make_array_is_raised_and_the_source_released(gpu, streams, library, monkeypatch):
    def refuse(self, tensor, holder):
        raise ValueError("no such luck")

    monkeypatch.setattr(Library, "make_array", refuse)
    source = Owner()
    alive = weakref.ref(source)
    with pytest.raises(NotSupportedError, match=r"standin takes no array of .*ValueError: no such luck"):
        interop.handoff(source, streams[1], producer=streams[0], into="standin")
    del source
    gc.collect()
    assert alive() is None


def test_the_end_of_the_process_waits_before_it_releases(python):
    code = """
import json
import interop
from interop import sim
kept = sim.simulate()
gpu = kept.__enter__()
c = interop.new_stream()
ran = []
gpu.launch(c, lambda: ran.append(True))
class Thing:
    def __del__(self):
        print(json.dumps(ran), flush=True)
interop.hold(c, Thing())
"""
    assert python(code) == [True]


@needs_native
def test_a_capsule_of_numpy_can_be_read(streams):
    tensor = dlpack.read(np.arange(3.0).__dlpack__())
    assert (tensor.shape, tensor.dtype) == ((3,), DataType(2, 64, 1))


def test_the_source_is_released_if_the_consumers_thread_has_ended(gpu, library):
    p, sources, views = interop.new_stream(), [Owner()], []
    alive = weakref.ref(sources[0])

    def work():
        views.append(interop.handoff(sources.pop(), 2, producer=p, into="standin"))

    in_thread(work)
    views.clear()
    gpu.runtime.cudaDeviceSynchronize()
    kept = interop.release()
    assert kept == 0
    assert alive() is None


def test_the_source_is_kept_if_the_way_back_cannot_be_ordered(gpu, streams, library, monkeypatch):
    p, c = streams
    source = Owner()
    alive = weakref.ref(source)
    views = [interop.handoff(source, c, producer=p, into="standin")]
    del source
    real, refused = gpu.runtime.cudaStreamWaitEvent, gpu.runtime.cudaError_t.cudaErrorInvalidResourceHandle
    with gate(c):
        with monkeypatch.context() as broken:
            # The producer's stream, or its context, was destroyed. The consumer's is busy.
            broken.setattr(
                gpu.runtime,
                "cudaStreamWaitEvent",
                lambda stream, *rest: (refused,) if stream == p.cuda_stream else real(stream, *rest),
                raising=False,
            )
            views.clear()
            gc.collect()
        assert alive() is not None
    c.synchronize()
    interop.release()
    assert alive() is None


class Orders:
    """An array with ``__dlpack__`` only, which calls *order* with the stream that it should be ready on."""

    def __init__(self, order):
        self.order, self.values = order, np.arange(4.0)

    def __dlpack__(self, *, stream=None, max_version=None):
        if stream != -1:
            self.order(stream)
        address = self.values.__array_interface__["data"][0]
        tensor = Tensor(address, (4,), (1,), DataType(2, 64, 1), 2, 0, read_only=False, owner=None)
        return dlpack.capsule(tensor, self, versioned=True)

    def __dlpack_device__(self):
        return (2, 0)


class Both(Orders):
    """Has an array interface too. The interface cannot describe the type, or raises."""

    def __init__(self, order, interface):
        super().__init__(order)
        self.interface = interface

    @property
    def __cuda_array_interface__(self):
        if isinstance(self.interface, type):
            raise self.interface
        return self.interface


@needs_native
@pytest.mark.parametrize(
    "interface", [TypeError, {"typestr": "|V2", "stream": 7}, {"typestr": "|V2", "descr": [("", "|V2")]}]
)
def test_dlpack_orders_an_array_that_the_interface_cannot_describe(gpu, streams, interface):
    p, c = streams
    memory = gpu.array([0])
    touch(gpu, p, memory)
    view = interop.handoff(Both(lambda stream: interop.as_stream(stream).wait_stream(p), interface), c)
    touch(gpu, c, memory)
    assert view is not None


@needs_native
def test_an_array_that_invalidates_the_consumers_capture_is_an_error(gpu, streams):
    p, c = streams
    event = gpu.runtime.cudaEventCreateWithFlags(2)[1]
    gpu.runtime.cudaEventRecord(event, p.cuda_stream)
    mode = gpu.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    gpu.runtime.cudaStreamBeginCapture(c.cuda_stream, mode)
    with pytest.raises(CaptureError, match="invalidated"):
        interop.handoff(Orders(lambda stream: gpu.runtime.cudaStreamWaitEvent(stream, event, 0)), c)
    gpu.runtime.cudaStreamEndCapture(c.cuda_stream)


@needs_native
@pytest.mark.parametrize("default", [1, 2])
def test_dlpack_is_asked_on_the_device_of_the_consumer(gpu, monkeypatch, default):
    monkeypatch.setattr(_cuda.memory, "peer_access", lambda *_: True)
    p, memory, consumer = interop.new_stream(0), gpu.array([0]), interop.ExternalStream(default, 1)

    def order(stream):  # as in PyTorch and CuPy, 1 and 2 are the default streams of the current device
        interop.as_stream(stream).wait_stream(p)

    touch(gpu, p, memory)
    view = interop.handoff(Orders(order), consumer)
    touch(gpu, consumer, memory)
    assert view is not None


def test_the_way_back_of_several_arrays_is_one_wait(gpu, streams, library, monkeypatch):
    p, c = streams
    waits, real = [], gpu.cuda.stream_wait_event
    monkeypatch.setattr(gpu.cuda, "stream_wait_event", lambda *a: waits.append(a) or real(*a))
    with interop.borrow(*(Owner() for _ in range(8)), consumer=c, producer=p, into="standin") as views:
        pass
    del views
    assert len(waits) == 2, "one there, one back"


def test_a_failed_way_back_is_tried_again(gpu, library):
    p, q, c = (interop.new_stream() for _ in range(3))
    memory, other = gpu.array([0]), gpu.array([0])
    relaxed = gpu.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    first, second = (interop.handoff(Owner(), stream, producer=stream) for stream in (p, q))
    with gate(c):  # without it, the host would see that c is done, which orders all that it enqueues later
        with contextlib.ExitStack() as block:
            views = block.enter_context(interop.borrow(first, second, consumer=c, into="standin"))
            for array in (memory, other):
                touch(gpu, c, array)
            gpu.runtime.cudaStreamBeginCapture(p.cuda_stream, relaxed)
            with pytest.raises(CaptureError):
                block.close()
        touch(gpu, q, other)  # its way back was ordered
        gpu.runtime.cudaStreamEndCapture(p.cuda_stream)
        del views
        gc.collect()  # the traceback of the error holds the views
        interop.release()
        touch(gpu, p, memory)


# -- streams that were closed --------------------------------------------------------------------------------------


class Closable:
    """A stream of :class:`ClosableLibrary`."""

    def __init__(self, handle=None):
        self.native = interop.new_stream()
        self.handle = self.native.cuda_stream if handle is None else handle

    def close(self):
        self.handle = 0

    def __cuda_stream__(self):
        return 0, self.handle


class ClosableLibrary(Library):
    library = "closable"
    streams_close = True

    def stream_handle(self, stream):
        return (stream.handle or 1) if isinstance(stream, Closable) else None


@pytest.fixture
def closable(library, monkeypatch, add_library):
    monkeypatch.setattr(Closable, "__module__", "closable")
    add_library(ClosableLibrary())


def test_a_closed_producer_is_not_used(gpu, closable, monkeypatch):
    producer, c, source = Closable(), interop.new_stream(), Owner()
    alive, handle = weakref.ref(source), producer.handle
    view = interop.handoff(source, c, producer=producer, into="standin")
    producer.close()
    with monkeypatch.context() as patched:
        for name in ("stream_capture", "stream_wait_event"):
            real = getattr(gpu.cuda, name)

            def asked(first, *others, real=real):
                assert first != handle
                return real(first, *others)

            patched.setattr(gpu.cuda, name, asked)
        with gate(c):
            del view, source
            assert interop.release() == 1
            assert alive() is not None
        c.synchronize()
        assert interop.release() == 0
    assert alive() is None


def test_the_source_of_a_closed_consumer_is_never_released(gpu, closable, monkeypatch):
    kept = []
    monkeypatch.setattr(keepalive, "_never_let_go", kept)
    p, consumer, source = interop.new_stream(), Closable(), Owner()
    alive = weakref.ref(source)
    view = interop.handoff(source, consumer, producer=p, into="standin")
    consumer.close()
    with pytest.warns(ResourceWarning, match="was closed while arrays that were handed to it were in use"):
        del view
    del source
    assert interop.release() == 0
    assert alive() is not None
    kept.clear()
    assert alive() is None


@pytest.mark.parametrize("role", ["producer", "consumer"])
def test_a_default_stream_is_never_closed(gpu, closable, role):
    """A stream of cuda.core that was made of handle 0 states 0, as a closed one does."""
    default, other, memory = Closable(0), interop.new_stream(), gpu.array([0])
    p, c = (default, other) if role == "producer" else (other, default)
    view = interop.handoff(Owner(), c, producer=p, into="standin")
    p, c = interop.as_stream(p), interop.as_stream(c)
    with gate(other if role == "producer" else interop.ExternalStream(1, 0)):
        touch(gpu, c, memory)
        del view
        touch(gpu, p, memory)
        assert interop.release() == 1
