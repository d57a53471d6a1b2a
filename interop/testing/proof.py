"""Proofs of order: by stream capture, which runs nothing, or behind a gate, where capture cannot serve."""

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Literal

from interop import _cuda
from interop._core import captures
from interop._safety.blocks import Block, block
from interop._show.callsite import where
from interop._show.text import described
from interop.errors import CaptureError, CudaError, NotSupportedError
from interop.event import Event
from interop.stream import ExternalStream, as_stream
from interop.testing import device
from interop.testing.gate import gate
from interop.testing.witness import Earlier, Witness

By = Literal["capture", "gate"]

_UNJOINED: Final = 904
_ASK_THE_GATE: Final = 'Ask a gate instead, which lets the code really run: by="gate"'


class Verdict:
    """The answer of :func:`is_ordered`, as a truth value, once its block has ended.

    One that goes without that anybody has read it warns: a test that has asked has also to assert.
    """

    def __init__(self, place: str) -> None:
        """Know nothing yet; *place* is where the block begins, as ``file:line``."""
        self._ordered: bool | None = None
        self._is_read = False
        self._place = place

    def __bool__(self) -> bool:
        """Whether the consumer's work comes after the producer's.

        Raises:
            RuntimeError: the block has not ended, or there is no verdict.
        """
        self._is_read = True
        if self._ordered is None:
            message = "the verdict is there when the `with` block has ended"
            raise RuntimeError(message)
        return self._ordered

    def __eq__(self, other: object) -> bool:
        """Whether the verdict is *other*, a bool."""
        return bool(self) == other

    def __hash__(self) -> int:
        """By identity: what it is equal to changes when the block ends."""
        return id(self)

    def __repr__(self) -> str:
        """What it is so far."""
        said = "none yet" if self._ordered is None else "ordered" if self._ordered else "not ordered"
        return f"<interop.testing.Verdict: {said}>"

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._ordered is not None and not self._is_read and not _finalizing():
            file, _, line = self._place.rpartition(":")
            message = (
                "nobody has read the verdict: write `with is_ordered(...) as verdict:`, and `assert verdict` after it"
            )
            warnings.warn_explicit(message, RuntimeWarning, file or self._place, int(line) if file else 0)


