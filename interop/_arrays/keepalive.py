"""Keep objects alive until the device is done with them, and order the ways back of hand-overs. The host never blocks.

The code here can be interrupted anywhere. A finaliser may run it in any thread, even while the same thread is in the
middle of it. A signal handler may raise in any line. Without the GIL, another thread may run it at the same time. So no
step takes a lock. Each step is one call of C, which happens as a whole or not at all; it may be repeated, and two
threads may make it at once.
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
"""Seconds between two queries, while the end of the process waits for the device."""
_LAST_WAIT: Final = 10.0
"""The most seconds that the end of the process waits for the device."""
_OUT_OF_MEMORY: Final = 2
"""The only CUDA error after which the device still works and the call may be repeated."""


T = TypeVar("T")


class Ended(Protocol):
    """A hand-over that has ended."""

    def settle(self) -> None:
        """Pass its way back to :meth:`KeepAlive.put`. May be called twice."""


class PendingRelease:
    """Objects that are kept until a stream's work is done.

    First the producer's stream is made to wait for the consumer's: the way back. Then interop queries an event of the
    consumer's stream from time to time, without blocking, and releases the objects when it is done.

    Attributes:
        producer: the stream whose later work waits for the consumer's work; None if no stream waits.
        consumer: the stream whose work so far has to be done.
        source: the object that is kept until the way back is ordered.
        memory: the object that is kept until the consumer's work is done.
        event: the event that stands for the consumer's work; None until it is recorded.
        is_ordered: whether the way back is ordered.
        is_lost: whether interop can no longer find out when the consumer's work is done.
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
        """Start with the way back not ordered; but if there is an *event*, it is ordered already."""
        self.producer = producer
        self.consumer = consumer
        self.source = source
        self.memory = memory
        self.event = event
        self.is_ordered = event is not None
        self.is_lost = False

    @property
    def is_recorded(self) -> bool:
        """Whether the event is recorded, so that the streams are no longer needed."""
        return self.event is not None or self.is_lost

    def start(self) -> None:
        """Order the way back, if that is possible now; else :meth:`retry` does it later."""
        with contextlib.suppress(InteropError):  # retry() meets the error again, and handles it
            self._advance()
        if self.is_ordered:
            # Release the source now. It may come from another hand-over, whose own way back starts when it is released.
            self.source = None

    def retry(self, gone: list[object]) -> bool:
        """Order the way back, unless it is ordered already.

        Args:
            gone: the list to which released objects are added. The caller frees them.

        Returns:
            Whether only the device's work is left to wait for.
        """
        try:
            self._advance()
        except (InvalidStreamError, CaptureError):
            return False  # the per-thread stream of another thread, or a stream that captures
        except InteropError as error:
            # After any other error the device is lost, or the simulation has ended: no work can use the memory.
            self.is_lost = not _is_passing(error)
        if self.is_ordered:
            gone.append(self.source)
            self.source = None
        return self.is_recorded

    def is_done(self, *, asked: bool) -> bool:
        """Whether the consumer's work is done, so that the objects can be released.

        Args:
            asked: whether the program asks. If interop asks for itself, watchers are not told of the query.
        """
        event = self.event
        if event is None:
            return self.is_lost
        try:
            return event.query() if asked else event._is_done(event._cuda.event_is_done)
        except CaptureError:
            self.event = None  # the event was recorded after a capture had begun: record another one later
            return False
        except InteropError as error:
            return not _is_passing(error)

    def _advance(self) -> None:
        """Order the way back, and record the event of the consumer's work. A capture delays either."""
        if self.is_recorded:
            return
        consumer = self.consumer
        if consumer._is_of_another_thread:
            # That thread may have ended. Its per-thread stream is a blocking stream, so the legacy stream waits for it.
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
        """Keep the memory for good: interop can no longer find out when the consumer's work is done."""
        _never_let_go.append((self.source, self.memory))
        self.is_ordered = self.is_lost = True
        message = (
            f"{consumer!r} was closed while arrays that were handed to it were in use: interop keeps them for good"
        )
        warnings.warn(message, ResourceWarning, stacklevel=2)

    def _order_back(self, producer: ExternalStream, consumer: ExternalStream, capture: int) -> bool:
        if producer._is_closed:
            return True  # a closed stream gets no more work, so it needs no wait
        try:
            if producer.capture_id() != capture:
                return False
            producer.wait_stream(consumer)
        except (CaptureError, InvalidStreamError):
            raise
        except InteropError as error:
            if _is_passing(error):
                raise
            # The producer's stream was destroyed with its context. It gets no more work, so it needs no wait.
        return True


