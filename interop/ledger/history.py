"""What is ordered before what, as far as it was seen, and as far as it is possible.

Not every wait can be seen. So there are two sets of clocks. What *seen* orders is ordered. What not even *possible*
orders, which supposes that whatever could not be seen has waited for everything, is not. In between, nobody knows.
"""

import threading
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from interop._order.clocks import Clocks, StreamKind
from interop.ledger.memory import Kind, Layout, Memory, Touch
from interop.ledger.report import Party

_HOST = "the host"
_SUPPOSED = "everything, when all streams were supposed to have waited for it"
_PERHAPS = "nothing says whether one of them writes, or whether two strided arrays have a byte in common"


@dataclass(eq=False, slots=True)
class Line:
    """A stream that the history knows.

    Attributes:
        key: unique for the process's life, as opposed to the address.
        context: the key of its context.
        kind: how it gets along with the legacy stream.
        label: what reports call it.
        native: what tells it from other streams at one time, as :class:`~interop.ExternalStream` compares.
        expression: what :func:`interop.as_stream` takes for it, in its own thread, where there is no variable.
        place: what the next stream has too that is made at its address; None for a default stream.
        thread: the one that it ends with, if it is a per-thread default stream.
        doubt: why waits may have been placed on it, or by the host for it, that could not be seen; empty if none may.
    """

    key: Hashable
    context: Hashable
    kind: StreamKind
    label: str
    native: tuple[object, ...]
    expression: str
    place: Hashable = None
    thread: threading.Thread | None = None
    doubt: str = ""


