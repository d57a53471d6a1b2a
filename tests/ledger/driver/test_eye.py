"""What the driver's eye finds in recorded calls: twelve bugs and more, each with the program that is right."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop._order.findings import Kind
from interop.ledger.driver.calls import Call
from interop.ledger.driver.eye import Eye
from tests.ledger.driver.programs import LEGACY, PER_THREAD, Kernels, Program

BUGS = {}


def bug(what="race"):
    """A program with a bug, and without it: the function gets the program and whether it is right."""

    def add(function):
        BUGS[function.__name__] = function, what
        return function

    return add


@bug()
def a_kernel_reads_what_another_stream_writes(p, right):
    s, t, x = p.stream("s"), p.stream("t"), p.array()
    p.kernel(s, "w_fill", x)
    if right:
        p.order(s, t)
    p.kernel(t, "r_sum", x)


@bug()
def a_kernel_writes_what_another_stream_still_reads(p, right):
    s, t, x = p.stream("s"), p.stream("t"), p.array()
    p.kernel(s, "r_sum", x)
    if right:
        p.order(s, t)
    p.kernel(t, "w_fill", x)


@bug()
def a_copy_to_the_device_is_used_too_early(p, right):
    s, t, x = p.stream("s"), p.stream("t"), p.array()
    p.call("host alloc", "cuMemHostAlloc", "pinned = 1", a=0x10000, c=4096)
    p.copy(s, x, 0x10000, name="cuMemcpyHtoDAsync_v2")
    if right:
        p.sync(s)
    p.kernel(t, "r_sum", x)


@bug()
def a_copy_to_the_host_is_too_early(p, right):
    s, t, x = p.stream("s"), p.stream("t"), p.array()
    p.kernel(s, "w_fill", x)
    if right:
        p.order(s, t)
    p.copy(t, 0x10000, x, name="cuMemcpyDtoHAsync_v2")


@bug()
def pinned_memory_is_filled_again_too_early(p, right):
    s, t, x, y = p.stream("s"), p.stream("t"), p.array(), p.array("y")
    p.call("host alloc", "cuMemHostAlloc", "pinned = 1", a=0x10000, c=4096)
    p.copy(s, x, 0x10000, name="cuMemcpyHtoDAsync_v2")
    if right:
        p.order(s, t)
    p.copy(t, 0x10000, y, name="cuMemcpyDtoHAsync_v2")


@bug()
def the_event_is_recorded_too_early(p, right):
    s, t, x, e = p.stream("s"), p.stream("t"), p.array(), p.event()
    if not right:
        p.record(s, e)
    p.kernel(s, "w_fill", x)
    if right:
        p.record(s, e)
    p.wait(t, e)
    p.kernel(t, "r_sum", x)


@bug()
def the_event_was_never_recorded(p, right):
    s, t, x, e, other = p.stream("s"), p.stream("t"), p.array(), p.event(), p.event()
    p.kernel(s, "w_fill", x)
    p.record(s, e)
    p.wait(t, e if right else other)
    p.kernel(t, "r_sum", x)


@bug()
def the_event_stands_for_another_context(p, right):
    s, t, x, e = p.stream("s"), p.stream("t"), p.array(), 0xE0
    p.call("event made", "cuEventCreate", a=e, context=7 if right else 8)
    p.kernel(s, "w_fill", x)
    p.call("unseen", "cuCtxRecordEvent", a=e, context=8)
    p.wait(t, e)
    p.kernel(t, "r_sum", x)


@bug()
def another_stream_waits(p, right):
    s, t, u, x = p.stream("s"), p.stream("t"), p.stream("u"), p.array()
    p.kernel(s, "w_fill", x)
    p.order(s, t if right else u)
    p.kernel(t, "r_sum", x)


@bug()
def the_host_waits_for_another_stream(p, right):
    s, t, x = p.stream("s"), p.stream("t"), p.array()
    p.kernel(s, "w_fill", x)
    p.sync(s if right else t)
    p.kernel(t, "r_sum", x)


@bug()
def the_default_stream_does_not_wait_for_a_non_blocking_stream(p, right):
    s, x = p.stream("s"), p.array()
    p.kernel(s, "w_fill", x, non_blocking=not right)
    p.kernel(LEGACY, "r_sum", x)


@bug()
def a_set_is_too_early(p, right):
    s, t, x = p.stream("s"), p.stream("t"), p.array()
    p.kernel(s, "r_sum", x)
    if right:
        p.order(s, t)
    p.call("set", "cuMemsetD8Async", stream=t, a=x, c=4096, non_blocking=True)


@bug()
def two_threads_use_their_own_default_streams(p, right):
    x = p.array()
    p.kernel(PER_THREAD, "w_fill", x, thread=1)
    p.kernel(PER_THREAD, "r_sum", x, thread=1 if right else 2)


@bug()
def a_synchronous_copy_between_arrays_is_not_waited_for(p, right):
    s, x, y = p.stream("s"), p.array(), p.array("y")
    p.call("host copy", "cuMemcpyDtoD_v2", stream=LEGACY, a=y, b=x, c=4096, d=4096)
    if right:
        p.sync(LEGACY)
    p.kernel(s, "r_sum", y)


@bug("reuse of freed memory")
def a_pool_gives_memory_that_another_stream_still_reads(p, right):
    s, t, x = p.stream("s"), p.stream("t"), p.array("pool")
    p.pooled(s, x, "x")
    p.kernel(t, "r_sum", x)
    if right:
        p.order(t, s)
    p.call("pool free", "", a=x, stream=s)
    p.pooled(s, x, "y")
    p.kernel(s, "w_fill", x)


@bug("use after free")
def memory_is_freed_while_another_stream_reads_it(p, right):
    s, t = p.stream("s"), p.stream("t")
    x = p.array(stream=s)
    p.order(s, t)
    p.kernel(t, "r_sum", x)
    if right:
        p.order(t, s)
    p.call("free", "cuMemFreeAsync", stream=s, a=x, non_blocking=True)


@bug("use after free")
def memory_is_used_after_it_was_freed(p, right):
    s, x, y = p.stream("s"), p.array(), p.array("y")
    p.call("free", "cuMemFree_v2", a=x)
    p.kernel(s, "r_sum", y if right else x)


@bug("use after free")
def memory_is_used_after_a_pool_has_it_back(p, right):
    s, x = p.stream("s"), p.array("pool")
    p.pooled(s, x, "x")
    p.pooled(s, x + 512, "y")
    p.call("pool free", "", a=x, stream=s)
    p.kernel(s, "r_sum", x + 512 if right else x)


@bug("use before allocation")
def memory_is_used_before_its_stream_has_allocated_it(p, right):
    s, t = p.stream("s"), p.stream("t")
    x = p.array(stream=s)
    if right:
        p.order(s, t)
    p.kernel(t, "w_fill", x)


@bug("work on a destroyed stream")
def a_stream_is_used_after_it_was_destroyed(p, right):
    s, x = p.stream("s"), p.array()
    p.kernel(s, "w_fill", x)
    p.call("stream gone", "cuStreamDestroy_v2", a=s)
    if right:
        p.stream("s", handle=s)
        p.order(LEGACY, s)
        p.call("context done", "cuCtxSynchronize")
    p.kernel(s, "r_sum", x)


@pytest.mark.parametrize("name", BUGS)
def test_the_bug_is_found(name):
    function, what = BUGS[name]
    program = Program()
    function(program, right=False)
    found = list(program.judge().findings)
    assert [(one.what, one.uncertainty) for one in found] == [(what, "")]


@pytest.mark.parametrize("name", BUGS)
def test_its_twin_is_right(name):
    program = Program()
    BUGS[name][0](program, right=True)
    eye = program.judge()
    assert not eye.findings
    assert eye.accesses


# -- what a report says ------------------------------------------------------------------------------------------------


def test_a_report_names_the_lines_the_streams_the_array_and_the_missing_line():
    program = Program()
    a_kernel_reads_what_another_stream_writes(program, right=False)
    [found] = program.judge().findings
    assert str(found) == (
        "race on the memory that /home/me/prog.py:3 allocates for x: nothing orders\n"
        "  kernel 'w_fill' on s (/home/me/prog.py:4), which writes it, before\n"
        "  kernel 'r_sum' on t (/home/me/prog.py:5), which reads it.\n"
        "  Order them: interop.as_stream(t).wait_stream(interop.as_stream(s))"
    )


def test_names_of_interops_come_first():
    program = Program()
    a_kernel_reads_what_another_stream_writes(program, right=False)
    [found] = program.judge({0x5000: "uploads"}.get).findings
    assert found.earlier.stream == "uploads"


def reported(p, **names):
    [found] = p.judge().findings
    return found


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        ("cupy_fill", "cupy_sum", "t.wait_event(s.record())"),
        ("_ZN2at6native4fillE", "_ZN2at6native3sumE", "t.wait_stream(s)"),
        ("cupy_fill", "_ZN2at6native3sumE", "interop.as_stream(t).wait_stream(interop.as_stream(s))"),
        ("_ZN6cudapy3addE", "_ZN6cudapy3addE", "interop.as_stream(t).wait_stream(interop.as_stream(s))"),
    ],
)
def test_the_missing_line_is_in_the_words_of_the_library(first, second, line):
    p = Program()
    s, t, x = p.stream("s"), p.stream("t"), p.array()
    p.kernel(s, first, x)
    p.kernel(t, second, x)
    assert reported(p).fix == line


@pytest.mark.parametrize(
    ("reader", "line"),
    [
        ("cupy_sum", "interop.as_stream(s).wait_stream(interop.as_stream(t)), before the pool has the memory back"),
        (
            "_ZN2at6native3sumE",
            "s.wait_stream(t), before the pool has the memory back; or array.record_stream(t)",
        ),
    ],
)
def test_the_line_that_keeps_memory_from_the_next_array(reader, line):
    p = Program()
    s, t, x = p.stream("s"), p.stream("t"), p.array("pool")
    p.pooled(s, x, "x")
    p.kernel(t, reader, x)
    p.pooled(s, x, "y")
    p.kernel(s, "_ZN2at6native4fillE", x)
    assert reported(p).fix == line


def test_memory_of_the_host_that_was_freed_may_be_that_of_anything():
    p = Program()
    s, x, host = p.stream(), p.array(), 0x7E0000000000
    p.call("host alloc", "cuMemHostAlloc", a=host, c=4096)
    p.call("host free", "cuMemFreeHost", a=host)
    p.copy(s, x, host, name="cuMemcpyHtoDAsync_v2")
    p.copy(s, x, host)
    assert not p.judge().findings


def test_streams_that_one_line_makes_go_by_their_addresses():
    p = Program()
    s = p.stream("s")
    t = 0x9900
    p.calls.append(p.calls[-1]._replace(a=t, number=2))
    x = p.array()
    p.kernel(s, "w_fill", x)
    p.kernel(t, "r_sum", x)
    found = reported(p)
    assert (found.earlier.stream, found.later.stream) == ("stream 0x5000", "stream 0x9900")
    assert found.fix == "interop.as_stream(0x9900).wait_stream(interop.as_stream(0x5000))"


def test_a_report_of_what_is_gone_says_so():
    p = Program()
    a_stream_is_used_after_it_was_destroyed(p, right=False)
    assert str(reported(p)) == (
        "work on a destroyed stream: s\n"
        "  cuStreamDestroy_v2 on the host (/home/me/prog.py:4), which destroys it, comes before\n"
        "  kernel 'r_sum' on s (/home/me/prog.py:5).\n"
        "  Mend it: destroy the stream after its last use"
    )
    p = Program()
    memory_is_used_after_it_was_freed(p, right=False)
    assert str(reported(p)).startswith(
        "use after free: the memory that /home/me/prog.py:2 allocates for x\n  cuMemFree_v2"
    )


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("_ZN2at6native13reduce_kernelILi512ELi1EEEvT1_", "at::native::reduce_kernel"),
        ("_Z3addPfi", "add"),
        ("_ZN6cudapy8__main__3addB2v1B96cw51cXTLSUwv1sE5ArrayI", "cudapy::__main__::add"),
        ("cupy_add", "cupy_add"),
        ("", "without a name"),
    ],
)
def test_kernels_go_by_the_names_of_their_sources(symbol, name):
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.kernel(s, "w_fill", x)
    p.kernel(t, symbol, x)
    assert reported(p).later.by == f"kernel {name!r}"


# -- what is not certain -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbol", "why"),
    [("other", "its machine code was not seen"), ("m_x", "a store whose address was loaded from memory")],
)
def test_a_kernel_that_could_not_be_followed_may_race(symbol, why):
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.kernel(s, symbol, x)
    p.kernel(t, "r_sum", x)
    p.kernel(t, "w_fill", x)
    eye = p.judge()
    assert [one.uncertainty.startswith(f"kernel {symbol!r} may write it: {why}") for one in eye.findings] == [
        True,
        True,
    ]
    assert eye.blind == [f"kernels that may write to what they are given: {symbol!r} ({why})"]


def test_a_kernel_that_does_not_use_a_word_as_an_address_does_not_touch_it():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.kernel(s, "-_x", x)
    p.kernel(t, "w_fill", x)
    assert not p.judge().findings


def test_addresses_alone_that_differ_may_race_and_equal_ones_do():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.kernel(s, "w_fill", x)
    p.kernel(t, "r_sum", x + 64)
    p.kernel(t, "r_sum", x)
    assert [one.uncertainty for one in p.judge().findings] == [
        "nothing says whether one of them writes, or whether the two arrays have a byte in common",
        "",
    ]


def test_an_array_that_streams_work_on_in_parts_is_no_race_for_sure():
    """As in NVIDIA's example of copies that overlap with kernels: the kernel gets the whole array, and an offset."""
    p = Program()
    streams, x, pinned = [p.stream(), p.stream()], p.array(size=1 << 20), 1 << 24
    p.call("host alloc", "cuMemHostAlloc", a=pinned, c=1 << 20)
    for at, s in zip((0, 1 << 19), streams, strict=True):
        p.copy(s, x + at, pinned + at, 1 << 19, name="cuMemcpyHtoDAsync_v2")
        p.kernel(s, "w_fill", x)
        p.kernel(s, "r_sum", x)
        p.copy(s, pinned + at, x + at, 1 << 19, name="cuMemcpyDtoHAsync_v2")
    found = p.judge().findings
    assert found
    assert all(one.uncertainty for one in found)


