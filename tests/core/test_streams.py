"""Streams and events on the simulator: all that can be tested without a GPU."""

import ctypes
import functools
import gc
import itertools
import threading

import numpy as np
import pytest

import interop
from interop import _cuda, sim
from interop._core import borrowing
from interop._cuda.codes import NOT_READY
from interop._order import watchers
from interop.errors import (
    CaptureError,
    CudaError,
    DeviceMismatchError,
    InteropError,
    InvalidDeviceError,
    InvalidStreamError,
    NotSupportedError,
    RaceError,
    UnrecordedEventError,
)
from interop.testing import assert_not_ordered, assert_ordered, gate
from tests.threads import in_thread, in_threads


@pytest.fixture
def gpu():
    with sim.simulate(devices=2) as gpu:
        yield gpu


@pytest.fixture
def calls(gpu, monkeypatch):
    """The names of the CUDA calls made, as they are made."""
    made = []
    for name in dir(type(gpu.runtime)):
        if name.startswith("cuda") and callable(getattr(gpu.runtime, name)):
            real = getattr(gpu.runtime, name)
            monkeypatch.setattr(
                gpu.runtime, name, lambda *a, _n=name, _r=real: made.append(_n) or _r(*a), raising=False
            )
    return made


def write(gpu, stream, array, value):
    def fill(memory):
        memory[:] = value

    gpu.launch(stream, fill, writes=[array])


def copy(gpu, stream, source, target):
    def copy(old, new):
        new[:] = old

    gpu.launch(stream, copy, reads=[source], writes=[target])


# -- order ---------------------------------------------------------------------------------------------------------

DEVICES = list(itertools.product((0, 1), repeat=3))


@pytest.mark.parametrize(("producer", "consumer", "current"), DEVICES)
def test_wait_stream_orders_and_leaves_the_device(gpu, producer, consumer, current):
    gpu.runtime.cudaSetDevice(current)
    p, c = gpu.stream("p", device=producer), gpu.stream("c", device=consumer)
    a, b = gpu.array([0]), gpu.array([0])
    write(gpu, p, a, 7)
    interop.as_stream(c).wait_stream(p)
    copy(gpu, c, a, b)
    interop.as_stream(c).synchronize()
    assert gpu.read(b) == [7]
    assert gpu.runtime.cudaGetDevice()[1] == current


def test_control_without_the_wait_there_is_a_race(gpu):
    p, c = gpu.stream("p"), gpu.stream("c")
    a, b = gpu.array([0]), gpu.array([0])
    write(gpu, p, a, 7)
    with pytest.raises(RaceError):
        copy(gpu, c, a, b)
    interop.as_stream(p).wait_stream(c)
    with pytest.raises(RaceError):
        copy(gpu, c, a, b)


def test_every_schedule_is_right_with_the_wait_and_one_is_wrong_without():
    def program(gpu, *, waits):
        p, c = gpu.stream("p"), gpu.stream("c")
        a, b = gpu.array([0]), gpu.array([0])
        write(gpu, p, a, 7)
        if waits:
            interop.as_stream(c).wait_stream(p)
        copy(gpu, c, a, b)
        interop.as_stream(c).synchronize()
        return int(gpu.read(b)[0])

    ordered = sim.explore(lambda gpu: program(gpu, waits=True))
    assert ordered.complete
    assert set(ordered.outcomes) == {7}
    assert set(sim.explore(lambda gpu: program(gpu, waits=False)).outcomes) == {0, 7}


def test_wait_stream_with_several_producers(gpu):
    producers = [gpu.stream(device=i % 2) for i in range(3)]
    arrays = [gpu.array([0]) for _ in producers]
    c, out = interop.new_stream(), gpu.array([0])
    for p, a in zip(producers, arrays, strict=True):
        write(gpu, p, a, 1)
    c.wait_stream(*producers)
    gpu.launch(c, lambda x, y, z, out: np.copyto(out, x + y + z), reads=arrays, writes=[out])
    c.synchronize()
    assert gpu.read(out) == [3]


def test_work_submitted_after_the_wait_is_not_waited_for(gpu):
    p, c, a = gpu.stream(), interop.new_stream(), gpu.array([0])
    c.wait_stream(p)
    write(gpu, p, a, 1)
    with pytest.raises(RaceError):
        write(gpu, c, a, 2)


@pytest.mark.parametrize("recorded_on", [0, 1])
def test_events_order(gpu, recorded_on):
    p, c, a = interop.new_stream(recorded_on), interop.new_stream(), gpu.array([0])
    write(gpu, p, a, 1)
    event = p.record_event()
    assert isinstance(event, interop.Event)
    c.wait_event(event)
    write(gpu, c, a, 2)
    p.wait_stream(c)
    mine = interop.Event()
    assert p.record_event(mine) is mine
    mine.wait(c)


def test_a_wait_keeps_the_record_from_before_it(gpu):
    p, q, c, a = interop.new_stream(), interop.new_stream(), interop.new_stream(), gpu.array([0])
    event = interop.Event()
    write(gpu, p, a, 1)
    event.record(p)
    c.wait_event(event)
    event.record(q)
    write(gpu, c, a, 2)
    d = interop.new_stream()
    d.wait_event(event)
    with pytest.raises(RaceError):
        write(gpu, d, a, 3)


