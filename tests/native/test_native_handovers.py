"""The hand-over in C: what its end calls, when it falls back to Python, and what it keeps alive."""

import ctypes
import gc
import os
import subprocess
import sys
import weakref
from collections import deque

import numpy as np
import pytest

import interop
from interop import _cuda
from interop._arrays import handover, holder, keepalive
from interop._native import native, why_not
from interop._order import watchers
from interop.adapters.tensor import CUDA, TYPES, DataType, Tensor
from tests import capsules
from tests.native.test_native_stubs import OWN, C, P
from tests.native_stubs import KINDS, Job, bound, spare
from tests.threads import in_threads

pytestmark = pytest.mark.skipif(native is None, reason=why_not)
CALLS = ("cuEventRecord", "cuStreamWaitEvent", "cuEventQuery")


class Thing:
    """An object that takes weak references."""


class World:
    def __init__(self, driver, cuda):
        self.driver, self.cuda = driver, cuda
        self.p, self.c = (interop.ExternalStream(handle, owner=Thing()) for handle in (P, C))
        self.pool = cuda.pool(OWN)
        for stream in (self.p, self.c):
            stream.query()
        self.fill(6)
        driver.reset()

    def fill(self, count):
        for _ in range(count):
            self.pool.give(self.cuda.event_create(OWN, _cuda.EVENT_DISABLE_TIMING))

    def handover(self, owner=None, producer="p", consumer="c", parent=None, **said):
        fields = {"address": 0x7F0000000000, "shape": (4,), "strides": None, "dtype": TYPES["<f4"], **said}
        tensor = Tensor(**fields, device_type=CUDA, device_id=0, read_only=False, owner=owner)
        producer = None if producer is None else getattr(self, producer)
        return interop.Handover(tensor, producer, getattr(self, consumer), parent, is_neutral=False)

    def busy(self, *, still=True):
        """Let the device work for ever, or be done with everything."""
        self.driver.fail("cuEventQuery", 600 if still else 0)


@pytest.fixture
def world(driver):
    with bound(driver) as cuda:
        yield (made := World(driver, cuda))
        made.driver.reset()
        while interop.release():
            pass


def test_the_end_of_a_handover_is_a_record_and_a_wait(world):
    events = spare(world.pool)
    made = world.handover()
    world.driver.reset()
    del made
    assert world.driver.made(*CALLS) == [("cuEventRecord", events[0], C), ("cuStreamWaitEvent", P, events[0])]
    assert world.driver.plain == []


def test_dlpack_orders_a_foreign_stream_by_a_record_and_a_wait(world):
    made = world.handover()
    foreign = ctypes.create_string_buffer(64)  # the handle of a stream is the address of memory
    handle = ctypes.addressof(foreign)
    world.driver.reset()
    made.__dlpack__(stream=handle)
    (_, event, recorded), (_, waiting, awaited) = world.driver.made("cuEventRecord", "cuStreamWaitEvent")
    assert (recorded, waiting, awaited) == (C, handle, event)
    assert world.driver.plain == []
    world.driver.reset()
    made.__dlpack__(stream=C)
    assert world.driver.calls == []


def test_dlpack_to_a_number_beyond_all_addresses_is_refused(world):
    made = world.handover()
    foreign = ctypes.create_string_buffer(64)
    world.driver.reset()
    with pytest.raises(interop.errors.InvalidStreamError):
        made.__dlpack__(stream=2**64 + ctypes.addressof(foreign))
    assert world.driver.calls == []


@pytest.mark.parametrize("kind", ["cuEventRecord", "cuStreamWaitEvent"])
def test_dlpack_to_a_foreign_stream_raises_what_the_driver_answers(world, kind):
    made = world.handover()
    foreign = ctypes.create_string_buffer(64)
    world.driver.fail(kind, 999)
    with pytest.raises(interop.errors.CudaError):
        made.__dlpack__(stream=ctypes.addressof(foreign))
    world.driver.reset()


def test_control_the_fallback_records_twice(world):
    """The fallback records a second event, for the source that it keeps alive."""
    made = holder.HandoverFields(world.handover()._tensor, world.p, world.c, is_neutral=False)
    world.driver.reset()
    del made
    assert len(world.driver.made("cuEventRecord")) == 2


def test_without_a_producer_the_end_is_a_record_only(world):
    made = world.handover(producer=None)
    world.driver.reset()
    del made
    assert [name for name, *_ in world.driver.made(*CALLS)] == ["cuEventRecord"]