def test_a_copy_of_a_part_is_no_race_for_sure_and_one_of_all_is():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array(size=1 << 20)
    p.kernel(s, "r_sum", x)
    p.copy(t, x, 0x10000, 1 << 19, name="cuMemcpyHtoDAsync_v2")
    p.copy(t, x, 0x10000, 1 << 20, name="cuMemcpyHtoDAsync_v2")
    assert [bool(one.uncertainty) for one in p.judge().findings] == [True, False]


def test_arrays_of_one_block_that_a_pool_cut_do_not_race():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.pooled(s, x)
    p.pooled(t, x + 512)
    p.kernel(s, "w_fill", x)
    p.kernel(t, "r_sum", x + 512)
    assert not p.judge().findings


def test_what_was_lost_may_have_ordered_everything():
    p = Program()
    a_kernel_reads_what_another_stream_writes(p, right=False)
    eye = p.judge()
    eye.lose(3)
    assert [one.uncertainty for one in eye.findings] == ["3 records of calls found no room and were lost"]
    q = Program()
    q.kernel(0x5000, "w_fill", 0x7F0000000000)
    eye.take(q.calls)
    assert len(eye.findings) == 2
    assert all(one.uncertainty for one in eye.findings)
    assert eye.blind == ["3 records of calls found no room and were lost: nothing is certain"]


