"""Happens-before over streams and events, by vector clocks.

:func:`check` watches a program and reports the waits that it forgot. What it decides by is here:

:class:`Clocks` follows the calls that a program makes (enqueue, record, wait, synchronise) and answers, for any piece
of work, whether CUDA's rules order it before what comes next on a stream or on the host. :class:`Accesses` keeps, for
one buffer, the accesses that later ones can still conflict with.

Neither knows anything of CUDA modules: streams, events, contexts and host threads are whatever hashable keys the caller
uses. Neither takes a lock: the caller does.

The rules:

- A stream runs its work in order. Work starts after everything that the thread which enqueued it knew to be done.
- An event stands for the work before its latest record. A wait binds to the latest record *at the time of the wait*;
  waiting for an event that was never recorded orders nothing.
- The legacy stream of a context waits for all earlier work of the context's blocking streams, also of those that were
  destroyed; and their later work waits for it, also that of streams made later. Non-blocking streams are exempt. A bare
  record or wait on the legacy stream counts as work there (measured on an H200 with driver 580).
- A bare record on any other stream is only a snapshot. In particular it does not make a blocking stream wait for the
  legacy stream: such a stream says that it is done while the event recorded on it is not (measured likewise).
- A new thread knows what the other threads know: one of them has started it, and which cannot be seen.

A program may run for long, and make and drop streams, threads and events without end. The clocks stay as small as what
is alive, if the caller says what has gone:

- Call :meth:`Clocks.remove_stream` when a stream is destroyed, :meth:`Clocks.end_thread` when a thread has ended, and
  :meth:`Clocks.forget_event` when an event is destroyed.
- Keep an :class:`Epoch` only as long as somebody may ask for it. An epoch holds its :class:`Line`, and the clocks
  forget a line once its stream or thread is gone and nobody holds the line. Let a key of the caller's hold no epoch.
- Two :class:`Clocks` that follow the same streams, and are asked for the same epochs, are made beside each other.
- Keep no :class:`Clock` to join it later: :meth:`Clocks.assign` lets an event stand for it.
- Of the accesses that are alike but for their epochs, keep only the last one of each :attr:`Line.group`, as
  :class:`Accesses` does: so the accesses of a million streams that are gone become one.
"""

# ruff: noqa: SLF001  (a clock, the lines that it knows, and the table of both are one thing)

import enum
import itertools
import sys
import weakref
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from interop.ledger import Watched

Who = TypeVar("Who")

_ALL: Final = sys.maxsize
"""In a clock: all the work of a line that will have no more."""
_FEW: Final = 64
"""So many lines of streams and threads that are gone are not looked at."""


class Line:
    """Where work is done in order: one stream, or one host thread.

    Attributes:
        key: what the caller calls the stream or the thread.
        number: what clocks call the line. No other line of the process has it, ever.
    """

    __slots__ = ("__weakref__", "_group", "_last", "key", "number")

    def __init__(self, key: Hashable) -> None:
        """Start a line for the stream or thread *key*."""
        self.key = key
        self.number = next(_numbers)
        # Lines of streams that are gone, which no clock tells apart, are in one group. Clocks then know the group.
        self._group: Line | None = None
        self._last = 0  # the number of its last piece of work, once there will be no more

    @property
    def group(self) -> "Line":
        """The line that stands for this one in clocks: itself, as long as its stream or thread is alive."""
        line = self
        while line._group is not None:
            line = line._group
        return line


_numbers = itertools.count(1)


class Epoch(NamedTuple):
    """One piece of work: the *number*-th on its *line*."""

    line: Line
    number: int


