"""Happens-before over streams and events, by vector clocks.

:func:`check` watches a program and reports the waits that it forgot. What it decides by is here:

:class:`Clocks` follows the calls that a program makes (enqueue, record, wait, synchronise) and answers, for any piece
of work, whether CUDA's rules order it before what comes next on a stream or on the host. :class:`Accesses` keeps, for
each buffer, the accesses that later ones can still conflict with.

Neither knows anything of CUDA modules: streams, events, contexts, buffers and host threads are whatever hashable keys
the caller uses. Neither takes a lock: the caller does.

The rules:

- A stream runs its work in order. Work starts after everything that the thread which enqueued it knew to be done.
- An event stands for the work before its latest record. A wait binds to the latest record *at the time of the wait*;
  waiting for an event that was never recorded orders nothing.
- The legacy stream of a context waits for all earlier work of the context's blocking streams, and their later work
  waits for it. Non-blocking streams are exempt. A bare record or wait on the legacy stream counts as work there
  (measured on an H200 with driver 580).
- A bare record on any other stream is only a snapshot. In particular it does not make a blocking stream wait for the
  legacy stream: such a stream says that it is done while the event recorded on it is not (measured likewise).
"""

import enum
import itertools
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    import contextlib

    from interop.ledger import Ledger

Who = TypeVar("Who")


class Epoch(NamedTuple):
    """One piece of work: the *number*-th on its *line*, which is a stream or a host thread."""

    line: Hashable
    number: int


class HostThread(NamedTuple):
    """The line of a host thread; a type of its own, so that a thread's key never equals a stream's."""

    key: Hashable


