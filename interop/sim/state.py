"""What a simulated CUDA keeps of each host thread, stream, event and capture.

These are the things themselves and not their handles, which may come to mean another one.
"""

import enum
import threading
from dataclasses import dataclass, field

from interop._order.accesses import Accesses
from interop._order.clock import Clock, Epoch, Line
from interop._order.clocks import StreamKind
from interop.sim.races import Party


class Mode(enum.IntEnum):
    """What a thread may not do while a graph is captured: the numbers of ``cudaStreamCaptureMode``."""

    GLOBAL = 0
    THREAD_LOCAL = 1
    RELAXED = 2


class Status(enum.IntEnum):
    """Where a capture stands: the numbers of ``cudaStreamCaptureStatus``, and then that it is over."""

    ACTIVE = 1
    INVALIDATED = 2
    OVER = 3


@dataclass(eq=False, slots=True)
class Array:
    """The memory of an array, without its values: who has accessed it.

    Attributes:
        number: its place in the order in which arrays were made.
        name: what reports call it.
        accesses: those that later ones can conflict with.
    """

    number: int
    name: str
    accesses: Accesses[Party] = field(default_factory=Accesses)


@dataclass(eq=False, slots=True)
class Thread:
    """A host thread: what is current in it, and its per-thread default streams, by context."""

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
    # Whether it was destroyed, or its thread has ended: then only its pending work is left of it.
    is_over: bool = False
    # What it still waits for, and on which stream that was recorded: for the message of a deadlock.
    waits: list[tuple["Event", str, Clock]] = field(default_factory=list)
    # So many waits are kept until it is looked which of them are over.
    room: int = 8


@dataclass(eq=False, slots=True)
class Event:
    """An event, the stream of its latest record, and the capture that this was part of, with the nodes before it."""

    name: str
    context: int
    stream: str = ""
    capture: "Capture | None" = None
    nodes: Clock = field(default_factory=Clock)


@dataclass(eq=False, slots=True)
class Capture:
    """One capture, from ``cudaStreamBeginCapture`` to ``cudaStreamEndCapture``.

    Captured work is not executed. Of the graph, only the last node of each stream is kept, and which nodes come before
    which: enough to tell whether all of them were joined.

    Attributes:
        number: its id, unique in the simulation.
        origin: the stream that it began on.
        thread: the thread that began it.
        mode: how strict it is with unrelated calls.
        known: for each stream that takes part, the nodes that its next node would come after.
        last: for each stream that has captured a kernel, the node of the latest.
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
        """How many kernels it has captured."""
        return sum(node.number for node in self.last.values())

    def invalidate(self) -> None:
        """Break it. It stays, and its streams in it, until it is ended."""
        if self.status is Status.ACTIVE:
            self.status = Status.INVALIDATED

    def join(self, stream: Stream, nodes: Clock) -> None:
        """Let *stream* take part, and come after *nodes*."""
        stream.capture = self
        self.known.setdefault(stream, Clock()).join(nodes)

    def launch(self, stream: Stream) -> None:
        """Capture a kernel on a stream that takes part."""
        line = self.last[stream].line if stream in self.last else Line(stream)
        self.last[stream] = self.known[stream].tick(line)

    def end(self) -> bool:
        """Release its streams; whether every node was joined back to the origin."""
        self.status = Status.OVER
        for stream in self.known:
            stream.capture = None
        return all(map(self.known[self.origin].knows, self.last.values()))

    def forbids(self, thread: Thread) -> bool:
        """Whether an unrelated query or synchronise by *thread*, in its present mode, breaks this capture."""
        if thread.mode is Mode.RELAXED or self.mode is Mode.RELAXED or self.status is not Status.ACTIVE:
            return False
        return self.thread is thread or (thread.mode is Mode.GLOBAL and self.mode is Mode.GLOBAL)

    def reaches(self, context: int, kind: StreamKind | None = None) -> bool:
        """Whether a stream of *context*, of that *kind* if one is given, takes part."""
        return any(stream.context == context and kind in (None, stream.kind) for stream in self.known)
