"""What is kept alive until the device is done with it, and the ways back of hand-overs; the host is never blocked."""

import atexit
import contextlib
import threading
import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Final

from interop.errors import CaptureError, InteropError, InvalidStreamError
from interop.stream import ExternalStream

if TYPE_CHECKING:
    from interop.event import Event

_PAUSE: Final = 1e-3
"""Seconds between two polls, at least, where they are not asked for."""
_LAST_WAIT: Final = 10.0
"""Seconds that the end of the process waits for the device at most."""


class Held:
    """What is kept until the device is done with it: for each consumer's stream a queue, since its work is in order.

    Finalisers come here from any thread, and in the middle of any call, also of one of these: hence a lock that its
    holder may take again. Nobody waits for the device under it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.queues: dict[ExternalStream, deque[_Back]] = {}
        self._releasing = False
        self._polled = 0.0

    def __bool__(self) -> bool:
        """Whether anything is kept."""
        return bool(self.queues)

    def keep(self, back: "_Back") -> None:
        """Keep what *back* holds until it is done."""
        with self._lock:
            self.queues.setdefault(back.consumer, deque()).append(back)

    def poll(self) -> None:
        """Let go of what is done, unless that was just looked at."""
        now = time.monotonic()
        if now - self._polled > _PAUSE:
            self._polled = now
            self.release()

    def release(self) -> int:
        """Let go of what is done; how many entries are kept."""
        gone: list[_Back] = []  # let go of after the lock: what that sets off is not ours to foresee
        with self._lock:
            if not self._releasing:  # else a finaliser has come here in the middle of the loop below
                self._releasing = True
                try:
                    for stream in list(self.queues):
                        self._release(stream, gone)
                finally:
                    self._releasing = False
            kept = sum(map(len, list(self.queues.values())))
        del gone
        return kept

    def _release(self, stream: ExternalStream, gone: "list[_Back]") -> None:
        queue = self.queues[stream]
        while queue and queue[0].is_done():
            gone.append(queue.popleft())
        if not queue:
            late = self.queues.pop(stream)
            if late:  # a finaliser has kept something between the two lines above
                self.queues.setdefault(stream, deque()).extendleft(reversed(late))

    def give_back(
        self, producer: ExternalStream | None, consumer: ExternalStream, source: object, done: "Event | None" = None
    ) -> None:
        """Order *producer*'s later work after *consumer*'s, and keep *source* until *consumer* is done.

        With *done*, the order is made already, and *done* is what is to be waited for.
        """
        self.keep(_Back(producer, consumer, source, done))
        self.release()

    def drain(self) -> None:
        """Wait for the device, at the end of the process, so that nothing is freed under its hands."""
        deadline = time.monotonic() + _LAST_WAIT
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
        self, producer: ExternalStream | None, consumer: ExternalStream, source: object, done: "Event | None"
    ) -> None:
        self.consumer = consumer
        self._producer = producer
        self._source = source
        self._event = done
        if done is None:
            with contextlib.suppress(InteropError):  # is_done asks again, and knows what to make of it
                self._advance()

    @property
    def is_recorded(self) -> bool:
        """Whether it needs no stream any more to be done."""
        return self._event is not None

    def is_done(self) -> bool:
        """Whether the source can be let go of."""
        try:
            if self._event is None and not self._advance():
                return False
            return self._event is not None and self._event.query()
        except InvalidStreamError:
            return False  # a per-thread stream, and this is another thread
        except CaptureError:
            self._event = None
            return False
        except InteropError:
            return True  # the device is lost, or the simulation over: there is nothing left to be protected from

    def _advance(self) -> bool:
        """Order the way back, and record what is to be waited for, unless a capture is in the way."""
        consumer = self.consumer
        if consumer.is_of_another_thread:
            # The per-thread stream of a thread that may be gone is a blocking one: the legacy stream waits for it.
            consumer = consumer.legacy()
        capture = consumer.capture_id()
        if self._producer is not None:
            if not self._order_back(self._producer, consumer, capture):
                return False
            self._producer = None
        if capture:
            return False
        self._event = consumer.record_event()
        return True

    def _order_back(self, producer: ExternalStream, consumer: ExternalStream, capture: int) -> bool:
        try:
            if producer.capture_id() != capture:
                return False
            producer.wait_stream(consumer)
        except (CaptureError, InvalidStreamError):
            raise
        except InteropError:
            pass  # the producer's stream is gone, with its context: it will write to nothing
        return True


held: Final = Held()
atexit.register(held.drain)
