"""Happens-before over streams, events and host threads: CUDA's rules, as operations on vector clocks.

:mod:`interop.ordering` is the public face, and states the rules.
"""

import enum
from collections.abc import Hashable
from dataclasses import dataclass, field

from interop._order.clock import Clock, Epoch, Line
from interop._order.ended import EndedLines


class StreamKind(enum.Enum):
    """How a stream behaves towards the legacy stream of its context."""

    BLOCKING = "blocking"
    NON_BLOCKING = "non-blocking"
    LEGACY = "legacy"


@dataclass(slots=True)
class _Context:
    legacy: "_Stream | None" = None
    streams: "dict[Hashable, _Stream]" = field(default_factory=dict)
    removed: Clock = field(default_factory=Clock)
    # What the legacy stream does not know yet: of blocking streams that exist, and of those that were removed.
    changed: "dict[Hashable, _Stream]" = field(default_factory=dict)
    left: Clock = field(default_factory=Clock)

    def before_legacy(self) -> list[Clock]:
        """What the legacy stream waits for, and does not know yet."""
        # A copy: a signal handler may add and remove streams.
        return [self.left, *(stream.clock for stream in list(self.changed.values()))]


@dataclass(slots=True)
class _Stream:
    context: _Context
    kind: StreamKind
    line: Line
    # Everything that the next work of the stream comes after, as far as the stream itself knows. When work is enqueued,
    # what the legacy rules and the enqueuing thread add is joined.
    clock: Clock = field(default_factory=Clock)


@dataclass(slots=True)
class _Thread:
    line: Line
    clock: Clock


