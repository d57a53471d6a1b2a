"""Watchers that note what interop does in the block of a test."""

from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from interop._order import watchers
from interop._show.callsite import where
from interop.stream import ExternalStream

if TYPE_CHECKING:
    from interop.adapters.tensor import Tensor
    from interop.event import Event

_MOST: Final = 20


class Earlier(watchers.Watcher):
    """Finds the streams that wait, in its ``with`` block, for an event from before; if interop sees the wait."""

    def __init__(self) -> None:
        # For each stream and each event that was recorded in the block: the wait that ties it to an event from before.
        self._streams: dict[ExternalStream, str] = {}
        self._events: dict[int, str] = {}

    def __enter__(self) -> Self:
        watchers.watch(self)
        return self

    def __exit__(self, *_: object) -> None:
        watchers.unwatch(self)

    def holds(self, stream: ExternalStream) -> str:
        """The wait by which the later work of *stream* comes after such an event; empty if there is none."""
        return self._streams.get(stream, "")

    def recorded(self, stream: ExternalStream, event: "Event") -> None:
        """The event stands for what its stream waits for."""
        self._events[event._handle_or_0()] = self._streams.get(stream, "")

    def waited(self, stream: ExternalStream, event: "Event") -> None:
        """The stream waits for the event, which may be from before the block."""
        self._pass_on(stream, self._events.get(event._handle_or_0(), f"{stream!r} was made to wait for {event!r}"))

    def joined(self, consumer: ExternalStream, producer: ExternalStream) -> None:
        """The consumer waits for what the producer waits for."""
        self._pass_on(consumer, self._streams.get(producer, ""))

    def _pass_on(self, stream: ExternalStream, reason: str) -> None:
        if reason:
            self._streams.setdefault(stream, reason)


class Witness(watchers.Watcher):
    """Notes every record, wait, join, synchronise and hand-over that is made through interop, in any thread."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        watchers.watch(self)

    def leave(self) -> None:
        """Stop watching."""
        watchers.unwatch(self)

    def account(self) -> str:
        """One line for each call, with its place in the user's code."""
        if not self._lines:
            return "interop saw no record and no wait in the block; it cannot see what libraries do without interop."
        more = [f"... and {len(self._lines) - _MOST} more"] if len(self._lines) > _MOST else []
        return "\n".join(["interop saw in the block:", *(f"  {line}" for line in [*self._lines[:_MOST], *more])])

    def recorded(self, stream: ExternalStream, event: "Event") -> None:
        self._note(f"{event!r} recorded on {stream!r}")

    def waited(self, stream: ExternalStream, event: "Event") -> None:
        self._note(f"{stream!r} made to wait for {event!r}")

    def joined(self, consumer: ExternalStream, producer: ExternalStream) -> None:
        self._note(f"{consumer!r} made to wait for {producer!r}")

    def finished(self, what: "ExternalStream | Event") -> None:
        self._note(f"the host found {what!r} done")

    def handed_over(
        self, array: object, tensor: "Tensor", producer: ExternalStream | None, consumer: ExternalStream
    ) -> None:
        del tensor
        by = f" by {producer!r}" if producer is not None else ""
        self._note(f"an array of {type(array).__name__} handed{by} to {consumer!r}")

    def _note(self, what: str) -> None:
        self._lines.append(f"{Path(where()).name}: {what}")