class History:
    """The calls of a program so far. Takes no lock, and calls no CUDA.

    A signal handler may raise in the middle of each method. Called again, before any other one, it then does the rest:
    nothing that it does makes a difference if it was done before.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.memory = Memory()
        self.doubts: dict[str, None] = {}
        self._seen = Clocks()
        self._possible = Clocks(beside=self._seen)
        self.lines: dict[Hashable, Line] = {}
        self._places: dict[Hashable, Line] = {}
        self._threads: dict[threading.Thread, None] = {}

    # -- streams, events, threads --------------------------------------------------------------------------------

    def line(self, line: Line) -> Line:
        """The stream under its key, as it was first seen; what is new is that it can be doubted."""
        known = self.lines.get(line.key)
        if known is None:
            known = line
            before = self._places.get(line.place)
            if before is not None:
                self._remove(before)  # it was destroyed: its address has been given again
            for clocks in (self._seen, self._possible):
                if line not in clocks:
                    clocks.add_stream(line, context=line.context, kind=line.kind)
            self._possible.join(line, self._possible.of_event(_SUPPOSED))
            if line.place is not None:
                self._places[line.place] = line
            self.lines[line.key] = line
        known.doubt = known.doubt or line.doubt
        if known.doubt:
            self.suppose(known, known.doubt)
        return known

    def _remove(self, line: Line) -> None:
        """Forget a stream that is gone."""
        if line in self._possible:
            if line.doubt:  # the host may have waited for it
                self._possible.synchronize_stream(line, _HOST)
            self._possible.remove_stream(line)
        if line in self._seen:
            self._seen.remove_stream(line)
        self._places.pop(line.place, None)
        self.lines.pop(line.key, None)

    def suppose(self, line: Line, doubt: str) -> None:
        """Suppose that the later work of a stream comes after everything so far: *doubt* says why it may."""
        self.doubts[doubt] = None
        self._possible.join(line, self._possible.of_everything())

    def suppose_all(self, doubt: str) -> None:
        """Suppose it of all streams, those that were not seen yet too."""
        self._possible.assign(_SUPPOSED, self._possible.of_everything())
        for line in self.lines.values():
            self.suppose(line, doubt)

    def hear(self, thread: threading.Thread, other: threading.Thread) -> None:
        """Let *thread* know what *other* knows."""
        self._seen.hear(self._host(thread), other)

    def _host(self, thread: threading.Thread) -> threading.Thread:
        """*thread*. A new one knows all that the others know, and an ended one is heard.

        *possible* has one host for all threads: what they tell each other cannot be seen.
        """
        for other in list(self._threads):
            if other is not thread and not other.is_alive():
                for line in [line for line in self.lines.values() if line.thread is other]:
                    self._remove(line)
                self._seen.end_thread(other)
                del self._threads[other]
        if thread not in self._threads:
            if self._threads:
                self.doubts["what one thread waited for, it may have told the other; if so: ledger.hear(thread)"] = None
            self._seen.add_thread(thread)
            self._threads[thread] = None
        return thread

    # -- calls ---------------------------------------------------------------------------------------------------

    def record(self, event: Hashable, line: Line, thread: threading.Thread) -> None:
        """Let *event* stand for the work of the stream so far."""
        self._seen.record(event, line, self._host(thread))
        self._possible.record(event, line, _HOST)

    def wait(self, line: Line, event: Hashable, thread: threading.Thread) -> bool:
        """Let the later work of the stream come after what *event* stands for; False if it was never recorded here."""
        if not self._seen.is_recorded(event):
            return False
        self._seen.wait(line, event, self._host(thread))
        self._possible.wait(line, event, _HOST)
        return True

    def join(self, consumer: Line, producer: Line, thread: threading.Thread) -> None:
        """Let the later work of *consumer* come after the work of *producer* so far."""
        event = object()
        self.record(event, producer, thread)
        self.wait(consumer, event, thread)
        self.forget(event)

    def forget(self, event: Hashable) -> None:
        """Forget what *event* stands for."""
        self._seen.forget_event(event)
        self._possible.forget_event(event)

    def host_knows_stream(self, line: Line, thread: threading.Thread) -> None:
        """Let the host thread come after the stream's work."""
        self._seen.synchronize_stream(line, self._host(thread))
        self._possible.synchronize_stream(line, _HOST)

    def host_knows_event(self, event: Hashable, thread: threading.Thread) -> None:
        """Let the host thread come after what *event* stands for, which may be anything if that was not seen."""
        if not self._seen.is_recorded(event):
            self.doubts["the host has waited for an event whose record was not seen"] = None
            self._possible.tell(_HOST, self._possible.of_everything())
        self._seen.synchronize_event(event, self._host(thread))
        self._possible.synchronize_event(event, _HOST)

    def host_knows_context(self, context: Hashable, thread: threading.Thread) -> None:
        """Let the host thread come after all work of a context."""
        self._seen.synchronize_context(context, self._host(thread))
        self._possible.synchronize_context(context, _HOST)

    # -- accesses ------------------------------------------------------------------------------------------------

    def conflicts(
        self, line: Line, kind: Kind, layout: Layout, thread: threading.Thread
    ) -> Iterator[tuple[Touch, str]]:
        """The earlier accesses that one by the stream's next work conflicts with; and the doubt, if there is one."""
        for other in self.lines.values():
            if other.doubt:  # the host may have waited for it, too
                self._possible.synchronize_stream(other, _HOST)
        seen = self._seen.before_next(line, self._host(thread))
        possible = self._possible.before_next(line, _HOST)
        for old, surely in self.memory.conflicts(layout, kind, seen):
            if possible.knows(old.epoch):
                yield old, "; ".join(self.doubts)
            elif not surely:
                yield old, _PERHAPS
            else:
                yield old, ""

    def work(self, line: Line, touches: list[tuple[Party, Layout]], thread: threading.Thread) -> None:
        """Add one piece of work to a stream, with all that it touches."""
        known = self._seen.before_next(line, self._host(thread))
        epoch = self._seen.enqueue(line, thread)
        self._possible.follow(epoch, line, _HOST)
        for party, layout in touches:
            self.memory.add(Touch(party, epoch, party.kind, layout), known)
