"""What is kept alive until the device is done with it, and the ways back of hand-overs; the host is never blocked.

Finalisers come here from any thread, and in the middle of any call, also of one of these; signal handlers raise in the
middle of any line; and without the GIL, other threads are in the middle of another one. So there is no lock: each step
is one call of C, made whole or not at all, and may be repeated, or be made by two threads at once.
"""

import atexit
import contextlib
import time
import warnings
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from interop._native import native
from interop._safety import forks
from interop.errors import CaptureError, CudaError, InteropError, InvalidStreamError
from interop.stream import ExternalStream

if TYPE_CHECKING:
    from interop.event import Event

_PAUSE: Final = 1e-3
"""Seconds between two looks at what is kept, while the program waits for it at its end."""
_LAST_WAIT: Final = 10.0
"""Seconds that the end of the process waits for the device at most."""
_OUT_OF_MEMORY: Final = 2
"""The one error after which the device goes on, and the same may be asked for again."""


T = TypeVar("T")


class Ended(Protocol):
    """A hand-over that is over."""

    def settle(self) -> None:
        """Put its way back down; may be called twice."""


class PendingRelease:
    """What is kept for a stream: first the way back is ordered, then the stream's work is waited for, without blocking.

    Attributes:
        producer: whose later work is ordered after the consumer's; None if nobody's.
        consumer: whose work so far is waited for.
        source: what is kept until that is ordered.
        memory: what is kept until the consumer's work is done.
        event: stands for the consumer's work; None until it is recorded.
        is_ordered: whether the producer's later work is ordered.
        is_lost: whether nobody can know any more when the consumer is done.
    """

    __slots__ = ("consumer", "event", "is_lost", "is_ordered", "memory", "producer", "source")

    def __init__(
        self,
        producer: ExternalStream | None,
        consumer: ExternalStream,
        source: object,
        memory: object,
        event: "Event | None" = None,
    ) -> None:
        """Nothing is ordered yet; but with an *event* all is."""
        self.producer = producer
        self.consumer = consumer
        self.source = source
        self.memory = memory
        self.event = event
        self.is_ordered = event is not None
        self.is_lost = False

    @property
    def is_recorded(self) -> bool:
        """Whether it needs no stream any more to be done."""
        return self.event is not None or self.is_lost

    def start(self) -> None:
        """Order the way back, if nothing is in the way; else :meth:`retry` will."""
        with contextlib.suppress(InteropError):  # which knows what to make of it
            self._advance()
        if self.is_ordered:
            # Now: it may be an array that came of a hand-over itself, whose own way back is next.
            self.source = None

    def retry(self, gone: list[object]) -> bool:
        """Order the way back, if it is not yet; whether there is only the device left to be waited for.

        Args:
            gone: takes what is let go of.
        """
        try:
            self._advance()
        except (InvalidStreamError, CaptureError):
            return False  # a per-thread stream, and this is another thread; or one that captures
        except InteropError as error:
            # Else the device is lost, or the simulation over: there is nothing left to be protected from.
            self.is_lost = not _is_passing(error)
        if self.is_ordered:
            gone.append(self.source)
            self.source = None
        return self.is_recorded

    def is_done(self, *, asked: bool) -> bool:
        """Whether all can be let go of; *asked* by the program, and not by interop for its own purposes."""
        event = self.event
        if event is None:
            return self.is_lost
        try:
            return event.query() if asked else event._is_done(event._cuda.event_is_done)
        except CaptureError:
            self.event = None  # a capture had begun when it was recorded
            return False
        except InteropError as error:
            return not _is_passing(error)

    def _advance(self) -> None:
        """Order the way back, and record what is to be waited for, unless a capture is in the way."""
        if self.is_recorded:
            return
        consumer = self.consumer
        if consumer._is_of_another_thread:
            # The per-thread stream of a thread that may be gone is a blocking one: the legacy stream waits for it.
            consumer = consumer._legacy()
        if consumer._is_closed:
            self._lose(consumer)
            return
        capture = consumer.capture_id()
        if not self.is_ordered:
            if self.producer is not None and not self._order_back(self.producer, consumer, capture):
                return
            self.is_ordered = True
        if not capture:
            self.event = consumer.record_event()

    def _lose(self, consumer: ExternalStream) -> None:
        """Nobody can know any more when the consumer is done: so the memory is kept for good."""
        _never_let_go.append((self.source, self.memory))
        self.is_ordered = self.is_lost = True
        message = (
            f"{consumer!r} was closed while arrays that were handed to it were in use: interop keeps them for good"
        )
        warnings.warn(message, ResourceWarning, stacklevel=2)

    def _order_back(self, producer: ExternalStream, consumer: ExternalStream, capture: int) -> bool:
        if producer._is_closed:
            return True  # it will write to nothing
        try:
            if producer.capture_id() != capture:
                return False
            producer.wait_stream(consumer)
        except (CaptureError, InvalidStreamError):
            raise
        except InteropError as error:
            if _is_passing(error):
                raise
            # The producer's stream is gone, with its context: it will write to nothing.
        return True