@block
def is_ordered(
    producer: object, consumer: object, *, by: By = "capture", timeout: float = 10.0, patience: float = 0.1
) -> Iterator[Verdict]:
    """Find out whether the block makes *consumer*'s later work wait for *producer*'s work: ``bool(verdict)`` after it.

    The producer's work is what was submitted to it *before the block*, and the order is one that the block makes, by
    events that are recorded in it. Two mistakes are not found:

    - The block records an event, then submits work, and the consumer waits for the event: that work does not come
      before the consumer's, and is not asked about. :func:`interop.ordering.check` knows of each piece of work.
    - In the block, a library makes the consumer wait for an event that was recorded before it, without interop. It may
      stand for all of the producer's work, and the answer is "not ordered". Where interop sees such a wait, there is no
      verdict instead.

    What the host waits for makes no order here: a host that waits in the block for an event from before it has ordered
    all that it submits later, and the answer is "not ordered".

    *By capture*, the producer is captured into a graph during the block, which is then thrown away: what the block
    submits to it, or to streams that wait for it, never runs. The consumer depends on the producer if, and only if, the
    capture has spread to it. No time is involved.

    *By gate*, the block really runs, while the producer is held shut by a gate; after it, the consumer is asked, by an
    event, whether it is held up too. That also serves the legacy default stream, and code that cannot be captured, such
    as work on default streams, queries, allocations and synchronising with *other* streams. On the simulator the answer
    is certain. On a GPU "ordered" means that the consumer did not get through in *patience* seconds: work in the block
    that takes longer, or a wait in it for something else that is late, such as another gate, hides a missing wait; and
    a consumer that is held up by what was there before the block gives no verdict. A block that waits for the producer,
    or in which a kernel is launched for the first time, does not get through before *timeout*, and there is no verdict
    then. (On the simulator, a block that waits for the producer gets a :class:`~interop.errors.DeadlockError`.)

    Args:
        producer: anything that :func:`interop.as_stream` takes; by capture, except the legacy default stream.
        consumer: likewise; on any device.
        by: how to find out.
        timeout: for the gate, as of :func:`interop.testing.gate`.
        patience: for the gate, on a GPU: seconds that the consumer is given to show that it is not held up.

    Raises:
        NotSupportedError: one of the streams is the legacy default stream, which CUDA cannot capture.
        CaptureError: the block did what a capture does not allow, such as a synchronise, so there is no proof; or one
            of the streams is captured already.
        AssertionError: there is no verdict: the gate had to open itself; something else held the consumer up from
            before the block; or the consumer waits, in the block, for an event from before it.
        ValueError: the two are one stream, whose work is ordered anyway; *by* is neither; or *timeout* or *patience*
            is no such time.
    """
    if by not in ("capture", "gate"):
        message = f'by is "capture" or "gate"; got {by!r}'
        raise ValueError(message)
    if isinstance(patience, bool) or not isinstance(patience, int | float) or not patience >= 0:
        message = f"patience is a number of seconds, 0 or more; got {described(patience)}"
        raise ValueError(message)
    producer, consumer = _two_streams(producer, consumer)
    for stream in (producer, consumer):
        if by == "capture" and stream.cuda_stream == _cuda.LEGACY:
            message = f"{stream!r} cannot be captured, so its order cannot be proved this way. {_ASK_THE_GATE}"
            raise NotSupportedError(message)
        if stream.is_capturing():
            message = f"{stream!r} is captured already, perhaps by another proof around this one. {_ASK_THE_GATE}"
            raise CaptureError(message)
    verdict = Verdict(where())
    with Earlier() as earlier:
        with (
            _captured(producer, consumer) if by == "capture" else _gated(producer, consumer, timeout, patience) as found
        ):
            yield verdict
        reason = earlier.holds(consumer)
    (ordered,) = found
    if reason and not ordered:
        message = (
            f"no verdict: in the block, {reason}. That event was recorded before the block, perhaps after all of the "
            "producer's work, and a proof cannot tell: record the event in the block"
        )
        raise AssertionError(message)
    verdict._ordered = ordered


def _two_streams(producer: object, consumer: object) -> tuple[ExternalStream, ExternalStream]:
    streams = as_stream(producer), as_stream(consumer)
    if streams[0] == streams[1]:
        message = (
            f"the producer and the consumer are one stream, {streams[0]!r}, whose work is ordered anyway: give two"
        )
        raise ValueError(message)
    return streams


@contextlib.contextmanager
def _captured(producer: ExternalStream, consumer: ExternalStream) -> Iterator[list[bool]]:
    """Capture the producer during the block; afterwards the list has one element, whether the two are ordered."""
    cuda = producer._cuda
    found: list[bool] = []
    device.capture_begin(cuda, producer._handle, producer._needs)
    try:
        yield found
        capture = cuda.stream_capture(producer._handle, producer._needs)
        ordered = capture != _cuda.BROKEN and captures.capture_of(consumer) == capture
        if ordered:
            # A capture ends only after all that it has spread to has come back to where it began.
            producer.wait_stream(consumer)
    except BaseException as error:
        with contextlib.suppress(CudaError):
            device.capture_end(cuda, producer._handle, producer._needs)
        if isinstance(error, CaptureError):
            error.add_note(f"So there is no proof by capture. {_ASK_THE_GATE}")
        raise
    try:
        device.capture_end(cuda, producer._handle, producer._needs)
    except CudaError as error:
        # Other streams that the block took into the capture do not matter; anything else means there is no proof.
        if error.code != _UNJOINED:
            message = (
                f"no proof: the block broke the capture of {producer!r} ({error}); did it synchronise, or use the "
                f"legacy default stream? {_ASK_THE_GATE}"
            )
            raise CaptureError(message) from error
    found.append(ordered)


