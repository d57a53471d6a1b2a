"""interop.testing on the simulator; and its gates on a page of memory that no GPU looks at."""

# ruff: noqa: PT012  (the block is what is tested)

import contextlib
import gc
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import interop
from interop import _cuda, sim
from interop._core import captures
from interop._order import watchers
from interop.errors import (
    CaptureError,
    DeadlockError,
    InvalidArrayError,
    NotSupportedError,
    RaceError,
)
from interop.ordering import check
from interop.testing import (
    POISON,
    assert_host_free,
    assert_not_ordered,
    assert_ordered,
    device,
    gate,
    is_ordered,
    is_poisoned,
    poison,
    slow,
)
from interop.testing.gate import forgotten
from interop.testing.poison import memory_of
from tests.programs import PAIRS, STREAMS, expected, programs, replay
from tests.threads import in_thread


@pytest.fixture
def gpu():
    with sim.simulate(devices=2) as gpu:
        yield gpu


@pytest.fixture
def pair(gpu):
    return interop.new_stream(), interop.new_stream()


# -- proofs --------------------------------------------------------------------------------------------------------

by_both = pytest.mark.parametrize("by", ["capture", "gate"])


@by_both
def test_ordered_and_not(pair, by):
    p, c = pair
    with assert_ordered(p, c, by=by):
        c.wait_stream(p)
    with assert_not_ordered(p, c, by=by):
        pass
    with assert_not_ordered(p, c, by=by):
        interop.new_stream().wait_stream(p)
    with assert_ordered(p, c, by=by):
        c.wait_event(p.record_event())


@by_both
def test_a_failure_names_both_streams_and_what_was_seen(pair, by):
    p, c = pair
    other = interop.new_stream()
    with pytest.raises(AssertionError) as raised, assert_ordered(p, c, by=by):
        event = p.record_event()
        other.wait_event(event)
        c.wait_stream(interop.new_stream())
    said = str(raised.value)
    assert said.startswith(f"not ordered: after the block, {c!r} does not wait for {p!r}.\ninterop saw in the block:\n")
    assert said.endswith("To order them: consumer.wait_stream(producer)")
    for line in (
        f"recorded on {p!r}",
        f"{other!r} made to wait for <SIMULATED interop.Event",
        f"{c!r} made to wait for <",
    ):
        assert line in said
    assert said.count("  test_testing.py:") == 3


@by_both
def test_a_failure_that_saw_nothing_says_so(pair, by):
    p, c = pair
    with pytest.raises(AssertionError, match="saw no record and no wait in the block"), assert_ordered(p, c, by=by):
        pass
    with pytest.raises(AssertionError, match=r"(?s)^ordered: .*made to wait for"), assert_not_ordered(p, c, by=by):
        c.wait_stream(p)


def test_a_failure_lists_only_some_of_many_calls(pair):
    p, c = pair
    with pytest.raises(AssertionError, match=r"\.\.\. and 5 more"), assert_ordered(p, c):
        for _ in range(25):
            p.record_event()


def test_no_watcher_is_left_after_a_proof(pair):
    from interop._order import watchers

    p, c = pair
    with pytest.raises(KeyError), assert_ordered(p, c):
        raise KeyError
    with pytest.raises(KeyError), assert_host_free(p):
        raise KeyError
    with assert_ordered(p, c), assert_host_free(c):
        c.wait_stream(p)
    assert watchers.active == ()


def test_a_proof_by_capture_says_what_cannot_be_captured(gpu, pair):
    p, c = pair
    for both in ((1, c), (p, 1)):
        with pytest.raises(NotSupportedError, match='by="gate"'), assert_ordered(*both):
            pass
    with pytest.raises(CaptureError, match='by="gate"'), assert_ordered(p, c):
        gpu.runtime.cudaStreamSynchronize(p.cuda_stream)
    with pytest.raises(CaptureError) as raised, assert_ordered(p, c):
        p.query()
    assert 'by="gate"' in raised.value.__notes__[0]
    with pytest.raises(ValueError, match="by is"), is_ordered(p, c, by="luck"):
        pass


