"""Twelve common bugs and their corrected twins, on the simulator. tests/gpu/bugs.py has the same bugs with libraries.

In each bug, a gate makes the reader see the wrong value. In its twin, the reader sees the right one.
"""

import contextlib

import pytest

import interop
from interop.ordering import check
from tests.threads import in_thread

STALE, RIGHT, NEXT = 1.0, 7.0, 9.0


class World:
    """A simulated GPU on which every kernel is also declared to a ledger."""

    def __init__(self, gpu, ledger, *, fixed):
        self.gpu = gpu
        self.ledger = ledger
        self.fixed = fixed
        self.x, self.y = gpu.array([STALE], "x"), gpu.array([STALE], "y")

    def fill(self, stream, value=RIGHT):
        def fill(x):
            x[:] = value

        self.ledger.writes(self.x, stream)
        self.gpu.launch(stream, fill, writes=[self.x])

    def copy(self, stream):
        def copy(x, y):
            y[:] = x

        self.ledger.reads(self.x, stream)
        self.ledger.writes(self.y, stream)
        self.gpu.launch(stream, copy, reads=[self.x], writes=[self.y])

    @contextlib.contextmanager
    def slow(self, stream, quick):
        """Hold up *stream* in the block. In the bug, *quick* is done with its work before the block ends."""
        with interop.testing.gate(stream):
            yield
            if not self.fixed:
                interop.as_stream(quick).synchronize()

    def wait(self, consumer, producer):
        interop.as_stream(consumer).wait_stream(producer)


def wrong_current_stream(w):
    mine, theirs = w.gpu.stream("mine"), w.gpu.stream("theirs")
    with w.slow(mine, theirs):
        w.fill(mine)
        w.copy(mine if w.fixed else theirs)


def side_stream_not_joined(w):
    main, side = w.gpu.stream("main"), w.gpu.stream("side")
    with w.slow(side, main):
        w.wait(side, main)
        w.fill(side)
        if w.fixed:
            w.wait(main, side)
        w.copy(main)


def array_interface_without_order(w):
    writer, reader = w.gpu.stream("writer"), w.gpu.stream("reader")
    with w.slow(writer, reader):
        w.fill(writer)
        if w.fixed:
            w.wait(reader, writer)
        w.copy(reader)


def event_recorded_before_the_work(w):
    writer, reader = interop.as_stream(w.gpu.stream("writer")), interop.as_stream(w.gpu.stream("reader"))
    event = writer.record_event()
    with w.slow(writer, reader):
        w.fill(writer)
        if w.fixed:
            writer.record_event(event)
        reader.wait_event(event)
        w.copy(reader)


def event_never_recorded(w):
    writer, reader = interop.as_stream(w.gpu.stream("writer")), interop.as_stream(w.gpu.stream("reader"))
    event = interop.Event()
    w.ledger.event_made(event)  # the observers of CuPy and Numba make this call
    assert event.cuda_event  # after this, interop cannot know whether somebody has recorded the event
    with w.slow(writer, reader):
        w.fill(writer)
        if w.fixed:
            writer.record_event(event)
        reader.wait_event(event)
        w.copy(reader)


def buffer_used_again(w):
    loads, computes = w.gpu.stream("loads"), w.gpu.stream("computes")
    with w.slow(computes, loads):
        w.fill(loads)
        w.wait(computes, loads)
        w.copy(computes)
        if w.fixed:
            w.wait(loads, computes)
        w.fill(loads, NEXT)


def freed_before_the_consumer_is_done(w):
    pool, consumer = w.gpu.stream("pool"), w.gpu.stream("consumer")
    with w.slow(consumer, pool):
        w.fill(pool)
        w.wait(consumer, pool)
        w.copy(consumer)
        if w.fixed:  # the pool gives the memory to its stream only when the consumer is done
            w.wait(pool, consumer)
        w.fill(pool, NEXT)  # the next array, at the same address


def default_stream_against_a_non_blocking_one(w):
    reader = w.gpu.stream("reader", non_blocking=not w.fixed)
    with w.slow(1, reader):
        w.fill(1)
        w.copy(reader)


def launch_on_stream_0(w):
    writer = w.gpu.stream("writer")
    with w.slow(writer, 0):
        w.fill(writer)
        w.copy(writer if w.fixed else 0)


def one_per_thread_handle_in_two_threads(w):
    def other():
        if w.fixed:
            interop.as_stream(2).wait_event(event)
        w.copy(2)
        if not w.fixed:
            interop.as_stream(2).synchronize()

    with w.slow(2, w.gpu.stream()):
        w.fill(2)
        event = interop.as_stream(2).record_event()
        in_thread(other)


def event_on_the_wrong_device(w):
    writer, here, reader = w.gpu.stream("writer", device=1), w.gpu.stream("here"), w.gpu.stream("reader")
    with w.slow(writer, reader):
        w.fill(writer)
        event = interop.as_stream(writer if w.fixed else here).record_event()
        interop.as_stream(reader).wait_event(event)
        w.copy(reader)


def missing_reverse_edge(w):
    owner, guest = w.gpu.stream("owner"), w.gpu.stream("guest")
    with w.slow(guest, owner):
        w.fill(owner)
        w.wait(guest, owner)
        w.copy(guest)
        if w.fixed:
            w.wait(owner, guest)
        w.fill(owner, NEXT)


BUGS = [
    wrong_current_stream,
    side_stream_not_joined,
    array_interface_without_order,
    event_recorded_before_the_work,
    event_never_recorded,
    buffer_used_again,
    freed_before_the_consumer_is_done,
    default_stream_against_a_non_blocking_one,
    launch_on_stream_0,
    one_per_thread_handle_in_two_threads,
    event_on_the_wrong_device,
    missing_reverse_edge,
]


@pytest.mark.parametrize("fixed", [False, True], ids=["bug", "twin"])
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_the_ledger_finds_each_bug_and_not_its_twin(bug, fixed):
    with interop.sim.simulate(devices=2, on_race="record") as gpu:
        with check(raises=False) as ledger:
            world = World(gpu, ledger, fixed=fixed)
            bug(world)
        for device in range(2):
            gpu.synchronize(device)
        value = gpu.read(world.y)[0]
    assert not ledger.unknown
    assert bool(ledger.races) == bool(gpu.races) == (not fixed)
    assert (value == RIGHT) == fixed
    for race in ledger.races:
        assert race.earlier.where.startswith(__file__)
        assert race.later.where.startswith(__file__)