@contextlib.contextmanager
def _gated(producer: ExternalStream, consumer: ExternalStream, timeout: float, patience: float) -> Iterator[list[bool]]:
    """Hold the producer shut during the block; afterwards the list has one element, whether the two are ordered."""
    simulation = consumer._cuda.simulation
    found: list[bool] = []
    before = consumer.record_event()
    with gate(producer, timeout) as shut:
        yield found
        if shut.is_open:
            shut.open()  # which says why there is no verdict
        after = consumer.record_event()
        if simulation is not None:
            ordered = simulation.comes_after(after._handle_of_work("synchronize"), shut._latch)
        else:
            ordered = _is_held(after, patience)
            if ordered and _is_held(before, patience):
                message = (
                    f"no verdict: {consumer!r} was held up before the block began, by another gate, or by work that "
                    f"takes longer than {patience} s. Open that gate, or synchronise with the consumer first"
                )
                raise AssertionError(message)
    found.append(ordered)


def _is_held(event: Event, patience: float) -> bool:
    """Whether *event* does not come to be done, though the host waits for it."""
    try:
        event.synchronize(patience)
    except TimeoutError:
        return True
    return False


class _Assertion(Block[None]):
    """Asserts what :func:`is_ordered` finds out. A class, so that tracebacks show the test, and not contextlib."""

    _call = ""

    def __init__(self, producer: object, consumer: object, *, expected: bool, by: By, **limits: float) -> None:
        self._producer, self._consumer = _two_streams(producer, consumer)
        self._call = "assert_ordered" if expected else "assert_not_ordered"
        self._expected = expected
        self._ask = functools.partial(is_ordered, self._producer, self._consumer, by=by, **limits)
        self._entered = False

    def __enter__(self) -> None:
        __tracebackhide__ = True
        self._entered = True
        self._question = self._ask()
        self._verdict = self._question.__enter__()
        self._witness = Witness()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._witness.leave()
        self._question.__exit__(kind, error, trace)
        if error is not None or bool(self._verdict) is self._expected:
            return
        if self._expected:
            said = f"not ordered: after the block, {self._consumer!r} does not wait for {self._producer!r}."
            way_out = "\nTo order them: consumer.wait_stream(producer)"
        else:
            said = f"ordered: after the block, {self._consumer!r} waits for {self._producer!r}."
            way_out = ""
        message = f"{said}\n{self._witness.account()}{way_out}"
        raise AssertionError(message)


def assert_ordered(
    producer: object, consumer: object, *, by: By = "capture", timeout: float = 10.0, patience: float = 0.1
) -> Block[None]:
    """Assert that the ``with`` block makes *consumer*'s later work wait for *producer*'s work.

    By capture, what the block submits is thrown away, and nothing runs; ``by="gate"`` is for where capture cannot
    serve, and lets it run. The producer's work is what was submitted *before* the block: an event that the block
    records, and then submits work, passes. See :func:`is_ordered`, whose arguments these are, and whose errors this
    raises too.

    Raises:
        AssertionError: it does not. The message names both streams, and what interop saw in between.
    """
    return _Assertion(producer, consumer, expected=True, by=by, timeout=timeout, patience=patience)


def assert_not_ordered(
    producer: object, consumer: object, *, by: By = "capture", timeout: float = 10.0, patience: float = 0.1
) -> Block[None]:
    """Assert that the ``with`` block does *not* make *consumer*'s later work wait for *producer*'s work.

    The control of every ordering test. See :func:`is_ordered`, whose arguments these are, and whose errors this raises
    too.

    Raises:
        AssertionError: it does. The message names both streams, and what interop saw in between.
    """
    return _Assertion(producer, consumer, expected=False, by=by, timeout=timeout, patience=patience)
