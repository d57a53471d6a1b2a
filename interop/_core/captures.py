"""The rules of graph capture, and what CUDA's errors about captures, streams and events mean.

CUDA answers an illegal call with an error *and* invalidates the capture. So the rules are checked before the call,
wherever that is possible. For the other cases, :func:`explain` turns CUDA's code into an error that names the streams.

A capture has an id, which CUDA gives. Here 0 stands for "captures nothing".
"""

from collections.abc import Sequence
from typing import TypeVar

from interop import _cuda
from interop._core.identity import StreamIdentity
from interop._native import EventFields
from interop.errors import CaptureError, CudaError, DeviceMismatchError

S = TypeVar("S", bound=StreamIdentity)


def capture_of(stream: StreamIdentity) -> int:
    """The id of the capture that *stream* is part of, or 0.

    Raises:
        CaptureError: the capture is invalidated; or *stream* is the legacy default stream, and a blocking stream of
            its context captures.
    """
    try:
        capture = stream._cuda.stream_capture(stream._handle, stream._needs)
    except CudaError as error:
        explain(error, stream)
        raise
    if capture == _cuda.BROKEN:
        message = f"an earlier call has invalidated the graph capture of {stream!r}: end the capture, and begin again"
        raise CaptureError(message)
    return capture


def refuse_capturing(stream: StreamIdentity, verb: str) -> None:
    """Raise CaptureError if *stream* captures. *verb* says what the caller wanted to do with it."""
    if capture_of(stream):
        message = (
            f"cannot {verb} {stream!r} while it captures a graph: its work is recorded into the graph and does not "
            "run, and CUDA would invalidate the capture. End the capture first"
        )
        raise CaptureError(message)


def refuse_captured(event: EventFields, verb: str) -> None:
    """Raise CaptureError if *event* was recorded in a capture. *verb* says what the caller wanted to do with it."""
    if event._capture and not event._handle_was_shared:
        message = f"cannot {verb} {event!r}: it was recorded in a graph capture, and stands for no work that runs"
        raise CaptureError(message)


def check_wait(consumer: StreamIdentity, capture: int, event: EventFields) -> None:
    """Make sure that *consumer*, which is part of *capture*, may wait for *event*.

    An event whose handle was given away may have been recorded by anybody since: CUDA decides about it.

    Raises:
        CaptureError: *event* was recorded outside of *capture*, or *consumer* is the legacy default stream.
    """
    if event._capture == capture or event._handle_was_shared:
        return
    if capture:
        message = (
            f"{event!r} was recorded outside the graph capture that {consumer!r} is part of: record it, inside the "
            "capture, on a stream that is part of the same capture; or let each launch of the graph wait for it: "
            "wait_event(event, external=True)"
        )
        raise CaptureError(message)
    if consumer._handle == _cuda.LEGACY:
        message = f"{consumer!r} cannot wait for {event!r}: the legacy default stream cannot join a graph capture"
        raise CaptureError(message)


def order_of_waits(consumer: StreamIdentity, capture: int, producers: Sequence[S]) -> list[S]:
    """The producers in an order in which *consumer*, which is part of *capture*, may wait for them.

    Those that capture nothing come first: a wait for one that captures takes the consumer into that capture.

    Raises:
        CaptureError: there is no such order.
    """
    captures = [capture_of(producer) for producer in producers]
    for producer, other in zip(producers, captures, strict=True):
        if capture and other != capture:
            what = "is part of another capture" if other else "is not part of it"
            message = (
                f"{consumer!r} captures a graph, and {producer!r} {what}: a stream that captures can wait only for "
                f"streams of the same capture. Make {producer!r} wait for {consumer!r} first: that takes it into the "
                "capture"
            )
            raise CaptureError(message)
        if other != capture and consumer._handle == _cuda.LEGACY:
            message = (
                f"{consumer!r} cannot wait for {producer!r}, which captures a graph: the legacy default stream cannot "
                "join a graph capture"
            )
            raise CaptureError(message)
    if len({other for other in captures if other}) > 1:
        message = f"{consumer!r} cannot wait for all of {list(producers)!r}: they are parts of different graph captures"
        raise CaptureError(message)
    return [producer for _, producer in sorted(zip(captures, producers, strict=True), key=lambda pair: pair[0])]


def explain(error: CudaError, stream: StreamIdentity, other: object = None) -> None:
    """Raise *error* in terms of the streams and events, if it is known what it means; else return.

    Args:
        error: what a call about *stream* has raised.
        stream: the stream; for a wait, the one that waits.
        other: the event, or the stream to wait for, if there is one of ours.

    Raises:
        DeviceMismatchError: the event *other* belongs to another context than *stream*.
        CaptureError: the call was not legal during a capture.
    """
    if isinstance(other, EventFields):
        if error.call.startswith("cudaEventRecord") and error.code == _cuda.INVALID_RESOURCE_HANDLE:
            message = (
                f"{other!r} cannot be recorded on {stream!r}: an event belongs to the device and the context of the "
                "stream that it was first recorded on. Take a new event for this stream: record_event() without an "
                "argument"
            )
            raise DeviceMismatchError(message) from error
        if error.call == "cudaStreamWaitEvent" and error.code == _cuda.INVALID_VALUE and other._capture:
            message = (
                f"{stream!r} cannot wait for {other!r}: the capture that the event was recorded in is over. To let "
                "each launch of the graph record it, capture record_event(event, external=True)"
            )
            raise CaptureError(message) from error
        other = None
    if error.code in _cuda.CAPTURE_CODES:
        streams = f"{stream!r} and {other!r}" if other is not None else f"{stream!r}"
        if error.code == _cuda.CAPTURE_IMPLICIT:
            message = (
                f"{streams}: a blocking stream of the same context captures a graph. The legacy default stream waits "
                "for all blocking streams, so it cannot be used during the capture. Use a stream of its own, or a "
                f"non-blocking stream for the capture ({error})"
            )
        else:
            message = f"{streams}: not legal during a graph capture; CUDA has invalidated the capture ({error})"
            if error.code == _cuda.CAPTURE_ISOLATION:
                message += ". To let each launch of the graph wait for the event: wait_event(event, external=True)"
        raise CaptureError(message) from error


def explain_event(error: CudaError, event: EventFields) -> None:
    """Raise *error*, of a call about *event* alone, as a CaptureError if it is about a capture; else return."""
    if error.code in _cuda.CAPTURE_CODES:
        message = f"{event!r} was recorded while a graph was captured; CUDA has invalidated the capture ({error})"
        raise CaptureError(message) from error