def test_default_streams(gpu):
    blocking = interop.new_stream(non_blocking=False)
    a = gpu.array([0])
    write(gpu, blocking, a, 1)
    write(gpu, 1, a, 2)
    c = interop.new_stream()
    c.wait_stream(1)
    write(gpu, c, a, 3)
    interop.ExternalStream(2).wait_stream(c)
    write(gpu, 2, a, 4)


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("handle", [0, 1, 2])
def test_default_streams_of_a_device(gpu, handle, device, current):
    gpu.runtime.cudaSetDevice(current)
    stream = interop.ExternalStream(handle, device)
    assert stream.device == device
    assert stream.stream_id == interop.ExternalStream(handle, device).stream_id
    assert (stream == interop.ExternalStream(handle)) is (device == current)
    other, a = interop.new_stream(device), gpu.array([0])
    write(gpu, other, a, 1)
    stream.wait_stream(other)
    with pytest.raises(RaceError):  # on the stream of the same handle of the other device
        write(gpu, interop.ExternalStream(handle, 1 - device), a, 2)
    write(gpu, stream, a, 2)
    stream.record_event(interop.Event()).wait(other)
    write(gpu, other, a, 3)
    stream.synchronize()
    assert stream.query()
    assert gpu.runtime.cudaGetDevice()[1] == current


# -- what it costs -------------------------------------------------------------------------------------------------


def test_a_stream_need_not_wait_for_itself(gpu, calls):
    native = gpu.stream()
    stream = interop.as_stream(native)
    stream.query()
    calls.clear()
    stream.wait_stream(native, stream, interop.as_stream(native))
    stream.wait_stream()
    assert calls == []


def test_handle_0_is_the_legacy_stream_and_need_not_wait_for_itself(gpu, calls):
    legacy = interop.ExternalStream(0)
    legacy.synchronize()
    calls.clear()
    legacy.wait_stream(interop.ExternalStream(1))
    assert "cudaEventRecord" not in calls


def test_a_repeated_wait_is_one_record_and_one_wait(gpu, calls):
    p, c = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    c.wait_stream(p)
    calls.clear()
    for _ in range(3):
        c.wait_stream(p)
    assert sorted(calls) == sorted(3 * ["cudaStreamIsCapturing", "cudaEventRecord", "cudaStreamWaitEvent"])


def test_two_threads_never_share_a_scratch_event(gpu, monkeypatch):
    # Two threads meet between record and wait: with one event for both, one would wait for the other's producer.
    meeting = threading.Barrier(2, timeout=10)
    real = gpu.runtime.cudaEventRecord

    def record(*arguments):
        result = real(*arguments)
        if threading.current_thread() is not threading.main_thread():
            meeting.wait()
        return result

    monkeypatch.setattr(gpu.runtime, "cudaEventRecord", record, raising=False)
    pairs = [(interop.new_stream(), interop.new_stream(), gpu.array([0])) for _ in range(2)]

    def work(p, c, a):
        write(gpu, p, a, 1)
        c.wait_stream(p)
        write(gpu, c, a, 2)

    in_threads(*(functools.partial(work, *pair) for pair in pairs))


def test_a_wait_between_the_record_and_the_wait_of_another_one(gpu, monkeypatch):
    # As in a finaliser or a signal handler: in the same thread, between the record and the wait of another wait.
    p, q, c, a = interop.new_stream(), interop.new_stream(), interop.new_stream(), gpu.array([0])
    real = gpu.runtime.cudaEventRecord
    inside = []

    def record(*arguments):
        result = real(*arguments)
        if not inside:
            inside.append(True)
            c.wait_stream(q)
        return result

    c.wait_stream(q)  # so that the pool has an event that could be taken twice
    write(gpu, p, a, 1)
    monkeypatch.setattr(gpu.runtime, "cudaEventRecord", record, raising=False)
    c.wait_stream(p)
    assert inside
    write(gpu, c, a, 2)


def test_scratch_events_outlive_their_thread(gpu, calls):
    p, c = interop.new_stream(), interop.new_stream()
    for _ in range(3):
        in_thread(lambda: c.wait_stream(p))
    assert calls.count("cudaEventCreateWithFlags") == 1


def test_plain_events_are_used_again(gpu, calls):
    p, c = interop.new_stream(), interop.new_stream()
    for _ in range(3):
        c.wait_event(p.record_event())
    assert calls.count("cudaEventCreateWithFlags") == 1
    assert "cudaEventDestroy" not in calls


def test_a_wait_stays_when_its_event_is_used_again(gpu):
    p, q, c, a = interop.new_stream(), interop.new_stream(), interop.new_stream(), gpu.array([0])
    write(gpu, p, a, 1)
    event = p.record_event()
    handle = event.cuda_event
    event._handle_was_shared = False  # as if the handle had never been read
    c.wait_event(event)
    del event
    again = q.record_event()
    assert again.cuda_event == handle
    write(gpu, c, a, 2)


@pytest.mark.parametrize("kind", ["timing", "blocking", "interprocess", "device", "exposed"])
def test_events_that_are_not_plain_are_destroyed(gpu, calls, kind):
    p = interop.new_stream()
    event = {
        "timing": lambda: interop.Event(enable_timing=True),
        "blocking": lambda: interop.Event(blocking=True),
        "interprocess": lambda: interop.Event(interprocess=True),
        "device": lambda: interop.Event(device=0),
        "exposed": interop.Event,
    }[kind]()
    p.record_event(event)
    if kind == "exposed":
        assert event.cuda_event  # other code may keep the handle, and record the event later
    del event
    assert calls.count("cudaEventDestroy") == 1
    p.record_event()
    assert calls.count("cudaEventCreateWithFlags") == 2


def test_a_pool_has_a_limit(gpu, calls):
    p = interop.new_stream()
    events = [p.record_event() for _ in range(300)]
    events.clear()
    assert calls.count("cudaEventDestroy") == 300 - 256


