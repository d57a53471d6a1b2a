"""What each side does at the end of a lease: the way back, and what is left when the other process dies.

The consumer's process records the event ``done``, and then tells the producer's. Only then does the producer's stream
wait for it: a stream that waits for what a killed process was to record would wait for ever.

It still comes to that if a process is killed while its work is pending for which a stream of the other one waits.
"""

import sys
import weakref
from collections.abc import Callable
from typing import Final, Self

from interop._arrays.handover import Handover
from interop._arrays.keepalive import PendingRelease, keepalive
from interop._between.desk import BACK, Loan
from interop.adapters.tensor import Tensor
from interop.errors import InteropError
from interop.event import Event
from interop.stream import ExternalStream, new_stream


def passed(event: Event) -> bool:
    """Whether the device has passed an event. After a fault on the device it never will; then True."""
    try:
        return event._is_done(event._cuda.event_is_done)
    except InteropError:
        return True


class TakingBack(PendingRelease):
    """The producer's stream waits for the consumer's event; the memory is kept until the device has passed that."""

    __slots__ = ("done",)

    def __init__(self, producer: ExternalStream | None, lender: ExternalStream, memory: object, done: Event) -> None:
        super().__init__(producer, lender, None, memory)
        self.done = done

    def _advance(self) -> None:
        if self.is_recorded:
            return
        producer = self.producer
        if producer is not None and not producer._is_closed:
            if producer.capture_id():
                return
            producer.wait_event(self.done)
        self.is_ordered = True
        self.event = self.done


class Shared:
    """The producer's side of one lease.

    Args:
        memory: the array.
        producer: the stream that waits for the consumer; None if it may be gone by then.
        lender: the same stream, whether it may be gone or not.
        ready, done: the events.
    """

    def __init__(
        self,
        memory: Tensor,
        producer: ExternalStream | None,
        lender: ExternalStream,
        ready: Event,
        done: Event,
    ) -> None:
        self.memory = memory
        self.lender = lender
        self.ready = ready
        self._producer = producer
        self._done = done
        self._pending: PendingRelease | None = None

    def give_back(self) -> None:
        """Let the producer's stream wait."""
        self._pending = TakingBack(self._producer, self.lender, self.memory, self._done)
        keepalive.put(self._pending)

    def take_back(self, consumer: ExternalStream) -> None:
        """The same for a consumer in this process."""
        self._pending = PendingRelease(self._producer, consumer, None, self.memory)
        keepalive.put(self._pending)

    def is_ordered(self) -> bool:
        """Whether the producer's stream waits for the consumer. It cannot while it captures a graph."""
        return self._pending is not None and (self._pending.is_ordered or self._pending.is_lost)

    def is_done(self) -> bool:
        """Whether the device has passed the consumer's event, which was recorded."""
        return self.is_ordered() and passed(self._done)


class GivingBack(PendingRelease):
    """The consumer's stream records ``done``, and the producer's process is told; then the memory is kept as usual."""

    __slots__ = ("device", "done", "loan")

    def __init__(self, loan: Loan, consumer: ExternalStream, memory: object, done: Event, device: int) -> None:
        super().__init__(consumer, consumer, None, memory)
        self.loan = loan
        self.done = done
        self.device = device

    def _order_back(self, producer: ExternalStream, consumer: ExternalStream, capture: int) -> bool:  # noqa: ARG002
        if capture:
            return False
        if consumer._usable_context() != consumer._cuda.primary_context(self.device):
            relay = new_stream(self.device)  # an event belongs to the context in which it was made
            relay.wait_stream(consumer)
            consumer = relay
        consumer.record_event(self.done)
        self.loan.say(BACK)
        return True


class Holder(Handover):
    """A holder whose end can be seen. It has no ``__slots__``, so that it can have weak references."""


class EndOf(weakref.ref[object]):
    """A weak reference to what keeps the received memory in use. When that is freed, *then* is called, once.

    As in ``_arrays.holder``, the end has two steps. The first is one call of C, which no signal handler can interrupt;
    what it leaves undone, the next call of interop does.
    """

    __slots__ = ("_at_once", "_then")
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __new__(cls, holder: object, then: Callable[[], None]) -> Self:  # noqa: ARG004
        return super().__new__(cls, holder, keepalive.ended.append)

    def __init__(self, holder: object, then: Callable[[], None]) -> None:
        super().__init__(holder, keepalive.ended.append)  # type: ignore[call-arg]
        self._then: Callable[[], None] | None = then
        _ends.add(self)
        self._at_once = weakref.ref(holder, self._settle_now)

    def _settle_now(self, _: object, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _finalizing():  # else memory that is in use is not freed
            keepalive.ended.append(self)
            keepalive.poll()

    def settle(self) -> None:
        """Do what is to be done at the end."""
        then, self._then = self._then, None
        if then is not None:
            then()
            _ends.discard(self)


_ends: Final[set[EndOf]] = set()
"""All that have not come yet: it keeps them alive."""
