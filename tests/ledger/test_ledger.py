"""The ledger on the simulator: what it reports, compared with the simulator's races and with PyTorch's sanitizer."""

import gc
import importlib
import threading
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interop
from interop import _cuda
from interop._order import watchers
from interop._order.findings import Kind, Party
from interop.adapters.tensor import CUDA, FLOAT4_E2M1FN, OPAQUE, DataType, Tensor
from interop.errors import InvalidArrayError, InvalidStreamError, RaceError
from interop.ledger.events import Events
from interop.ledger.layout import block, of_tensor, share
from interop.ledger.memory import Memory, Touch
from interop.ordering import Clock, Clocks, Line, StreamKind, check
from interop.testing import device
from tests.threads import in_thread


@pytest.fixture
def gpu():
    with interop.sim.simulate() as gpu:
        yield gpu


def line_of(text: str) -> str:
    """``file:line`` of the only line of this file that ends with *text*."""
    lines = Path(__file__).read_text().splitlines()
    [number] = [number for number, line in enumerate(lines, 1) if line.endswith(text)]
    return f"{__file__}:{number}"


# -- what is reported --------------------------------------------------------------------------------------------


def test_a_race_names_both_places_both_streams_the_array_and_the_fix(gpu):
    producer, consumer = gpu.stream("p"), interop.as_stream(gpu.stream("c"))
    x = gpu.array([0.0], name="the array")
    with check(raises=False) as ledger:
        ledger.writes(x, producer)  # here
        ledger.reads(x, consumer)  # there
    [race] = ledger.races
    assert race.earlier.where == line_of("# here")
    assert race.later.where == line_of("# there")
    assert (race.earlier.stream, race.later.stream) == ("p", "c")
    assert (race.earlier.array, race.later.array) == ("the array", "the array")
    assert (race.earlier.kind, race.later.kind) == (Kind.WRITE, Kind.READ)
    assert race.fix == "interop.as_stream(consumer).wait_stream(producer)"
    assert not ledger.unknown
    for part in (race.earlier.where, race.later.where, "the array", race.fix, "writes it", "reads it"):
        assert part in str(ledger)
    assert str(ledger).startswith("1 race and 0 unknown in 2 accesses\n")


def test_the_suggested_fix_orders_the_accesses(gpu):
    producer, consumer = gpu.stream(), gpu.stream()
    x = gpu.array([0.0])
    with check() as ledger:
        ledger.writes(x, producer)
        interop.as_stream(consumer).wait_stream(producer)
        ledger.reads(x, consumer)
    assert not ledger.races
    assert str(ledger) == "0 races and 0 unknown in 2 accesses"


def test_the_fix_names_a_stream_without_a_variable_by_its_address(gpu):
    streams = [gpu.stream("p"), gpu.stream("c"), 1]
    x, y = gpu.array([0.0]), gpu.array([0.0])
    with check(raises=False) as ledger:
        ledger.writes(x, streams[0])
        ledger.reads(x, streams[1])
        ledger.writes(y, streams[2])
        ledger.reads(y, streams[1])
    p, c = (hex(stream.__cuda_stream__()[1]) for stream in streams[:2])
    assert [race.fix for race in ledger.races] == [
        f"interop.as_stream({c}).wait_stream(interop.as_stream({p}))",
        f"interop.as_stream({c}).wait_stream(interop.as_stream(1, device=0))",
    ]
    with check() as ledger:
        for written, at in ((x, 0), (y, 2)):
            ledger.writes(written, streams[at])
        for line in (f"interop.as_stream({c}).wait_stream({other})" for other in (p, "interop.as_stream(1, device=0)")):
            exec(line)
        for read in (x, y):
            ledger.reads(read, streams[1])


def test_the_fix_names_another_threads_per_thread_stream_in_words(gpu):
    c = gpu.stream("c")
    x = gpu.array([0.0])
    with check(raises=False) as ledger:
        thread = threading.Thread(target=lambda: ledger.writes(x, 2), name="worker")
        thread.start()
        thread.join()
        ledger.reads(x, c)
        ledger.writes(x, 2)
    fixes = {race.fix for race in ledger.races}
    assert {fix.partition(", for an event")[0] for fix in fixes} == {
        "interop.as_stream(c).wait_event(event)",
        "interop.as_stream(2, device=0).wait_event(event)",
        "interop.as_stream(2, device=0).wait_stream(c)",
    }
    assert any(
        "recorded on the per-thread default stream of worker of device 0, in that thread" in fix for fix in fixes
    )