def test_where_no_event_is_spare_the_end_creates_one(world):
    while world.pool.take():
        pass
    made = world.handover()
    world.driver.bind(5)  # a context of somebody else's, in which the event could not be recorded
    world.driver.reset()
    del made
    [(_, event, _)] = world.driver.made("cuEventCreate")
    assert [call.context for call in world.driver.calls if call.name == "cuEventCreate"] == [OWN]
    assert world.driver.current() == 5
    world.driver.bind(0)
    assert world.driver.made(*CALLS) == [("cuEventRecord", event, C), ("cuStreamWaitEvent", P, event)]
    assert world.driver.plain == []
    assert not any(call.gil_held for call in world.driver.calls)
    assert interop.release() == 0
    assert spare(world.pool) == [event]


def test_a_handover_on_one_stream_ends_without_a_wait(world):
    made = world.handover(producer="c")
    world.driver.reset()
    del made
    assert [name for name, *_ in world.driver.made(*CALLS)] == ["cuEventRecord"]


def test_the_source_is_kept_until_the_consumer_is_done(world):
    thing = Thing()
    alive = weakref.ref(thing)
    made = world.handover(thing)
    del thing, made
    world.busy()
    assert interop.release() == 1
    assert alive() is not None
    world.busy(still=False)
    assert interop.release() == 0
    assert alive() is None


def test_the_event_of_a_handover_goes_back_to_the_pool(world):
    before = sorted(spare(world.pool))
    del_me = world.handover()
    del del_me
    assert len(spare(world.pool)) == len(before) - 1
    assert interop.release() == 0
    assert sorted(spare(world.pool)) == before


def test_the_event_of_a_handover_is_destroyed_if_the_pool_is_full(world):
    made = world.handover()
    del made
    world.fill(256 - len(spare(world.pool)))
    world.driver.reset()
    assert interop.release() == 0
    assert len(world.driver.made("cuEventDestroy")) == 1


def test_a_poll_queries_the_oldest_event_of_each_stream(world):
    world.fill(10)
    world.busy()
    for _ in range(5):
        world.handover()
        world.handover(producer="c", consumer="p")
    world.driver.reset()
    world.busy()
    native.release_kept(False)  # noqa: FBT003
    assert len(world.driver.made("cuEventQuery")) == 2


def test_each_poll_queries_a_few_other_streams(world):
    streams = [interop.ExternalStream(C + 64 * i) for i in range(20)]
    for stream in streams:
        stream.query()
    world.fill(20)
    world.busy()
    for stream in streams:
        interop.hold(stream, Thing())
    seen = set()
    for _ in range(10):
        world.driver.reset()
        world.busy()
        native.release_kept(False)  # noqa: FBT003
        asked = world.driver.made("cuEventQuery")
        assert len(asked) == 2
        seen |= {first for _, first, _ in asked}
    assert len(seen) == 20


def test_one_poll_releases_everything_that_is_done(world):
    world.fill(40)
    world.busy()
    for _ in range(12):
        world.handover()
        world.handover(producer="c", consumer="p")
    world.driver.reset()
    assert native.release_kept(False) == 0  # noqa: FBT003
    assert len(world.driver.made("cuEventQuery")) == 24
    assert len(world.driver.made("cuThreadExchangeStreamCaptureMode")) == 2


@pytest.mark.parametrize("everything", [False, True])
def test_a_poll_holds_the_gil(world, everything):
    """A query waits for nothing; to take the GIL again costs more where many threads want it."""
    world.handover()
    world.driver.reset()
    assert native.release_kept(everything) == 0
    assert [call.gil_held for call in world.driver.calls] == [1, 1, 1]


class Elementwise:
    """Must be neither compared nor printed: arrays do work on the device for both."""

    def __eq__(self, other):
        pytest.fail("it was compared")

    def __repr__(self):
        pytest.fail("it was shown")

    __hash__ = None


@pytest.mark.parametrize("found", [False, True])
def test_a_pending_release_is_removed_by_identity(found):
    first, second = (1, Elementwise()), (1, Elementwise())
    queue = deque([first, second] if found else [first])
    keepalive._remove(queue, second)
    assert len(queue) == 1
    assert queue[0] is first


# -- when the fast path falls back to Python --------------------------------------------------------------------------


def capturing(world):
    world.driver.capture(C)


