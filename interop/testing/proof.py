"""Proofs of order by stream capture: nothing runs, and the answer does not depend on timing."""

import contextlib
from collections.abc import Iterator

from interop import _cudart
from interop.errors import CaptureError, CudaError, NotSupportedError
from interop.stream import ExternalStream, as_stream

_UNJOINED = 904


class _Verdict:
    """The answer of :func:`is_ordered`, once its block has ended."""

    def __init__(self) -> None:
        self.ordered: bool | None = None

    def __bool__(self) -> bool:
        if self.ordered is None:
            message = "the verdict is there when the `with` block has ended"
            raise RuntimeError(message)
        return self.ordered


@contextlib.contextmanager
def is_ordered(producer: object, consumer: object) -> Iterator[_Verdict]:
    """Find out whether the block makes *consumer*'s later work wait for *producer*'s work: ``bool(verdict)`` after it.

    The producer is captured into a graph during the block, which is then thrown away: what the block submits to it, or
    to streams that wait for it, never runs. The consumer depends on the producer if, and only if, the capture has
    spread to it.

    Args:
        producer: anything that :func:`interop.as_stream` takes, except the legacy default stream.
        consumer: likewise; on any device.

    Raises:
        NotSupportedError: the producer is the legacy default stream, which CUDA cannot capture.
        CaptureError: the block did what a capture does not allow, such as a synchronise, so there is no proof; or one
            of the streams is captured already.
    """
    producer, consumer = as_stream(producer), as_stream(consumer)
    if producer.cuda_stream == _cudart.LEGACY:
        message = f"{producer!r} cannot be captured, so its order cannot be proved this way; use interop.testing.gate"
        raise NotSupportedError(message)
    for stream in (producer, consumer):
        if stream.is_capturing():
            message = f"{stream!r} is captured already; a proof needs streams that are not"
            raise CaptureError(message)
    cuda = producer._cuda
    verdict = _Verdict()
    cuda.capture_begin(producer._handle, producer._needs)
    try:
        yield verdict
        capture = cuda.stream_capture(producer._handle, producer._needs)
        ordered = capture != _cudart.BROKEN and _capture_of(consumer) == capture
        if ordered:
            # A capture ends only after all that it has spread to has come back to where it began.
            producer.wait_stream(consumer)
    except BaseException:
        with contextlib.suppress(CudaError):
            cuda.capture_end(producer._handle, producer._needs)
        raise
    try:
        cuda.capture_end(producer._handle, producer._needs)
    except CudaError as error:
        # Other streams that the block took into the capture do not matter; anything else means there is no proof.
        if error.code != _UNJOINED:
            message = f"no proof: the block broke the capture of {producer!r} ({error}); did it synchronise?"
            raise CaptureError(message) from error
    verdict.ordered = ordered


def _capture_of(stream: ExternalStream) -> int:
    return stream._capture() if stream.cuda_stream != _cudart.LEGACY else 0


@contextlib.contextmanager
def assert_ordered(producer: object, consumer: object) -> Iterator[None]:
    """Assert that the block makes *consumer*'s later work wait for *producer*'s work.

    What the block submits is captured and thrown away; see :func:`is_ordered`, whose errors this raises too.

    Raises:
        AssertionError: it does not.
    """
    with is_ordered(producer, consumer) as verdict:
        yield
    if not verdict:
        message = (
            f"not ordered: after the block, {as_stream(consumer)!r} does not wait for {as_stream(producer)!r}. "
            "To order them: consumer.wait_stream(producer)"
        )
        raise AssertionError(message)


@contextlib.contextmanager
def assert_not_ordered(producer: object, consumer: object) -> Iterator[None]:
    """Assert that the block does *not* make *consumer*'s later work wait for *producer*'s work.

    The control of every ordering test. See :func:`is_ordered`, whose errors this raises too.

    Raises:
        AssertionError: it does.
    """
    with is_ordered(producer, consumer) as verdict:
        yield
    if verdict:
        message = f"ordered: after the block, {as_stream(consumer)!r} waits for {as_stream(producer)!r}"
        raise AssertionError(message)