def test_each_context_has_its_own_events(gpu, calls):
    for device in (0, 1):
        p, c = interop.new_stream(device), interop.new_stream(device)
        c.wait_stream(p)
        p.record_event()
    assert calls.count("cudaEventCreateWithFlags") == 2


@pytest.mark.parametrize("call", ["cudaEventRecord", "cudaStreamWaitEvent"])
def test_a_failed_call_raises_and_its_event_is_destroyed(gpu, monkeypatch, calls, call):
    p, c, a = interop.new_stream(), interop.new_stream(), gpu.array([0])
    c.wait_stream(p)
    write(gpu, p, a, 1)
    error = gpu.runtime.cudaError_t.cudaErrorIllegalAddress
    with monkeypatch.context() as broken:
        broken.setattr(gpu.runtime, call, lambda *_: (error,), raising=False)
        with pytest.raises(CudaError, match=call) as caught:
            c.wait_stream(p)
    assert (caught.value.code, caught.value.name, caught.value.call) == (700, "cudaErrorIllegalAddress", call)
    assert calls.count("cudaEventDestroy") == calls.count("cudaEventCreateWithFlags")
    with pytest.raises(RaceError):
        write(gpu, c, a, 2)
    c.wait_stream(p)
    write(gpu, c, a, 2)


def test_an_event_whose_record_failed_is_not_recorded(gpu, monkeypatch):
    p, event = interop.new_stream(), interop.Event()
    error = gpu.runtime.cudaError_t.cudaErrorIllegalAddress
    for _ in range(2):  # the second time the CUDA event exists
        with monkeypatch.context() as broken:
            broken.setattr(gpu.runtime, "cudaEventRecord", lambda *_: (error,), raising=False)
            with pytest.raises(CudaError, match="cudaEventRecord"):
                p.record_event(event)
        with pytest.raises(UnrecordedEventError):
            event.query()
    p.record_event(event)
    assert event.query()


# -- query, synchronise --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [interop.new_stream, lambda: interop.ExternalStream(1)])
def test_query_and_synchronize(gpu, make):
    stream = make()
    assert stream.query() is True
    with gate(stream) as shut:
        assert stream.query() is False
        with pytest.raises(TimeoutError, match=r"after 0\.01 s"):
            stream.synchronize(timeout=0.01)
        with pytest.raises(TimeoutError):
            stream.synchronize(timeout=0)
        shut.open()
        stream.synchronize(timeout=5)
        assert stream.query() is True
    write(gpu, stream, gpu.array([0]), 1)
    stream.synchronize()
    assert stream.query() is True


def test_event_query_and_synchronize(gpu):
    stream = interop.new_stream()
    event = interop.Event()
    with gate(stream) as shut:
        event.record(stream)
        assert event.query() is False
        with pytest.raises(TimeoutError):
            event.synchronize(timeout=0.01)
        shut.open()
        event.synchronize(timeout=5)
    event.synchronize()
    assert event.query() is True


def test_an_event_that_was_never_recorded(gpu):
    event, stream = interop.Event(), interop.new_stream()
    for use in (event.query, event.synchronize, lambda: event.wait(stream), lambda: stream.wait_event(event)):
        with pytest.raises(UnrecordedEventError, match="never recorded"):
            use()
    event.record(stream)
    stream.wait_event(event)


def test_a_handle_given_away_may_have_been_recorded(gpu):
    event, stream = interop.Event(), interop.new_stream()
    gpu.runtime.cudaEventRecord(event.ptr, stream.cuda_stream)
    assert event.cuda_event == event.ptr
    stream.wait_event(event)
    assert event.query() is True


def test_the_simulator_has_no_elapsed_time(gpu):
    stream = interop.new_stream()
    start, end = (interop.Event(enable_timing=True) for _ in range(2))
    start.record(stream)
    end.record(stream)
    with pytest.raises(NotSupportedError, match="no clock"):
        start.elapsed_time(end)


@pytest.mark.parametrize("which", ["start", "end"])
def test_elapsed_time_needs_timing(gpu, which):
    stream = interop.new_stream()
    events = [interop.Event(enable_timing=which != name) for name in ("start", "end")]
    for event in events:
        event.record(stream)
    with pytest.raises(NotSupportedError, match="enable_timing=True"):
        events[0].elapsed_time(events[1])


def test_an_ipc_handle_needs_interprocess(gpu):
    with pytest.raises(NotSupportedError, match="interprocess=True"):
        interop.Event().ipc_handle()


# -- devices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [0, 1])
def test_the_device_is_found_and_checked(gpu, device):
    native = gpu.stream(device=device)
    assert interop.as_stream(native).device == device
    assert interop.as_stream(native, device).device == device
    for wrong in (1 - device, 9):
        with pytest.raises(DeviceMismatchError, match=f"is on device {device}"):
            interop.as_stream(native, wrong)
        with pytest.raises(DeviceMismatchError):
            interop.as_stream(interop.as_stream(native), wrong)


def test_a_device_that_does_not_exist(gpu):
    for make in (interop.new_stream, lambda d: interop.ExternalStream(1, d), lambda d: interop.ExternalStream(2, d)):
        with pytest.raises(InvalidDeviceError, match="there is no device 9: this process sees 2, numbered 0 to 1"):
            make(9)


def test_an_event_belongs_to_the_device_of_its_first_record(gpu):
    streams = [interop.new_stream(device) for device in (0, 1)]
    event = streams[0].record_event()
    with pytest.raises(DeviceMismatchError, match="cannot be recorded"):
        streams[1].record_event(event)
    with pytest.raises(DeviceMismatchError):
        streams[0].record_event(interop.Event(device=1))
    streams[1].record_event(interop.Event(device=1))
    assert event.query() is True