def producer_capturing(world):
    world.driver.capture(P)


def record_fails(world):
    world.driver.fail("cuEventRecord", 2)


def wait_fails(world):
    world.driver.fail("cuStreamWaitEvent", 2)


def watched(world):
    watcher = watchers.Watcher()
    watchers.watch(watcher)
    world.undo = lambda: watchers.unwatch(watcher)


@pytest.mark.parametrize("why", [capturing, producer_capturing, record_fails, wait_fails, watched])
def test_the_way_back_is_ordered_later_if_the_fast_path_cannot(world, why):
    thing = Thing()
    alive = weakref.ref(thing)
    made = world.handover(thing)
    del thing
    world.undo = lambda: None
    why(world)
    world.busy()
    del made
    world.undo()
    assert alive() is not None
    world.driver.reset()
    world.busy()
    assert interop.release() == 1
    assert alive() is not None
    world.busy(still=False)
    assert interop.release() == 0
    assert alive() is None
    if why is not watched:
        # The release has made up for the order that failed above.
        assert world.driver.made("cuStreamWaitEvent")


def test_the_fallback_asks_whether_a_stream_is_closed(world, monkeypatch):
    class Closing(interop.adapters.base.Adapter):
        library = "closing"
        streams_close = True

    world.c._adapter = Closing()
    asked = []
    monkeypatch.setattr(interop.ExternalStream, "_is_closed", property(lambda stream: asked.append(stream) or False))
    made = world.handover()
    assert asked == []
    del made
    assert world.c in asked


@pytest.mark.filterwarnings("ignore:.*was closed:ResourceWarning")
@pytest.mark.parametrize("closing", ["p", "c"])
@pytest.mark.parametrize("says", ["open", "closed", "another handle", "nonsense", "Ctrl-C"])
def test_a_closed_stream_is_noticed_before_its_handle_is_used(world, closing, says, monkeypatch):
    class Closing(interop.adapters.base.Adapter):
        library = "closing"
        streams_close = True

    class Closable:
        def __cuda_stream__(self):
            if says == "closed" or (says == "Ctrl-C" and not seen):
                raise RuntimeError if says == "closed" else KeyboardInterrupt
            return {"another handle": (0, 1), "nonsense": (1, 2, 3)}.get(says, (0, stream._handle))

    seen, left = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))
    stream = getattr(world, closing)
    stream._adapter, stream.owner = Closing(), Closable()
    put = keepalive.KeepAlive.put
    monkeypatch.setattr(keepalive.KeepAlive, "put", lambda self, pending: left.append(pending) or put(self, pending))
    made = world.handover()
    del made
    assert bool(left) is (says != "open")
    assert seen == ([KeyboardInterrupt] if says == "Ctrl-C" else [])
    assert bool(world.driver.made("cuEventRecord")) is (closing == "p" or says in ("open", "Ctrl-C"))
    assert bool(world.driver.made("cuStreamWaitEvent")) is (says in ("open", "Ctrl-C"))


def test_an_interrupted_fallback_is_reported_and_tried_again(world, monkeypatch):
    thing = Thing()
    alive = weakref.ref(thing)
    made = world.handover(thing)
    del thing

    def interrupted(_):
        raise KeyboardInterrupt

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))
    world.driver.capture(C)
    with monkeypatch.context() as broken:
        broken.setattr(keepalive.PendingRelease, "start", interrupted)
        del made
    assert seen == [KeyboardInterrupt]
    assert alive() is not None
    world.driver.reset()
    assert interop.release() == 0
    assert world.driver.made("cuStreamWaitEvent")
    assert alive() is None


def test_an_event_that_a_capture_took_is_recorded_again(world):
    thing = Thing()
    alive = weakref.ref(thing)
    world.busy()
    interop.hold(world.c, thing)
    del thing
    world.driver.reset()
    world.driver.fail("cuEventQuery", 900, 600)
    assert interop.release() == 1
    assert alive() is not None, "the event was recorded again, in place of one that a capture took"
    assert world.driver.made("cuEventRecord")
    world.driver.reset()
    assert interop.release() == 0
    assert alive() is None


def test_an_out_of_memory_error_does_not_mean_done(world):
    world.busy()
    interop.hold(world.c, Thing())
    world.driver.fail("cuEventQuery", 2)
    assert interop.release() == 1
    world.driver.reset()
    assert interop.release() == 0