def test_by_gate_the_legacy_stream_can_be_proved(gpu):
    blocking, exempt = interop.new_stream(non_blocking=False), interop.new_stream()
    with assert_ordered(1, blocking, by="gate"):
        pass
    with assert_ordered(blocking, 1, by="gate"):
        pass
    for pair in ((1, exempt), (exempt, 1)):
        with assert_not_ordered(*pair, by="gate"):
            pass
        with assert_ordered(*pair, by="gate"):
            interop.as_stream(pair[1]).wait_stream(pair[0])


def test_by_gate_code_that_synchronises_can_be_proved(pair):
    p, c = pair
    with assert_not_ordered(p, c, by="gate"):
        p.wait_stream(c)
    with assert_ordered(p, c, by="gate"):
        c.synchronize()
        assert c.query()
        c.wait_stream(p)
    with assert_not_ordered(p, c, by="gate"):
        c.synchronize()


def test_by_gate_the_code_runs(gpu, pair):
    p, c = pair
    data = gpu.array([0])
    with assert_ordered(p, c, by="gate"):
        gpu.launch(p, lambda memory: memory.fill(7), writes=[data])
        c.wait_stream(p)
    c.synchronize()
    assert gpu.read(data) == [7]


def test_a_verdict_comes_at_the_end(pair):
    with is_ordered(*pair) as verdict, pytest.raises(RuntimeError, match="before the end of the `with` block"):
        bool(verdict)
    assert not verdict


@by_both
def test_the_producers_work_is_what_was_there_before_the_block(gpu, pair, by):
    p, c = pair
    data = gpu.array([0.0], name="data")
    with assert_ordered(p, c, by=by):
        event = p.record_event()
        gpu.launch(p, lambda _: None, writes=[data])
        c.wait_event(event)
    with check(raises=False) as ledger:
        event = p.record_event()
        ledger.writes(data, p)
        c.wait_event(event)
        ledger.reads(data, c)
    assert len(ledger.races) == 1


EARLIER = {
    "the consumer": lambda event, c, _: c.wait_event(event),
    "another stream, which the consumer joins": lambda event, c, other: (other.wait_event(event), c.wait_stream(other)),
    "another stream, and an event of it": lambda event, c, other: (
        other.wait_event(event),
        c.wait_event(other.record_event()),
    ),
}


@by_both
@pytest.mark.parametrize("prove", [assert_ordered, assert_not_ordered])
@pytest.mark.parametrize("who", EARLIER)
def test_a_wait_for_an_event_from_before_the_block_gives_no_verdict(gpu, pair, by, prove, who):
    p, c = pair
    event = p.record_event()  # after all of the producer's work, which is done
    event.synchronize()
    with (
        pytest.raises(AssertionError, match=r"no verdict: in the block, .* recorded before the block"),
        prove(p, c, by=by),
    ):
        EARLIER[who](event, c, interop.new_stream())


@by_both
def test_a_wait_for_an_event_from_before_the_block_that_makes_no_difference(gpu, pair, by):
    p, c = pair
    other = interop.new_stream()
    event = p.record_event()
    with assert_not_ordered(p, c, by=by):
        other.wait_event(event)
        c.record_event()
        c.wait_stream(interop.new_stream())
    with assert_not_ordered(p, c, by=by):  # the order that the host makes is not asked about
        event.synchronize()
    with assert_ordered(p, c, by=by):
        c.wait_event(event)
        c.wait_stream(p)
    with assert_ordered(p, c, by=by):
        c.wait_event(p.record_event(event))  # recorded again, inside the block


@pytest.mark.parametrize("where", ["in the block", "before it"])
def test_by_gate_another_gate_makes_no_difference(gpu, pair, where):
    p, c = pair
    other = interop.new_stream()
    with gate(other) as shut:
        if where == "before it":
            c.wait_stream(other)
        with assert_not_ordered(p, c, by="gate"):
            c.wait_stream(other)
        with assert_ordered(p, c, by="gate"):
            c.wait_stream(other, p)
        assert not shut.is_open