# -- lives ---------------------------------------------------------------------------------------------------------


def test_a_new_stream_is_destroyed_after_its_last_reference(gpu):
    stream = interop.new_stream()
    handle, number, owner = stream.cuda_stream, stream.stream_id, stream.owner
    del stream
    gc.collect()
    del owner
    gc.collect()
    assert not gpu.runtime.cudaStreamQuery(handle)[0]
    again = interop.new_stream()  # this call first destroys the stream from before
    assert again.stream_id != number
    assert again.cuda_stream == handle


class User:
    """Part of a cycle. The finalisers of a cycle run in any order, and before any object of the cycle is cleared."""

    def __init__(self, used, use):
        self.me, self.used, self.use, self.raised = self, used, use, []

    def __del__(self):
        try:
            self.use(self.used)
        except interop.errors.InteropError as error:
            self.raised.append(error)


@pytest.mark.parametrize("first", ["the stream", "its user"])
def test_a_stream_can_be_used_by_a_finaliser_of_the_same_cycle(gpu, first):
    stream = interop.new_stream() if first == "the stream" else None
    user = User(stream, lambda used: (used.synchronize(), used.record_event().query()))
    user.used = stream or interop.new_stream()
    raised = user.raised
    del stream, user
    gc.collect()
    assert raised == []


def test_after_its_finaliser_a_stream_can_be_used_and_an_event_stands_for_nothing(gpu):
    """Whichever finaliser of a cycle comes first."""
    p, q = interop.new_stream(), interop.new_stream()
    event, again = p.record_event(), p.record_event()
    event.__del__()
    other = q.record_event()
    assert other._handle not in (event._handle, again._handle)
    with pytest.raises(interop.errors.UnrecordedEventError):
        event.query()
    with pytest.raises(interop.errors.UnrecordedEventError):
        q.wait_event(event)
    event.__del__()
    assert q.record_event()._handle != other._handle, "it is in the pool twice"
    p.owner.__del__()
    interop.new_stream()
    p.record_event(again)
    assert p.query()


def test_a_stream_that_a_finaliser_of_the_same_cycle_keeps_is_kept(gpu):
    kept = []
    user = User(interop.new_stream(), kept.append)
    handle = user.used.cuda_stream
    for _ in range(3):  # each time that a finaliser keeps it
        del user
        gc.collect()
        others = [interop.new_stream() for _ in range(3)]
        assert handle not in {other.cuda_stream for other in others}
        assert kept[0].record_event().query()
        user = User(kept.pop(), kept.append)
    del user
    gc.collect()
    number = kept.pop().stream_id
    gc.collect()
    assert interop.new_stream().stream_id != number
    assert gpu.runtime.cudaStreamQuery(handle)[0] or interop.ExternalStream(handle).stream_id != number


@pytest.mark.parametrize("first", ["the event", "its user"])
def test_an_event_that_a_finaliser_of_the_same_cycle_uses_stands_for_nothing_or_for_what_it_did(gpu, first):
    p, q = interop.new_stream(), interop.new_stream()
    event = p.record_event() if first == "the event" else None

    def use(event):
        other = q.record_event()
        assert other._handle != event._handle
        event.query()

    user = User(event, use)
    user.used = event or p.record_event()
    raised = user.raised
    del event, user
    gc.collect()
    assert [type(error) for error in raised] in ([], [interop.errors.UnrecordedEventError])


def test_subclasses_may_have_other_arguments(gpu):
    class Stream(interop.ExternalStream):
        def __new__(cls, stream_ptr, *, label):
            made = super().__new__(cls, stream_ptr, label=label)
            made.__dict__["label"] = label
            return made

        def __init__(self, stream_ptr, **_):
            super().__init__(stream_ptr)

    class Event(interop.Event):
        def __new__(cls, name):
            return super().__new__(cls, name)

        def __init__(self, _):
            super().__init__()

    p = interop.new_stream()
    same = Stream(p.cuda_stream, label="theirs")
    assert same == p
    assert same.label == "theirs"
    event = Event("theirs")
    p.record_event(event)
    assert event.query()


def test_a_new_stream_keeps_its_address_until_its_work_is_done(gpu):
    stream = interop.new_stream()
    handle = stream.cuda_stream
    with gate(handle):
        del stream
        gc.collect()
        assert gpu.runtime.cudaStreamQuery(handle)[0] == NOT_READY, "it is still there"
        assert interop.new_stream().cuda_stream != handle
    gpu.synchronize()
    interop.new_stream()
    assert gpu.runtime.cudaStreamQuery(handle)[0], "it is destroyed when the next one is made"


def test_new_stream_does_not_raise_the_error_of_a_retired_stream(gpu, monkeypatch):
    stream = interop.new_stream()
    handle = stream.cuda_stream
    with gate(handle):
        del stream
        gc.collect()
    error = gpu.runtime.cudaError_t.cudaErrorIllegalAddress
    with monkeypatch.context() as broken:
        broken.setattr(gpu.runtime, "cudaStreamIsCapturing", lambda _: (error,), raising=False)
        assert interop.new_stream().cuda_stream != handle


def test_two_threads_create_an_event_once(gpu, monkeypatch):
    event, destroyed = interop.Event(), []
    meet, arrived = threading.Barrier(2, timeout=10), set()
    create, destroy = _cuda.Cuda.event_create, gpu.runtime.cudaEventDestroy

    def created(cuda, *how):
        handle = create(cuda, *how)
        if threading.get_ident() not in arrived:
            arrived.add(threading.get_ident())
            meet.wait()
        return handle

    monkeypatch.setattr(_cuda.Cuda, "event_create", created)
    monkeypatch.setattr(gpu.runtime, "cudaEventDestroy", lambda e: destroyed.append(e) or destroy(e), raising=False)
    seen = in_threads(*[lambda: event.cuda_event] * 2)
    assert seen == [event.cuda_event] * 2
    assert len(destroyed) == 1, "the other one of the two is left behind"
    assert destroyed != [event.cuda_event]