@pytest.mark.parametrize("kind", ["host function", "value wait"])
def test_work_behind_a_wait_that_is_not_seen_may_race_with_what_comes_later(kind):
    def program(*, synchronizes):
        p = Program()
        s, t, u, x = p.stream("s"), p.stream("t"), p.stream("u"), p.array()
        p.call(kind, stream=s, a=0x10000, non_blocking=True)
        p.order(s, u)
        if synchronizes:
            p.sync(s)
        p.kernel(u, "w_fill", x)
        p.kernel(t, "r_sum", x)  # which something may wait for that opens the gate
        eye = p.judge()
        assert "waits of streams for" in eye.blind[0]
        return [bool(one.uncertainty) for one in eye.findings]

    assert program(synchronizes=False) == [True]
    assert program(synchronizes=True) == [False]


def test_work_before_a_wait_that_is_not_seen_may_come_before_what_is_behind_it():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.kernel(t, "w_fill", x)
    p.call("value wait", stream=s, a=0x10000, non_blocking=True)
    p.kernel(s, "r_sum", x)
    assert [bool(one.uncertainty) for one in p.judge().findings] == [True]


def test_an_event_whose_record_was_not_seen_may_order():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.kernel(s, "w_fill", x)
    p.wait(t, 0xE0)
    p.kernel(t, "r_sum", x)
    assert [one.uncertainty for one in p.judge().findings] == ["it has waited for an event whose record was not seen"]