@by_both
def test_an_assertion_can_be_used_again(pair, by):
    p, c = pair
    ordered, free = assert_ordered(p, c, by=by), assert_host_free(p)
    for _ in range(2):
        with ordered:
            c.wait_stream(p)
        with pytest.raises(AssertionError, match="not ordered"), ordered:
            pass
        with free:
            c.wait_stream(p)
        with pytest.raises(AssertionError, match="not host-free"), free:
            p.synchronize()


def test_two_proofs_at_once_point_to_the_gate(pair):
    p, c = pair
    other = interop.new_stream()
    with pytest.raises(CaptureError, match='by="gate"'), assert_ordered(p, c), assert_ordered(p, other):
        pass
    with pytest.raises(CaptureError) as raised, assert_ordered(p, c), assert_ordered(other, c):
        c.wait_stream(p, other)
    assert any('by="gate"' in note for note in raised.value.__notes__)
    with assert_ordered(p, c, by="gate"), assert_ordered(other, c, by="gate"):
        c.wait_stream(p, other)


@by_both
def test_the_verdict_is_that_of_the_clocks(by):
    asked, answered = [], []

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(programs)
    def check(program):
        with sim.simulate():
            for producer, consumer in PAIRS:
                streams = {name: interop.new_stream() for name in STREAMS}
                asked.append(program)
                try:
                    with is_ordered(streams[producer], streams[consumer], by=by) as verdict:
                        replay(program, streams)
                except CaptureError:
                    continue  # a wait that would cross the border of the capture
                answered.append(bool(verdict))
                assert bool(verdict) == expected(program, producer, consumer)

    check()
    assert {True, False} <= set(answered)
    if by == "gate":
        assert len(answered) == len(asked)


# -- gates ---------------------------------------------------------------------------------------------------------


def test_a_gate_without_a_block(gpu, pair):
    stream, _ = pair
    shut = gate(stream)
    assert not shut.is_open
    assert not stream.query()
    assert "shut" in repr(shut)
    shut.open()
    shut.open()
    assert shut.is_open
    assert "open" in repr(shut)
    stream.synchronize()


def test_a_gate_that_is_forgotten_opens_and_warns(pair):
    stream, _ = pair
    shut = gate(stream)
    with pytest.warns(ResourceWarning, match="forgotten"):
        del shut
    stream.synchronize()


def test_a_simulated_gate_opens_itself_when_the_host_polls_and_the_test_fails(gpu, pair):
    p, c = pair
    ran = []
    with pytest.raises(AssertionError, match=r"had to open itself.*within 0.05 s"), gate(p, timeout=0.05):
        gpu.launch(p, lambda: ran.append(True))
        c.wait_stream(p)
        while not c.query():
            pass
    assert ran
    assert any("opens itself" in line for line in gpu.schedule.trace)


def test_a_simulated_gate_whose_time_is_over_is_open(pair):
    p, _ = pair
    with pytest.raises(AssertionError, match="had to open itself"), gate(p, timeout=0.01):
        time.sleep(0.02)
        p.synchronize()
    shut = gate(p, timeout=0.01)
    assert shut not in forgotten()
    time.sleep(0.02)
    assert forgotten() == [shut]
    assert shut.is_open
    with pytest.raises(AssertionError, match="had to open itself"):
        shut.open()
    shut.open()


def test_a_gate_stays_as_it_was_when_its_simulation_ends():
    with sim.simulate():
        late, early = (gate(interop.new_stream(), timeout) for timeout in (0.01, 10))
        time.sleep(0.02)
        assert late.is_open
        early.open()
    assert forgotten() == [late]
    late.let_pass()
    assert not forgotten()


def test_a_gate_is_not_captured(pair):
    p, c = pair
    with assert_not_ordered(p, c), pytest.raises(NotSupportedError, match="captures a graph"):
        gate(p)