@pytest.mark.parametrize("call", ["cudaEventRecord", "cudaStreamWaitEvent"])
def test_a_failed_wait_leaks_no_event(gpu, monkeypatch, call):
    p, c, destroyed = interop.new_stream(), interop.new_stream(), []
    real = gpu.runtime.cudaEventDestroy
    error = gpu.runtime.cudaError_t.cudaErrorIllegalAddress
    monkeypatch.setattr(gpu.runtime, "cudaEventDestroy", lambda e: destroyed.append(e) or real(e), raising=False)
    monkeypatch.setattr(gpu.runtime, call, lambda *_: (error,), raising=False)
    for _ in range(3):
        with pytest.raises(CudaError):
            c.wait_stream(p)
    assert len(destroyed) == 3


def test_finalisers_raise_nothing(gpu, monkeypatch):
    stream = interop.new_stream()
    event = stream.record_event()
    error = gpu.runtime.cudaError_t.cudaErrorIllegalAddress
    for call in ("cudaEventDestroy", "cudaStreamDestroy", "cudaStreamQuery", "cudaStreamIsCapturing"):
        monkeypatch.setattr(gpu.runtime, call, lambda *_: (error, None), raising=False)
    del stream, event
    gc.collect()


def test_a_borrowed_stream_is_not_destroyed(gpu):
    native = gpu.stream()
    handle = native.__cuda_stream__()[1]
    stream = interop.as_stream(handle)
    stream.query()
    del stream
    gc.collect()
    assert not gpu.runtime.cudaStreamQuery(handle)[0]


def test_events_are_destroyed_with_their_last_reference(gpu):
    event = interop.new_stream().record_event()
    handle = event.cuda_event
    borrowed = interop.as_event(handle)
    del borrowed
    gc.collect()
    assert not gpu.runtime.cudaEventQuery(handle)[0]
    del event
    gc.collect()
    assert gpu.runtime.cudaEventQuery(handle)[0]


def test_ids_tell_reused_addresses_apart(gpu):
    first = interop.new_stream()
    handle, number = first.cuda_stream, first.stream_id
    del first
    gc.collect()
    second = interop.new_stream()
    assert second.cuda_stream == handle
    assert second.stream_id != number


def test_a_per_thread_stream_stays_in_its_thread(gpu):
    borrowed, other = interop.ExternalStream(2), interop.new_stream()

    def work():
        mine = interop.ExternalStream(2)
        for use in (borrowed.query, borrowed.synchronize, borrowed.record_event, lambda: other.wait_stream(borrowed)):
            with pytest.raises(InvalidStreamError, match="another thread"):
                use()
        return mine.stream_id, mine == borrowed

    number, equal = in_thread(work)
    assert number != borrowed.stream_id
    assert equal is False


# -- worlds --------------------------------------------------------------------------------------------------------


def test_two_simulations_do_not_mix(gpu):
    mine = interop.new_stream()
    event = mine.record_event()
    with sim.simulate():
        theirs = interop.new_stream()
        for use in (
            lambda: theirs.wait_stream(mine),
            lambda: theirs.wait_event(event),
            lambda: theirs.record_event(event),
        ):
            with pytest.raises(NotSupportedError, match="not of the same GPU or simulation"):
                use()
        mine.synchronize()


def test_streams_and_events_of_a_simulation_that_is_over_raise():
    with sim.simulate():
        stream = interop.new_stream()
        event = stream.record_event()
    for use in (stream.query, event.query, stream.synchronize):
        with pytest.raises(InteropError, match="ended"):
            use()


def test_elapsed_time_does_not_mix_either(gpu):
    def event():
        event = interop.Event(enable_timing=True)
        event.record(interop.new_stream())
        return event

    mine = event()
    with sim.simulate():
        theirs = event()
        with pytest.raises(NotSupportedError, match="not of the same GPU or simulation"):
            mine.elapsed_time(theirs)


def test_a_stream_of_a_real_library_is_refused_in_a_simulation(gpu, interop_need):
    interop_need("cupy")
    import cupy

    for borrow in (interop.as_stream, interop.new_stream().wait_stream, interop.Event().record):
        with pytest.raises(NotSupportedError, match="of cupy is a stream of a GPU, and a simulation runs"):
            borrow(cupy.cuda.Stream.null)


def test_one_thread_at_a_time_can_simulate(gpu):
    def work():
        with pytest.raises(NotSupportedError, match="another thread runs a simulation"), sim.simulate():
            pass

    in_thread(work)
    assert _cuda.active() is gpu.cuda


def test_reprs_say_simulated(gpu):
    stream = interop.new_stream()
    for thing in (stream, stream.record_event(), interop.ExternalStream(1)):
        assert "SIMULATED" in repr(thing)


@pytest.mark.parametrize("library", ["cupy", "numba", "torch"])
def test_a_real_library_gets_no_simulated_stream(gpu, library, interop_need):
    interop_need(library)
    with pytest.raises(NotSupportedError, match=f"{library} works on a GPU, and the stream is simulated"):
        interop.new_stream().to(library)


# -- captures ------------------------------------------------------------------------------------------------------

MODES = ("Global", "ThreadLocal", "Relaxed")


