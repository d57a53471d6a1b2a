"""What is ordered before what, as far as it was seen, and as far as it is possible.

Not every wait can be seen. So there are two sets of clocks. What *seen* orders is ordered for certain. *possible*
assumes that whatever could not be seen has waited for everything: what not even *possible* orders is unordered for
certain. What only *possible* orders is uncertain.
"""

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from interop._order.clocks import Clocks
from interop._order.findings import Party
from interop.ledger.layout import Layout
from interop.ledger.memory import Memory, Touch
from interop.ledger.streams import HostThread, KnownStream

if TYPE_CHECKING:
    from interop._order.clock import Clock, Epoch

_HOST = "the host"
_ASSUMED = "everything that all streams were assumed to have waited for"
_PERHAPS = "nothing says whether one of them writes, or whether the two arrays have a byte in common"


class History:
    """The calls of a program so far. Takes no lock, and calls no CUDA.

    A signal handler may raise in the middle of any method. If the method is then called again, before any other one, it
    does the rest: to repeat a part changes nothing.
    """

    def __init__(self) -> None:
        self.memory = Memory()
        self.uncertainties: dict[str, None] = {}
        self.streams: dict[Hashable, KnownStream] = {}
        self._seen = Clocks()
        self._possible = Clocks(beside=self._seen)
        self._places: dict[Hashable, KnownStream] = {}
        self._threads: dict[HostThread, None] = {}
        self._holds: dict[KnownStream, tuple[Epoch, Epoch, str]] = {}

    # -- streams, events, threads --------------------------------------------------------------------------------

    def known(self, stream: KnownStream) -> KnownStream:
        """The stream with the key of *stream*, as it was first seen; but its waits may have become uncertain."""
        known = self.streams.get(stream.key)
        if known is None:
            known = stream
            before = self._places.get(stream.place)
            if before is not None:
                self.remove(before)  # that stream was destroyed: its address is in use again
            for clocks in (self._seen, self._possible):
                if stream not in clocks:
                    clocks.add_stream(stream, context=stream.context, kind=stream.kind)
            self._possible.join(stream, self._possible.of_event(_ASSUMED))
            if stream.place is not None:
                self._places[stream.place] = stream
            self.streams[stream.key] = stream
        known.uncertainty = known.uncertainty or stream.uncertainty
        if known.uncertainty:
            self.assume_ordered(known, known.uncertainty)
        return known

    def remove(self, stream: KnownStream) -> None:
        """Forget a stream that was destroyed."""
        if stream in self._possible:
            if stream.uncertainty:  # the host may have waited for it
                self._possible.synchronize_stream(stream, _HOST)
            self._possible.remove_stream(stream)
        if stream in self._seen:
            self._seen.remove_stream(stream)
        self._places.pop(stream.place, None)
        self.streams.pop(stream.key, None)

    def assume_ordered(self, stream: KnownStream, uncertainty: str) -> None:
        """Assume that the later work of a stream may come after everything so far. *uncertainty* says why."""
        self.uncertainties[uncertainty] = None
        self._possible.join(stream, self._possible.of_everything())

    def assume_all_ordered(self, uncertainty: str) -> None:
        """Assume that all work so far is ordered before all later work, also on streams that were not seen yet."""
        self._possible.assign(_ASSUMED, self._possible.of_everything())
        for stream in self.streams.values():
            self.assume_ordered(stream, uncertainty)

    def hear(self, thread: HostThread, other: HostThread) -> None:
        """Let *thread* know what *other* knows."""
        self._seen.hear(self._host(thread), other)

    def _host(self, thread: HostThread) -> HostThread:
        """*thread*, which knows all that the others know if it is new. What ended threads knew, all others know.

        *possible* has one host for all threads: what they tell each other cannot be seen.
        """
        for other in list(self._threads):
            if other is not thread and not other.is_alive():
                for stream in [stream for stream in self.streams.values() if stream.thread is other]:
                    self.remove(stream)
                self._seen.end_thread(other)
                del self._threads[other]
        if thread not in self._threads:
            if self._threads:
                reason = "one thread may have told the other what it waited for; if so, call ledger.hear(thread)"
                self.uncertainties[reason] = None
            self._seen.add_thread(thread)
            self._threads[thread] = None
        return thread

    # -- calls ---------------------------------------------------------------------------------------------------

    def record(self, event: Hashable, stream: KnownStream, thread: HostThread) -> None:
        """Let *event* stand for the work of the stream so far."""
        self._seen.record(event, stream, self._host(thread))
        self._possible.record(event, stream, _HOST)

    def record_context(self, event: Hashable, context: Hashable, thread: HostThread) -> None:
        """Let *event* stand for all work of a context so far."""
        self._seen.record_context(event, context, self._host(thread))
        self._possible.record_context(event, context, _HOST)

    def wait(self, stream: KnownStream, event: Hashable, thread: HostThread) -> bool:
        """Let the later work of the stream come after what *event* stands for. False if no record of it was seen."""
        if not self._seen.is_recorded(event):
            return False
        self._seen.wait(stream, event, self._host(thread))
        self._possible.wait(stream, event, _HOST)
        return True

    def is_recorded(self, event: Hashable) -> bool:
        """Whether a record of the event was seen."""
        return self._seen.is_recorded(event)

    def join(self, consumer: KnownStream, producer: KnownStream, thread: HostThread) -> None:
        """Let the later work of *consumer* come after the work of *producer* so far."""
        event = object()
        self.record(event, producer, thread)
        self.wait(consumer, event, thread)
        self.forget(event)

    def forget(self, event: Hashable) -> None:
        """Forget what *event* stands for."""
        self._seen.forget_event(event)
        self._possible.forget_event(event)

    def host_knows_stream(self, stream: KnownStream, thread: HostThread) -> None:
        """Let the host thread come after the stream's work."""
        self._seen.synchronize_stream(stream, self._host(thread))
        self._possible.synchronize_stream(stream, _HOST)

    def host_knows_event(self, event: Hashable, thread: HostThread) -> None:
        """Let the host thread come after what *event* stands for: perhaps everything, if its record was not seen."""
        if not self._seen.is_recorded(event):
            self.uncertainties["the host has waited for an event whose record was not seen"] = None
            self._possible.tell(_HOST, self._possible.of_everything())
        self._seen.synchronize_event(event, self._host(thread))
        self._possible.synchronize_event(event, _HOST)

    def host_knows_context(self, context: Hashable, thread: HostThread) -> None:
        """Let the host thread come after all work of a context."""
        self._seen.synchronize_context(context, self._host(thread))
        self._possible.synchronize_context(context, _HOST)

    def assume_host_knows_context(self, context: Hashable, uncertainty: str) -> None:
        """Assume that the host has come after all work of a context so far. *uncertainty* says why."""
        self.uncertainties[uncertainty] = None
        self._possible.synchronize_context(context, _HOST)

    # -- waits for what cannot be seen ---------------------------------------------------------------------------

    def hold(self, stream: KnownStream, why: str, thread: HostThread) -> None:
        """The stream waits for something out of sight, perhaps for a call that comes later. *why* says for what."""
        self.assume_ordered(stream, why)
        epoch = self._seen.enqueue(stream, self._host(thread))
        self._possible.follow(epoch, stream, _HOST)
        self._holds[stream] = self._holds.get(stream, (epoch,))[0], epoch, why

    def doubt(self, stream: KnownStream, thread: HostThread) -> str:
        """Why the stream's next work may be ordered with calls that come later; empty if it cannot be."""
        if not self._holds:
            return ""
        known, whys = self._seen.before_next(stream, self._host(thread)), []
        for held, (first, last, why) in list(self._holds.items()):
            if self._seen.is_known(last, thread):  # the host has seen the end of it
                del self._holds[held]
                self._possible.tell(_HOST, self._possible.of_everything())
            elif known.knows(first):
                whys.append(why)
        return "; ".join(dict.fromkeys(whys))

    # -- accesses ------------------------------------------------------------------------------------------------

    def conflicts(
        self, stream: KnownStream, party: Party, layout: Layout, thread: HostThread
    ) -> Iterator[tuple[Touch, str]]:
        """The earlier accesses that conflict with one by the stream's next work.

        Yields:
            The access, and why the conflict is uncertain; empty if it is certain.
        """
        seen = self._seen.before_next(stream, self._host(thread))
        found = list(self.memory.conflicts(layout, party.kind, seen))
        if found:
            self._assume_host_knows()
            possible = self._possible.before_next(stream, _HOST)
            for old, certain in found:
                yield old, self._why(old, party, possible, certain=certain)

    def _assume_host_knows(self) -> None:
        for other in self.streams.values():
            if other.uncertainty:  # the host may have waited for that stream too
                self._possible.synchronize_stream(other, _HOST)

    def _why(self, old: Touch, party: Party, possible: "Clock", *, certain: bool) -> str:
        """Why it is not certain that an access conflicts with an old one; empty if it is."""
        if possible.knows(old.epoch):
            return "; ".join(self.uncertainties)
        doubts = [party.doubt, old.party.doubt, "" if certain else _PERHAPS]
        return "; ".join(dict.fromkeys(filter(None, doubts)))

    def work(self, stream: KnownStream, touches: list[tuple[Party, Layout]], thread: HostThread) -> None:
        """Add one piece of work to a stream, with all its accesses."""
        known = self._seen.before_next(stream, self._host(thread))
        epoch = self._seen.enqueue(stream, thread)
        self._possible.follow(epoch, stream, _HOST)
        for party, layout in touches:
            self.memory.add(Touch(party, epoch, layout), known)

    def add(
        self, stream: KnownStream, touches: list[tuple[Party, Layout]], thread: HostThread
    ) -> list[tuple[Touch, Party, Layout, str]]:
        """Add one piece of work to a stream. What :meth:`conflicts` says of each access, with that access."""
        self._assume_host_knows()
        epoch = self._seen.enqueue(stream, self._host(thread))
        self._possible.follow(epoch, stream, _HOST)
        known, possible = self._seen.after_last(stream), self._possible.after_last(stream)
        found = [
            (old, party, layout, self._why(old, party, possible, certain=certain))
            for party, layout in touches
            for old, certain in self.memory.conflicts(layout, party.kind, known)
        ]
        for party, layout in touches:
            self.memory.add(Touch(party, epoch, layout), known)
        return found
