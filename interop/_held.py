"""What is kept alive until the device is done with it, and the ways back of hand-overs; the host is never blocked."""

import atexit
import contextlib
import threading
import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Final

from interop.errors import CaptureError, CudaError, InteropError, InvalidStreamError
from interop.stream import ExternalStream

if TYPE_CHECKING:
    from interop.event import Event

_PAUSE: Final = 1e-3
"""Seconds between two polls, at least, where they are not asked for."""
_LAST_WAIT: Final = 10.0
"""Seconds that the end of the process waits for the device at most."""
_OUT_OF_MEMORY: Final = 2
"""The one error after which the device goes on, and the same may be asked for again."""


class Held:
    """What is kept until the device is done with it: for each consumer's stream a queue, since its work is in order.

    Finalisers come here from any thread, and in the middle of any call, also of one of these. What they bring is put
    down without a lock: a finaliser that waits for one stands in the way of whatever it has interrupted.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._new: deque[_Back] = deque()
        self._late: list[_Back] = []
        self.queues: dict[ExternalStream, deque[_Back]] = {}
        self._releasing = False
        self._polled = 0.0

    def __bool__(self) -> bool:
        """Whether anything is kept."""
        return bool(self.queues or self._new)

    def poll(self) -> None:
        """Let go of what is done, unless that was just looked at."""
        now = time.monotonic()
        if now - self._polled > _PAUSE:
            self._polled = now
            self.release(waits=False)

    def release(self, *, waits: bool = True) -> int:
        """Let go of what is done; how many entries are kept.

        Args:
            waits: for another thread that is at it. Whoever is at it looks at what has come meanwhile.
        """
        gone: list[object] = []  # let go of after the lock: what that sets off is not ours to foresee
        while self._lock.acquire(blocking=waits):
            try:
                if self._releasing:  # a finaliser has come here in the middle of the lines below, which will go on
                    break
                self._releasing = True
                try:
                    self._accept()
                    # Each of these, and not the oldest only: somebody else's stream is to wait for it.
                    self._late = [back for back in self._late if not back.try_again(gone)]
                    for stream in list(self.queues):
                        self._release(stream, gone)
                finally:
                    self._releasing = False
            finally:
                self._lock.release()
            if not self._new:
                break
            waits = False
        del gone
        return len(self._new) + sum(map(len, list(self.queues.values())))

    def _accept(self) -> None:
        while self._new:
            back = self._new[0]
            self.queues.setdefault(back.consumer, deque()).append(back)
            if not back.is_recorded:
                self._late.append(back)
            self._new.popleft()

    def _release(self, stream: ExternalStream, gone: list[object]) -> None:
        queue = self.queues[stream]
        while queue and queue[0].is_done():
            gone.append(queue.popleft())
        if not queue:
            del self.queues[stream]
        elif not queue[0].is_recorded and queue[0] not in self._late:
            self._late.append(queue[0])

    def give_back(
        self,
        producer: ExternalStream | None,
        consumer: ExternalStream,
        source: object,
        done: "Event | None" = None,
        *,
        memory: object = None,
    ) -> None:
        """Order *producer*'s later work after *consumer*'s, and keep *source* until *consumer* is done.

        Args:
            producer: whose later work is ordered; None if nobody's.
            consumer: whose work so far is waited for.
            source: what is kept.
            done: if the order is made already, what is to be waited for.
            memory: what is kept in place of *source* as soon as the order is made, if that is something else.
        """
        back = _Back(producer, consumer, source, done, source if memory is None else memory)
        try:
            self._new.append(back)  # before anything that can fail, or be interrupted
            back.begin()
        finally:
            back.is_new = False
        self.release(waits=False)

    def drain(self) -> None:
        """Wait for the device, at the end of the process, so that nothing is freed under its hands."""
        deadline = time.monotonic() + _LAST_WAIT
        self.release()
        with self._lock:
            self._releasing = True  # finalisers only put something down
            # Streams may be gone by now: what needs one is kept, and goes with the process.
            self._late.clear()
            for queue in self.queues.values():
                _never_let_go.extend(back for back in queue if not back.is_recorded)
                kept = [back for back in queue if back.is_recorded]
                queue.clear()
                queue.extend(kept)
            self._releasing = False
        while self.release():
            if time.monotonic() > deadline:
                message = f"interop: work on held objects was not done {_LAST_WAIT} s after the end of the program"
                warnings.warn(message, RuntimeWarning, stacklevel=1)
                break
            time.sleep(_PAUSE)


_never_let_go: Final[list[object]] = []


class _Back:
    """The way back of one hand-over: first it is ordered, then the consumer's work is waited for, without blocking."""

    def __init__(
        self,
        producer: ExternalStream | None,
        consumer: ExternalStream,
        source: object,
        done: "Event | None",
        memory: object,
    ) -> None:
        self.consumer = consumer
        self.is_new = True
        self._producer = producer
        self._source = source
        self._memory = memory
        self._event = done
        self._is_ordered = done is not None
        self._is_lost = False

    @property
    def is_recorded(self) -> bool:
        """Whether it needs no stream any more to be done."""
        return self._event is not None or self._is_lost

    def begin(self) -> None:
        """Order the way back, if nothing is in the way; else :meth:`try_again` will."""
        with contextlib.suppress(InteropError):  # which knows what to make of it
            self._advance()
        if self._is_ordered:
            # Now: it may be an array that came of a hand-over itself, whose own way back is next.
            self._source = None

    def try_again(self, gone: list[object]) -> bool:
        """Order the way back, if it is not yet; whether there is only the device left to be waited for.

        Args:
            gone: takes what is let go of.
        """
        if self.is_new:
            return False  # it is being ordered, in another thread or further down in this one
        try:
            self._advance()
        except (InvalidStreamError, CaptureError):
            return False  # a per-thread stream, and this is another thread; or one that captures
        except InteropError as error:
            # Else the device is lost, or the simulation over: there is nothing left to be protected from.
            self._is_lost = not _is_passing(error)
        if self._is_ordered:
            gone.append(self._source)
            self._source = None
        return self.is_recorded

    def is_done(self) -> bool:
        """Whether all can be let go of."""
        if self._event is None:
            return self._is_lost
        try:
            return self._event.query()
        except CaptureError:
            self._event = None  # a capture had begun when it was recorded
            return False
        except InteropError as error:
            return not _is_passing(error)

    def _advance(self) -> None:
        """Order the way back, and record what is to be waited for, unless a capture is in the way."""
        if self.is_recorded:
            return
        consumer = self.consumer
        if consumer.is_of_another_thread:
            # The per-thread stream of a thread that may be gone is a blocking one: the legacy stream waits for it.
            consumer = consumer.legacy()
        if consumer.is_closed:
            self._lose(consumer)
            return
        capture = consumer.capture_id()
        if not self._is_ordered:
            if self._producer is not None and not self._order_back(self._producer, consumer, capture):
                return
            self._is_ordered = True
        if not capture:
            self._event = consumer.record_event()

    def _lose(self, consumer: ExternalStream) -> None:
        """Nobody can know any more when the consumer is done: so the memory is kept for good."""
        _never_let_go.append((self._source, self._memory))
        self._is_ordered = self._is_lost = True
        message = (
            f"{consumer!r} was closed while arrays that were handed to it were in use: interop keeps them for good"
        )
        warnings.warn(message, ResourceWarning, stacklevel=2)

    def _order_back(self, producer: ExternalStream, consumer: ExternalStream, capture: int) -> bool:
        if producer.is_closed:
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


def _is_passing(error: InteropError) -> bool:
    return isinstance(error, CudaError) and error.code == _OUT_OF_MEMORY


held: Final = Held()
atexit.register(held.drain)