# -- how a hand-over ends ----------------------------------------------------------------------------------------------


def test_the_end_of_a_handover_keeps_the_exception_in_flight(world):
    def raising(made):
        del made
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        raising(world.handover())
    with pytest.raises(TypeError):
        abs(world.handover(), 3)


def consumed(holder):
    """As a library would take the memory: the address of DLPack's structure, and that of its deleter."""
    capsule = holder.__dlpack__(stream=-1)
    address = capsules.capsule_pointer(capsule, capsules.OLD.name)
    capsules.capsule_set_name(capsule, capsules.OLD.used)
    return address, capsules.Managed.from_address(address).deleter


def delete(given, kind=ctypes.CFUNCTYPE):
    """Call the deleter: without the GIL, as PyTorch does; with it if *kind* is PYFUNCTYPE."""
    address, deleter = given
    kind(None, ctypes.c_void_p)(deleter)(address)


@pytest.mark.parametrize("spare_events", [6, 0])
def test_without_the_gil_the_way_back_is_ordered_and_the_gil_is_not_taken(world, spare_events):
    for _ in range(6 - spare_events):
        world.pool.take()
    thing = Thing()
    alive = weakref.ref(thing)
    given = consumed(world.handover(thing))
    del thing
    before = handover.count_open()
    world.driver.reset()
    world.busy()
    delete(given)
    [(_, event, _)] = world.driver.made("cuEventRecord")
    assert world.driver.made(*CALLS) == [("cuEventRecord", event, C), ("cuStreamWaitEvent", P, event)]
    assert not any(call.gil_held for call in world.driver.calls)
    assert handover.count_open() == before - 1
    assert interop.release() == 1
    assert alive() is not None
    world.busy(still=False)
    assert interop.release() == 0
    assert alive() is None
    assert event in spare(world.pool)


def second_reference(world, thing):
    world.kept = world.handover(thing)
    given = consumed(world.kept)
    return given, lambda: delattr(world, "kept")


def chain(world, thing):
    between = Thing()
    between.holder = world.handover(thing)
    last = world.handover(between, producer="c", consumer="p", parent=between.holder._link)
    world.first = between.holder._link
    return consumed(last), lambda: None


def ordered_already(world, thing):
    made = world.handover(thing)
    made._returned(world.c.record_event())
    return consumed(made), lambda: None


def while_watched(world, thing):
    given = consumed(world.handover(thing))
    watcher = watchers.Watcher()
    watchers.watch(watcher)
    return given, lambda: watchers.unwatch(watcher)


def while_it_captures(world, thing):
    given = consumed(world.handover(thing))
    world.driver.capture(C)
    return given, lambda: world.driver.capture(0)


def where_the_record_fails(world, thing):
    given = consumed(world.handover(thing))
    world.driver.fail("cuEventRecord", 2)
    return given, lambda: world.driver.fail("cuEventRecord", 0)


UNUSUAL = [second_reference, chain, ordered_already, while_watched, while_it_captures, where_the_record_fails]


@pytest.mark.parametrize("case", UNUSUAL)
@pytest.mark.parametrize("kind", [ctypes.CFUNCTYPE, ctypes.PYFUNCTYPE])
def test_an_unusual_end_without_the_gil_is_as_one_with_it(world, case, kind):
    thing = Thing()
    alive = weakref.ref(thing)
    before = handover.count_open()
    world.fill(6)
    world.driver.reset()
    world.busy()
    given, finish = case(world, thing)
    del thing
    delete(given, kind)
    at_once = world.driver.made("cuStreamWaitEvent")
    finish()
    assert alive() is not None
    world.busy(still=False)
    assert interop.release() == 0
    assert alive() is None
    assert handover.count_open() == before
    recorded = [event for _, event, _ in world.driver.made("cuEventRecord")]
    waits = [tuple(rest) for _, *rest in world.driver.made("cuStreamWaitEvent")]
    if case is chain:  # the ways back of both
        assert [stream for _, stream, _ in at_once] == [C, P]
    elif case is ordered_already:
        assert waits == []
    else:
        assert waits == [(P, recorded[-1])]
        assert case is not second_reference or at_once == []
    assert all(event in recorded for _, event in waits)
    assert len(set(spare(world.pool))) == len(spare(world.pool)), "an event is in the pool twice"
    gone = [event for _, event, _ in world.driver.made("cuEventDestroy")]
    assert sorted(set(gone) - set(spare(world.pool))) == sorted(gone), "it is destroyed twice, or used again"


