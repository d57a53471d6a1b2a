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
    from collections.abc import Callable

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
        gone: list[_Back] = []  # let go of after the lock: what that sets off is not ours to foresee
        while self._lock.acquire(blocking=waits):
            try:
                if self._releasing:  # a finaliser has come here in the middle of the loop below, which will go on
                    break
                self._releasing = True
                try:
                    while self._new:
                        back = self._new[0]
                        self.queues.setdefault(back.consumer, deque()).append(back)
                        self._new.popleft()
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

    def _release(self, stream: ExternalStream, gone: "list[_Back]") -> None:
        queue = self.queues[stream]
        while queue and queue[0].is_done():
            gone.append(queue.popleft())
        if not queue:
            del self.queues[stream]

    def give_back(
        self,
        producer: ExternalStream | None,
        consumer: ExternalStream,
        source: object,
        done: "Event | None" = None,
        is_kept_elsewhere: "Callable[[], bool] | None" = None,
    ) -> None:
        """Order *producer*'s later work after *consumer*'s, and keep *source* until *consumer* is done.

        Args:
            producer: whose later work is ordered; None if nobody's.
            consumer: whose work so far is waited for.
            source: what is kept.
            done: if the order is made already, what is to be waited for.
            is_kept_elsewhere: asked when the order is made: whether somebody else keeps the memory until *producer* is
                done with what it was given so far. *source* is let go of at once then.
        """
        back = _Back(producer, consumer, source, done, is_kept_elsewhere)
        self._new.append(back)  # before anything that can fail, or be interrupted
        back.begin()
        self.release(waits=False)

    def drain(self) -> None:
        """Wait for the device, at the end of the process, so that nothing is freed under its hands."""
        deadline = time.monotonic() + _LAST_WAIT
        self.release()
        with self._lock:
            # Streams may be gone by now: what needs one is kept, and goes with the process.
            for queue in self.queues.values():
                _never_let_go.extend(back for back in queue if not back.is_recorded)
                kept = [back for back in queue if back.is_recorded]
                queue.clear()
                queue.extend(kept)
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
        is_kept_elsewhere: "Callable[[], bool] | None",
    ) -> None:
        self.consumer = consumer
        self._producer = producer
        self._source = source
        self._event = done
        self._is_kept_elsewhere = is_kept_elsewhere
        self._is_passed_on = False
        self._is_new = True

    @property
    def is_recorded(self) -> bool:
        """Whether it needs no stream any more to be done."""
        return self._event is not None

    def begin(self) -> None:
        """Order the way back, if nothing is in the way; else :meth:`is_done` will."""
        try:
            if self._event is not None:
                self._pass_on()
            else:
                with contextlib.suppress(InteropError):  # is_done asks again, and knows what to make of it
                    self._advance()
            if self._is_passed_on:
                # Now: it may be an array that came of a hand-over itself, whose own way back is next.
                self._source = None
        finally:
            self._is_new = False

    def is_done(self) -> bool:
        """Whether the source can be let go of."""
        if self._is_new:
            return False  # it is being ordered, in another thread or further down in this one
        try:
            if self._event is None and not self._is_passed_on:
                self._advance()
            return self._is_passed_on or (self._event is not None and self._event.query())
        except InvalidStreamError:
            return False  # a per-thread stream, and this is another thread
        except CaptureError:
            self._event = None
            return False
        except InteropError as error:
            # Else the device is lost, or the simulation over: there is nothing left to be protected from.
            return not _is_passing(error)

    def _advance(self) -> None:
        """Order the way back, and record what is to be waited for, unless a capture is in the way."""
        consumer = self.consumer
        if consumer.is_of_another_thread:
            # The per-thread stream of a thread that may be gone is a blocking one: the legacy stream waits for it.
            consumer = consumer.legacy()
        capture = consumer.capture_id()
        if self._producer is not None:
            if not self._order_back(self._producer, consumer, capture):
                return
            self._producer = None
            self._pass_on()
        if not capture:
            self._event = consumer.record_event()

    def _pass_on(self) -> None:
        ask, self._is_kept_elsewhere = self._is_kept_elsewhere, None  # which may keep the source too
        self._is_passed_on = ask is not None and ask()

    def _order_back(self, producer: ExternalStream, consumer: ExternalStream, capture: int) -> bool:
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