def test_the_end_of_the_block_raises(gpu):
    x = gpu.array([0.0], name="x")
    a, b = gpu.stream(), gpu.stream()

    def race(error=None):
        with check() as ledger:
            ledger.writes(x, a)
            ledger.writes(x, b)
            if error:
                raise error

    with pytest.raises(RaceError, match="race on x"):
        race()
    with pytest.raises(ZeroDivisionError):
        race(ZeroDivisionError)
    assert not watchers.active


def test_a_ledger_has_no_truth_value(gpu):
    with check() as ledger:
        pass
    for truth in (lambda: bool(ledger), lambda: not ledger):
        with pytest.raises(TypeError, match=r"write `assert not ledger\.races`"):
            truth()


def test_strict_raises_at_once_and_adds_nothing(gpu):
    x = gpu.array([0.0], name="x")
    a, b, c = gpu.stream(), gpu.stream(), gpu.stream()
    with check(strict=True, raises=False) as ledger:
        ledger.writes(x, a)
        with pytest.raises(RaceError, match="race on x"):
            ledger.writes(x, b)
        interop.as_stream(c).wait_stream(a)
        ledger.reads(x, c)  # b has not written
    assert len(ledger.races) == 1


def test_a_check_can_be_used_again(gpu):
    x = gpu.array([0.0], name="x")
    a, b = gpu.stream(), gpu.stream()
    watching = check(raises=False)
    with watching as outer:
        outer.writes(x, a)
        with watching as inner:
            inner.writes(x, b)
        outer.writes(x, b)
    assert (len(inner.races), len(outer.races)) == (0, 1)
    assert not watchers.active


def test_a_loop_is_reported_once(gpu):
    x = gpu.array([0.0])
    a, b = gpu.stream(), gpu.stream()
    with check(raises=False) as ledger:
        for _ in range(5):
            ledger.writes(x, a)
            ledger.writes(x, b)
    assert len(ledger.races) == 2
    assert "Seen 5 times" in str(ledger)


def test_an_invalid_array_or_stream_is_refused(gpu):
    with check() as ledger:
        with pytest.raises(InvalidArrayError, match="expected an array"):
            ledger.reads([1.0], gpu.stream())
        with pytest.raises(InvalidStreamError):
            ledger.reads(gpu.array([0.0]), "stream")
    assert not ledger.accesses


# -- what orders -------------------------------------------------------------------------------------------------


def test_a_reused_address_is_another_stream(gpu):
    x = gpu.array([0.0])
    first = gpu.stream()
    address = first.__cuda_stream__()[1]
    with check(raises=False) as ledger:
        ledger.writes(x, first)
        del first
        second = gpu.stream()
        assert second.__cuda_stream__()[1] == address
        ledger.reads(x, second)
    assert len(ledger.races) == 1


def test_a_reused_event_address_is_another_event(gpu):
    x = gpu.array([0.0])
    a, b = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    with check(raises=False) as ledger:
        ledger.writes(x, a)
        event = a.record_event()
        address = event.cuda_event
        del event
        gc.collect()
        other = interop.Event()
        assert other.cuda_event == address  # whoever has read the handle may record the event out of sight
        b.wait_event(other)
        ledger.reads(x, b)
    assert not ledger.races
    assert "whose record was not seen" in ledger.unknown[0].uncertainty


class TakesNoWeakReference:
    """An object without weak references. torch.cuda.Event before PyTorch 2.13 is used so: it leaves them dangling."""

    __slots__ = ("__dict__",)


def test_an_event_without_weak_references_keeps_its_token():
    events = Events(lambda number, reference, _token: events.remove(number, reference))
    one, other = (types.SimpleNamespace(owner=TakesNoWeakReference(), _owned=False, _handle=16) for _ in range(2))
    token = events.recorded(one, 16)
    assert events.recorded(one, 16) is events.token(one) is token
    assert events.token(other) is not token
    one.owner = other.owner = None
    assert not len(events)


def test_an_event_is_found_by_its_bare_handle(gpu):
    x = gpu.array([0.0])
    a, b = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    with check() as ledger:
        ledger.writes(x, a)
        event = a.record_event()
        b.wait_event(event.cuda_event)
        ledger.reads(x, b)
    assert not ledger.unknown


def test_a_wait_for_an_event_from_before_the_block_makes_races_unknown(gpu):
    x = gpu.array([0.0])
    a, b = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    event = a.record_event()
    with check() as ledger:
        ledger.writes(x, a)
        b.wait_event(event)
        ledger.reads(x, b)
    assert len(ledger.unknown) == 1
    with check(raises=False) as ledger:
        b.wait_event(event)
        ledger.writes(x, a)
        ledger.reads(x, b)
    assert len(ledger.races) == 1