@pytest.mark.parametrize("name", ["cuCtxRecordEvent", "cuCtxWaitEvent"])
def test_what_orders_a_whole_context_may_order(name):
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.kernel(s, "w_fill", x)
    p.call("unseen", name, a=0xE0)
    p.wait(t, 0xE0)
    p.kernel(t, "r_sum", x)
    eye = p.judge()
    assert [bool(one.uncertainty) for one in eye.findings] == [True]
    assert eye.blind == [f"1 calls of {name}: what it touches or orders is not followed"]


def test_an_event_of_another_process_may_order():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.call("event made", "cuIpcOpenEventHandle", a=0xE0)
    p.kernel(s, "w_fill", x)
    p.wait(t, 0xE0)
    p.kernel(t, "r_sum", x)
    assert [bool(one.uncertainty) for one in p.judge().findings] == [True]


def test_a_destroyed_event_orders_no_more_but_what_waited_for_it_still_does():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.kernel(s, "w_fill", x)
    e = p.event()
    p.record(s, e)
    p.wait(t, e)
    p.call("event gone", a=e)
    p.kernel(t, "r_sum", x)
    assert not p.judge().findings
    p.kernel(s, "w_fill", x)
    p.call("event made", a=e)
    p.wait(t, e)
    p.kernel(t, "r_sum", x)
    assert [one.uncertainty for one in p.judge().findings] == [""] * 2  # the second write, and the read before it