@pytest.mark.parametrize("kind", [ctypes.CFUNCTYPE, ctypes.PYFUNCTYPE])
@pytest.mark.parametrize("elsewhere", ["consumer", "producer"])
@pytest.mark.parametrize("spare_events", [1, 0])
def test_the_default_stream_of_another_device_ends_a_handover_in_its_own_context(world, elsewhere, kind, spare_events):
    world.default = interop.ExternalStream(_cuda.LEGACY, 1)
    world.default.query()
    there = world.cuda.pool(OWN + 1)
    assert spare(there) == []
    if spare_events:
        there.give(world.cuda.event_create(OWN + 1, _cuda.EVENT_DISABLE_TIMING))
    given = consumed(world.handover(None, **{elsewhere: "default"}))
    world.driver.bind(5)  # a context of somebody else's
    world.driver.reset()
    delete(given, kind)
    assert world.driver.current() == 5
    assert world.driver.plain == []
    calls = {call.name: call for call in world.driver.calls}
    record, wait = calls["cuEventRecord"], calls["cuStreamWaitEvent"]
    assert (record.second, wait.first) == ((_cuda.LEGACY, P) if elsewhere == "consumer" else (C, _cuda.LEGACY))
    assert wait.second == record.first
    assert (record.context, wait.context) == ((OWN + 1, 5) if elsewhere == "consumer" else (5, OWN + 1))
    if elsewhere == "consumer":
        assert ("cuEventCreate" in calls) is (not spare_events)
        assert spare_events or calls["cuEventCreate"].context == OWN + 1
    assert interop.release() == 0
    world.driver.bind(0)
    while event := there.take():
        world.cuda.event_destroy(event)


@pytest.mark.parametrize("kind", [ctypes.CFUNCTYPE, ctypes.PYFUNCTYPE])
def test_a_per_thread_stream_waits_by_the_legacy_one_in_another_thread(world, kind):
    world.mine = interop.ExternalStream(_cuda.PER_THREAD, 0)
    thing = Thing()
    alive = weakref.ref(thing)
    given = consumed(world.handover(thing, consumer="mine"))
    del thing
    world.driver.reset()
    world.busy()
    in_threads(lambda: delete(given, kind))
    [(_, awaited, _)] = [call[0:3] for call in world.driver.made("cuStreamWaitEvent")][:1]
    recorded = {stream for _, _, stream in world.driver.made("cuEventRecord")}
    assert (awaited, recorded) == (P, {_cuda.LEGACY})
    assert interop.release() == 1
    assert alive() is not None
    world.busy(still=False)
    assert interop.release() == 0
    assert alive() is None


@pytest.mark.parametrize("kind", [ctypes.CFUNCTYPE, ctypes.PYFUNCTYPE])
def test_the_per_thread_stream_of_a_producer_waits_in_its_own_thread_only(world, kind):
    world.mine = interop.ExternalStream(_cuda.PER_THREAD, 0)
    given = consumed(world.handover(producer="mine"))
    world.driver.reset()
    in_threads(lambda: delete(given, kind))
    assert world.driver.made("cuStreamWaitEvent") == []
    interop.release()
    assert [stream for _, stream, _ in world.driver.made("cuStreamWaitEvent")] == [_cuda.PER_THREAD]


@pytest.mark.parametrize("kind", [ctypes.CFUNCTYPE, ctypes.PYFUNCTYPE])
def test_threads_that_end_handovers_order_each_way_back_once_and_lose_none(world, kind):
    world.fill(100)
    before = handover.count_open()
    things = weakref.WeakSet()
    world.driver.reset()

    def work():
        given = deque()
        for number in range(1000):
            thing = Thing()
            things.add(thing)
            given.append(consumed(world.handover(thing)))
            del thing
            if number % 7 > 4 or number == 999:
                while given:
                    delete(given.pop() if number % 2 else given.popleft(), kind)
            if number % 3:
                keepalive.keepalive.poll()

    in_threads(*[work] * 4)
    assert world.driver.count("cuEventRecord") == world.driver.count("cuStreamWaitEvent") == 4000
    assert interop.release() == 0
    gc.collect()
    assert not things
    assert handover.count_open() == before
    assert len(set(spare(world.pool))) == len(spare(world.pool))