class Capture:
    def __init__(self, gpu, mode="Global", *, non_blocking=True):
        self.runtime = gpu.runtime
        self.stream = interop.new_stream(non_blocking=non_blocking)
        value = getattr(gpu.runtime.cudaStreamCaptureMode, f"cudaStreamCaptureMode{mode}")
        assert not gpu.runtime.cudaStreamBeginCapture(self.stream.cuda_stream, value)[0]

    def end(self):
        code = self.runtime.cudaStreamEndCapture(self.stream.cuda_stream)[0]
        assert not code, f"the capture was broken: {code!r}"


@pytest.fixture(params=MODES)
def capture(request, gpu):
    return Capture(gpu, request.param)


def test_legal_calls_leave_a_capture_valid(gpu, capture):
    p, c, other = capture.stream, interop.new_stream(), interop.new_stream()
    assert p.is_capturing()
    assert not c.is_capturing()
    c.wait_stream(p)
    assert c.is_capturing()
    p.wait_event(c.record_event())
    event = other.record_event()
    other.synchronize()
    event.synchronize()
    assert other.query()
    assert event.query()
    assert interop.ExternalStream(p.cuda_stream).device == 0
    assert p.priority == 0
    capture.end()


@pytest.mark.parametrize("mode", MODES)
def test_the_capture_mode_of_a_thread_stays(gpu, mode):
    stream = interop.new_stream()
    event = stream.record_event()
    exchange = gpu.runtime.cudaThreadExchangeStreamCaptureMode
    value = getattr(gpu.runtime.cudaStreamCaptureMode, f"cudaStreamCaptureMode{mode}")
    _, before = exchange(value)
    for ask in (stream.query, stream.synchronize, event.query, event.synchronize):
        ask()
        assert exchange(value)[1] == value
    exchange(before)


def test_refused_calls_leave_a_capture_valid(gpu, capture):
    p, outside = capture.stream, interop.new_stream()
    uncaptured = outside.record_event()
    captured = p.record_event()
    second = Capture(gpu, "Relaxed")
    for use in (
        p.query,
        p.synchronize,
        lambda: p.synchronize(timeout=1),
        lambda: p.stream_id,
        captured.query,
        captured.synchronize,
        lambda: p.wait_stream(outside),
        lambda: p.wait_stream(1),
        lambda: p.wait_event(uncaptured),
        lambda: p.wait_stream(second.stream),
        lambda: p.wait_event(second.stream.record_event()),
        lambda: interop.ExternalStream(1).wait_stream(p),
        lambda: interop.ExternalStream(1).wait_event(captured),
    ):
        with pytest.raises(CaptureError):
            use()
    second.end()
    capture.end()
    with pytest.raises(CaptureError, match="is over"):
        outside.wait_event(captured)
    outside.record_event(captured)
    assert captured.query()


def test_if_one_producer_is_outside_the_capture_none_is_waited_for(gpu, capture):
    inside, outside = interop.new_stream(), interop.new_stream()
    inside.wait_stream(capture.stream)
    with pytest.raises(CaptureError) as caught:
        capture.stream.wait_stream(inside, outside)
    for one in (capture.stream, outside):
        assert f"{one.cuda_stream:#x}" in str(caught.value)
    capture.stream.wait_stream(inside)
    capture.end()


def test_a_stream_outside_a_capture_waits_for_streams_inside_and_outside(gpu, capture):
    outside, consumer = interop.new_stream(), interop.new_stream()
    consumer.wait_stream(capture.stream, outside)
    assert consumer.is_capturing()
    assert not outside.is_capturing()
    capture.stream.wait_stream(consumer)
    capture.end()


def test_a_stream_cannot_wait_for_two_captures(gpu, capture):
    second, consumer = Capture(gpu, "Relaxed"), interop.new_stream()
    with pytest.raises(CaptureError, match="different graph captures"):
        consumer.wait_stream(capture.stream, second.stream)
    assert not consumer.is_capturing()
    second.end()
    capture.end()


def test_an_event_whose_handle_was_given_away_may_have_been_recorded_elsewhere(gpu, capture):
    event = capture.stream.record_event()
    outside = interop.new_stream()
    gpu.runtime.cudaEventRecord(event.ptr, outside.cuda_stream)
    assert event.query() is True
    interop.ExternalStream(1).wait_event(event)
    gpu.runtime.cudaEventRecord(event.ptr, capture.stream.cuda_stream)
    with pytest.raises(CaptureError, match="CUDA has invalidated the capture"):
        event.query()


@pytest.mark.parametrize("mode", MODES)
def test_the_legacy_stream_while_a_blocking_stream_captures(gpu, mode):
    capture = Capture(gpu, mode, non_blocking=False)
    legacy, other = interop.ExternalStream(1), interop.new_stream()
    event = other.record_event()
    assert legacy.is_capturing() is False
    for use in (
        legacy.query,
        legacy.synchronize,
        legacy.record_event,
        lambda: legacy.wait_event(event),
        lambda: legacy.wait_stream(other),
        lambda: other.wait_stream(legacy),
    ):
        with pytest.raises(CaptureError, match="blocking stream"):
            use()
    capture.end()


def test_a_foreign_event_from_outside_invalidates_the_capture_and_the_error_says_so(gpu, capture):
    foreign = gpu.runtime.cudaEventCreateWithFlags(2)[1]
    gpu.runtime.cudaEventRecord(foreign, interop.new_stream().cuda_stream)
    with pytest.raises(CaptureError, match=r"CUDA has invalidated the capture.*external=True"):
        capture.stream.wait_event(int(foreign))