def test_a_host_wait_for_an_event_from_before_the_block_makes_races_unknown(gpu):
    x = gpu.array([0.0])
    a, b = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    event = a.record_event()
    with check() as ledger:
        ledger.writes(x, a)
        event.synchronize()
        ledger.reads(x, b)
    assert "the host has waited for an event" in ledger.unknown[0].uncertainty


def test_work_after_a_wait_of_the_host_is_ordered(gpu):
    x = gpu.array([0.0])
    a, b = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    with check() as ledger:
        ledger.writes(x, a)
        event = a.record_event()
        a.synchronize()
        ledger.writes(x, b)
        b.record_event(event)
        event.synchronize()
        ledger.writes(x, a)
    assert not ledger.races


def test_work_after_a_wait_for_the_device_is_ordered(gpu):
    x = gpu.array([0.0])
    a, b, c = (interop.as_stream(gpu.stream()) for _ in range(3))
    with check(raises=False) as ledger:
        ledger.writes(x, a)
        interop.wait_device(b)
        ledger.reads(x, b)
        assert not ledger.races
        ledger.reads(x, c)
    assert len(ledger.races) == 1
    assert not ledger.unknown


def test_a_wait_of_another_thread_is_unknown_until_hear(gpu):
    x = gpu.array([0.0])
    a, b = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    done, end = threading.Event(), threading.Event()

    def wait() -> None:
        a.synchronize()
        done.set()
        end.wait()

    with check() as ledger:
        ledger.writes(x, a)
        b.record_event()  # the ledger must know this thread before the other one
        thread = threading.Thread(target=wait, daemon=True)  # a failing test must not hang
        thread.start()
        done.wait()
        ledger.reads(x, b)
        assert "ledger.hear(thread)" in ledger.unknown[0].uncertainty
        ledger.hear(thread)
        ledger.reads(x, b)
        assert len(ledger.unknown) == 1
        end.set()
        thread.join()


def test_the_waits_of_an_ended_thread_count(gpu):
    x = gpu.array([0.0])
    a, b = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    with check() as ledger:
        ledger.writes(x, a)
        in_thread(a.synchronize)
        ledger.reads(x, b)
    assert not ledger.unknown


def test_the_legacy_stream_waits_for_blocking_streams_only(gpu):
    x, y = gpu.array([0.0]), gpu.array([0.0])
    blocking, exempt = gpu.stream("blocking", non_blocking=False), gpu.stream("exempt")
    with check(raises=False) as ledger:
        ledger.writes(x, blocking)
        ledger.reads(x, 1)
        assert not ledger.races
        ledger.writes(y, exempt)
        ledger.reads(y, 1)
        assert len(ledger.races) == 1
    assert "the legacy default stream of device 0" in str(ledger)


@pytest.mark.parametrize("is_noticed", [False, True])
@pytest.mark.parametrize(("consumer", "is_ordered"), [("legacy", True), ("blocking", False), ("non-blocking", False)])
def test_only_the_legacy_stream_waits_for_a_destroyed_blocking_stream(gpu, consumer, is_ordered, is_noticed):
    # So it is on a GPU, with work pending while the stream is destroyed.
    x, y = gpu.array([0.0]), gpu.array([0.0])
    producer = gpu.stream(non_blocking=False)
    address = producer.__cuda_stream__()[1]
    with check(raises=False) as ledger:
        ledger.writes(x, producer)
        del producer
        if is_noticed:  # the ledger learns that a stream is gone when another one is used at its address
            successor = gpu.stream()
            assert successor.__cuda_stream__()[1] == address
            ledger.reads(y, successor)
        ledger.reads(x, 1 if consumer == "legacy" else gpu.stream(non_blocking=consumer == "non-blocking"))
    assert bool(ledger.races) is not is_ordered
    assert not ledger.unknown


@pytest.mark.parametrize("non_blocking", [False, True])
def test_a_blocking_stream_made_after_a_legacy_kernel_waits_for_it(gpu, non_blocking):
    x = gpu.array([0.0])
    with check(raises=False) as ledger:
        ledger.writes(x, 1)
        ledger.reads(x, gpu.stream(non_blocking=non_blocking))
    assert bool(ledger.races) is non_blocking