class Clocks:
    """The order of the work in a program of streams, events and host threads.

    Example::

        from interop.ordering import Clocks, StreamKind

        clocks = Clocks()
        for name in ("producer", "consumer"):
            clocks.add_stream(name, context=0, kind=StreamKind.NON_BLOCKING)
        work = clocks.enqueue("producer", "host")
        clocks.record("event", "producer", "host")
        assert not clocks.happens_before(work, "consumer", "host")
        clocks.wait("consumer", "event", "host")
        assert clocks.happens_before(work, "consumer", "host")

    A stream must be added before it is used; otherwise the method raises :class:`KeyError`. Events and threads are
    known from their first use.
    """

    def __init__(self, beside: "Clocks | None" = None) -> None:
        """Start without streams.

        Args:
            beside: clocks that follow the same streams by other rules. An epoch of one can be asked of the other.
        """
        self._contexts: dict[Hashable, _Context] = {}
        self._streams: dict[Hashable, _Stream] = {}
        self._events: dict[Hashable, Clock] = {}
        self._threads: dict[Hashable, _Thread] = {}
        self._ended_threads = Clock()
        self._all: list[Clocks] = beside._all if beside else []
        self._all.append(self)
        self._ended_lines: EndedLines = beside._ended_lines if beside else EndedLines()

    # -- streams, events, threads --------------------------------------------------------------------------------

    def __contains__(self, stream: Hashable) -> bool:
        """Whether the stream was added."""
        return stream in self._streams

    def add_stream(self, stream: Hashable, *, context: Hashable, kind: StreamKind) -> None:
        """Add a stream.

        Raises:
            ValueError: the stream was added before, or its context has another legacy stream.
        """
        if stream in self._streams:
            message = f"stream {stream!r} was added before"
            raise ValueError(message)
        group = self._contexts.setdefault(context, _Context())
        lines = [clocks.line(stream) for clocks in self._all if stream in clocks]
        added = _Stream(group, kind, lines[0] if lines else Line(stream))
        if kind is StreamKind.LEGACY:
            if group.legacy is not None:
                message = f"context {context!r} has a legacy stream already; {stream!r} cannot be another"
                raise ValueError(message)
            group.legacy = added
        self._streams[stream] = group.streams[stream] = added

    def line(self, stream: Hashable) -> Line:
        """The line of a stream."""
        return self._streams[stream].line

    def remove_stream(self, stream: Hashable) -> None:
        """Forget a destroyed stream. Its work still counts, for the context and for the legacy stream."""
        # In this order, a signal handler that raises in the middle loses no order, and the method may be called again.
        removed = self._streams[stream]
        group = removed.context
        group.removed.join(removed.clock)
        if stream in group.changed:
            group.left.join(removed.clock)
            del group.changed[stream]
        if group.legacy is removed:
            group.left.join(removed.clock)
            group.legacy = None
        group.streams.pop(stream, None)
        del self._streams[stream]
        self._end_line(removed.line, removed.clock)

    def forget_event(self, event: Hashable) -> None:
        """Forget an event's record, as if it had never been recorded. Waits already placed on it stay."""
        self._events.pop(event, None)

    def is_recorded(self, event: Hashable) -> bool:
        """Whether the event was ever recorded."""
        return event in self._events

    def add_thread(self, thread: Hashable) -> None:
        """Add a host thread that has just started. It knows what the others know. Its first use does the same."""
        self._host(thread)

    def end_thread(self, thread: Hashable) -> None:
        """Forget a thread that has ended. All other threads know what it knew: one of them may have joined it."""
        ended = self._threads.get(thread)
        if ended is not None:
            for clock in (self._ended_threads, *(other.clock for other in list(self._threads.values()))):
                clock.join(ended.clock)
            del self._threads[thread]
            self._end_line(ended.line, ended.clock)

    def hear(self, thread: Hashable, other: Hashable) -> None:
        """Let *thread* know what *other* knows, as after a message through a queue."""
        if other in self._threads:
            self._host(thread).clock.join(self._host(other).clock)

    # -- what the program does -----------------------------------------------------------------------------------

    def enqueue(self, stream: Hashable, thread: Hashable, steps: int = 1) -> Epoch:
        """Enqueue work on a stream, which counts for so many *steps*. Returns its epoch."""
        target = self._streams[stream]
        return self._touch(target, thread).tick(target.line, steps)

    def follow(self, epoch: Epoch, stream: Hashable, thread: Hashable) -> None:
        """Enqueue on a stream the work that the clocks beside these call *epoch*."""
        self._touch(self._streams[stream], thread).add(epoch)

    def access(self, thread: Hashable) -> Epoch:
        """Let the host thread itself access memory, at once. Returns the epoch."""
        host = self._host(thread)
        return host.clock.tick(host.line, 0)

    def record(self, event: Hashable, stream: Hashable, thread: Hashable) -> None:
        """Let *event* stand for the work enqueued on *stream* so far, in place of what it stood for before."""
        target = self._streams[stream]
        if target.kind is StreamKind.LEGACY:
            self._touch(target, thread)
        self._events[event] = self.before_next(stream, thread)

    def record_context(self, event: Hashable, context: Hashable, thread: Hashable) -> None:
        """Let *event* stand for all work of the context so far."""
        clock = self.of_context(context)
        clock.join(self._host(thread).clock)
        self._events[event] = clock

    def assign(self, event: Hashable, clock: Clock) -> None:
        """Let *event* stand for all that *clock* knows."""
        self._events[event] = clock

    def wait(self, stream: Hashable, event: Hashable, thread: Hashable) -> None:
        """Let the later work of *stream* come after what *event* stands for now."""
        recorded = self._events.get(event)
        if recorded is None:
            return
        if self._streams[stream].kind is StreamKind.LEGACY:
            self._touch(self._streams[stream], thread)
        self.join(stream, recorded)

    def join(self, stream: Hashable, clock: Clock) -> None:
        """Let the later work of *stream* come after all that *clock* knows, for whatever reason."""
        target = self._streams[stream]
        self._mark(target)
        target.clock.join(clock)

    def tell(self, thread: Hashable, clock: Clock) -> None:
        """Let the host thread come after all that *clock* knows, for whatever reason."""
        self._host(thread).clock.join(clock)

    def synchronize_stream(self, stream: Hashable, thread: Hashable) -> None:
        """Let the host thread come after the work of *stream*: it waited for the stream, or a query said done."""
        self.tell(thread, self.of_stream(stream))

    def synchronize_event(self, event: Hashable, thread: Hashable) -> None:
        """Let the host thread come after what *event* stands for: nothing, if it was never recorded."""
        self.tell(thread, self.of_event(event))

    def synchronize_context(self, context: Hashable, thread: Hashable) -> None:
        """Let the host thread come after all work of the context, as ``cudaDeviceSynchronize`` does."""
        self.tell(thread, self.of_context(context))

    # -- questions -----------------------------------------------------------------------------------------------

    def of_stream(self, stream: Hashable) -> Clock:
        """What must be done before the stream is done. The legacy stream includes all blocking streams."""
        target = self._streams[stream]
        clock = target.clock.copy()
        if target.kind is StreamKind.LEGACY:
            clock.join(*target.context.before_legacy())
        return clock

    def after_last(self, stream: Hashable) -> Clock:
        """The last work of the stream, and what it comes after. No copy: read it, before anything else is called."""
        return self._streams[stream].clock

    def of_event(self, event: Hashable) -> Clock:
        """What must be done before the event is done."""
        return self._events.get(event, _NOTHING).copy()

    def of_context(self, context: Hashable) -> Clock:
        """All work of the context, and what that comes after."""
        clock = Clock()
        group = self._contexts.get(context)
        if group is not None:
            clock.join(group.removed, *(stream.clock for stream in list(group.streams.values())))
        return clock

    def of_everything(self) -> Clock:
        """All work of all contexts, and all that host threads know."""
        clock = self._ended_threads.copy()
        clock.join(*map(self.of_context, list(self._contexts)))
        clock.join(*(thread.clock for thread in list(self._threads.values())))
        return clock

    def of_thread(self, thread: Hashable) -> Clock:
        """What the host thread knows to be done."""
        return self._host(thread).clock.copy()

    def before_next(self, stream: Hashable, thread: Hashable) -> Clock:
        """What work would come after, if *thread* enqueued it on *stream* now. Changes nothing."""
        target = self._streams[stream]
        clock = target.clock.copy()
        self._join_rules(clock, target, thread)
        return clock

    def happens_before(self, epoch: Epoch, stream: Hashable, thread: Hashable) -> bool:
        """Whether *epoch* is ordered before what *thread* enqueues next on *stream*."""
        return self.before_next(stream, thread).knows(epoch)

    def is_known(self, epoch: Epoch, thread: Hashable) -> bool:
        """Whether *epoch* is ordered before what the host thread itself does next."""
        return self._host(thread).clock.knows(epoch)

    # -- the rules -----------------------------------------------------------------------------------------------

    def _host(self, thread: Hashable) -> _Thread:
        host = self._threads.get(thread)
        if host is None:
            clock = self._ended_threads.copy()
            clock.join(*(other.clock for other in list(self._threads.values())))
            host = self._threads[thread] = _Thread(Line(thread), clock)
        return host

    def _touch(self, stream: _Stream, thread: Hashable) -> Clock:
        """The clock of a stream that gets work from *thread*, with all that this work comes after."""
        self._join_rules(stream.clock, stream, thread)
        self._mark(stream)
        if stream.kind is StreamKind.LEGACY:
            stream.context.changed.clear()
            stream.context.left = Clock()
        return stream.clock

    @staticmethod
    def _mark(stream: _Stream) -> None:
        """Note that the legacy stream does not know all of the clock."""
        if stream.kind is StreamKind.BLOCKING:
            stream.context.changed[stream.line.key] = stream

    def _join_rules(self, clock: Clock, stream: _Stream, thread: Hashable) -> None:
        clock.join(self._host(thread).clock)
        group = stream.context
        if stream.kind is StreamKind.LEGACY:
            clock.join(*group.before_legacy())
        elif stream.kind is StreamKind.BLOCKING and group.legacy is not None:
            clock.join(group.legacy.clock)

    # -- what has ended ------------------------------------------------------------------------------------------

    def _end_line(self, line: Line, clock: Clock) -> None:
        self._ended_lines.add(line, clock._seen.get(line.number, 0))
        if self._ended_lines.is_full:
            self._ended_lines.tidy([clocks._parts() for clocks in self._all])

    def _parts(self) -> tuple[list[Clock], list[Clock]]:
        """The clocks of the threads, and all others, from copies: a signal handler may use a simulation meanwhile."""
        others = [
            self._ended_threads,
            *self._events.values(),
            *(stream.clock for stream in list(self._streams.values())),
        ]
        others += [clock for context in self._contexts.values() for clock in (context.removed, context.left)]
        return [thread.clock for thread in list(self._threads.values())], others


_NOTHING = Clock()