def test_events_from_outside_become_external_nodes(gpu, capture):
    p, outside = capture.stream, interop.new_stream()
    event, later = outside.record_event(), interop.Event()
    foreign = gpu.runtime.cudaEventCreateWithFlags(2)[1]
    gpu.runtime.cudaEventRecord(foreign, outside.cuda_stream)
    with pytest.raises(CaptureError, match=r"wait_event\(event, external=True\)"):
        p.wait_event(event)
    for one in (event, later, int(foreign)):
        p.wait_event(one, external=True)
    marks = [p.record_event(external=True), p.record_event(interop.Event(enable_timing=True), external=True)]
    p.record_event(int(foreign), external=True)
    for mark in marks:
        assert mark.query()
        outside.wait_event(mark)
    assert not outside.is_capturing()
    outside.record_event(later)
    code, graph = gpu.runtime.cudaStreamEndCapture(p.cuda_stream)
    assert not code
    assert "of 6 nodes" in repr(graph)


def test_a_new_event_for_a_graph_is_none_that_another_capture_has_recorded(gpu, capture):
    capture.stream.record_event()
    capture.end()
    gc.collect()  # its CUDA event is in the pool now
    p = interop.new_stream()
    gpu.runtime.cudaStreamBeginCapture(p.cuda_stream, 2)
    p.wait_event(interop.Event(), external=True)
    assert not gpu.runtime.cudaStreamEndCapture(p.cuda_stream)[0]


def test_an_event_that_only_a_graph_waits_for_is_not_recorded(gpu, capture):
    event = interop.Event()
    capture.stream.wait_event(event, external=True)
    capture.end()
    with pytest.raises(UnrecordedEventError):
        interop.new_stream().wait_event(event)


@pytest.mark.parametrize("use", ["record_event", "wait_event"])
def test_no_other_event_gets_the_cuda_event_that_a_graph_uses(gpu, capture, use):
    event = interop.new_stream().record_event()
    getattr(capture.stream, use)(event, external=True)
    capture.end()
    handle = event._handle
    assert gpu.runtime.cudaEventQuery(handle)[0] == 0
    del event
    assert gpu.runtime.cudaEventQuery(handle)[0] == 400  # destroyed, and not kept for the next event


def test_an_event_without_a_cuda_event_cannot_become_an_external_node(gpu, capture, acme):
    for use in (capture.stream.record_event, capture.stream.wait_event):
        with pytest.raises(UnrecordedEventError, match="Record it first"):
            use(acme.Event(0), external=True)
    capture.end()


def test_outside_of_a_capture_external_makes_no_difference(gpu):
    p, c, a = gpu.stream(), gpu.stream(), gpu.array([0])
    gpu.launch(p, lambda memory: memory.fill(1), writes=[a])
    event = interop.as_stream(p).record_event(external=True)
    with pytest.raises(RaceError):
        gpu.launch(c, lambda memory: memory.fill(2), writes=[a])
    interop.as_stream(c).wait_event(event, external=True)
    gpu.launch(c, lambda memory: memory.fill(2), writes=[a])


# -- a whole device ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "own"), list(itertools.product((0, 1), repeat=2)))
def test_a_stream_waits_for_a_device(gpu, device, own):
    hidden = [gpu.stream(device=device), gpu.stream(device=device, non_blocking=False)]
    arrays = [gpu.array([0]) for _ in hidden]
    for each, array in zip(hidden, arrays, strict=True):
        gpu.launch(each, lambda memory: memory.fill(1), writes=[array])
    consumer = interop.new_stream(own)
    interop.wait_device(consumer, 1 - device)
    for array in arrays:
        with pytest.raises(RaceError):
            gpu.launch(consumer, lambda memory: memory.fill(2), writes=[array])
    interop.wait_device(consumer, device)
    for array in arrays:
        gpu.launch(consumer, lambda memory: memory.fill(2), writes=[array])
    assert gpu.cuda.current_device() == 0


def test_by_default_a_stream_waits_for_its_own_device(gpu):
    for device in (0, 1):
        consumer, hidden, a = interop.new_stream(device), gpu.stream(device=device), gpu.array([0])
        gpu.launch(hidden, lambda memory: memory.fill(1), writes=[a])
        interop.wait_device(consumer)
        gpu.launch(consumer, lambda memory: memory.fill(2), writes=[a])
        gpu.launch(hidden, lambda memory: memory.fill(1), writes=[gpu.array([0])])


def test_waiting_for_a_device_blocks_neither_the_host_nor_the_other_streams(gpu):
    hidden, consumer, other = gpu.stream(), interop.new_stream(), interop.new_stream()
    with gate(hidden):
        interop.wait_device(consumer)
        assert not consumer.query()
        assert other.query()


def test_a_stream_that_captures_cannot_wait_for_a_device(gpu, capture):
    with pytest.raises(CaptureError, match="before the capture begins"):
        interop.wait_device(capture.stream)
    capture.end()


def test_waiting_for_a_device_breaks_a_capture_of_another_stream_and_says_so(gpu, capture):
    interop.wait_device(interop.new_stream(), 1)
    with pytest.raises(CaptureError, match=r"device 0 captures a graph.*invalidated the capture.*wait_stream"):
        interop.wait_device(interop.new_stream(1), 0)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_a_driver_that_cannot_record_a_device(gpu, monkeypatch, error):
    def lacking(*_):
        raise error

    monkeypatch.setattr(gpu.driver, "cuCtxRecordEvent", lacking)
    with pytest.raises(NotSupportedError, match="wait_stream, or block the host by cudaDeviceSynchronize"):
        interop.wait_device(interop.new_stream())