@pytest.mark.parametrize("call", ["record", "wait"])
def test_a_bare_call_on_a_blocking_stream_does_not_make_its_query_cover_legacy_work(gpu, call):
    # So it is on a GPU: the stream is done, but an event recorded on it is done only after the legacy work.
    x = gpu.array([0.0])
    blocking = interop.as_stream(gpu.stream(non_blocking=False))
    consumers = [interop.as_stream(gpu.stream()) for _ in range(2)]
    with check(raises=False) as ledger, interop.testing.gate(1):
        ledger.writes(x, 1)
        gpu.launch(1, lambda _: None, writes=[x])
        if call == "wait":
            blocking.wait_event(consumers[0].record_event())
        event = blocking.record_event()
        assert blocking.query()
        assert not event.query()
        ledger.reads(x, consumers[0])
        assert len(ledger.races) == 1
        consumers[1].wait_event(event)
        ledger.reads(x, consumers[1])
        assert len(ledger.races) == 1


def test_each_thread_has_its_own_per_thread_stream(gpu):
    x = gpu.array([0.0])
    with check(raises=False) as ledger:
        ledger.writes(x, 2)
        ledger.writes(x, 2)
        in_thread(lambda: ledger.writes(x, 2))
    assert len(ledger.races) == 1


def test_calls_in_a_capture_are_left_out_and_keep_it_valid(gpu):
    x = gpu.array([0.0])
    a, b = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    fresh = interop.as_stream(gpu.stream())
    with check() as ledger:
        event = a.record_event()
        device.capture_begin(a._cuda, a.cuda_stream)
        ledger.writes(x, a)
        fresh.wait_stream(a)
        ledger.writes(x, fresh)
        a.wait_stream(fresh)
        a.record_event(event)
        device.capture_end(a._cuda, a.cuda_stream)  # raises if the capture was broken
        ledger.writes(x, b)
    assert ledger.captured == 5
    assert "left out: 5 calls on streams that captured" in str(ledger)
    assert ledger.blind == ["5 calls on streams that captured a graph"]


def test_an_event_recorded_in_a_capture_orders_nothing(gpu):
    x = gpu.array([0.0])
    a, b, c = (interop.as_stream(gpu.stream()) for _ in range(3))
    with check(raises=False) as ledger:
        ledger.writes(x, a)
        event = a.record_event()
        device.capture_begin(b._cuda, b.cuda_stream)
        b.record_event(event)
        device.capture_end(b._cuda, b.cuda_stream)
        event._capture = 0
        a.record_event(event)
        c.wait_event(event)
        ledger.reads(x, c)
    assert not ledger.races


# -- hand-overs --------------------------------------------------------------------------------------------------


class Interface:
    """An array of an unknown library in made-up memory."""

    def __init__(self, address: int, shape=(4,), strides=None, stream=None, typestr="<f8"):
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": shape,
            "strides": strides,
            "typestr": typestr,
            "data": (address, False),
            "stream": stream,
        }


@pytest.fixture
def memory(gpu, monkeypatch):
    """Addresses of the simulated device."""
    monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (2, 0))
    return 1 << 40


def test_a_borrowed_array_is_in_use_until_it_is_given_back(gpu, memory):
    x, p, c = Interface(memory), gpu.stream("p"), gpu.stream("c")
    with check(raises=False) as ledger:
        with interop.borrow(x, consumer=c, producer=p):
            ledger.writes(x, p)
        assert [race.earlier.by for race in ledger.races] == ["the consumer of a hand-over"]
        ledger.writes(x, p)
    assert len(ledger.races) == 1


def test_the_producer_of_unknown_memory_has_written_it(gpu, memory):
    x, p, c, other = Interface(memory), gpu.stream("p"), gpu.stream("c"), gpu.stream("other")
    with check(raises=False) as ledger:
        view = interop.handoff(x, c, producer=p)
        assert not ledger.races
        ledger.reads(x, other)
        [race] = ledger.races
        assert (race.earlier.stream, race.later.stream) == ("p", "other")
        del view


def test_a_handoff_from_the_wrong_producer_is_a_race(gpu, memory):
    x, p, c, other = Interface(memory), gpu.stream("p"), gpu.stream("c"), gpu.stream("other")
    with check(raises=False) as ledger:
        ledger.writes(x, p)
        view = interop.handoff(x, c, producer=other)
        assert [(race.earlier.stream, race.later.stream) for race in ledger.races] == [("p", "c")]
        del view


def test_the_producer_of_known_memory_need_not_have_written_it(gpu, memory):
    x, c, r = Interface(memory), gpu.stream("c"), gpu.stream("r")
    writer, p = gpu.stream("writer"), gpu.stream("p")
    with check() as ledger:
        ledger.writes(x, writer)
        interop.as_stream(p).wait_stream(writer)
        view = interop.handoff(x, c, producer=p)
        interop.as_stream(r).wait_stream(writer)
        ledger.reads(x, r)
        assert not ledger.races
        del view


