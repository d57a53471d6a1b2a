"""What is written without ``with``, or asserted instead of entered, says that nothing was done."""

import contextlib
import gc
import linecache
import threading

import pytest

import interop
from interop._safety.blocks import block
from interop.ordering import check
from interop.testing import assert_host_free, assert_not_ordered, assert_ordered, is_ordered


def span_of(stream, _):
    """A span of a timeline that goes on for as long as the span."""
    return interop.Timeline().__enter__().span("work", stream)


BLOCKS = {
    "is_ordered": is_ordered,
    "assert_ordered": assert_ordered,
    "assert_not_ordered": assert_not_ordered,
    "assert_host_free": lambda producer, _: assert_host_free(producer),
    "use": lambda producer, _: interop.use(producer),
    "check": lambda *_: check(),
    "timeline.span": span_of,
    "borrow": lambda producer, consumer: interop.borrow(consumer=consumer, producer=producer),
    "simulate": lambda _, consumer: interop.sim.simulate(1 if isinstance(consumer, interop.ExternalStream) else 0),
}
kinds = pytest.mark.parametrize(("call", "make"), BLOCKS.items(), ids=BLOCKS)


@pytest.fixture
def streams():
    with interop.sim.simulate():
        yield interop.new_stream(), interop.new_stream()


@kinds
def test_one_that_is_not_entered_warns_where_it_goes(call, make, streams):
    with pytest.warns(RuntimeWarning, match=rf"^{call}\(\.\.\.\) was never entered.* write `with {call}\(") as warned:
        make(*streams)
    (warning,) = warned
    assert warning.filename == __file__
    assert "make(*streams)" in linecache.getline(__file__, warning.lineno)


@kinds
def test_one_that_is_not_entered_is_not_true(call, make, streams):
    with pytest.raises(TypeError, match=rf"^{call}\(\.\.\.\) does nothing before it is entered.* write `with {call}\("):
        assert make(*streams)
    with pytest.raises(TypeError):
        assert not make(*streams)


@kinds
def test_one_that_is_entered_says_nothing(call, make, streams, recwarn):
    with contextlib.suppress(AssertionError), make(*streams) as entered:
        pass
    if call == "is_ordered":
        assert not entered
    del entered
    gc.collect()
    assert not recwarn.list


@pytest.mark.parametrize("make", [make for call, make in BLOCKS.items() if call not in ("check", "timeline.span")])
def test_one_that_was_refused_says_nothing_more(make, streams, recwarn):
    with pytest.raises(ValueError, match=r"stream|devices"), make("no stream", "no stream"):
        pass
    gc.collect()
    assert not recwarn.list


def test_one_that_is_entered_in_a_thread_counts_as_entered(streams, recwarn):
    def work(manager):
        with manager:
            pass

    thread = threading.Thread(target=work, args=[interop.use(streams[0])])
    thread.start()
    thread.join()
    del thread
    gc.collect()
    assert not recwarn.list


def test_what_a_generator_makes_is_used_as_before(recwarn):
    seen = []

    @block
    def around(name, *, swallows):
        """Its text."""
        seen.append(f"in {name}")
        try:
            yield name
        except KeyError:
            if not swallows:
                raise
        seen.append("out")

    assert around.__doc__ == "Its text."
    with around("one", swallows=True) as name:
        assert name == "one"
        raise KeyError
    with pytest.raises(KeyError), around("two", swallows=False):
        raise KeyError
    assert seen == ["in one", "out", "in two"]
    assert not recwarn.list


FAILS_UNDER_ERRORS = """
import interop
from interop.testing import assert_ordered

def test_forgets_the_with(interop_stream_pair, interop_simulated_gpu):
    assert_ordered(*interop_stream_pair)
"""


def test_under_errors_the_test_fails(tmp_path, run_tests):
    done = run_tests(tmp_path, FAILS_UNDER_ERRORS, "-W", "error")
    assert done.returncode == 1
    assert "assert_ordered(...) was never entered" in done.stdout
    assert run_tests(tmp_path, FAILS_UNDER_ERRORS).returncode == 0  # only a warning, as everywhere in Python


# -- verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["capture", "gate"])
def test_a_verdict_that_nobody_reads_warns(by, streams):
    producer, consumer = streams

    def ask():
        with is_ordered(producer, consumer, by=by):
            consumer.wait_stream(producer)

    line = ask.__code__.co_firstlineno + 1
    with pytest.warns(RuntimeWarning, match="^nobody has read the verdict: .* `assert verdict` after it") as warned:
        ask()
    (warning,) = warned
    assert (warning.filename, warning.lineno) == (__file__, line)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("by", ["capture", "gate"])
def test_a_verdict_is_what_it_is_equal_to(by, ordered, streams, recwarn):
    producer, consumer = streams
    with is_ordered(producer, consumer, by=by) as verdict:
        if ordered:
            consumer.wait_stream(producer)
    assert bool(verdict) is ordered
    assert verdict == ordered
    assert verdict != (not ordered)
    assert repr(verdict) == f"<interop.testing.Verdict: {'ordered' if ordered else 'not ordered'}>"
    del verdict
    gc.collect()
    assert not recwarn.list


def test_there_is_no_verdict_before_the_block_has_ended(streams):
    with is_ordered(*streams) as verdict:
        assert "none yet" in repr(verdict)
        for ask in (lambda: bool(verdict), lambda: verdict == True, lambda: verdict != True):  # noqa: E712
            with pytest.raises(RuntimeError, match="before the end of the `with` block"):
                ask()


def test_a_block_that_raised_has_no_verdict_to_read(streams, recwarn):
    with pytest.raises(KeyError), is_ordered(*streams):
        raise KeyError
    gc.collect()
    assert not recwarn.list


@pytest.mark.parametrize("by", ["capture", "gate"])
@pytest.mark.parametrize("ask", [is_ordered, assert_ordered, assert_not_ordered])
def test_one_stream_is_not_two(by, ask, streams):
    stream = streams[0]
    same = interop.ExternalStream(stream.cuda_stream)
    for other in (stream, same, stream.cuda_stream):
        with pytest.raises(ValueError, match="the producer and the consumer are one stream"), ask(stream, other, by=by):
            pass