def test_a_gate_on_the_legacy_stream_breaks_no_capture(gpu):
    blocking, other = interop.new_stream(non_blocking=False), interop.new_stream()
    with assert_not_ordered(blocking, other), pytest.raises(CaptureError, match="blocking stream"):
        gate(1)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), threading.TIMEOUT_MAX * 2, True, "10", None])
def test_a_timeout_is_a_time(pair, timeout):
    with pytest.raises(ValueError, match="timeout is a number of seconds above 0"):
        gate(pair[0], timeout)


@by_both
@pytest.mark.parametrize("patience", [-1, float("nan"), True, "10", None])
def test_patience_is_a_time(pair, by, patience):
    with (
        pytest.raises(ValueError, match="patience is a number of seconds, 0 or more"),
        is_ordered(*pair, by=by, patience=patience),
    ):
        pass


# The gates of a GPU: the page, and the process that opens what is overdue, are there without one.


@pytest.fixture
def paper(monkeypatch, address):
    """A stream whose waits nobody carries out; what it was made to wait for."""
    cuda = _cuda.Cuda(lambda: pytest.fail("CUDA was called"), lambda _: True)
    stream = interop.ExternalStream(address)
    stream._cuda, waits = cuda, []
    monkeypatch.setattr(type(stream), "_usable_context", lambda _: 1)
    monkeypatch.setattr(captures, "capture_of", lambda _: 0)
    monkeypatch.setattr(device, "stream_wait_value", lambda _cuda, *arguments: waits.append(arguments))
    monkeypatch.setattr(device, "host_register", lambda *_: 0)
    return stream, waits


@pytest.fixture
def keeper(paper):
    from interop.testing.gate import _keeper

    _keeper.cache_clear()
    yield _keeper
    _keeper.cache_clear()


def value_at(keeper, wait):
    return int.from_bytes(keeper().page[wait[1] : wait[1] + 4], "little")


def opened_by_now(shut):
    deadline = time.monotonic() + 10
    while not shut.is_open:
        assert time.monotonic() < deadline, "nobody opened it"
        time.sleep(0.001)


def test_it_waits_for_a_value_that_comes_when_it_opens(paper, keeper):
    stream, waits = paper
    with gate(stream) as shut:
        (wait,) = waits
        assert value_at(keeper, wait) < wait[2]
        assert not shut.is_open
        assert not gc.isenabled()
        shut.open()
        assert shut.is_open
        assert value_at(keeper, wait) == wait[2]
    assert gc.isenabled()


def test_a_slot_that_is_used_again_does_not_shut_the_one_before(paper, keeper):
    stream, waits = paper
    for _ in range(300):  # more than there are
        gate(stream).open()
    again = [wait for wait in waits if wait[1] == waits[0][1]]
    assert [wait[2] for wait in again] == [1, 2]
    with gate(stream):
        assert all(value_at(keeper, wait) >= wait[2] for wait in waits[:-1])


def test_nested_gates_are_separate(paper, keeper):
    stream, waits = paper
    with gate(stream) as outer:
        with gate(stream) as inner:
            assert waits[0][1] != waits[1][1]
            outer.open()
            assert not inner.is_open
            assert not gc.isenabled()
        assert inner.is_open
    assert gc.isenabled()


def test_the_keeper_opens_what_is_overdue_and_the_test_fails(paper, keeper):
    stream, waits = paper
    with pytest.raises(AssertionError, match=r"had to open itself: .* within 0\.05 s"), gate(stream, 0.05) as shut:
        opened_by_now(shut)
        assert shut.is_overdue
    assert value_at(keeper, waits[0]) == waits[0][2]
    assert gc.isenabled()


def test_the_keeper_opens_nothing_too_early(paper, keeper):
    stream, _ = paper
    with gate(stream, 30) as late, pytest.raises(AssertionError), gate(stream, 0.05) as early:
        opened_by_now(early)
        assert not late.is_open
    assert late.is_open