def test_two_consumers_of_one_array_do_not_conflict(gpu, memory):
    x, p = Interface(memory), gpu.stream("p")
    with check() as ledger:
        views = [interop.handoff(x, gpu.stream(), producer=p) for _ in range(2)]
        assert len(views) == 2
    assert not ledger.unknown


# -- memory ------------------------------------------------------------------------------------------------------


def test_views_conflict_only_if_they_overlap(gpu):
    a, b = gpu.stream(), gpu.stream()
    base = 1 << 40
    left, right = Interface(base, (4,)), Interface(base + 32, (4,))
    with check(raises=False) as ledger:
        ledger.writes(left, a)
        ledger.writes(right, b)
        assert not ledger.races
        ledger.writes(Interface(base + 24, (2,)), b)
    assert [race.earlier.where for race in ledger.races] == [ledger.races[0].earlier.where]


def test_strided_views_conflict_only_if_they_share_a_byte(gpu):
    a, b = gpu.stream(), gpu.stream()
    base = 1 << 40
    even, odd = Interface(base, (4,), (16,)), Interface(base + 8, (4,), (16,))
    with check(raises=False) as ledger:
        ledger.writes(even, a)
        ledger.writes(odd, b)
        assert not ledger.races
        assert not ledger.unknown
        ledger.writes(Interface(base, (2,), (16,)), b)
    assert len(ledger.races) == 1


def test_a_wait_of_a_pool_covers_one_stream_only(gpu):
    a, b, c = gpu.stream("a"), gpu.stream("b"), gpu.stream("c")
    x = Interface(1 << 40)
    with check(raises=False) as ledger:
        ledger.reads(x, a)
        ledger.reads(x, b)
        ledger.pool_waited(block(1 << 40, 16), interop.as_stream(a))
        ledger.writes(x, c)
    assert {(race.earlier.stream, race.later.stream) for race in ledger.races} == {("a", "c"), ("b", "c")}
    with check(raises=False) as ledger:
        ledger.reads(x, a)
        ledger.reads(x, b)
        ledger.pool_waited(block(1 << 40, 32), interop.as_stream(a))
        ledger.writes(x, c)
    assert [race.earlier.stream for race in ledger.races] == ["b"]


def test_elements_smaller_than_a_byte_are_laid_out_by_bits():
    halves = DataType(FLOAT4_E2M1FN, 4, 1)
    dense = of_tensor(Tensor(64, (8,), None, halves, CUDA, 0, False, None))  # noqa: FBT003
    assert dense == block(64, 4)
    even, odd = (
        of_tensor(Tensor(64, (4, 2), (4, step), halves, CUDA, 0, False, None))  # noqa: FBT003
        for step in (2, 1)
    )
    assert share(even, odd) is None


def test_an_overlap_that_is_too_hard_to_decide_is_unknown(gpu, monkeypatch):
    monkeypatch.setattr("interop.ledger.layout._EFFORT", 1)
    a, b = gpu.stream(), gpu.stream()
    base = 1 << 40
    shape = (4, 4, 4, 4, 4)
    with check() as ledger:
        ledger.writes(Interface(base, shape, (808, 1616, 2424, 3232, 56)), a)
        ledger.writes(Interface(base + 8, shape, (1608, 2456, 1816, 2232, 72)), b)
    assert len(ledger.unknown) == 1


def test_an_empty_array_touches_nothing(gpu):
    with check() as ledger:
        ledger.writes(Interface(0, (0, 3)), gpu.stream())
        ledger.writes(Interface(0, (0, 3)), gpu.stream())
    assert not ledger.accesses


BYTES = 24
A = Line("a")