class Clock:
    """A set of work that is closed under "comes before", as one number for each line.

    Attributes:
        steps: how many pieces of work, at least, run one after the other until all is done.
    """

    __slots__ = ("_seen", "steps")

    def __init__(self) -> None:
        """Start with nothing known."""
        self._seen: dict[int, int] = {}
        self.steps = 0

    def knows(self, epoch: Epoch) -> bool:
        """Whether the work is in the set."""
        line: Line | None = epoch.line
        while line is not None:
            if epoch.number <= self._seen.get(line.number, 0):
                return True
            line = line._group
        return False

    def unknown(self, accesses: "Iterable[Access[Who]]") -> "list[Access[Who]]":
        """Those of *accesses* the work of which is not in the set."""
        known = self._seen.get
        return [
            access
            for access in accesses
            # Most lines are in no group: of those this is all that `knows` does.
            if access.epoch.number > known(access.epoch.line.number, 0)
            and (access.epoch.line._group is None or not self.knows(access.epoch))
        ]

    def join(self, *others: "Clock") -> None:
        """Add everything that *others* know."""
        seen = self._seen
        for other in others:
            if seen:
                for line, number in other._seen.items():
                    if number > seen.get(line, 0):
                        seen[line] = number
            else:
                seen.update(other._seen)
            self.steps = max(self.steps, other.steps)

    def add(self, epoch: Epoch, steps: int = 1) -> None:
        """Add a piece of work that comes after all that is known."""
        self._seen[epoch.line.number] = epoch.number
        self.steps += steps

    def tick(self, line: Line, steps: int = 1) -> Epoch:
        """Add the next piece of work of *line*, and name it."""
        epoch = Epoch(line, self._seen.get(line.number, 0) + 1)
        self.add(epoch, steps)
        return epoch

    def copy(self) -> "Clock":
        """Make an independent clock that knows the same."""
        clock = Clock()
        clock.join(self)
        return clock

    def among(self, lines: Mapping[int, object]) -> list[tuple[int, int]]:
        """Which of *lines*, by number, it knows work of; and the number of the last of that."""
        return [(line, self._seen[line]) for line in self._seen.keys() & lines.keys()]

    def __len__(self) -> int:
        """How many lines it knows work of."""
        return len(self._seen)

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
    streams: "dict[Hashable, _Stream]" = field(default_factory=dict)
    removed: Clock = field(default_factory=Clock)
    # What the legacy stream does not know yet: of blocking streams, and of those that are gone.
    changed: "dict[Hashable, _Stream]" = field(default_factory=dict)
    left: Clock = field(default_factory=Clock)

    def before_legacy(self) -> list[Clock]:
        """What the legacy stream waits for, and does not know yet."""
        # A copy: a signal handler may make streams, and drop them.
        return [self.left, *(stream.clock for stream in list(self.changed.values()))]


@dataclass(slots=True)
class _Stream:
    context: _Context
    kind: StreamKind
    line: Line
    # Everything that the next work of the stream comes after, as far as the stream itself knows; what the legacy rules
    # and the enqueuing thread add is joined when work is enqueued.
    clock: Clock = field(default_factory=Clock)


@dataclass(slots=True)
class _Thread:
    line: Line
    clock: Clock