def test_an_exception_in_the_block_goes_on(paper, keeper):
    stream, _ = paper
    with pytest.raises(KeyError), gate(stream, 0.02) as shut:
        opened_by_now(shut)
        raise KeyError
    assert gc.isenabled()


def test_a_gate_that_cannot_be_shut_leaves_nothing_behind(paper, keeper, monkeypatch):
    stream, _ = paper
    monkeypatch.setattr(device, "stream_wait_value", lambda *_: 1 / 0)
    free = len(keeper().free)
    with pytest.raises(ZeroDivisionError):
        gate(stream)
    assert gc.isenabled()
    assert len(keeper().free) == free


def test_the_number_of_shut_gates_is_limited(paper, keeper):
    stream, _ = paper
    gates = [gate(stream) for _ in range(256)]
    with pytest.raises(NotSupportedError, match="256 gates are shut"):
        gate(stream)
    for shut in gates:
        shut.open()
    gate(stream).open()


def test_no_gate_without_the_keeper(paper, keeper):
    stream, _ = paper
    process = keeper()._process
    with gate(stream) as shut:
        process.kill()
        process.wait(30)
        assert not shut.is_open
    with pytest.raises(DeadlockError, match="has ended"):
        gate(stream)


def test_no_gate_where_the_host_waits_for_every_kernel(paper, keeper, monkeypatch):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    with pytest.raises(DeadlockError, match="CUDA_LAUNCH_BLOCKING"):
        gate(paper[0])
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "0")
    gate(paper[0]).open()


def test_the_keeper_opens_the_gates_of_a_process_that_has_ended(paper, keeper):
    stream, waits = paper
    with pytest.raises(AssertionError, match="open itself"), gate(stream):
        keeper()._process.stdin.close()  # as when this process is gone
        keeper()._process.wait(30)
        assert value_at(keeper, waits[0]) == waits[0][2]
        assert keeper()._process.returncode == 0


IN_A_GROUP_OF_ITS_OWN = """
import importlib, json, os, signal, sys, time
from interop.testing import device
gates = importlib.import_module("interop.testing.gate")
device.host_register = lambda _cuda, address, size: 0
os.setpgrp()  # as a shell's job has
signal.signal(signal.SIGINT, lambda *_: None)  # and goes on
slot = gates._Slot(0.2)
keeper = slot._keeper._process
"""


def test_ctrl_c_leaves_the_keeper_alone(python):
    code = """
time.sleep(0.1)  # until the keeper has started
os.killpg(0, signal.SIGINT)
until = time.monotonic() + 10
while not slot.is_open and keeper.poll() is None and time.monotonic() < until:
    time.sleep(0.001)
print(json.dumps([slot.is_open, keeper.poll()]))
"""
    assert python(IN_A_GROUP_OF_ITS_OWN + code) == [True, None]


def test_the_keeper_ends_with_its_parent(python):
    code = "print(keeper.pid, flush=True); os._exit(0)"  # at which nothing is cleaned up
    running = Path(f"/proc/{python(IN_A_GROUP_OF_ITS_OWN + code)}/cmdline")
    until = time.monotonic() + 10
    while running.exists() and running.read_bytes():  # that of a process which has ended is empty
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.001)


def test_a_gate_that_is_kept_and_forgotten_collects_garbage_again_when_it_has_opened_itself(paper, keeper):
    stream, _ = paper
    with gate(stream, 30):
        shut = gate(stream, 0.05)
        opened_by_now(shut)
        time.sleep(0.2)
        assert not gc.isenabled()  # the other one is shut
    assert gc.isenabled()
    again = gate(stream, 0.05)
    opened_by_now(again)
    until = time.monotonic() + 10
    while not gc.isenabled():
        assert time.monotonic() < until
        time.sleep(0.001)
    for each in (shut, again):
        assert each in forgotten()
        with pytest.raises(AssertionError, match="open itself"):
            each.open()
        assert each not in forgotten()
    assert gc.isenabled()