class Clock:
    """A set of work that is closed under "comes before", as one number for each line."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        """Start with nothing known."""
        self._seen: dict[Hashable, int] = {}

    def knows(self, epoch: Epoch) -> bool:
        """Whether the work is in the set."""
        return epoch.number <= self._seen.get(epoch.line, 0)

    def join(self, other: "Clock") -> None:
        """Add everything that *other* knows."""
        seen = self._seen
        for line, number in other._seen.items():  # noqa: SLF001  (a class may read its own kind)
            if number > seen.get(line, 0):
                seen[line] = number

    def tick(self, line: Hashable) -> Epoch:
        """Add the next piece of work of *line*, and name it."""
        number = self._seen[line] = self._seen.get(line, 0) + 1
        return Epoch(line, number)

    def copy(self) -> "Clock":
        """Make an independent clock that knows the same."""
        clock = Clock()
        clock._seen.update(self._seen)
        return clock

    def __iter__(self) -> Iterator[Epoch]:
        """The last known work of each line."""
        return itertools.starmap(Epoch, self._seen.items())

    def __repr__(self) -> str:
        """Show the last known number of each line."""
        return f"Clock({self._seen})"


class StreamKind(enum.Enum):
    """How a stream gets along with the legacy stream of its context."""

    BLOCKING = "blocking"
    NON_BLOCKING = "non-blocking"
    LEGACY = "legacy"


@dataclass(slots=True)
class _Context:
    legacy: "_Stream | None" = None
    streams: dict[Hashable, "_Stream"] = field(default_factory=dict)
    removed: Clock = field(default_factory=Clock)

    def blocking(self) -> Iterable["_Stream"]:
        return (stream for stream in self.streams.values() if stream.kind is StreamKind.BLOCKING)


@dataclass(slots=True)
class _Stream:
    context: _Context
    kind: StreamKind
    # Everything that the next work of the stream comes after, as far as the stream itself knows; what the legacy rules
    # and the enqueuing thread add is joined when work is enqueued.
    clock: Clock = field(default_factory=Clock)


class Clocks:
    """What is ordered before what, in a program of streams, events and host threads.

    Streams must be added before they are used, and raise :class:`KeyError` if they were not; events and threads are
    known from their first use.
    """

    def __init__(self) -> None:
        """Start without streams."""
        self._contexts: dict[Hashable, _Context] = {}
        self._streams: dict[Hashable, _Stream] = {}
        self._events: dict[Hashable, Clock] = {}
        self._threads: dict[Hashable, Clock] = {}

    # -- streams, events, threads --------------------------------------------------------------------------------

    def __contains__(self, stream: Hashable) -> bool:
        """Whether the stream was added."""
        return stream in self._streams

    def add_stream(self, stream: Hashable, *, context: Hashable, kind: StreamKind) -> None:
        """Add a stream.

        Raises:
            ValueError: the stream is there already, or its context has another legacy stream.
        """
        if stream in self._streams:
            message = f"stream {stream!r} was added before"
            raise ValueError(message)
        group = self._contexts.setdefault(context, _Context())
        added = _Stream(group, kind)
        if kind is StreamKind.LEGACY:
            if group.legacy is not None:
                message = f"context {context!r} has a legacy stream already; {stream!r} cannot be another"
                raise ValueError(message)
            group.legacy = added
        self._streams[stream] = group.streams[stream] = added

    def remove_stream(self, stream: Hashable) -> None:
        """Forget a destroyed stream. Its work still counts when the context is synchronised."""
        removed = self._streams.pop(stream)
        group = removed.context
        group.removed.join(removed.clock)
        del group.streams[stream]
        if group.legacy is removed:
            group.legacy = None

    def forget_event(self, event: Hashable) -> None:
        """Forget an event's record, as if it had never been recorded. Waits already placed on it stay."""
        self._events.pop(event, None)

    def is_recorded(self, event: Hashable) -> bool:
        """Whether the event was ever recorded."""
        return event in self._events

    def hear(self, thread: Hashable, other: Hashable) -> None:
        """Let *thread* know what *other* knows, as after ``Thread.join`` or a message through a queue."""
        self._host(thread).join(self._host(other))

    # -- what the program does -----------------------------------------------------------------------------------

    def enqueue(self, stream: Hashable, thread: Hashable) -> Epoch:
        """Enqueue work on a stream; the new work's epoch."""
        return self._touch(self._streams[stream], thread).tick(stream)

    def access(self, thread: Hashable) -> Epoch:
        """Let the host itself do something to memory, at once; the epoch of that."""
        return self._host(thread).tick(HostThread(thread))

    def record(self, event: Hashable, stream: Hashable, thread: Hashable) -> None:
        """Let *event* stand for the work enqueued on *stream* so far, and no longer for what it stood for."""
        target = self._streams[stream]
        if target.kind is StreamKind.LEGACY:
            self._touch(target, thread)
        self._events[event] = self.before_next(stream, thread)

    def wait(self, stream: Hashable, event: Hashable, thread: Hashable) -> None:
        """Let the later work of *stream* come after what *event* stands for now."""
        recorded = self._events.get(event)
        if recorded is None:
            return
        target = self._streams[stream]
        if target.kind is StreamKind.LEGACY:
            self._touch(target, thread)
        target.clock.join(recorded)

    def join(self, stream: Hashable, clock: Clock) -> None:
        """Let the later work of *stream* come after all that *clock* knows, whatever has ordered it so."""
        self._streams[stream].clock.join(clock)

    def tell(self, thread: Hashable, clock: Clock) -> None:
        """Let the host thread come after all that *clock* knows, however it has learnt of it."""
        self._host(thread).join(clock)

    def synchronize_stream(self, stream: Hashable, thread: Hashable) -> None:
        """Let the host thread come after the work of *stream*: it waited for it, or asked and heard that it is done."""
        self._host(thread).join(self.of_stream(stream))

    def synchronize_event(self, event: Hashable, thread: Hashable) -> None:
        """Let the host thread come after what *event* stands for; nothing, if it was never recorded."""
        self._host(thread).join(self.of_event(event))

    def synchronize_context(self, context: Hashable, thread: Hashable) -> None:
        """Let the host thread come after all work of the context, as ``cudaDeviceSynchronize`` does."""
        self._host(thread).join(self.of_context(context))

    # -- questions -----------------------------------------------------------------------------------------------

    def of_stream(self, stream: Hashable) -> Clock:
        """What must be done before the stream counts as done. The legacy stream answers for all blocking ones."""
        target = self._streams[stream]
        clock = target.clock.copy()
        if target.kind is StreamKind.LEGACY:
            for blocking in target.context.blocking():
                clock.join(blocking.clock)
        return clock

    def of_event(self, event: Hashable) -> Clock:
        """What must be done before the event counts as done."""
        return self._events.get(event, _NOTHING).copy()

    def of_context(self, context: Hashable) -> Clock:
        """All work of the context, and what it comes after."""
        clock = Clock()
        group = self._contexts.get(context)
        if group is not None:
            clock.join(group.removed)
            for stream in group.streams.values():
                clock.join(stream.clock)
        return clock

    def of_everything(self) -> Clock:
        """All work of all contexts, and all that host threads know."""
        clock = Clock()
        for context in self._contexts:
            clock.join(self.of_context(context))
        for thread in self._threads.values():
            clock.join(thread)
        return clock

    def of_thread(self, thread: Hashable) -> Clock:
        """What the host thread knows to be done."""
        return self._host(thread).copy()

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
        return self._host(thread).knows(epoch)

    # -- the rules -----------------------------------------------------------------------------------------------

    def _host(self, thread: Hashable) -> Clock:
        return self._threads.setdefault(thread, Clock())

    def _touch(self, stream: _Stream, thread: Hashable) -> Clock:
        self._join_rules(stream.clock, stream, thread)
        return stream.clock

    def _join_rules(self, clock: Clock, stream: _Stream, thread: Hashable) -> None:
        clock.join(self._host(thread))
        group = stream.context
        if stream.kind is StreamKind.LEGACY:
            for blocking in group.blocking():
                clock.join(blocking.clock)
        elif stream.kind is StreamKind.BLOCKING and group.legacy is not None:
            clock.join(group.legacy.clock)


