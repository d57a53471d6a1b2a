"""The rules of capture: which calls CUDA forbids, with which status code, and which calls break a capture.

All of it was measured on an H200 with driver 580.
"""

import itertools
from collections.abc import Iterable

from interop._order.clock import Clock
from interop._order.clocks import StreamKind
from interop.sim.codes import (
    CAPTURE_IMPLICIT,
    CAPTURE_INVALIDATED,
    CAPTURE_ISOLATION,
    CAPTURE_MERGE,
    CAPTURE_UNJOINED,
    CAPTURE_UNMATCHED,
    CAPTURE_UNSUPPORTED,
    CAPTURE_WRONG_THREAD,
    CAPTURED_EVENT,
    ILLEGAL_STATE,
    INVALID_VALUE,
    Refused,
)
from interop.sim.state import Capture, Event, Mode, Status, Stream, Thread


class Captures:
    """The captures that have begun and have not ended."""

    def __init__(self) -> None:
        self._open: list[Capture] = []
        self._numbers = itertools.count(1)

    def begin(self, stream: Stream, mode: Mode, thread: Thread) -> None:
        """Begin a capture on *stream*."""
        if stream.kind is StreamKind.LEGACY:
            raise Refused(CAPTURE_UNSUPPORTED)
        if stream.capture:
            raise Refused(ILLEGAL_STATE)
        capture = Capture(next(self._numbers), stream, thread, mode)
        capture.join(stream, Clock())
        self._open.append(capture)

    def end(self, stream: Stream, thread: Thread) -> Capture:
        """End the capture that began on *stream*."""
        capture = stream.capture
        if capture is None:
            raise Refused(ILLEGAL_STATE)
        if capture.mode is not Mode.RELAXED and capture.thread is not thread:
            raise Refused(CAPTURE_WRONG_THREAD)
        if capture.origin is not stream:
            capture.invalidate()
            raise Refused(CAPTURE_UNMATCHED)
        valid = capture.status is Status.ACTIVE
        joined = self._close(capture)
        if not valid:
            raise Refused(CAPTURE_INVALIDATED)
        if not joined:
            raise Refused(CAPTURE_UNJOINED)
        return capture

    def abandon(self, stream: Stream) -> None:
        """Break the capture of a stream that is being destroyed, and end the capture if it began on that stream."""
        capture = stream.capture
        if capture:
            capture.invalidate()
            if capture.origin is stream:
                # No call can end it without its first stream.
                self._close(capture)

    def of(self, stream: Stream) -> Capture | None:
        """The capture that *stream* is part of. Asking breaks nothing."""
        if self._implied(stream):
            raise Refused(CAPTURE_IMPLICIT)
        return stream.capture

    def enter(self, stream: Stream) -> Capture | None:
        """The capture that a new operation on *stream* becomes part of, if there is one."""
        self._break(self._implied(stream), CAPTURE_IMPLICIT)
        if stream.capture and stream.capture.status is Status.INVALIDATED:
            raise Refused(CAPTURE_INVALIDATED)
        return stream.capture

    def wait(self, stream: Stream, event: Event) -> bool:
        """Let *stream* join the capture of *event*; False if neither is part of a capture."""
        captured = event.capture
        if captured is None:
            entered = self.enter(stream)
            self._break([entered] if entered else [], CAPTURE_ISOLATION)
            return False
        if captured.status is Status.OVER:
            raise Refused(INVALID_VALUE)
        if captured.status is Status.INVALIDATED:
            raise Refused(CAPTURE_INVALIDATED)
        if stream.kind is StreamKind.LEGACY:
            self._break([captured, *self._implied(stream)], CAPTURE_IMPLICIT)
        entered = self.enter(stream)
        if entered not in (None, captured):
            self._break([captured, entered], CAPTURE_MERGE)
        captured.join(stream, event.nodes)
        return True

    def add_event_node(self, stream: Stream, awaited: Event | None = None) -> None:
        """Capture a node that records an event when the graph is launched, or that waits for *awaited*."""
        capture = self.enter(stream)
        if capture is None:
            raise Refused(ILLEGAL_STATE)
        if awaited and awaited.capture and awaited.capture.status is Status.OVER:
            self._break([capture], INVALID_VALUE)
        capture.launch(stream)

    def refuse_stream(self, stream: Stream) -> None:
        """Refuse a call that is illegal on a stream that captures; such a call breaks the capture."""
        self._break(self._implied(stream), CAPTURE_IMPLICIT)
        self._break([stream.capture], CAPTURE_UNSUPPORTED)

    def refuse_event(self, event: Event) -> None:
        """Refuse a query or synchronise of an event that was recorded in a capture; it breaks the capture."""
        if event.capture:
            if event.capture.status is Status.OVER:
                raise Refused(INVALID_VALUE)
            self._break([event.capture], CAPTURED_EVENT)

    def refuse_unsafe(self, thread: Thread) -> None:
        """Refuse a query or synchronise if a capture forbids it to *thread*, and break these captures."""
        self._break([capture for capture in self._open if capture.forbids(thread)], CAPTURE_UNSUPPORTED)

    def refuse_context(self, context: int) -> None:
        """Refuse, and break the captures, if any stream of *context* captures, in whatever mode."""
        self._break([capture for capture in self._open if capture.reaches(context)], CAPTURE_UNSUPPORTED)

    def _implied(self, stream: Stream) -> list[Capture]:
        """The captures that an operation on *stream* would reach by the legacy stream's rules."""
        if stream.kind is not StreamKind.LEGACY:
            return []
        return [capture for capture in self._open if capture.reaches(stream.context, StreamKind.BLOCKING)]

    @staticmethod
    def _break(captures: Iterable[Capture | None], code: int) -> None:
        """Break all of *captures*, and refuse; nothing if there are none."""
        broken = [capture for capture in captures if capture]
        for capture in broken:
            capture.invalidate()
        if broken:
            raise Refused(code)

    def _close(self, capture: Capture) -> bool:
        self._open.remove(capture)
        return capture.end()
