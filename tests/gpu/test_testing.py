"""interop.testing on a GPU: proofs of order, gates, delays, poison, and assert_host_free."""

# ruff: noqa: PT012  (the block is what is tested)

import functools
import gc
import itertools
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings

import interop
from interop.errors import CaptureError, DeadlockError, NotSupportedError
from interop.testing import (
    assert_host_free,
    assert_not_ordered,
    assert_ordered,
    gate,
    is_ordered,
    is_poisoned,
    poison,
    slow,
)
from tests.gpu.lab import STREAMS, call, on_device, pair, runtime
from tests.gpu.test_arrays import PRODUCERS, address_of
from tests.programs import PAIRS, expected, programs, replay
from tests.programs import STREAMS as NAMES

by_both = pytest.mark.parametrize("by", ["capture", "gate"])
both = pytest.mark.parametrize(("producer", "consumer"), list(itertools.product(STREAMS, repeat=2)))
PATIENCE = 0.02
SIZE = 1 << 16


@pytest.fixture(autouse=True)
def _needs(request):
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    for name in {params.get("producer"), params.get("consumer")} - {None, "int"}:
        request.getfixturevalue("interop_need")(name)


class Bytes:
    """Device memory with an array interface, allocated before any gate is shut."""

    def __init__(self, value, device=0):
        with on_device(device):
            self.address = int(call(runtime.cudaMalloc(SIZE)))
            call(runtime.cudaMemset(self.address, value, SIZE))
            call(runtime.cudaDeviceSynchronize())

    @property
    def __cuda_array_interface__(self):
        return {"version": 3, "shape": (SIZE // 4,), "typestr": "<f4", "data": (self.address, False), "stream": None}

    def copy_from(self, other, stream):
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        call(runtime.cudaMemcpyAsync(self.address, other.address, SIZE, kind, stream.cuda_stream))

    def free(self):
        call(runtime.cudaFree(self.address))


@pytest.fixture
def memory():
    made = [Bytes(0), Bytes(0)]
    yield made
    call(runtime.cudaDeviceSynchronize())
    for each in made:
        each.free()


# -- proofs --------------------------------------------------------------------------------------------------------


@both
def test_proofs_by_gate_and_by_capture_agree(producer, consumer):
    p, c = pair(producer, consumer)
    orders = {
        True: lambda: interop.as_stream(c).wait_stream(p),
        False: lambda: None,
    }
    for answer, order in orders.items():
        for by in ("capture", "gate"):
            with is_ordered(p, c, by=by, patience=PATIENCE) as verdict:
                order()
            assert bool(verdict) is answer, by


@by_both
def test_a_failure_names_both_streams(by):
    p, c = interop.new_stream(), interop.new_stream()
    with pytest.raises(AssertionError) as raised, assert_ordered(p, c, by=by, patience=PATIENCE):
        p.record_event()
    for part in (repr(p), repr(c), "recorded on", "test_testing.py:"):
        assert part in str(raised.value)
    with pytest.raises(AssertionError, match="made to wait for"), assert_not_ordered(p, c, by=by, patience=PATIENCE):
        c.wait_stream(p)


def test_a_proof_by_gate_works_on_the_legacy_stream():
    blocking, exempt = interop.new_stream(non_blocking=False), interop.new_stream()
    slow(blocking, 0)  # loads its kernel
    for ordered in ((1, blocking), (blocking, 1)):
        with assert_ordered(*ordered, by="gate"):
            # The proof would hold without work, too: the legacy stream also holds up events on blocking streams.
            slow(ordered[1], 0)
    for unordered in ((1, exempt), (exempt, 1)):
        with assert_not_ordered(*unordered, by="gate"):
            slow(unordered[1], 0)
        with assert_ordered(*unordered, by="gate"):
            interop.as_stream(unordered[1]).wait_stream(unordered[0])


def test_a_proof_by_capture_says_where_it_needs_the_gate():
    p, c = interop.new_stream(), interop.new_stream()
    for streams in ((1, c), (p, 1)):
        with pytest.raises(NotSupportedError, match='by="gate"'), assert_ordered(*streams):
            pass
    with pytest.raises(CaptureError, match='by="gate"'), assert_ordered(p, c):
        runtime.cudaStreamSynchronize(p.cuda_stream)
    assert not p.is_capturing()


@by_both
def test_a_wait_for_an_event_from_before_the_block_gives_no_verdict(by):
    p, c, other = (interop.new_stream() for _ in range(3))
    event = p.record_event()
    for prove in (assert_ordered, assert_not_ordered):
        with (
            pytest.raises(AssertionError, match="no verdict: in the block"),
            prove(p, c, by=by, patience=PATIENCE),
        ):
            c.wait_event(event)
    with assert_not_ordered(p, c, by=by, patience=PATIENCE):
        other.wait_event(event)
    with assert_ordered(p, c, by=by, patience=PATIENCE):
        c.wait_event(event)
        c.wait_stream(p)


def test_a_proof_by_gate_allows_the_host_to_wait_for_the_consumer():
    p, c = interop.new_stream(), interop.new_stream()
    with assert_ordered(p, c, by="gate"):
        c.synchronize()
        c.wait_stream(p)
    with assert_not_ordered(p, c, by="gate"):
        c.synchronize()


def test_a_host_wait_for_the_producer_gives_no_verdict():
    p, c = interop.new_stream(), interop.new_stream()
    for check in (assert_ordered, assert_not_ordered):
        with pytest.raises(AssertionError, match="had to open itself"), check(p, c, by="gate", timeout=0.2):
            p.synchronize()


def test_the_verdicts_agree_with_the_clocks():
    streams = {name: interop.new_stream() for name in NAMES}
    by_capture, by_gate = [], []

    @settings(max_examples=500, deadline=None, derandomize=True, database=None)
    @given(programs)
    def check(program):
        for producer, consumer in PAIRS:
            try:
                with is_ordered(streams[producer], streams[consumer]) as verdict:
                    replay(program, streams)
            except CaptureError:  # the program waits across the border of the capture, which only the gate can prove
                continue
            by_capture.append(bool(verdict))
            assert bool(verdict) == expected(program, producer, consumer), (producer, consumer)
        for producer in NAMES:
            consumers = [name for name in NAMES if name != producer]
            with gate(streams[producer]) as shut:
                replay(program, streams)
                reached = {name: streams[name].record_event() for name in consumers}
                free = [name for name in consumers if not expected(program, producer, name)]
                for name in free:
                    reached[name].synchronize(timeout=5)  # nothing holds this stream up
                time.sleep(0.002)  # enough for the others, if nothing held them up
                for name in consumers:
                    by_gate.append(not reached[name].query())
                    assert by_gate[-1] == expected(program, producer, name), (producer, name)
                assert not shut.is_open
            for stream in streams.values():
                stream.synchronize()

    check()
    assert len(by_gate) >= 500 * len(PAIRS)
    assert min(by_gate.count(True), by_gate.count(False)) > 100
    assert min(by_capture.count(True), by_capture.count(False)) > 100


# -- gates ---------------------------------------------------------------------------------------------------------


def test_a_gate_needs_no_with_block():
    stream = interop.new_stream()
    shut = gate(stream)
    assert not stream.query()
    assert not shut.is_open
    shut.open()
    stream.synchronize(timeout=10)


def test_a_forgotten_gate_opens_and_warns():
    stream = interop.new_stream()
    shut = gate(stream)
    with pytest.warns(ResourceWarning, match="forgotten"):
        del shut
    stream.synchronize(timeout=10)
    assert gc.isenabled()


def test_a_reused_slot_of_a_gate_holds_up_no_other_stream():
    # `late` waits for `held`. So `late` reads the slot of its own gate after another gate has taken the slot.
    held, late = interop.new_stream(), interop.new_stream()
    with gate(held):
        late.wait_stream(held)
        first = gate(late)
        slot = first._latch.address
        first.open()
        again = gate(held)
        while again._latch.address != slot:
            again.open()
            again = gate(held)
    late.synchronize(timeout=5)
    assert not again.is_open
    again.open()


def test_a_gate_opens_itself_while_the_host_is_blocked():
    stream = interop.new_stream()
    with pytest.raises(AssertionError, match="had to open itself"), gate(stream, timeout=0.2):
        stream.synchronize()


def test_a_gate_on_the_legacy_stream_invalidates_no_capture():
    blocking, other = interop.new_stream(non_blocking=False), interop.new_stream()
    with assert_ordered(blocking, other):
        with pytest.raises(CaptureError, match="blocking stream"):
            gate(1)
        other.wait_stream(blocking)


def test_a_gate_is_refused_if_launches_are_blocking():
    code = """
import interop
from interop.errors import DeadlockError
from interop.testing import gate
try:
    gate(interop.new_stream())
except DeadlockError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_LAUNCH_BLOCKING": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "CUDA_LAUNCH_BLOCKING" in done.stdout, done.stderr
    assert DeadlockError.__name__ not in done.stderr


# -- delays --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 5, 20, 50])
@pytest.mark.parametrize("device", [0, 1])
def test_the_delay_of_slow_begins_when_the_stream_reaches_it(length, device, interop_need):
    if device:
        interop_need("gpu2")
    stream = interop.new_stream(device)
    start, end = interop.Event(enable_timing=True), interop.Event(enable_timing=True)
    slow(stream, 0)
    with gate(stream):
        stream.record_event(start)
        slow(stream, length)
        stream.record_event(end)
        time.sleep(0.1)  # the delay begins only when the gate opens
    end.synchronize()
    taken = start.elapsed_time(end)
    assert length <= taken + 0.01
    assert taken < length * 1.05 + 0.1


def test_slow_holds_up_its_own_stream_only():
    stream, other = interop.new_stream(), interop.new_stream()
    slow(stream, 0)
    stream.synchronize()
    slow(stream, 500)
    slow(other, 1)
    other.synchronize()
    assert not stream.query()
    stream.synchronize()


def test_slow_is_captured_into_a_graph():
    producer, consumer = interop.new_stream(), interop.new_stream()
    slow(producer, 0)
    with assert_ordered(producer, consumer):
        slow(producer, 5000)
        consumer.wait_stream(producer)
    assert producer.query()


def test_slow_loads_nothing_behind_a_gate():
    code = """
import interop
from interop.errors import NotSupportedError
from interop.testing import gate, slow
stream = interop.new_stream()
with gate(stream):
    try:
        slow(stream, 1)
    except NotSupportedError as error:
        print(error)
slow(stream, 0)
with gate(stream) as shut:
    slow(stream, 1)
    assert not shut.is_open
stream.synchronize()
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "once before the gate is shut" in done.stdout
    assert done.stdout.endswith("done\n")


# -- poison --------------------------------------------------------------------------------------------------------


def read_late(memory, *, waits):
    """Whether a reader sees the poison from before the write of a producer behind a gate."""
    written, seen = memory
    producer, consumer = interop.new_stream(), interop.new_stream()
    poison(written, producer)
    producer.synchronize()
    seen.copy_from(written, consumer)  # CUDA must load everything before the gate is shut
    consumer.synchronize()
    with gate(producer) as shut:
        call(runtime.cudaMemsetAsync(written.address, 1, SIZE, producer.cuda_stream))
        if waits:
            consumer.wait_stream(producer)
        seen.copy_from(written, consumer)
        if not waits:
            consumer.synchronize()  # nothing holds it up
        assert not shut.is_open
    return is_poisoned(seen, consumer)


def test_a_reader_that_waits_does_not_see_the_poison(memory):
    assert not read_late(memory, waits=True)


def test_control_a_reader_that_does_not_wait_sees_the_poison(memory):
    assert read_late(memory, waits=False)


def test_poison_is_written_in_the_order_of_the_stream(memory):
    array, _ = memory
    stream, other = interop.new_stream(), interop.new_stream()
    assert not is_poisoned(array, other)
    with gate(stream) as shut:
        poison(array, stream)
        assert not is_poisoned(array, other)
        assert not shut.is_open
    assert is_poisoned(array, stream)


def test_memory_that_is_half_poisoned_gives_no_verdict(memory):
    array, _ = memory
    stream = interop.new_stream()
    poison(array, stream)
    call(runtime.cudaMemsetAsync(array.address, 1, SIZE // 2, stream.cuda_stream))
    with pytest.raises(AssertionError, match="no verdict: "):
        is_poisoned(array, stream)


def of_torch(**options):
    import torch

    return torch.zeros((3, 5), device="cuda", **options)


def of_torch_without_a_typestr():
    import torch

    return of_torch(dtype=torch.bfloat16)


def of_a_library(name):
    array = PRODUCERS[name](None)
    call(runtime.cudaMemset(address_of(array), 0, 4096))  # RMM's memory may hold anything
    return array


ARRAYS = {
    "torch floats": of_torch,
    "torch bfloat16": of_torch_without_a_typestr,
    **{name: functools.partial(of_a_library, name) for name in ("cupy", "numba", "torch", "warp", "rmm", "dlpack")},
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_library_can_be_poisoned(kind, interop_need):
    name = kind.partition(" ")[0]
    interop_need("cupy" if name == "dlpack" else name)
    array, stream = ARRAYS[kind](), interop.new_stream()
    call(runtime.cudaDeviceSynchronize())
    assert not is_poisoned(array, stream)
    poison(array, stream)
    assert is_poisoned(array, stream)


def test_the_programs_of_the_page_run(memory):
    from tests.testing.test_docs_testing import PAGE, blocks

    names = {}
    for block in blocks():
        if block["language"] == "python" and not block["what"]:
            exec(compile(block["text"], str(PAGE), "exec"), names)
    x, y = memory

    def read(source, target, stream):
        target.copy_from(source, stream)

    read(x, y, names["consumer"])
    names["consumer"].synchronize()
    assert names["reader_sees_the_writers_work"](x, read, y)


# -- the host ------------------------------------------------------------------------------------------------------


def test_ordering_calls_are_host_free():
    p, c = interop.new_stream(), interop.new_stream()
    with assert_host_free(p, c):
        c.wait_stream(p)
        p.record_event()
        assert not p.query()


WAITS = {
    "stream": lambda p, _: p.synchronize(),
    "event": lambda p, _: p.record_event().synchronize(),
    "consumer": lambda p, c: (c.wait_stream(p), c.synchronize()),
    "device": lambda *_: call(runtime.cudaDeviceSynchronize()),
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_of_the_host_is_not_host_free(wait):
    p, c = interop.new_stream(), interop.new_stream()
    with pytest.raises(AssertionError, match="not host-free"), assert_host_free(p, timeout=0.3):
        WAITS[wait](p, c)


def test_a_wait_for_another_stream_is_host_free():
    p, c = interop.new_stream(), interop.new_stream()
    with assert_host_free(p):
        c.synchronize()


def test_a_wait_for_an_event_from_before_the_block_is_not_noticed():
    stream = interop.new_stream()
    event = stream.record_event()
    with assert_host_free(stream):
        event.synchronize()


def test_assert_host_free_watches_the_legacy_stream_by_default(memory):
    blocking, mine = interop.new_stream(non_blocking=False), interop.new_stream()
    with pytest.raises(AssertionError, match="not host-free"), assert_host_free(timeout=0.3):
        call(runtime.cudaMemsetAsync(memory[0].address, 0, 1, blocking.cuda_stream))
        blocking.synchronize()
    with assert_host_free():
        mine.synchronize()


@pytest.mark.needs("cupy")
def test_assert_host_free_watches_current_streams_by_default():
    import cupy

    stream = interop.new_stream()
    cupy.zeros(1)
    with (
        interop.use(stream, "cupy"),
        pytest.raises(AssertionError, match="not host-free"),
        assert_host_free(timeout=0.3),
    ):
        cupy.cuda.get_current_stream().synchronize()