def test_a_device_that_is_not_there_cannot_be_waited_for(gpu):
    for wrong in (2, -1, "cpu"):
        with pytest.raises(InvalidDeviceError):
            interop.wait_device(interop.new_stream(), wrong)


# -- proofs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", list(itertools.product((0, 1), repeat=2)))
def test_proofs(gpu, devices):
    p, c, other = gpu.stream(device=devices[0]), gpu.stream(device=devices[1]), interop.new_stream()
    with assert_ordered(p, c):
        interop.as_stream(c).wait_stream(p)
    with assert_not_ordered(p, c):
        interop.as_stream(p).wait_stream(p)
    with assert_ordered(p, c):
        other.wait_stream(p)
        interop.as_stream(c).wait_stream(other)
    with (
        pytest.raises(AssertionError, match=r"(?s)not ordered.*consumer\.wait_stream\(producer\)"),
        assert_ordered(p, c),
    ):
        pass
    with pytest.raises(AssertionError, match="ordered: after the block"), assert_not_ordered(p, c):
        interop.as_stream(c).wait_stream(p)
    assert not interop.as_stream(p).is_capturing()
    assert not interop.as_stream(c).is_capturing()


def test_proofs_that_are_refused(gpu):
    p, c = interop.new_stream(), interop.new_stream()
    with pytest.raises(NotSupportedError, match="gate"), assert_ordered(1, c):
        pass
    with pytest.raises(CaptureError, match="no proof"), assert_ordered(p, c):
        gpu.runtime.cudaStreamSynchronize(p.cuda_stream)
    with pytest.raises(ZeroDivisionError), assert_ordered(p, c):
        _ = 1 / 0
    assert not p.is_capturing()
    with pytest.raises(CaptureError, match="captured already"), assert_ordered(p, c), assert_ordered(p, c):
        pass
    assert not p.is_capturing()


@pytest.mark.parametrize("device", [0, 1])
def test_an_event_knows_its_device(gpu, device):
    stream = interop.new_stream(device)
    stream.query()
    assert interop.Event().device is None
    assert interop.Event(device=device).device == device
    for made in (interop.Event(), interop.Event(enable_timing=True)):
        assert stream.record_event(made).device == device
    for _ in range(3):  # the later ones from spare events
        assert stream.record_event().device == device
    assert interop.as_event(stream.record_event().cuda_event).device is None


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("is_used", [False, True])
def test_the_legacy_stream_beside_a_borrowed_one(gpu, device, is_used):
    made = interop.new_stream(device)
    borrowed = interop.ExternalStream(made.cuda_stream)
    if is_used:
        borrowed.query()
    assert borrowed._legacy() == interop.ExternalStream(1, device)
    assert borrowed._legacy().device == device
    assert borrowed._legacy().query()


def test_default_streams_of_two_devices_have_two_hashes(gpu):
    legacy = [interop.ExternalStream(1, device) for device in (0, 1)]
    assert legacy[0] != legacy[1]
    assert len({*map(hash, legacy)}) == 2
    assert hash(legacy[0]) == hash(interop.ExternalStream(1, 0))
    stream = interop.new_stream()
    before = hash(stream), hash(legacy[0])
    for used in (stream, legacy[0]):
        used.query()
    assert (hash(stream), hash(legacy[0])) == before, "it stays the same"
    assert hash(stream) == hash(interop.as_stream(stream.cuda_stream))


def test_a_legacy_stream_of_a_green_context_can_capture(gpu, monkeypatch, request):
    watcher = watchers.Watcher()
    watchers.watch(watcher)  # so that the extension, which calls the real driver, falls back to Python
    request.addfinalizer(lambda: watchers.unwatch(watcher))
    legacy, other, outside = interop.ExternalStream(1), interop.new_stream(), interop.new_stream()
    inside, before = other.record_event(), outside.record_event()
    inside._capture = 7  # as after a record in the capture
    captures = {1: 7, other.cuda_stream: 7}
    waits = []
    monkeypatch.setattr(gpu.cuda, "stream_capture", lambda handle, needs=0: captures.get(handle, 0))  # noqa: ARG005
    monkeypatch.setattr(gpu.cuda, "stream_wait_event", lambda handle, *_, **__: waits.append(handle))
    monkeypatch.setattr(gpu.cuda, "event_record", lambda *_: None)
    assert legacy.is_capturing()
    assert legacy.capture_id() == 7
    with pytest.raises(CaptureError, match="cannot query"):
        legacy.query()
    legacy.wait_event(inside)
    legacy.wait_stream(other)
    other.wait_stream(legacy)
    assert waits == [1, 1, other.cuda_stream]
    for call in (lambda: legacy.wait_event(before), lambda: legacy.wait_stream(outside)):
        with pytest.raises(CaptureError):
            call()
    captures[1] = 0
    for call in (lambda: legacy.wait_event(inside), lambda: legacy.wait_stream(other)):
        with pytest.raises(CaptureError, match="cannot"):
            call()
    assert len(waits) == 3


def test_no_simulation_is_active_afterwards():
    assert _cuda.active() is _cuda.GPU


def test_a_stream_of_cuda_core_is_asked_each_time_and_refused_when_it_is_closed(interop_need):
    interop_need("cuda.core")
    from cuda.core import Stream

    memory = ctypes.create_string_buffer(4096)
    theirs = Stream.from_handle(ctypes.addressof(memory))
    assert interop.as_stream(theirs).cuda_stream == ctypes.addressof(memory)
    assert id(theirs) not in borrowing.borrowed_by_id
    assert interop.as_stream(theirs).owner is theirs
    theirs.close()
    with pytest.raises(InvalidStreamError, match="closed"):
        interop.as_stream(theirs)