class KeepAlive:
    """All entries, in a queue for each consumer's stream: the work of one stream is done in order."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._kept: set[PendingRelease] = set()
        """All entries. The other collections only tell in what state each is."""
        self._new: deque[PendingRelease] = deque()
        self._blocked: deque[PendingRelease] = deque()
        self._queues: dict[ExternalStream, deque[PendingRelease]] = {}
        self.ended: deque[Any] = deque()
        """The hand-overs that have ended, as finalisers report them. Their ways back are not ordered yet.

        Each is an :class:`Ended`, or the arguments of a :class:`PendingRelease`, which the extension in C reports.
        """
        forks.in_child(self, KeepAlive._was_forked)

    def _was_forked(self) -> None:
        """Forget all entries, and free nothing: the device's work and the memory belong to the parent process."""
        if native is not None:
            native.forget_kept()
        for kept in (self._kept, self._new, self._blocked, self._queues, tuple(self.ended)):
            forks.never_free(kept)
        self._kept, self._new, self._blocked, self._queues = set(), deque(), deque(), {}
        self.ended.clear()

    def put(self, pending: PendingRelease) -> None:
        """Keep an entry, and order its way back, if that is possible now."""
        if pending.consumer._cuda.was_forked:
            forks.never_free(pending)
            return
        self._kept.add(pending)
        self._new.append(pending)  # both come before anything that can fail or be interrupted
        pending.start()

    def release_later(self, stream: ExternalStream, objects: object) -> None:
        """Keep *objects* until the work of *stream* so far is done."""
        can_close = stream._adapter is not None and stream._adapter.streams_close
        if native is None or can_close or not native.keep(stream, objects):
            self.put(PendingRelease(None, stream, objects, objects))
        self.poll()

    def poll(self, *, asked: bool = False) -> None:
        """Release the objects whose work is done.

        Args:
            asked: whether the program asks. If interop asks for itself, watchers are not told of the queries.
        """
        if native is not None:
            native.release_kept(False)  # noqa: FBT003
        while self._kept or self.ended:
            self._settle()
            gone: list[object] = []  # freed last, because freeing an object may run any code
            self._accept()
            # Each of these, and not only the oldest: each has a producer of its own, which has to wait.
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
        """Release the objects whose work is done. Returns how many entries are still kept."""
        self.poll(asked=True)
        if len(self._kept) != len(self._new) + sum(map(len, self._queues.copy().values())):
            # A signal handler or another thread came between two steps. Find the entries that are in no queue.
            found = set(chain(self._new.copy(), *(queue.copy() for queue in self._queues.copy().values())))
            self._new.extend(self._kept - found)
            self.poll(asked=True)
        if not self._kept:
            self._queues.clear()
            self._blocked.clear()
        in_c = 0 if native is None else native.release_kept(True)  # noqa: FBT003
        return in_c + len(self._kept)

    def _accept(self) -> None:
        """Put each new entry into its stream's queue.

        If this step is repeated, or two threads make it at once, an entry is in the queue twice. That does no harm.
        """
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
        # Another thread may have put an entry into this queue meanwhile.
        removed = self._queues.pop(stream, None)
        if removed:
            self._new.extend(removed.copy())

    def drain(self) -> None:
        """Wait for the device at the end of the process, so that no memory is freed while the device uses it."""
        deadline = time.monotonic() + _LAST_WAIT
        self.release()
        # Some streams may be destroyed by now. Keep each entry that still needs a stream until the process ends.
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
    """Equal to one object only. ``deque.remove`` would else compare arrays by their elements."""

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