def tensor(address, shape, strides, itemsize):
    """A tensor with strides in bytes."""
    steps = tuple(stride // itemsize for stride in strides)
    return Tensor(address, shape, steps, DataType(OPAQUE, 8 * itemsize, 1), CUDA, 0, False, None)  # noqa: FBT003


def touch(kind, layout, epoch):
    return Touch(Party("it", "a stream", kind, "an array", "here"), epoch, layout)


@st.composite
def layouts(draw):
    """A layout inside a few bytes, so that many overlap, and the set of its bytes."""
    array = np.arange(BYTES, dtype=np.uint8)
    size = draw(st.integers(1, 2))
    start = size * draw(st.integers(0, (BYTES - 1) // size))
    shape, strides = [], []
    low = high = start
    for _ in range(draw(st.integers(0, 2))):
        count, step = draw(st.integers(1, 4)), size * draw(st.integers(-6 // size, 6 // size))
        reach = (count - 1) * step
        if low + min(reach, 0) >= 0 and high + max(reach, 0) + size <= BYTES:
            low, high = low + min(reach, 0), high + max(reach, 0)
            shape.append(count)
            strides.append(step)
    starts = np.lib.stride_tricks.as_strided(array[start:], shape, strides).ravel().tolist()
    covered = {byte + i for byte in starts for i in range(size)}
    return of_tensor(tensor(1 << 40 | start, tuple(shape), tuple(strides), size)), covered


@settings(max_examples=300, deadline=None, derandomize=True)
@given(layouts(), layouts())
def test_layouts_overlap_as_their_sets_of_bytes_do(first, second):
    (a, mine), (b, theirs) = first, second
    base = 1 << 40
    lowest, highest = min(mine), max(mine)
    assert (a.start - base) == lowest
    assert highest == a.stop - base - 1
    if not a.strided:
        assert len(mine) == a.stop - a.start
    if a.start < b.stop and b.start < a.stop:
        assert share(a, b) == (not mine.isdisjoint(theirs))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(layouts(), st.sampled_from(Kind), st.sampled_from("ab"), st.booleans()), max_size=12))
def test_memory_finds_the_conflicts_that_a_plain_list_has(program):
    clocks, memory = Clocks(), Memory()
    for stream in "ab":
        clocks.add_stream(stream, context=0, kind=StreamKind.NON_BLOCKING)
    everything = []
    for (layout, covered), kind, stream, joins in program:
        if joins:
            clocks.record("event", "b" if stream == "a" else "a", 0)
            clocks.wait(stream, "event", 0)
        known = clocks.before_next(stream, 0)
        expected = {
            (old, max(old.party.kind, kind) >= Kind.WRITE)
            for old, theirs in everything
            if not covered.isdisjoint(theirs) and not known.knows(old.epoch) and max(old.party.kind, kind) > Kind.READ
        }
        found = set(memory.conflicts(layout, kind, known))
        # One reported conflict may stand for earlier ones. But each is real, and where there are any, one is reported.
        assert found <= expected
        assert bool(found) == bool(expected)
        assert any(sure for _, sure in found) == any(sure for _, sure in expected)
        new = touch(kind, layout, clocks.enqueue(stream, 0))
        memory.add(new, known)
        everything.append((new, covered))


def test_a_partial_write_keeps_the_accesses_around_it():
    memory, clock = Memory(), Clock()
    memory.add(touch(Kind.WRITE, block(64, 16), clock.tick(A)), Clock())
    memory.add(touch(Kind.WRITE, block(68, 4), clock.tick(A)), clock)
    for start, count in ((0, 1), (4, 1), (8, 1), (12, 1), (3, 1)):
        assert len(list(memory.conflicts(block(64 + start, 1), Kind.READ, Clock()))) == count


def test_a_strided_write_keeps_the_accesses_between_its_elements():
    memory, clock = Memory(), Clock()
    whole = touch(Kind.WRITE, block(64, 16), clock.tick(A))
    even = touch(Kind.WRITE, of_tensor(tensor(64, (8,), (2,), 1)), clock.tick(A))
    memory.add(whole, Clock())
    memory.add(even, clock)
    assert list(memory.conflicts(of_tensor(tensor(65, (7,), (2,), 1)), Kind.READ, Clock())) == [(whole, True)]


def test_memory_from_the_driver_has_no_accesses():
    memory, clock = Memory(), Clock()
    for start in (0, 8, 16):
        memory.add(touch(Kind.WRITE, block(start, 8), clock.tick(A)), Clock())
    memory.forget(block(4, 8))
    assert memory.is_untouched(block(4, 8))
    assert not memory.is_untouched(block(3, 2))
    assert not memory.is_untouched(block(12, 1))


# -- comparisons with the simulator and with PyTorch -------------------------------------------------------------

STREAMS = ["legacy", "blocking", "b2", "x", "y"]
EVENTS = ["e", "f"]
ARRAYS = ["u", "v"]


def steps(*, streams=STREAMS):
    stream, event, array = st.sampled_from(streams), st.sampled_from(EVENTS), st.sampled_from(ARRAYS)
    access = st.tuples(st.just("access"), stream, array, st.booleans())
    return st.one_of(
        access,
        access,
        st.tuples(st.just("record"), stream, event),
        st.tuples(st.just("wait"), stream, event),
        st.tuples(st.just("join"), stream, stream),
        st.tuples(st.just("sync stream"), stream),
        st.tuples(st.just("sync event"), event),
        st.tuples(st.just("query"), stream),
    )


class Program:
    """Runs steps on the simulator, and declares each kernel to the ledger."""

    def __init__(self, gpu):
        self.gpu = gpu
        self.foreign = {
            "legacy": 1,
            "blocking": gpu.stream("blocking", non_blocking=False),
            "b2": gpu.stream("b2", non_blocking=False),
            "x": gpu.stream("x"),
            "y": gpu.stream("y"),
        }
        self.streams = {name: interop.as_stream(stream) for name, stream in self.foreign.items()}
        self.events = {name: interop.Event() for name in EVENTS}
        self.arrays = {name: gpu.array([0.0], name) for name in ARRAYS}
        self.ledger = None

    def access(self, stream, array, writes):
        (self.ledger.writes if writes else self.ledger.reads)(self.arrays[array], self.streams[stream])
        kind = "writes" if writes else "reads"
        self.gpu.launch(self.foreign[stream], lambda _: None, **{kind: [self.arrays[array]]})

    def record(self, stream, event):
        self.streams[stream].record_event(self.events[event])

    def wait(self, stream, event):
        if self.events[event]._recorded:
            self.streams[stream].wait_event(self.events[event])

    def join(self, consumer, producer):
        self.streams[consumer].wait_stream(self.streams[producer])

    def step(self, name, *arguments):
        if name == "sync stream":
            self.streams[arguments[0]].synchronize()
        elif name == "sync event":
            if self.events[arguments[0]]._recorded:
                self.events[arguments[0]].synchronize()
        elif name == "query":
            self.streams[arguments[0]].query()
        else:
            getattr(self, name)(*arguments)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(steps(), max_size=25))
def test_the_ledger_agrees_with_the_simulator(program):
    with interop.sim.simulate(on_race="record") as gpu, check(raises=False) as ledger:
        runner = Program(gpu)
        runner.ledger = ledger
        for step in program:
            before = len(gpu.races), sum(ledger._steps.state.findings.values())
            runner.step(*step)
            # After each step, the new access races with the same number of earlier ones in both.
            assert len(gpu.races) - before[0] == sum(ledger._steps.state.findings.values()) - before[1]
        assert not ledger.unknown
        assert bool(ledger.races) == bool(gpu.races)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), steps()), max_size=20))
