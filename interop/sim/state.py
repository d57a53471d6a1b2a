"""What a simulated CUDA keeps of each host thread, stream, event and capture.

The objects stand for themselves; a handle may be reused for another one.
"""

import enum
import threading
from dataclasses import dataclass, field

from interop._order.accesses import Accesses
from interop._order.clock import Clock, Epoch, Line
from interop._order.clocks import StreamKind
from interop._order.findings import Party


class Mode(enum.IntEnum):
    """Which calls a capture forbids: the values of ``cudaStreamCaptureMode``."""

    GLOBAL = 0
    THREAD_LOCAL = 1
    RELAXED = 2


class Status(enum.IntEnum):
    """The state of a capture: the values of ``cudaStreamCaptureStatus``, and OVER after its end."""

    ACTIVE = 1
    INVALIDATED = 2
    OVER = 3


@dataclass(eq=False, slots=True)
class Array:
    """The accesses of an array; its values are elsewhere.

    Attributes:
        number: its place in the order in which arrays were made.
        name: what reports call it.
        accesses: the accesses that a later one can conflict with.
    """

    number: int
    name: str
    accesses: Accesses[Party] = field(default_factory=Accesses)


@dataclass(eq=False, slots=True)
class Thread:
    """A host thread: its current device and contexts, and its per-thread default stream in each context."""

    thread: threading.Thread
    device: int = 0
    contexts: list[int] = field(default_factory=list)
    mode: Mode = Mode.GLOBAL
    streams: dict[int, "Stream"] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Stream:
    """A stream, and the capture that it is part of."""

    number: int
    name: str
    context: int
    kind: StreamKind
    priority: int = 0
    capture: "Capture | None" = None
    # Whether the stream was destroyed, or its thread has ended. Its pending work still runs.
    is_over: bool = False
    # The events that it waits for, the stream of each record, and the work recorded: for the message of a deadlock.
    waits: list[tuple["Event", str, Clock]] = field(default_factory=list)
    # When there are this many waits, those whose work is done are dropped.
    room: int = 8


@dataclass(eq=False, slots=True)
class Event:
    """An event, and its latest record: the stream, the capture if there was one, and the nodes before it.

    Attributes:
        handles: how many handles it has: each process that has opened it has one.
    """

    name: str
    context: int
    stream: str = ""
    capture: "Capture | None" = None
    nodes: Clock = field(default_factory=Clock)
    handles: int = 1


@dataclass(eq=False, slots=True)
class Capture:
    """One capture, from ``cudaStreamBeginCapture`` to ``cudaStreamEndCapture``.

    Captured work is not executed. Of the graph, only the last node of each stream is kept, and which nodes come before
    which: enough to tell whether all of them were joined.

    Attributes:
        number: its id, unique in the simulation.
        origin: the stream that it began on.
        thread: the thread that began it.
        mode: which unrelated calls it forbids.
        known: for each stream that takes part, the nodes that its next node would come after.
        last: for each stream that has captured a node, its latest one.
    """

    number: int
    origin: Stream
    thread: Thread
    mode: Mode
    status: Status = Status.ACTIVE
    known: dict[Stream, Clock] = field(default_factory=dict)
    last: dict[Stream, Epoch] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """How many kernels and external event nodes it has captured."""
        return sum(node.number for node in self.last.values())

    def invalidate(self) -> None:
        """Invalidate the capture. Its streams stay part of it until it is ended."""
        if self.status is Status.ACTIVE:
            self.status = Status.INVALIDATED

    def join(self, stream: Stream, nodes: Clock) -> None:
        """Let *stream* take part, and come after *nodes*."""
        stream.capture = self
        self.known.setdefault(stream, Clock()).join(nodes)

    def launch(self, stream: Stream) -> None:
        """Capture a node on a stream that takes part."""
        line = self.last[stream].line if stream in self.last else Line(stream)
        self.last[stream] = self.known[stream].tick(line)

    def end(self) -> bool:
        """End the capture; whether every node was joined to the origin."""
        self.status = Status.OVER
        for stream in self.known:
            stream.capture = None
        return all(map(self.known[self.origin].knows, self.last.values()))

    def forbids(self, thread: Thread) -> bool:
        """Whether an unrelated query or synchronise by *thread*, in its current mode, breaks this capture."""
        if thread.mode is Mode.RELAXED or self.mode is Mode.RELAXED or self.status is not Status.ACTIVE:
            return False
        return self.thread is thread or (thread.mode is Mode.GLOBAL and self.mode is Mode.GLOBAL)

    def reaches(self, context: int, kind: StreamKind | None = None) -> bool:
        """Whether a stream of *context* takes part; with *kind*, only streams of that kind count."""
        return any(stream.context == context and kind in (None, stream.kind) for stream in self.known)