_NOTHING = Clock()


@dataclass(frozen=True, slots=True)
class Access(Generic[Who]):
    """One read or write of a buffer.

    Attributes:
        who: whatever the caller wants to know of it later.
        epoch: the work that does it.
        writes: whether it writes; what both reads and writes, writes.
    """

    who: Who
    epoch: Epoch
    writes: bool


class Accesses(Generic[Who]):
    """The accesses of each buffer that later ones can still conflict with.

    That is the last write and the reads since, as long as everything is ordered; where it is not, all the accesses
    that no later one comes after, so that a second culprit is not hidden by the first.
    """

    def __init__(self) -> None:
        """Start with untouched buffers."""
        self._live: dict[Hashable, list[Access[Who]]] = {}

    def conflicts(self, buffer: Hashable, known: Clock, *, writes: bool) -> list[Access[Who]]:
        """The earlier accesses that a new one conflicts with and is not ordered after, oldest first.

        Args:
            buffer: what is accessed.
            known: what the new access comes after.
            writes: whether the new access writes. Two reads never conflict.
        """
        live = self._live.get(buffer, ())
        return [access for access in live if (writes or access.writes) and not known.knows(access.epoch)]

    def add(self, buffer: Hashable, access: Access[Who], known: Clock) -> None:
        """Add an access that comes after what *known* knows."""
        # What is dropped here comes before the new access, and conflicts with nothing that the new one does not
        # conflict with: whoever is ordered after the new one is ordered after it too.
        live = self._live.get(buffer, ())
        kept = [old for old in live if not ((access.writes or not old.writes) and known.knows(old.epoch))]
        self._live[buffer] = [*kept, access]

    def forget(self, buffer: Hashable) -> None:
        """Forget a buffer that is gone, so that its key may stand for another one."""
        self._live.pop(buffer, None)


def check(*, strict: bool = False, raises: bool = True) -> "contextlib.AbstractContextManager[Ledger]":
    """Watch every record, wait, synchronise and hand-over in a ``with`` block, and report what nothing orders.

    See :mod:`interop.ledger` for what is seen, what is not, and what is reported.

    Args:
        strict: whether to raise where the second of two unordered accesses is made, if possible before it is.
        raises: whether to raise at the end of the block if there were races, and nothing else was raised.

    Raises:
        RaceError: two accesses of one array, at least one a write, are ordered by nothing.
        NotSupportedError: another thread has a ledger open, or closes this one, outside of a simulation.
    """
    from interop.ledger import Watched  # noqa: PLC0415  (most programs use the clocks or nothing of this module)

    return Watched(strict=strict, raises=raises)