class Clocks:
    """What is ordered before what, in a program of streams, events and host threads.

    Streams must be added before they are used, and raise :class:`KeyError` if they were not; events and threads are
    known from their first use.
    """

    def __init__(self, beside: "Clocks | None" = None) -> None:
        """Start without streams.

        Args:
            beside: clocks that follow the same streams by other rules, so that an epoch of those can be asked of these.
        """
        self._contexts: dict[Hashable, _Context] = {}
        self._streams: dict[Hashable, _Stream] = {}
        self._events: dict[Hashable, Clock] = {}
        self._threads: dict[Hashable, _Thread] = {}
        self._ended = Clock()
        self._all: list[Clocks] = beside._all if beside else []
        self._all.append(self)
        self._gone: _Gone = beside._gone if beside else _Gone()

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
        # In this order, a signal handler that raises in the middle loses no order, and this may be called again.
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
        self._let_go(removed.line, removed.clock)

    def forget_event(self, event: Hashable) -> None:
        """Forget an event's record, as if it had never been recorded. Waits already placed on it stay."""
        self._events.pop(event, None)

    def is_recorded(self, event: Hashable) -> bool:
        """Whether the event was ever recorded."""
        return event in self._events

    def add_thread(self, thread: Hashable) -> None:
        """Add a host thread that has just been started, and knows what the others know. Its first use does the same."""
        self._host(thread)

    def end_thread(self, thread: Hashable) -> None:
        """Forget a thread that has ended. Somebody has joined it, or it makes no difference: all know what it knew."""
        ended = self._threads.get(thread)
        if ended is not None:
            for clock in (self._ended, *(other.clock for other in self._threads.values())):
                clock.join(ended.clock)
            del self._threads[thread]
            self._let_go(ended.line, ended.clock)

    def hear(self, thread: Hashable, other: Hashable) -> None:
        """Let *thread* know what *other* knows, as after a message through a queue."""
        if other in self._threads:
            self._host(thread).clock.join(self._host(other).clock)

    # -- what the program does -----------------------------------------------------------------------------------

    def enqueue(self, stream: Hashable, thread: Hashable, steps: int = 1) -> Epoch:
        """Enqueue work on a stream; the new work's epoch. It counts for so many *steps*."""
        target = self._streams[stream]
        return self._touch(target, thread).tick(target.line, steps)

    def follow(self, epoch: Epoch, stream: Hashable, thread: Hashable) -> None:
        """Enqueue work on a stream that the clocks beside these call *epoch*."""
        self._touch(self._streams[stream], thread).add(epoch)

    def access(self, thread: Hashable) -> Epoch:
        """Let the host itself do something to memory, at once; the epoch of that."""
        host = self._host(thread)
        return host.clock.tick(host.line, 0)

    def record(self, event: Hashable, stream: Hashable, thread: Hashable) -> None:
        """Let *event* stand for the work enqueued on *stream* so far, and no longer for what it stood for."""
        target = self._streams[stream]
        if target.kind is StreamKind.LEGACY:
            self._touch(target, thread)
        self._events[event] = self.before_next(stream, thread)

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
        """Let the later work of *stream* come after all that *clock* knows, whatever has ordered it so."""
        target = self._streams[stream]
        self._mark(target)
        target.clock.join(clock)

    def tell(self, thread: Hashable, clock: Clock) -> None:
        """Let the host thread come after all that *clock* knows, however it has learnt of it."""
        self._host(thread).clock.join(clock)

    def synchronize_stream(self, stream: Hashable, thread: Hashable) -> None:
        """Let the host thread come after the work of *stream*: it waited for it, or asked and heard that it is done."""
        self.tell(thread, self.of_stream(stream))

    def synchronize_event(self, event: Hashable, thread: Hashable) -> None:
        """Let the host thread come after what *event* stands for; nothing, if it was never recorded."""
        self.tell(thread, self.of_event(event))

    def synchronize_context(self, context: Hashable, thread: Hashable) -> None:
        """Let the host thread come after all work of the context, as ``cudaDeviceSynchronize`` does."""
        self.tell(thread, self.of_context(context))

    # -- questions -----------------------------------------------------------------------------------------------

    def of_stream(self, stream: Hashable) -> Clock:
        """What must be done before the stream counts as done. The legacy stream answers for all blocking ones."""
        target = self._streams[stream]
        clock = target.clock.copy()
        if target.kind is StreamKind.LEGACY:
            clock.join(*target.context.before_legacy())
        return clock

    def of_event(self, event: Hashable) -> Clock:
        """What must be done before the event counts as done."""
        return self._events.get(event, _NOTHING).copy()

    def of_context(self, context: Hashable) -> Clock:
        """All work of the context, and what it comes after."""
        clock = Clock()
        group = self._contexts.get(context)
        if group is not None:
            clock.join(group.removed, *(stream.clock for stream in list(group.streams.values())))
        return clock

    def of_everything(self) -> Clock:
        """All work of all contexts, and all that host threads know."""
        clock = self._ended.copy()
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
            clock = self._ended.copy()
            clock.join(*(other.clock for other in list(self._threads.values())))
            host = self._threads[thread] = _Thread(Line(thread), clock)
        return host

    def _touch(self, stream: _Stream, thread: Hashable) -> Clock:
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

    # -- what has gone -------------------------------------------------------------------------------------------

    def _let_go(self, line: Line, clock: Clock) -> None:
        line._last = max(line._last, clock._seen.get(line.number, 0))  # the clocks beside these may have let it go
        self._gone.add(line)
        if self._gone.is_full:
            self._gone.tidy([clocks._parts() for clocks in self._all])

    def _parts(self) -> tuple[list[Clock], list[Clock]]:
        """The clocks of the threads, and all others."""
        others = [self._ended, *self._events.values(), *(stream.clock for stream in self._streams.values())]
        others += [clock for context in self._contexts.values() for clock in (context.removed, context.left)]
        return [thread.clock for thread in self._threads.values()], others