# -- delays --------------------------------------------------------------------------------------------------------


def test_slow_is_work(gpu, pair):
    stream, other = pair
    slow(stream, 5)
    assert not stream.query()
    assert other.query()
    stream.synchronize()
    assert any("slow, 5 ms" in line for line in gpu.schedule.trace)


@pytest.mark.parametrize("length", [-1, 10_001, float("nan"), True, "5", None])
def test_slow_takes_milliseconds(pair, length):
    with pytest.raises(ValueError, match="milliseconds is a number from 0 to 10000"):
        slow(pair[0], length)


@pytest.fixture
def launches(paper, monkeypatch):
    stream, _ = paper
    made = []
    stream._context, stream._context_id = 1, 77
    monkeypatch.setattr(device, "kernel_load", lambda *_: made.append("load") or 5)
    monkeypatch.setattr(device, "kernel_launch", lambda _cuda, kernel, number, *_: made.append((kernel, number)))
    return made


def test_slow_loads_its_kernel_once(paper, launches):
    slow(paper[0], 2.5)
    slow(paper[0], 1)
    assert launches == ["load", (5, 0), (5, 2_500_000), (5, 1_000_000)]


def test_slow_loads_nothing_behind_a_gate(paper, launches, keeper):
    with gate(paper[0]), pytest.raises(NotSupportedError, match="once before the gate is shut"):
        slow(paper[0], 1)
    slow(paper[0], 0)
    with gate(paper[0]):
        slow(paper[0], 1)
    assert launches == ["load", (5, 0), (5, 0), (5, 1_000_000)]


# -- poison --------------------------------------------------------------------------------------------------------


def test_a_reader_that_waits_sees_the_poison_and_one_that_does_not_races(gpu, pair):
    p, c = pair
    data, seen = gpu.array([1.0, 2.0]), gpu.array([0.0, 0.0])

    def copy(old, new):
        new[:] = old

    poison(data, p)
    with pytest.raises(RaceError, match="poison"):
        gpu.launch(c, copy, reads=[data], writes=[seen])
    c.wait_stream(p)
    gpu.launch(c, copy, reads=[data], writes=[seen])
    assert is_poisoned(seen, c)
    assert np.isnan(gpu.read(seen)).all()


@pytest.mark.parametrize(
    "values", [np.array(1), np.array([[1, 2]], dtype="i4"), np.array([True]), np.zeros((2, 2), "c8")]
)
def test_poison_is_in_every_byte(gpu, pair, values):
    data = gpu.array(values)
    assert not is_poisoned(data, pair[0])
    poison(data, pair[0])
    assert is_poisoned(data, pair[0])
    assert set(gpu.read(data).tobytes()) == {POISON}


@pytest.mark.parametrize("kind", ["i1", "i2", "f8"])
@pytest.mark.parametrize("which", [slice(0, 1), slice(0, 4), slice(1, None), slice(3, 5)])
def test_some_elements_give_no_verdict(gpu, pair, kind, which):
    values = np.ones(8, dtype=kind)
    values.view("u1").reshape(8, -1)[which] = POISON
    count = len(values[which])
    with pytest.raises(AssertionError, match=rf"no verdict: {count} of 8 elements of .* hold nothing but 0xFF bytes"):
        is_poisoned(gpu.array(values), pair[0])


def test_no_elements_give_no_verdict(gpu, pair):
    with pytest.raises(InvalidArrayError, match="has no elements"):
        is_poisoned(gpu.array(np.ones((2, 0))), pair[0])


def test_an_element_is_poisoned_as_a_whole(gpu, pair):
    assert not is_poisoned(gpu.array(np.array([0xFF00, 0x00FF], dtype=">u2").astype("<u2")), pair[0])
    assert not is_poisoned(gpu.array(np.frombuffer(b"\0\xff\xff\0", dtype="<u2")), pair[0])


def test_only_arrays_of_the_simulation(pair):
    for act in (poison, is_poisoned):
        with pytest.raises(NotSupportedError, match="no array of the simulation"):
            act(np.zeros(3), pair[0])