def test_the_ledger_agrees_with_the_simulator_on_two_threads(program):
    # Threads may tell each other of their waits. So the ledger reports some of the races as unknown.
    with interop.sim.simulate(on_race="record") as gpu, check(raises=False) as ledger:
        runner = Program(gpu)
        runner.ledger = ledger
        turn = [threading.Semaphore(0), threading.Semaphore(0)]
        errors = []

        def other():
            turn[1].acquire()
            try:
                for elsewhere, step in program:
                    if elsewhere:
                        runner.step(*step)
                        turn[0].release()
                        turn[1].acquire()
            except BaseException as error:
                errors.append(error)
            turn[0].release()

        runner.streams["x"].record_event()
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        for elsewhere, step in program:
            if elsewhere:
                turn[1].release()
                turn[0].acquire()
                assert not errors
            else:
                runner.step(*step)
            assert len(gpu.races) == sum(ledger._steps.state.findings.values())
        turn[1].release()
        thread.join()
        assert not errors


class Sanitizer:
    """PyTorch's sanitizer, driven by the steps of :class:`Program`."""

    def __init__(self):
        self.handler = importlib.import_module("torch.cuda._sanitizer").EventHandler()
        self.schema = importlib.import_module("torch").ops.aten.relu.default._schema
        self.numbers = {name: number for names in (STREAMS, EVENTS, ARRAYS) for number, name in enumerate(names)}
        for stream in STREAMS:
            self.handler._handle_stream_creation(self.numbers[stream])
        for event in EVENTS:
            self.handler._handle_event_creation(self.numbers[event])
        for array in ARRAYS:
            self.handler._handle_memory_allocation(self.numbers[array])

    def access(self, stream, array, writes):
        touched = {self.numbers[array]}
        return self.handler._handle_kernel_launch(
            self.numbers[stream],
            set() if writes else touched,
            touched if writes else set(),
            set(),
            self.schema,
            {self.numbers[array]: []},
        )

    def record(self, stream, event):
        self.handler._handle_event_record(self.numbers[event], self.numbers[stream])

    def wait(self, stream, event):
        self.handler._handle_event_wait(self.numbers[event], self.numbers[stream])

    def join(self, consumer, producer):
        if consumer != producer:
            self.handler._handle_event_creation(99)
            self.handler._handle_event_record(99, self.numbers[producer])
            self.handler._handle_event_wait(99, self.numbers[consumer])
            self.handler._handle_event_deletion(99)

    def step(self, name, *arguments):
        if name == "sync stream":
            return self.handler._handle_stream_synchronization(self.numbers[arguments[0]])
        if name == "sync event":
            return self.handler._handle_event_synchronization(self.numbers[arguments[0]])
        return getattr(self, name)(*arguments)