def test_captured_work_is_none_yet():
    p = Program()
    s, t, x, e = p.stream(), p.stream(), p.array(), p.event()
    p.call("capture begins", stream=s, non_blocking=True)
    p.kernel(s, "w_fill", x, capturing=True)
    p.record(s, e, capturing=True)
    p.wait(t, e)  # this makes t capture too
    p.kernel(t, "w_fill", x, capturing=True)
    p.call("capture ends", stream=s, capturing=True)
    p.kernel(t, "r_sum", x)
    eye = p.judge()
    assert (eye.findings, eye.captured, eye.accesses) == ({}, 4, 1)


def test_a_graph_is_work_of_its_stream_that_is_not_seen():
    p = Program()
    s, t, x, e = p.stream(), p.stream(), p.array(), p.event()
    p.record(s, e, capturing=True, b=1)
    p.kernel(s, "w_fill", x)
    p.call("graph launch", stream=s, a=0x77, non_blocking=True)
    p.wait(t, e)  # which the graph has recorded
    p.kernel(t, "r_sum", x)
    eye = p.judge()
    assert [bool(one.uncertainty) for one in eye.findings] == [True]
    assert eye.blind == ["1 launches of graphs: what their kernels do, and which events they record, is not seen"]


def test_a_graph_that_waits_may_order():
    p = Program()
    s, t, x, e = p.stream(), p.stream(), p.array(), p.event()
    p.wait(s, e, capturing=True, b=1)
    p.kernel(t, "w_fill", x)
    p.call("graph launch", stream=s, a=0x77, non_blocking=True)
    p.kernel(s, "r_sum", x)
    assert [bool(one.uncertainty) for one in p.judge().findings] == [True]