def test_threads_without_python_that_end_handovers_at_once_lose_none(world):
    libc, threads, each = ctypes.CDLL(None), 4, 500
    for _ in range(4):
        world.fill(256 - len(spare(world.pool)))
        before = handover.count_open()
        missing, jobs = ctypes.c_int(threads), []
        for _ in range(threads):
            given = [consumed(world.handover()) for _ in range(each)]
            tensors = (ctypes.c_void_p * each)(*(address for address, _ in given))
            job = Job(given[0][1], ctypes.addressof(tensors), each, ctypes.addressof(missing))
            jobs.append((job, tensors, ctypes.c_void_p()))
        world.driver.reset()
        for job, _, thread in jobs:
            libc.pthread_create(ctypes.byref(thread), None, world.driver.library.end_all, ctypes.byref(job))
        for _, _, thread in jobs:
            libc.pthread_join(thread, None)
        assert world.driver.count("cuEventRecord") == world.driver.count("cuStreamWaitEvent") == threads * each
        assert handover.count_open() == before
        assert interop.release() == 0


def test_a_handover_may_end_in_a_thread_without_python(world):
    thing = Thing()
    alive = weakref.ref(thing)
    address, deleter = consumed(world.handover(thing))
    del thing
    world.driver.reset()
    libc, thread = ctypes.CDLL(None), ctypes.c_void_p()
    assert libc.pthread_create(ctypes.byref(thread), None, ctypes.c_void_p(deleter), ctypes.c_void_p(address)) == 0
    assert libc.pthread_join(thread, None) == 0
    assert [name for name, *_ in world.driver.made(*CALLS)][:2] == ["cuEventRecord", "cuStreamWaitEvent"]
    assert interop.release() == 0
    assert alive() is None


def test_a_handover_in_a_garbage_cycle_orders_the_way_back(world):
    bag = [world.handover(Thing()), Thing()]
    bag.append(bag)
    del bag
    world.driver.reset()
    gc.collect()
    assert [name for name, *_ in world.driver.made(*CALLS)][:2] == ["cuEventRecord", "cuStreamWaitEvent"]


def test_a_handover_is_closed_to_weak_references_attributes_and_the_collector(world):
    made = world.handover()
    assert gc.get_referents(made) == [interop.Handover]
    with pytest.raises(TypeError, match="weak reference"):
        weakref.ref(made)
    with pytest.raises(AttributeError):
        made.other = 1


@pytest.mark.parametrize("wrong", [{"tensor": (1, 2)}, {"producer": 3}, {"consumer": None}, {"parent": 3}])
def test_wrong_arguments(world, wrong):
    good = {"tensor": world.handover()._tensor, "producer": world.p, "consumer": world.c, "parent": None}
    before = handover.count_open()
    with pytest.raises(TypeError):
        interop.Handover(*{**good, **wrong}.values(), is_neutral=False)
    tensor = good["tensor"]._replace(shape=("x",))
    with pytest.raises(TypeError):
        interop.Handover(tensor, None, world.c, is_neutral=False)
    with pytest.raises(TypeError):
        native.find_handover(0, 3)
    assert handover.count_open() == before


# -- chains ------------------------------------------------------------------------------------------------------------


def test_a_chain_keeps_its_root_and_not_what_is_between(world):
    source, between = Thing(), Thing()
    roots, betweens = weakref.ref(source), weakref.ref(between)
    first = world.handover(source)
    between.holder = first
    last = world.handover(between, producer="c", consumer="p", parent=first._link)
    del source, between, first
    world.busy()
    del last
    assert betweens() is None, "the way back of the first hand-over is ordered already"
    assert roots() is not None
    world.busy(still=False)
    assert interop.release() == 0
    assert roots() is None


def test_a_parent_that_has_ended_makes_no_chain(world):
    source, other = Thing(), Thing()
    alive = weakref.ref(other)
    first = world.handover(source)
    last = world.handover(other, producer="c", consumer="p", parent=first._link)
    del first
    world.busy()
    del other, last
    assert alive() is not None
    world.busy(still=False)
    assert interop.release() == 0
    assert alive() is None


FIND = [("the extension", handover.find), ("Python", holder.find)]


def make_open(world, way, start, length, consumer):
    if way == "the extension":
        return world.handover(address=start, shape=(length,), dtype=TYPES["|u1"], consumer=consumer)
    tensor = Tensor(start, (length,), None, TYPES["|u1"], CUDA, 0, read_only=False, owner=None)
    return holder.HandoverFields(tensor, world.p, getattr(world, consumer), is_neutral=False)


