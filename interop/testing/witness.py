"""What interop was seen to do in a block of a test, for messages."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from interop import _watch
from interop._where import where

if TYPE_CHECKING:
    from interop._tensor import Tensor
    from interop.event import Event
    from interop.stream import ExternalStream

_MOST: Final = 20


class Witness(_watch.Watcher):
    """Notes every record, wait, join, synchronise and hand-over that is made through interop, in any thread."""

    def __init__(self) -> None:
        """Look on, until :meth:`leave`."""
        self._lines: list[str] = []
        _watch.watch(self)

    def leave(self) -> None:
        """Look away."""
        _watch.unwatch(self)

    def account(self) -> str:
        """What was seen, a line each, with the places in the user's code."""
        if not self._lines:
            return "interop saw no record and no wait in the block; what libraries do without interop, it cannot see."
        more = [f"... and {len(self._lines) - _MOST} more"] if len(self._lines) > _MOST else []
        return "\n".join(["interop saw in the block:", *(f"  {line}" for line in [*self._lines[:_MOST], *more])])

    def recorded(self, stream: "ExternalStream", event: "Event") -> None:
        """Note it."""
        self._note(f"{event!r} recorded on {stream!r}")

    def waited(self, stream: "ExternalStream", event: "Event") -> None:
        """Note it."""
        self._note(f"{stream!r} made to wait for {event!r}")

    def joined(self, consumer: "ExternalStream", producer: "ExternalStream") -> None:
        """Note it."""
        self._note(f"{consumer!r} made to wait for {producer!r}")

    def finished(self, what: "ExternalStream | Event") -> None:
        """Note it."""
        self._note(f"the host found {what!r} done")

    def handed_over(
        self, array: object, tensor: "Tensor", producer: "ExternalStream | None", consumer: "ExternalStream"
    ) -> None:
        """Note it."""
        del tensor
        by = f" by {producer!r}" if producer is not None else ""
        self._note(f"an array of {type(array).__name__} handed{by} to {consumer!r}")

    def _note(self, what: str) -> None:
        self._lines.append(f"{Path(where()).name}: {what}")