def test_what_another_thread_has_waited_for_may_have_been_told():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.kernel(s, "w_fill", x)
    p.kernel(t, "r_sum", x + 8192, thread=2)
    p.sync(s, thread=2)
    p.kernel(t, "r_sum", x)
    assert [bool(one.uncertainty) for one in p.judge().findings] == [True]


def test_what_a_thread_was_told_it_knows():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.kernel(s, "w_fill", x)
    p.kernel(t, "r_sum", x + 8192, thread=2)
    p.sync(s, thread=2)
    p.call("array", "", a=2)
    p.kernel(t, "r_sum", x)
    assert not p.judge().findings


def test_a_free_that_waits_may_order():
    p = Program()
    s, t, x, y = p.stream(), p.stream(), p.array(), p.array("y")
    p.kernel(s, "w_fill", x)
    p.call("free", "cuMemFree_v2", a=y)
    p.kernel(t, "r_sum", x)
    assert [bool(one.uncertainty) for one in p.judge().findings] == [True]


def test_a_pool_that_another_thread_may_use_leaves_doubt():
    p = Program()
    s, x = p.stream(), p.array("pool")
    p.pooled(s, x)
    p.kernel(s, "r_sum", x, thread=2)
    p.call("pool free", "", a=x, stream=s)
    p.kernel(s, "r_sum", x)
    assert [(one.what, bool(one.uncertainty)) for one in p.judge().findings] == [("use after free", True)]


@pytest.mark.parametrize(("later", "found"), [(50_000, 0), (200_000, 1)])
def test_a_pool_that_tells_the_time_only_is_believed_after_a_while(later, found):
    p = Program()
    s, x = p.stream(), p.array("pool")
    p.call("pool alloc", "", a=x, c=512, stream=s, thread=0, context=0, time=1_000_000)
    p.call("pool free", "", a=x, stream=s, thread=0, context=0, time=2_000_000)
    p.kernel(s, "r_sum", x, time=2_000_000 + later)
    assert [(one.what, bool(one.uncertainty)) for one in p.judge().findings] == [("use after free", True)] * found


def test_what_a_library_tells_is_of_the_context_that_is_in_use():
    p = Program()
    x = p.array("pool")
    p.call("pool alloc", "", a=x, c=512, stream=LEGACY, thread=0, context=0)
    p.call("array", "", stream=LEGACY, a=x, c=512, d=Kind.WRITE, context=0)
    p.kernel(LEGACY, "r_sum", x)
    assert not p.judge().findings


def test_what_the_program_declares_is_an_access():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array()
    p.call("array", "", stream=s, a=x, c=100, d=Kind.WRITE, non_blocking=True)
    p.kernel(t, "r_sum", x)
    assert [one.earlier.by for one in p.judge().findings] == ["the program's own work"]


def test_memory_that_is_not_known_is_judged_where_a_call_says_its_size():
    p = Program()
    s, t = p.stream(), p.stream()
    p.call("set", "cuMemsetD8Async", stream=s, a=0x7F1234000000, c=64, non_blocking=True)
    p.copy(t, 0x7F1234000020, 0x7F1234100000, 64, name="cuMemcpyDtoDAsync_v2")
    assert [one.later.array for one in p.judge().findings] == ["the memory at 0x7f1234000020"]


def test_memory_whose_line_is_not_known_is_called_by_the_line_that_uses_it_first():
    p = Program()
    s, t, x = p.stream(), p.stream(), p.array("pool")
    p.call("pool alloc", "", a=x, c=512, stream=s, place=())
    p.kernel(s, "w_fill", x)
    p.kernel(t, "r_sum", x)
    assert reported(p).later.array == "the memory that /home/me/prog.py:5 uses first"
    p.calls = [call._replace(place=()) for call in p.calls]
    assert reported(p).later.array == f"the memory at {x:#x}"