class _Gone:
    """The lines of streams and threads that are gone: until nobody holds them, or a group stands for them."""

    def __init__(self) -> None:
        self._lines: dict[int, weakref.ref[Line]] = {}
        self._room = _FEW

    @property
    def is_full(self) -> bool:
        """Whether it is time to tidy: as much has come as there was to look at, so that each line costs the same."""
        return len(self._lines) >= self._room

    def add(self, line: Line) -> None:
        """Add a line that gets no more work."""
        self._lines[line.number] = weakref.ref(line)

    def tidy(self, parts: Iterable[tuple[list[Clock], list[Clock]]]) -> None:
        """Take the lines that nobody holds out of the clocks, and make one line of those that no clock tells apart.

        Whatever comes later, its clock is made by joining those that are there now. So what these do not tell apart is
        never told apart. And what all threads know need not be in any other clock: whoever asks has joined a thread's.

        Args:
            parts: for each of the clocks that are beside each other, those of the threads, and all others.
        """
        held = {number: line for number, reference in self._lines.items() if (line := reference()) is not None}
        knowers: dict[int, list[Clock]] = {number: [] for number in held}
        partly: set[int] = set()
        size = 0
        for hosts, others in parts:
            size += len(hosts) + len(others)
            for number, found in self._find([*hosts, *others], held).items():
                clocks = _needed(hosts, found, held[number])
                knowers[number] += clocks
                if not _know_all(clocks, held[number]):
                    partly.add(number)
        alike: dict[tuple[int, ...], list[Line]] = {}
        for number, clocks in knowers.items():
            if number not in partly and held[number]._group is None:  # not if a signal handler has raised halfway
                alike.setdefault(tuple(map(id, clocks)), []).append(held[number])
        for lines in alike.values():
            if len(lines) > 1:
                group = self._make_one(lines, knowers[lines[0].number])
                held[group.number] = group
        self._lines = {number: weakref.ref(line) for number, line in held.items() if line._group is None}
        self._room = _FEW + size + len(self._lines)

    def _find(self, clocks: list[Clock], held: dict[int, Line]) -> dict[int, list[Clock]]:
        """Which of the clocks know of which of the lines, in this order. What nobody holds, they forget."""
        found: dict[int, list[Clock]] = {}
        for clock in clocks:
            for number in clock._seen.keys() & self._lines.keys():
                if number in held:
                    found.setdefault(number, []).append(clock)
                else:
                    del clock._seen[number]
        return found

    @staticmethod
    def _make_one(lines: list[Line], clocks: list[Clock]) -> Line:
        """Let one line stand for *lines*, of which these clocks know everything, and no other one anything."""
        group = next((line for line in lines if line._last == _ALL), None)
        if group is None:
            group = Line(None)
            group._last = _ALL
        # In this order, a signal handler that raises in the middle loses no order.
        for clock in clocks:
            clock._seen[group.number] = _ALL
        for line in lines:
            if line is not group:
                line._group = group
                for clock in clocks:
                    clock._seen.pop(line.number, None)
        return group


def _needed(hosts: list[Clock], found: list[Clock], line: Line) -> list[Clock]:
    """The clocks, of those that know of *line*, that have to: if all threads know all of it, theirs. Others forget."""
    if not hosts or found[: len(hosts)] != hosts or not _know_all(hosts, line):
        return found
    for clock in found[len(hosts) :]:
        del clock._seen[line.number]
    return hosts


def _know_all(clocks: Iterable[Clock], line: Line) -> bool:
    return all(clock._seen[line.number] >= line._last for clock in clocks)


_NOTHING = Clock()


@dataclass(frozen=True, slots=True)
class Access(Generic[Who]):
    """One read or write of a buffer.

    Attributes:
        who: whatever the caller wants to know of it later.
        epoch: the work that does it.
        writes: whether it writes; what both reads and writes, writes.
        by_host: whether a host thread does it. What host threads do among themselves is not CUDA's business: two of
            their accesses never conflict.
    """

    who: Who
    epoch: Epoch
    writes: bool
    by_host: bool = False

    def covers(self, old: "Access[Who]") -> bool:
        """Whether all that conflicts with *old* conflicts with this one too."""
        return (self.writes or not old.writes) and (old.by_host or not self.by_host)


class Accesses(Generic[Who]):
    """The accesses of one buffer that later ones can still conflict with.

    That is the last write and the reads since, as long as everything is ordered; where it is not, all the accesses
    that no later one comes after, so that a second culprit is not hidden by the first.
    """

    def __init__(self) -> None:
        """Start with an untouched buffer."""
        self._live: list[Access[Who]] = []
        self._room = _FEW

    def conflicts(self, known: Clock, *, writes: bool, by_host: bool = False) -> list[Access[Who]]:
        """The earlier accesses that a new one conflicts with and is not ordered after, oldest first.

        Args:
            known: what the new access comes after.
            writes: whether the new access writes. Two reads never conflict.
            by_host: whether a host thread makes the new access.
        """
        return known.unknown(old for old in self._live if (writes or old.writes) and not (by_host and old.by_host))

    def add(self, access: Access[Who], known: Clock) -> None:
        """Add an access that comes after what *known* knows."""
        # What is dropped here comes before the new access, which covers it: so whoever is ordered after the new one is
        # ordered after what is dropped, too, and whoever is not conflicts with the new one.
        unknown = known.unknown(self._live)
        if len(unknown) == len(self._live):
            live = unknown
        else:
            kept = set(map(id, unknown))
            live = [old for old in self._live if id(old) in kept or not access.covers(old)]
        live.append(access)
        if len(live) >= self._room:
            latest = {(old.epoch.line.group, old.writes, old.by_host): old for old in live}
            live = list(latest.values())
            self._room = _FEW + len(live)
        self._live = live


def check(*, strict: bool = False, raises: bool = True) -> "Watched":
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