class KeepAlive:
    """All that is kept until the device is done with it: a queue for each consumer's stream, whose work is in order."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._kept: set[PendingRelease] = set()
        """All of it. The rest is only how it is found."""
        self._new: deque[PendingRelease] = deque()
        self._blocked: deque[PendingRelease] = deque()
        self._queues: dict[ExternalStream, deque[PendingRelease]] = {}
        self.ended: deque[Any] = deque()
        """What finalisers bring: hand-overs that are over, and whose ways back are not put down here yet.

        Each an :class:`Ended`; or the arguments of a :class:`PendingRelease`, from the extension in C.
        """
        forks.in_child(self, KeepAlive._was_forked)

    def _was_forked(self) -> None:
        """The device's work, and the memory, are the parent's: nothing is waited for, and nothing freed."""
        if native is not None:
            native.forget_kept()
        for kept in (self._kept, self._new, self._blocked, self._queues, tuple(self.ended)):
            forks.never_free(kept)
        self._kept, self._new, self._blocked, self._queues = set(), deque(), deque(), {}
        self.ended.clear()

    def put(self, pending: PendingRelease) -> None:
        """Keep it, and order its way back, if nothing is in the way."""
        if pending.consumer._cuda.was_forked:
            forks.never_free(pending)
            return
        self._kept.add(pending)
        self._new.append(pending)  # both before anything that can fail, or be interrupted
        pending.start()

    def release_later(self, stream: ExternalStream, objects: object) -> None:
        """Keep *objects* until the work of *stream* so far is done."""
        can_close = stream._adapter is not None and stream._adapter.streams_close
        if native is None or can_close or not native.keep(stream, objects):
            self.put(PendingRelease(None, stream, objects, objects))
        self.poll()

    def poll(self, *, asked: bool = False) -> None:
        """Let go of what is done. Unless the program has *asked*, it does not learn what is done."""
        if native is not None:
            native.release_kept(False)  # noqa: FBT003
        while self._kept or self.ended:
            self._settle()
            gone: list[object] = []  # let go of at last: what that sets off is not ours to foresee
            self._accept()
            # Each of these, and not the oldest only: somebody else's stream is to wait for it.
            for pending in self._blocked.copy():
                if pending.retry(gone):
                    _remove(self._blocked, pending)
            for stream in self._queues.copy():
                self._release(stream, gone, asked=asked)
            gone.clear()
            if not self._new and not self.ended:
                break

    def _settle(self) -> None:
        while self.ended:
            with contextlib.suppress(IndexError):  # another thread was faster
                ended = self.ended[0]
                if isinstance(ended, tuple):
                    self.put(PendingRelease(*ended))
                else:
                    ended.settle()
                _remove(self.ended, ended)

    def release(self) -> int:
        """Let go of what is done; how many entries are kept."""
        self.poll(asked=True)
        if len(self._kept) != len(self._new) + sum(map(len, self._queues.copy().values())):
            # An interrupt, or another thread, has come between two steps: find again what is in no queue.
            found = set(chain(self._new.copy(), *(queue.copy() for queue in self._queues.copy().values())))
            self._new.extend(self._kept - found)
            self.poll(asked=True)
        if not self._kept:
            self._queues.clear()
            self._blocked.clear()
        in_c = 0 if native is None else native.release_kept(True)  # noqa: FBT003
        return in_c + len(self._kept)

    def _accept(self) -> None:
        """Put what is new into its queue. Done again, or by two threads at once, it is there twice, and let go once."""
        for pending in self._new.copy():
            self._queues.setdefault(pending.consumer, deque()).append(pending)
            if not pending.is_recorded:
                self._blocked.append(pending)
            _remove(self._new, pending)

    def _release(self, stream: ExternalStream, gone: list[object], *, asked: bool) -> None:
        queue = self._queues.get(stream, ())
        while isinstance(queue, deque) and queue:
            try:
                oldest = queue[0]
            except IndexError:  # another thread was faster
                break
            if not oldest.is_done(asked=asked):
                if not oldest.is_recorded and oldest not in self._blocked.copy():
                    self._blocked.append(oldest)
                return
            gone.append(oldest)
            self._kept.discard(oldest)
            _remove(queue, oldest)
        # Another thread may have put something into it since.
        removed = self._queues.pop(stream, None)
        if removed:
            self._new.extend(removed.copy())

    def drain(self) -> None:
        """Wait for the device, at the end of the process, so that nothing is freed under its hands."""
        deadline = time.monotonic() + _LAST_WAIT
        self.release()
        # Streams may be gone by now: what needs one is kept, and goes with the process.
        self._blocked.clear()
        for pending in self._kept.copy():
            if not pending.is_recorded:
                _never_let_go.append(pending)
                self._kept.discard(pending)
                _remove(self._queues.get(pending.consumer, deque()), pending)
        while self.release():
            if time.monotonic() > deadline:
                message = f"interop: work on held objects was not done {_LAST_WAIT} s after the end of the program"
                warnings.warn(message, RuntimeWarning, stacklevel=1)
                break
            time.sleep(_PAUSE)
        if native is not None:
            native.end_handovers()


class _Same:
    """Equal to one object only. An array would compare its elements, and show them where it is not found."""

    __slots__ = ("_one",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, one: object) -> None:
        self._one = one

    def __eq__(self, other: object) -> bool:
        return other is self._one


def _remove(queue: deque[T], one: T) -> None:
    with contextlib.suppress(ValueError, IndexError):  # another thread was faster
        queue.remove(cast("T", _Same(one)))


_never_let_go: Final[list[object]] = []


def _is_passing(error: InteropError) -> bool:
    return isinstance(error, CudaError) and error.code == _OUT_OF_MEMORY


keepalive: Final = KeepAlive()
atexit.register(keepalive.drain)