def test_memory_from_before_the_eye_is_asked_for_once():
    p = Program()
    s, t = p.stream(), p.stream()
    x = 0x7F5500000000
    p.kernel(s, "w_fill", x + 64)
    p.kernel(t, "rr_sum", 0x1234, x + 64)
    p.kernel(t, "r_sum", 0x7E0000000000)
    p.kernel(t, "w_fill", 0x7E0000000000)
    p.copy(t, x, 0x7E0000000000)
    asked = []

    def block_of(address):
        asked.append(address)
        return (x, x + 4096) if x <= address < x + 4096 else None

    eye = Eye(Kernels(), block_of=block_of)
    eye.take(p.calls)
    label = "the memory that /home/me/prog.py:3 uses first"
    assert [one.later.array for one in eye.findings] == [f"{label}, from byte 64 on", label]
    assert asked == [x + 64, 0x7E0000000000]


@pytest.mark.parametrize(
    ("kind", "more", "sentence"),
    [
        ("free", {"name": "cuMemFree_v2", "a": 4096, "stream": 0},
         "1 blocks of memory, older than the record: what had touched them before their end"),
        ("launch", {"walked": False}, "1 launches whose parameters could not be read"),
        ("launch", {"b": 1}, "1 launches with attributes: one lets a kernel start before the work before it has ended"),
        ("unseen", {"name": "cuMemcpy3D"}, "1 calls of cuMemcpy3D: what it touches or orders is not followed"),
        ("alloc", {"name": "cuMemAllocManaged", "a": 4096, "c": 8, "stream": 0},
         "1 allocations of memory that the host uses too: what the host does with it is not seen"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_said(kind, more, sentence):
    p = Program()
    p.call(kind, **({"stream": p.stream()} | more))
    assert p.judge().blind == [sentence]


# -- random programs ---------------------------------------------------------------------------------------------------

STREAMS, EVENTS, ARRAYS = range(3), range(2), range(2)
steps = st.one_of(
    st.tuples(st.just("work"), st.sampled_from(STREAMS), st.sampled_from(ARRAYS), st.sampled_from("rw")),
    st.tuples(st.just("record"), st.sampled_from(STREAMS), st.sampled_from(EVENTS)),
    st.tuples(st.just("wait"), st.sampled_from(STREAMS), st.sampled_from(EVENTS)),
    st.tuples(st.just("sync"), st.sampled_from(STREAMS)),
    st.tuples(st.just("sync event"), st.sampled_from(EVENTS)),
    st.tuples(st.just("sync all")),
)


class Model:
    """The order of a program as edges from each step to those that it comes directly after: nothing of the clocks."""

    def __init__(self, kinds):
        self.kinds = kinds
        self.after = {}
        self.last = dict.fromkeys(STREAMS)  # the last step of each stream
        self.latest = {}  # of each event: the last record
        self.host = []  # the steps that the host has waited for
        self.works = []

    def lasts(self, streams):
        return [self.last[one] for one in streams if self.last[one] is not None]

    def before(self, stream):
        other = {"legacy": "blocking", "blocking": "legacy"}.get(self.kinds[stream])
        return [*self.host, *self.lasts([stream]), *self.lasts(one for one in STREAMS if self.kinds[one] == other)]

    def step(self, number, what, *rest):
        self.after[number] = []
        getattr(self, what.replace(" ", "_"))(number, *rest)

    def work(self, number, stream, array, kind):
        self.after[number] = self.before(stream)
        self.last[stream] = number
        self.works.append((number, array, kind))

    def record(self, number, stream, event):
        self.after[number] = self.before(stream)
        self.latest[event] = number
        if self.kinds[stream] == "legacy":  # it counts as work there
            self.last[stream] = number

    def wait(self, number, stream, event):
        if event in self.latest:
            own = self.before(stream) if self.kinds[stream] == "legacy" else self.lasts([stream])
            self.after[number] = [*own, self.latest[event]]
            self.last[stream] = number

    def sync(self, number, stream):
        self.after[number] = self.before(stream) if self.kinds[stream] == "legacy" else self.lasts([stream])
        self.host.append(number)

    def sync_event(self, number, event):
        self.after[number] = [self.latest[event]] if event in self.latest else []
        self.host.append(number)

    def sync_all(self, number):
        self.after[number] = self.lasts(STREAMS)
        self.host.append(number)

    def all_before(self, number):
        found, pending = set(), [number]
        while pending:
            new = [one for one in self.after[pending.pop()] if one not in found]
            found.update(new)
            pending += new
        return found

    def races(self):
        return {
            (first, second)
            for second, array, kind in self.works
            for first, other, before in self.works
            if first < second and other == array and "w" in (kind, before) and first not in self.all_before(second)
        }


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.lists(steps, max_size=16),
    st.sampled_from([("free", "free", "free"), ("free", "blocking", "legacy"), ("blocking", "blocking", "legacy")]),
)
def test_random_programs_are_judged_as_every_edge_of_their_order_says(program, kinds):
    p = Program()
    handles = [LEGACY if kind == "legacy" else p.stream() for kind in kinds]
    arrays = [p.array() for _ in ARRAYS]
    events = [p.event() for _ in EVENTS]
    lines, model = {}, Model(kinds)
    for number, (what, *rest) in enumerate(program):
        model.step(number, what, *rest)
        free = {"non_blocking": kinds[rest[0]] == "free"} if what in ("work", "record", "wait", "sync") else {}
        if what == "work":
            p.kernel(handles[rest[0]], f"{rest[2]}_kernel{number}", arrays[rest[1]], **free)
        elif what == "record":
            p.call("record", a=events[rest[1]], stream=handles[rest[0]], **free)
        elif what == "wait":
            p.call("wait", a=events[rest[1]], stream=handles[rest[0]], **free)
        elif what == "sync":
            p.call("stream done", stream=handles[rest[0]], **free)
        elif what == "sync event":
            p.call("event done", a=events[rest[0]])
        else:
            p.call("context done")
        lines[f"/home/me/prog.py:{len(p.source)}"] = number
    eye = p.judge()
    assert not [one for one in eye.findings if one.uncertainty]
    found = {(lines[one.earlier.where], lines[one.later.where]) for one in eye.findings}
    expected = model.races()
    # One reported race may stand for earlier ones. But each is real, and where a work races, that is reported.
    assert found <= expected
    assert {second for _, second in found} == {second for _, second in expected}


# -- long programs -----------------------------------------------------------------------------------------------------


def long_program(launches):
    p = Program()
    s, t, e = p.stream("s"), p.stream("t"), p.event()
    arrays = [p.array(f"x{i}") for i in range(8)]
    yield from p.calls
    p.calls.clear()
    place = Program()
    place.call("launch")
    [call] = place.calls
    number = 100
    for step in range(launches // 4):
        a, b, c = (arrays[(step + i) % 8] for i in range(3))
        for stream, symbol, values in (
            (s, "rw_f", (a, b)),
            (s, "rrw_g", (a, b, c)),
            (t, "rw_h", (c, b)),
            (t, "rw_k", (c, a)),
        ):
            number += 1
            words = tuple((8 * at, value) for at, value in enumerate(values))
            yield call._replace(number=number, stream=stream, symbol=symbol, words=words, non_blocking=True)
            if symbol in ("rrw_g", "rw_k"):
                other = t if stream == s else s
                yield Call(number, "record", thread=1, context=7, stream=stream, a=e, non_blocking=True)
                yield Call(number, "wait", thread=1, context=7, stream=other, a=e, non_blocking=True)


def test_a_long_program_is_judged_in_little_memory():
    eye = Eye(Kernels())
    eye.take(long_program(20_000))
    assert not eye.findings
    assert eye.accesses == 45_000
    assert len(eye._known) <= 4 * 8
    assert sum(len(piece.live) for piece in eye._history.memory._addressed.pieces) < 100