@pytest.mark.needs("torch")
@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(steps(streams=["legacy", "x", "y"]), max_size=25))
def test_the_ledger_agrees_with_pytorchs_sanitizer(program):
    # The two should agree for one thread without blocking streams and queries: PyTorch's sanitizer knows of neither.
    theirs = Sanitizer()
    with interop.sim.simulate(on_race="record") as gpu, check(raises=False) as ledger:
        ours = Program(gpu)
        ours.ledger = ledger
        for step in program:
            if step[0] == "query":
                continue
            errors = theirs.step(*step)
            ours.step(*step)
            assert bool(errors) == bool(ledger.races)
            if errors:
                return  # from here on, PyTorch's sanitizer knows fewer accesses than the ledger


# -- the ledger itself -------------------------------------------------------------------------------------------


def test_a_finaliser_may_run_during_a_step(gpu):
    x = gpu.array([0.0])
    a, b = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    with check(raises=False) as ledger:
        history = ledger._history
        work = history.work

        def with_finaliser(*arguments):
            ledger.joined(b, a)  # the finaliser of a hand-over makes this call
            assert not ledger._history._seen.before_next(reader, threading.current_thread())._seen
            work(*arguments)

        reader = ledger._known(b)
        history.known(reader)
        history.work = with_finaliser
        ledger.writes(x, a)
        history.work = work
        ledger.reads(x, b)  # ordered: the join came after the write
    assert not ledger.races


def test_a_call_does_not_wait_for_a_step_of_another_thread(gpu):
    a, b = interop.as_stream(gpu.stream()), interop.as_stream(gpu.stream())
    with check() as ledger:
        ledger._steps.lock.acquire()  # another thread is in the middle of a step
        thread = threading.Thread(target=b.wait_stream, args=[a], daemon=True)
        thread.start()
        thread.join(timeout=2)
        assert not thread.is_alive()
        assert len(ledger._steps.pending) == 1
        ledger._steps.lock.release()
        a.synchronize()
        assert not ledger._steps.pending


def test_order_out_of_sight_counts_for_later_streams(gpu):
    x = gpu.array([0.0])
    with check() as ledger:
        ledger.writes(x, gpu.stream())
        ledger.assume_all_ordered("something")
        ledger.reads(x, gpu.stream())
    assert [unknown.uncertainty for unknown in ledger.unknown] == ["something"]


def test_the_ledger_keeps_no_stream_and_no_event_alive(gpu):
    stream = gpu.stream()
    x = gpu.array([0.0])
    with check() as ledger:
        borrowed = interop.as_stream(stream)
        ledger.writes(x, borrowed)
        event = borrowed.record_event()
        interop.as_stream(gpu.stream()).wait_event(event)
        gone = weakref.ref(event)
        del stream, borrowed, event
        gc.collect()
        assert not gpu._machine.streams
        assert gone() is None
        interop.as_stream(gpu.stream()).query()
        assert not ledger._events


def test_a_report_keeps_no_variable_of_the_program_alive(gpu):
    class Big:
        pass

    def program():
        a, b, big = gpu.stream(), gpu.stream(), Big()
        gone = weakref.ref(big)
        ledger.writes(x, a)
        ledger.writes(x, b)  # a race: its report looks at the variables of this function
        del big
        return gone()

    x = gpu.array([0.0])
    with check(raises=False) as ledger:
        assert program() is None
    assert "wait_stream(a)" in ledger.races[0].fix


def test_a_report_leaves_the_result_of_locals_alone(gpu):
    def program():
        a, b = gpu.stream(), gpu.stream()
        seen = locals()
        ledger.writes(x, a)
        ledger.writes(x, b)
        return seen["a"] is a

    x = gpu.array([0.0])
    with check(raises=False) as ledger:
        assert program()
    assert "wait_stream(a)" in ledger.races[0].fix


def test_a_closed_ledger_watches_nothing(gpu):
    with check(), check():
        assert len(watchers.active) == 2
    assert not watchers.active