class Interface:
    def __init__(self, array, **said):
        self.array, self.said = array, said

    @property
    def __cuda_array_interface__(self):
        return {**self.array.__array_interface__, "strides": self.array.strides, "version": 3, **self.said}


def cube():
    return np.zeros((2, 3, 4), dtype="<i4")


@pytest.mark.parametrize(
    "array",
    [
        cube(),
        cube().T,
        cube().transpose(1, 0, 2),
        cube()[:1],
        cube()[1:],
        np.zeros(()),
        np.zeros((3, 0)),
        np.zeros((4, 1, 4))[:, :, :],
        cube()[::-1],
    ],
)
def test_one_block_of_memory(array):
    found = memory_of(Interface(array), writes=True)
    lowest = array if array.size == 0 or min(array.strides, default=0) >= 0 else array[::-1]
    assert found == (lowest.__array_interface__["data"][0], array.nbytes, array.itemsize)
    assert memory_of(Interface(array, strides=None), writes=True)[1] == array.nbytes


@pytest.mark.parametrize(
    "array", [cube()[:, ::2], cube()[..., :2], np.broadcast_to(np.zeros(3), (2, 3)), cube()[:, :2]]
)
def test_memory_with_gaps(array):
    with pytest.raises(InvalidArrayError, match="has gaps"):
        memory_of(Interface(array), writes=False)


def test_what_is_read_only_is_not_poisoned():
    array = Interface(cube(), data=(4096, True))
    assert memory_of(array, writes=False)[0] == 4096
    with pytest.raises(InvalidArrayError, match="read-only"):
        memory_of(array, writes=True)


def test_what_requires_a_gradient_is_read_without_it(interop_need):
    interop_need("torch")
    import torch

    class Tensor:
        requires_grad = True

        def detach(self):
            return Interface(cube())

    assert memory_of(Tensor(), writes=True)[1] == cube().nbytes
    with pytest.raises(InvalidArrayError, match="not on a GPU"):
        memory_of(torch.zeros(3, requires_grad=True), writes=False)


def test_what_is_no_array():
    with pytest.raises(InvalidArrayError, match="expected an array on a GPU"):
        memory_of(object(), writes=False)
    with pytest.raises(InvalidArrayError, match="not on a GPU"):
        memory_of(np.zeros(3), writes=False)  # by DLPack


def test_the_host_has_waited_for_the_stream_that_is_looked_at(paper, monkeypatch):
    stream, _ = paper
    monkeypatch.setattr(device, "copy_to_host", lambda *_: b"\xff" * 8)
    looker = types.SimpleNamespace(told=[])
    looker.finished = looker.told.append
    watchers.watch(looker)
    try:
        assert is_poisoned(Interface(np.zeros(1)), stream)
    finally:
        watchers.unwatch(looker)
    assert looker.told == [stream]


# -- the host ------------------------------------------------------------------------------------------------------


def test_host_free(gpu, pair):
    p, c = pair
    with assert_host_free(p, c):
        c.wait_stream(p)
        p.record_event()
        assert not p.query()
    p.synchronize()


