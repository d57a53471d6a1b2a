"""The watcher of an open timeline: it notes the spans that the user marks and the waits that interop makes."""

import threading
from typing import TYPE_CHECKING, NamedTuple

from interop import _cuda
from interop._core import captures
from interop._core.names import Labels, library_of
from interop._native import native
from interop._order.watchers import Watcher
from interop._safety import forks
from interop.errors import CaptureError, NotSupportedError
from interop.timeline.reading import Arrow, Lane, Reading, Span
from interop.timeline.ticks import Ticks

if TYPE_CHECKING:
    from interop.adapters.tensor import Tensor
    from interop.event import Event
    from interop.stream import ExternalStream


class _Wait(NamedTuple):
    """A wait that interop has made, and the arrays that were handed over with it."""

    kind: str
    producer: Lane
    consumer: Lane
    recorded: int
    waited: int
    arrays: list[str]


class _Record(NamedTuple):
    """Where an event was recorded. The tick is 0 in a capture. Keeping the event keeps its handle from being reused."""

    event: "Event"
    lane: Lane
    tick: int


class Recorder(Watcher):
    """Records the ticks of one timeline, from all threads. No watcher is told of these records."""

    def __init__(self, cuda: _cuda.Cuda) -> None:
        self._cuda = cuda
        self._ticks = Ticks(cuda)
        self._lanes: dict[ExternalStream, Lane] = {}
        # Re-entrant: a finaliser may run while the lock is held, and make a wait of its own.
        self._lock = forks.lock()
        self._spans: list[tuple[str, Lane, int, int]] = []
        self._waits: list[_Wait] = []
        self._records: dict[int, _Record] = {}
        # By thread, producer and consumer, the latest wait: a hand-over that follows belongs to it.
        self._latest: dict[tuple[int, Lane, Lane], _Wait | None] = {}
        self._skipped = 0
        self._labels = Labels()

    def __del__(self) -> None:
        """Give the events to the next timeline."""
        self._ticks.give_back()

    def __len__(self) -> int:
        return len(self._spans) + len(self._waits)

    @property
    def simulated(self) -> bool:
        """Whether the timeline records a simulation."""
        return self._cuda.simulation is not None

    # -- spans -----------------------------------------------------------------------------------------------------

    def tick(self, stream: "ExternalStream") -> int:
        """Record an event on *stream*. If the stream captures a graph, record nothing and return 0.

        Raises:
            NotSupportedError: the stream is not of the GPU or simulation of this timeline.
        """
        if stream._cuda is not self._cuda:
            message = f"{stream!r} is not of the GPU or simulation on which this timeline was entered"
            raise NotSupportedError(message)
        # A stream that has a pool is ready, in every thread.
        context = stream._usable_context() if stream._pool is None else stream._context
        tick = self._ticks.take(context, stream._context_id)
        if native is None or not native.record_handle(stream, tick):
            if _captures(stream):
                self._ticks.put_back(tick)
                return 0
            self._cuda.event_record(tick, stream._handle, stream._needs)
        return tick

    def start(self, stream: "ExternalStream") -> tuple[int, Lane | None]:
        """The tick that begins a span, and the lane of the stream, which gets its number at the first use."""
        tick = self.tick(stream)
        return tick, self._lane(stream) if tick else None

    def span(self, name: str, start: tuple[int, Lane | None], end: int) -> None:
        """Note a span that was left: *start* is what :meth:`start` returned, *end* its other tick."""
        tick, lane = start
        if lane is None or not end:
            self._skipped += 1
        else:
            self._spans.append((name, lane, tick, end))

    # -- as a watcher ----------------------------------------------------------------------------------------------

    def joined(self, consumer: "ExternalStream", producer: "ExternalStream") -> None:
        """Note an arrow. Its ticks are recorded after the wait, so each is late by one event."""
        if consumer._cuda is self._cuda:
            self._arrow("wait", self._lane(producer), self.tick(producer), consumer)

    def recorded(self, stream: "ExternalStream", event: "Event") -> None:
        """Note where *event* was recorded, in case a stream waits for it."""
        if stream._cuda is self._cuda:
            self._records[event._handle_or_0()] = _Record(event, self._lane(stream), self.tick(stream))

    def waited(self, stream: "ExternalStream", event: "Event") -> None:
        """Note an arrow, if it is known where *event* was recorded."""
        record = self._records.get(event._handle_or_0())
        # A stream that waits for its own event waits for nothing.
        if stream._cuda is self._cuda and record is not None and record.lane != self._lane(stream):
            self._arrow("event", record.lane, record.tick, stream)

    def handed_over(
        self, array: object, tensor: "Tensor", producer: "ExternalStream | None", consumer: "ExternalStream"
    ) -> None:
        """Note the array at the wait that was made for its hand-over."""
        if producer is None or consumer._cuda is not self._cuda:
            return
        wait = self._latest.get((threading.get_ident(), self._lane(producer), self._lane(consumer)))
        if wait is not None:
            shape = " x ".join(map(str, tensor.shape)) or "scalar"
            wait.arrays.append(f"{type(array).__name__} {shape}")

    def _arrow(self, kind: str, producer: Lane, recorded: int, stream: "ExternalStream") -> None:
        consumer, waited = self._lane(stream), self.tick(stream)
        wait = None
        if not recorded or not waited:
            self._skipped += 1
        else:
            wait = _Wait(kind, producer, consumer, recorded, waited, [])
            self._waits.append(wait)
        self._latest[threading.get_ident(), producer, consumer] = wait

    def _lane(self, stream: "ExternalStream") -> Lane:
        lane = self._lanes.get(stream)
        if lane is None:
            library, device = library_of(stream), stream.device
            with self._lock:
                name = self._labels.of(stream).removeprefix(f"{library}'s ")
                lane = self._lanes.setdefault(stream, Lane(len(self._lanes), library, name, device))
        return lane

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self) -> Reading:
        """Block the host until the device is done, and read the positions of all ticks."""
        # Copies: other threads may add spans and waits meanwhile.
        spans, waits = list(self._spans), list(self._waits)
        ticks = [tick for *_, start, end in spans for tick in (start, end)]
        ticks += [tick for wait in waits for tick in (wait.recorded, wait.waited)]
        at, error = self._ticks.read(ticks)
        return Reading(
            unit="steps" if self.simulated else "ms",
            lanes=tuple(sorted(self._lanes.values())),
            spans=tuple(Span(name, lane, at[start], at[end]) for name, lane, start, end in spans),
            arrows=tuple(
                Arrow(
                    "hand-over" if wait.arrays else wait.kind,
                    wait.producer,
                    wait.consumer,
                    at[wait.recorded],
                    at[wait.waited],
                    ", ".join(wait.arrays),
                )
                for wait in waits
            ),
            skipped=self._skipped,
            error=error,
        )


def _captures(stream: "ExternalStream") -> bool:
    try:
        return bool(captures.capture_of(stream))
    except CaptureError:  # the capture is broken, or the stream is the legacy one and a blocking stream captures
        return True