@pytest.mark.parametrize(("way", "find"), FIND, ids=["C", "Python"])
def test_find_finds_the_handover_of_an_address(world, way, find):
    """The result is compared with a search through all hand-overs, over memory of all lengths."""
    rng = np.random.default_rng(7)
    alive = []
    for number in range(3000):
        if alive and rng.random() < 0.4:
            alive.pop(int(rng.integers(len(alive))))
        start = int(rng.integers(1 << 14)) + (1 << 40)
        length = int(2 ** rng.uniform(0, 13))
        consumer = "pc"[number % 2]
        alive.append((start, start + length, getattr(world, consumer), make_open(world, way, start, length, consumer)))
        address = int(rng.integers(1 << 14)) + (1 << 40)
        there = [one for one in alive if one[0] <= address < one[1]]
        found = find(address, world.c)
        assert (found is None) == (not there)
        if found is not None:
            assert (found.consumer == world.c) == any(one[2] == world.c for one in there)
            assert found.consumer in {one[2] for one in there}


@pytest.mark.parametrize(("way", "find"), FIND, ids=["C", "Python"])
def test_find_finds_a_handover_by_its_mark(world, way, find):
    made = [make_open(world, way, 4096, 4096, "c") for _ in range(3)]
    for number, one in enumerate(made, 1):
        one._mark = number
    assert [find(5000, None, number) is one._link for number, one in enumerate(made, 1)] == [True] * 3
    assert find(5000, None, 4) is None
    assert find(4095, None, 1) is None


@pytest.mark.parametrize(("way", "find"), FIND, ids=["C", "Python"])
def test_find_finds_the_handover_however_many_of_that_memory_are_newer(world, way, find):
    first = make_open(world, way, 4096, 4096, "p")
    first._mark = 1
    newer = [make_open(world, way, 4096, 4096, "c") for _ in range(200)]
    assert find(5000, None, 1) is first._link
    assert find(5000, world.p) is first._link
    assert find(5000, None) is newer[-1]._link


@pytest.mark.parametrize("length", [1, 2, 3, 4095, 4096, 4097, 1 << 40, (1 << 62) + 5])
@pytest.mark.parametrize(("way", "find"), FIND, ids=["C", "Python"])
def test_find_knows_both_ends_of_memory(world, way, find, length):
    start = 12345
    made = make_open(world, way, start, length, "c")
    assert find(start, world.c) is not None
    assert find(start + length - 1, None) is not None
    assert find(start - 1, world.c) is None
    assert find(start + length, world.c) is None
    del made
    assert find(start, world.c) is None


@pytest.mark.parametrize(("way", "find"), FIND, ids=["C", "Python"])
def test_find_ignores_memory_without_elements(world, way, find):
    made = make_open(world, way, 4096, 0, "c")
    assert find(4096, world.c) is None
    assert made is not None


EXTENTS = [
    ((4,), None, TYPES["<f4"]),
    ((), None, TYPES["<f8"]),
    ((3, 4), (-4, 1), TYPES["<f4"]),
    ((3, 4), (4, -1), TYPES["<c16"]),
    ((3, 0), (4, -1), TYPES["<c16"]),
    ((3,), None, DataType(2, 4, 1)),
    ((5,), (-1,), DataType(2, 4, 1)),
    ((2, 3), (0, 1), TYPES["<i2"]),
    ((2, 3), (7, 2), DataType(2, 32, 4)),
    ((0, 2**40, 2**40), None, TYPES["|u1"]),
    ((2**62, 0, 2**40), (2**40, 1, 2**40), TYPES["<f4"]),
    ((2**62 + 2**61,), None, TYPES["<u2"]),
    ((2**62, 2), (1, 0), TYPES["<u2"]),
]


@pytest.mark.parametrize(("shape", "strides", "dtype"), EXTENTS)
def test_find_uses_the_extent_of_the_tensor(world, shape, strides, dtype):
    made = world.handover(shape=shape, strides=strides, dtype=dtype)
    start, stop = made._tensor.extent()
    if start == stop:
        assert handover.find(start, world.c) is None
        return
    assert handover.find(start, world.c) is not None
    assert handover.find(stop - 1, world.c) is not None
    assert handover.find(start - 1, world.c) is None
    assert handover.find(stop, world.c) is None