WAITS = {
    "stream": lambda _, stream: stream.synchronize(),
    "event": lambda _, stream: stream.record_event().synchronize(),
    "device": lambda gpu, _: gpu.synchronize(),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("named", [True, False])
def test_not_host_free(gpu, wait, named):
    stream = interop.new_stream(non_blocking=False)  # so that the legacy stream, held by default, holds it too
    with pytest.raises(AssertionError, match="not host-free"), assert_host_free(*[stream] if named else []):
        gpu.launch(stream, lambda: None)
        WAITS[wait](gpu, stream)
    with assert_host_free(*[stream] if named else []):
        gpu.launch(stream, lambda: None)
        interop.new_stream().synchronize()
    WAITS[wait](gpu, stream)


@pytest.mark.parametrize("wait", WAITS)
def test_not_host_free_by_a_wait_without_interop(gpu, pair, wait):
    stream = interop.new_stream(non_blocking=False)
    with pytest.raises(AssertionError, match="the host waited in the block"), assert_host_free(stream):
        gpu.launch(stream, lambda: None)
        with contextlib.suppress(DeadlockError):
            WAITS[wait](gpu, stream)
    with assert_host_free(pair[0]), gate(pair[1]), contextlib.suppress(DeadlockError):
        pair[1].synchronize()  # another gate's

    with assert_host_free(), assert_ordered(stream, pair[0], by="gate"):
        pair[0].wait_stream(stream)  # a proof is no wait


def in_a_thread(wait):
    def work():
        with contextlib.suppress(DeadlockError):
            wait()

    in_thread(work)


def poll(event):
    while not event.query():
        pass


EARLIER_WORK = {
    "an event": lambda event, *_: event.synchronize(),
    "an event, with a time": lambda event, *_: event.synchronize(timeout=5),
    "an event, asked until it is done": lambda event, *_: poll(event),
    "in a thread": lambda event, *_: in_a_thread(event.synchronize),
    "a stream, in a thread": lambda _, stream, __: in_a_thread(stream.synchronize),
    "the device, in a thread": lambda _, __, gpu: in_a_thread(gpu.synchronize),
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("wait", EARLIER_WORK)
def test_not_host_free_though_no_gate_is_waited_for(gpu, wait, named):
    stream = interop.new_stream()
    gpu.launch(stream, lambda: None)
    event = stream.record_event()
    with (
        pytest.raises(
            AssertionError, match=r"the host waited in the block for pending work:\n  test_testing.py:\d+: wai"
        ),
        assert_host_free(*[stream] if named else []),
    ):
        EARLIER_WORK[wait](event, stream, gpu)


@pytest.mark.parametrize("named", [True, False])
def test_a_wait_for_finished_work_and_a_single_query_are_host_free(gpu, named):
    stream = interop.new_stream()
    gpu.launch(stream, lambda: None)
    event = stream.record_event()
    with assert_host_free(*[stream] if named else []):
        assert not event.query()
    stream.synchronize()
    with assert_host_free(*[stream] if named else []):
        assert event.query()
        event.synchronize()
        in_a_thread(event.synchronize)


def test_without_named_streams_all_streams_count(gpu, pair):
    stream, other = pair
    gpu.launch(other, lambda: None)
    with assert_host_free(stream):
        other.synchronize()
    gpu.launch(other, lambda: None)
    with pytest.raises(AssertionError, match="waited for stream 2"), assert_host_free():
        other.synchronize()


def test_the_legacy_stream_stands_for_the_blocking_ones(gpu):
    blocking, exempt = (interop.new_stream(non_blocking=kind) for kind in (False, True))
    for stream in (blocking, exempt):
        gpu.launch(stream, lambda: None)
    with assert_host_free(1):
        exempt.synchronize()
    with pytest.raises(AssertionError, match="not host-free"), assert_host_free(1):
        blocking.synchronize()


def test_a_thread_that_was_there_before_may_wait(gpu, pair):
    stream, _ = pair
    begin, ended = threading.Event(), threading.Event()

    def work():
        begin.wait(30)
        with contextlib.suppress(DeadlockError):
            stream.synchronize()
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    with assert_host_free(stream):
        begin.set()
        assert ended.wait(30)
    thread.join()


def test_current_streams_are_held_by_default(gpu, registry, monkeypatch):
    import sys
    import types

    from tests.core.test_current import StandIn

    monkeypatch.setitem(sys.modules, "alpha", types.ModuleType("alpha"))
    library = StandIn("alpha", [])
    interop.register("alpha", library)
    stream, other = interop.new_stream(), interop.new_stream()
    library.state.stream = library.make_stream(stream.to("alpha"))
    with pytest.raises(AssertionError, match="not host-free"), assert_host_free():
        stream.record_event().synchronize()
    with assert_host_free():
        other.record_event().synchronize()
