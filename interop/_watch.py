"""Who is told of what interop does to streams and events: the ledger, the timeline.

While nobody watches, a call pays for one look at :data:`watchers`, which is empty then.
"""

from typing import TYPE_CHECKING

from interop import _cudart, _fork
from interop._native import native

if TYPE_CHECKING:
    from interop._arrays.tensor import Tensor
    from interop.event import Event
    from interop.stream import ExternalStream


class Watcher:
    """Told of each call after CUDA has accepted it, in the thread that made it. Override what is of interest."""

    def recorded(self, stream: "ExternalStream", event: "Event") -> None:
        """*event* stands for the work that *stream* was given so far."""

    def waited(self, stream: "ExternalStream", event: "Event") -> None:
        """The later work of *stream* comes after what *event* stands for."""

    def joined(self, consumer: "ExternalStream", producer: "ExternalStream") -> None:
        """The later work of *consumer* comes after what *producer* was given so far."""

    def finished(self, what: "ExternalStream | Event") -> None:
        """The host knows that a stream's work so far, or what an event stands for, is done: it waited, or asked."""

    def handed_over(
        self, array: object, tensor: "Tensor", producer: "ExternalStream | None", consumer: "ExternalStream"
    ) -> None:
        """*array*, which is the memory *tensor*, was handed to *consumer*, which waits for *producer* already.

        Without a *producer*, the array has ordered the consumer itself.
        """


watchers: tuple[Watcher, ...] = ()

_lock = _fork.lock()


def watch(watcher: Watcher) -> None:
    """Tell *watcher* from now on, for all threads."""
    global watchers  # noqa: PLW0603  (rebound, never changed: whoever is telling has a whole one)
    with _lock:
        watchers = (*watchers, watcher)
        _tell_the_extension()


def unwatch(watcher: Watcher) -> None:
    """Tell *watcher* no longer."""
    global watchers  # noqa: PLW0603  (rebound, never changed: whoever is telling has a whole one)
    with _lock:
        watchers = tuple(other for other in watchers if other is not watcher)
        _tell_the_extension()


def _tell_the_extension() -> None:
    """Its fast calls tell nobody, and give way to those that do."""
    if native is not None:
        native.watch(bool(watchers) or _cudart.GPU.was_forked)
