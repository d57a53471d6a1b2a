"""A context manager of interop that is never entered warns. One that is asserted instead of entered raises."""

import contextlib
import gc
import linecache

import pytest

import interop
from interop._safety.blocks import block
from interop.ordering import check
from interop.testing import assert_host_free, assert_not_ordered, assert_ordered, is_ordered
from tests.threads import in_thread


def span_of(stream, _):
    """A span, of a timeline that lives as long as the span."""
    return interop.Timeline().__enter__().span("work", stream)


class Empty:
    """An array without elements, so it can be handed over on the simulator."""

    __cuda_array_interface__ = {"shape": (0,), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


BLOCKS = {
    "is_ordered": is_ordered,
    "assert_ordered": assert_ordered,
    "assert_not_ordered": assert_not_ordered,
    "assert_host_free": lambda producer, _: assert_host_free(producer),
    "use": lambda producer, _: interop.use(producer),
    "check": lambda *_: check(),
    "timeline.span": span_of,
    "borrow": lambda producer, consumer: interop.borrow(Empty(), consumer=consumer, producer=producer),
    "simulate": lambda _, consumer: interop.sim.simulate(1 if isinstance(consumer, interop.ExternalStream) else 0),
}
kinds = pytest.mark.parametrize(("call", "make"), BLOCKS.items(), ids=BLOCKS)


@pytest.fixture
def streams():
    with interop.sim.simulate():
        yield interop.new_stream(), interop.new_stream()


@kinds
def test_a_block_that_is_never_entered_warns(call, make, streams):
    with pytest.warns(RuntimeWarning, match=rf"^{call}\(\.\.\.\) was never entered.* write `with {call}\(") as warned:
        make(*streams)
    (warning,) = warned
    assert warning.filename == __file__
    assert "make(*streams)" in linecache.getline(__file__, warning.lineno)


@kinds
def test_a_block_has_no_truth_value(call, make, streams):
    with pytest.raises(TypeError, match=rf"^{call}\(\.\.\.\) does nothing before it is entered.* write `with {call}\("):
        assert make(*streams)
    with pytest.raises(TypeError):
        assert not make(*streams)


@kinds
def test_an_entered_block_does_not_warn(call, make, streams, recwarn):
    with contextlib.suppress(AssertionError), make(*streams) as entered:
        pass
    if call == "is_ordered":
        assert not entered
    del entered
    gc.collect()
    assert not recwarn.list


@pytest.mark.parametrize("make", [make for call, make in BLOCKS.items() if call not in ("check", "timeline.span")])
def test_a_refused_block_does_not_also_warn(make, streams, recwarn):
    with pytest.raises(ValueError, match=r"stream|devices"), make("no stream", "no stream"):
        pass
    gc.collect()
    assert not recwarn.list


def test_a_block_that_a_thread_enters_does_not_warn(streams, recwarn):
    def work(manager):
        with manager:
            pass

    in_thread(lambda: work(interop.use(streams[0])))
    gc.collect()
    assert not recwarn.list


def test_a_block_is_a_context_manager_of_its_generator(recwarn):
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


def test_the_warning_fails_a_test_if_warnings_are_errors(tmp_path, run_tests):
    done = run_tests(tmp_path, FAILS_UNDER_ERRORS, "-W", "error")
    assert done.returncode == 1
    assert "assert_ordered(...) was never entered" in done.stdout
    assert run_tests(tmp_path, FAILS_UNDER_ERRORS).returncode == 0  # only a warning, as everywhere in Python


# -- verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["capture", "gate"])
def test_an_unread_verdict_warns(by, streams):
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
def test_a_verdict_can_be_read_as_a_bool_or_compared(by, ordered, streams, recwarn):
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


def test_a_verdict_cannot_be_read_inside_its_block(streams):
    with is_ordered(*streams) as verdict:
        assert "none yet" in repr(verdict)
        for ask in (lambda: bool(verdict), lambda: verdict == True, lambda: verdict != True):  # noqa: E712
            with pytest.raises(RuntimeError, match="before the end of the `with` block"):
                ask()


def test_a_block_that_raised_does_not_warn_of_an_unread_verdict(streams, recwarn):
    with pytest.raises(KeyError), is_ordered(*streams):
        raise KeyError
    gc.collect()
    assert not recwarn.list


@pytest.mark.parametrize("by", ["capture", "gate"])
@pytest.mark.parametrize("ask", [is_ordered, assert_ordered, assert_not_ordered])
def test_a_stream_as_both_producer_and_consumer_is_refused(by, ask, streams):
    stream = streams[0]
    same = interop.ExternalStream(stream.cuda_stream)
    for other in (stream, same, stream.cuda_stream):
        with pytest.raises(ValueError, match="the producer and the consumer are one stream"), ask(stream, other, by=by):
            pass
