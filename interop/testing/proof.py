"""Proofs of order: by stream capture, which runs nothing, or by a gate, for code that cannot be captured."""

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
    """The answer of :func:`is_ordered`, as a truth value, after its block has ended.

    A verdict that nobody has read warns when it is freed: a test has to assert it.
    """

    def __init__(self, place: str) -> None:
        """There is no verdict yet. *place* is where the block begins, as ``file:line``."""
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
            message = "there is no verdict before the end of the `with` block: read it after the block"
            raise RuntimeError(message)
        return self._ordered

    def __eq__(self, other: object) -> bool:
        return bool(self) == other

    def __hash__(self) -> int:
        """By identity: the value changes when the block ends."""
        return id(self)

    def __repr__(self) -> str:
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

    Example::

        with interop.testing.is_ordered(producer, consumer) as verdict:
            consumer.wait_stream(producer)
        assert verdict

    The proof is about the work that was submitted to the producer *before the block*. The block has to order it, by
    events that it records.

    Args:
        producer: anything that :func:`interop.as_stream` takes; by capture, except the legacy default stream.
        consumer: likewise; on any device.
        by: ``"capture"``, which throws the work of the block away; or ``"gate"``, which lets it run, for code that
            cannot be captured.
        timeout: for the gate: seconds, as for :func:`interop.testing.gate`.
        patience: for the gate, on a GPU: seconds after which a consumer that is not done counts as held up.

    Raises:
        NotSupportedError: by capture, one of the streams is the legacy default stream, which CUDA cannot capture.
        CaptureError: the block did what a capture does not allow, such as a synchronise, so there is no proof; or one
            of the streams is captured already.
        AssertionError: there is no verdict: the gate had to open itself; something else held up the consumer before
            the block; or the consumer waits, in the block, for an event from before the block.
        ValueError: the two are one stream, whose work is ordered anyway; *by* is neither; or *timeout* or *patience*
            is not a valid time.

    Note:
        *By capture*, the producer is captured into a graph during the block, and the graph is thrown away. Work that
        the block submits to the producer, or to streams that wait for the producer, never runs. The consumer depends on
        the producer if, and only if, the capture has spread to the consumer. No time is measured.

        *By gate*, the block runs while a gate holds the producer shut. After the block, an event tells whether the
        consumer is held up too. A gate also serves the legacy default stream, and code that cannot be captured, such as
        work on default streams, queries, allocations and synchronising with *other* streams. On the simulator the
        answer is certain. On a GPU, "ordered" means that the consumer was held up for *patience* seconds. Longer work
        in the block, or a wait in it for something else that is late, such as another gate, hides a missing wait. If
        the consumer was held up before the block, there is no verdict. If the block waits for the producer, or launches
        a kernel for the first time, it does not end before *timeout*, and there is no verdict. (On the simulator, a
        block that waits for the producer gets a :class:`~interop.errors.DeadlockError`.)

        Two mistakes are not found:

        - The block records an event, then submits work to the producer, and the consumer waits for the event. The
          consumer does not wait for that work, and the answer is still "ordered". :func:`interop.ordering.check` finds
          this.
        - In the block, a library makes the consumer wait for an event that was recorded before the block, without
          interop. The event may stand for all of the producer's work, but the answer is "not ordered". If interop sees
          such a wait, there is no verdict.

        A wait by the host does not count as order. If the host waits in the block for an event from before the block,
        its later work is ordered, but the answer is "not ordered".
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
    """Capture the producer during the block. Then the list has one element: whether the two are ordered."""
    cuda = producer._cuda
    found: list[bool] = []
    device.capture_begin(cuda, producer._handle, producer._needs)
    try:
        yield found
        capture = cuda.stream_capture(producer._handle, producer._needs)
        ordered = capture != _cuda.BROKEN and captures.capture_of(consumer) == capture
        if ordered:
            # A capture can end only when every stream it has spread to is joined to the stream where it began.
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
        # Other streams in the capture may stay unjoined. Any other error means that there is no proof.
        if error.code != _UNJOINED:
            message = (
                f"no proof: the block broke the capture of {producer!r} ({error}); did it synchronise, or use the "
                f"legacy default stream? {_ASK_THE_GATE}"
            )
            raise CaptureError(message) from error
    found.append(ordered)


@contextlib.contextmanager
def _gated(producer: ExternalStream, consumer: ExternalStream, timeout: float, patience: float) -> Iterator[list[bool]]:
    """Hold the producer shut during the block. Then the list has one element: whether the two are ordered."""
    simulation = consumer._cuda.simulation
    found: list[bool] = []
    before = consumer.record_event()
    with gate(producer, timeout) as shut:
        yield found
        if shut.is_open:
            shut.open()  # it raises, and says why there is no verdict
        after = consumer.record_event()
        if simulation is not None:
            ordered = simulation.comes_after(after._handle_of_work("synchronize"), shut._latch)
        else:
            ordered = _is_held(after, patience)
            if ordered and _is_held(before, patience):
                message = (
                    f"no verdict: {consumer!r} was held up before the block, by another gate, or by work that takes "
                    f"longer than {patience} s. Open that gate, or synchronise with the consumer first"
                )
                raise AssertionError(message)
    found.append(ordered)


def _is_held(event: Event, patience: float) -> bool:
    """Whether *event* is still not done after *patience* seconds."""
    try:
        event.synchronize(patience)
    except TimeoutError:
        return True
    return False


class _Assertion(Block[None]):
    """Asserts the verdict of :func:`is_ordered`. It is a class, so that tracebacks show the test, not contextlib."""

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

    Example::

        with interop.testing.assert_ordered(producer, consumer):
            consumer.wait_stream(producer)  # the code to be tested

    By capture, the work of the block is thrown away, and nothing runs. With ``by="gate"`` it runs: use that for code
    that cannot be captured. The proof is about the work that was submitted to the producer *before* the block. The
    arguments and the other errors are those of :func:`is_ordered`.

    Raises:
        AssertionError: the consumer does not wait. The message names both streams, and what interop saw in the block.
    """
    return _Assertion(producer, consumer, expected=True, by=by, timeout=timeout, patience=patience)


def assert_not_ordered(
    producer: object, consumer: object, *, by: By = "capture", timeout: float = 10.0, patience: float = 0.1
) -> Block[None]:
    """Assert that the ``with`` block does *not* make *consumer*'s later work wait for *producer*'s work.

    Example::

        with interop.testing.assert_not_ordered(producer, consumer):
            pass  # the code to be tested, without its wait

    Every ordering test needs this as its control. The arguments and the other errors are those of :func:`is_ordered`.

    Raises:
        AssertionError: the consumer waits. The message names both streams, and what interop saw in the block.
    """
    return _Assertion(producer, consumer, expected=False, by=by, timeout=timeout, patience=patience)