# -- costs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["C", "Python"])
def test_the_end_costs_the_same_however_many_handovers_are_open(world, way):
    """By time, with much room: a cost that grew with the number would be 50 times as high."""
    import time

    def cost(count):
        made = [
            make_open(world, "the extension" if way == "C" else way, (1 << 40) + 8 * i, 8, "c") for i in range(count)
        ]
        world.driver.reset()
        start = time.perf_counter()
        while len(made) > count - 200:
            made.pop(len(made) // 2)
            if len(made) % 40 == 0:
                interop.release()
                world.driver.reset()
        took = time.perf_counter() - start
        made.clear()
        interop.release()
        return took

    cost(400)
    few, many = min(cost(400) for _ in range(5)), min(cost(20_000) for _ in range(5))
    assert many < 10 * few


@pytest.mark.parametrize("threads", [1, 4])
def test_ten_thousand_handovers_do_not_leak(world, threads):
    gc.collect()
    before = handover.count_open()
    world.fill(200)

    def work():
        p, c = (interop.ExternalStream(handle, owner=Thing()) for handle in (P, C))
        for _ in range(10_000 // threads):
            tensor = Tensor(1 << 40, (4,), None, TYPES["<f4"], CUDA, 0, read_only=False, owner=Thing())
            interop.Handover(tensor, p, c, is_neutral=False)
            keepalive.keepalive.poll()

    in_threads(*[work] * threads)
    gc.collect()
    assert interop.release() == 0
    assert handover.count_open() == before
    assert not [thing for thing in gc.get_objects() if type(thing) is Thing and sys.getrefcount(thing) < 3]


@pytest.mark.filterwarnings("ignore:.*is multi-threaded")  # the child takes no lock of those threads, pytest-xdist's
def test_a_forked_child_frees_nothing_of_its_parent(world):
    alive = Thing()
    alive.end = weakref.finalize(alive, os.write, 2, b"freed in the child\n")
    alive.end.atexit = False
    world.busy()
    interop.hold(world.c, alive)
    made = world.handover(alive)
    delete(consumed(world.handover(alive)))  # without the GIL: the rest is to be done yet
    world.fill(256 - len(spare(world.pool)))  # no spare event that a hand-over has kept finds room there
    kept = weakref.ref(alive)
    del alive
    world.driver.reset()
    world.busy()
    child = os.fork()
    if child == 0:
        world.cuda.was_forked = True
        native.watch(True)  # noqa: FBT003  (as forks.py does in a child)
        del made
        status = int(interop.release() != 0 or kept() is None or bool(world.driver.calls))
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert interop.release() == 2
    del made
    world.busy(still=False)
    assert interop.release() == 0
    assert kept() is None


AT_EXIT = """
import ctypes, sys, time
from tests.native.test_native_handovers import *
from tests.native_stubs import Driver


class Source:
    def __del__(self):
        print("the source was freed")


context = bound(driver := Driver(sys.argv[1]))
world = World(driver, context.__enter__())
sys.kept = world.handover(Source())  # for the end of the interpreter
sys.capsule = world.handover(Source()).__dlpack__(stream=-1)
libc, early, late = ctypes.CDLL(None), consumed(world.handover(Source())), consumed(world.handover(Source()))
libc.__cxa_atexit(ctypes.c_void_p(late[1]), ctypes.c_void_p(late[0]), None)  # after Py_Finalize
native.end_handovers()
driver.reset()
thread, soon = ctypes.c_void_p(), (ctypes.c_long * 2)(int(time.time()) + 5)
libc.pthread_create(ctypes.byref(thread), None, ctypes.c_void_p(early[1]), ctypes.c_void_p(early[0]))
# This thread keeps the GIL. Where the interpreter ends, another one that wants it is ended.
assert ctypes.PyDLL(None).pthread_timedjoin_np(thread, None, ctypes.byref(soon)) == 0, "it waits for the GIL"
assert not driver.made("cuEventRecord")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="uses functions of the C library of Linux")
def test_when_the_interpreter_ends_nothing_is_let_go_of_and_no_thread_waits_for_the_gil(driver):
    ran = subprocess.run(
        [sys.executable, "-c", AT_EXIT, driver.library._name], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.stderr, ran.stdout, ran.returncode) == ("", "", 0)


def test_the_counted_calls_are_calls_of_the_stubs():
    assert set(CALLS) < set(KINDS)
