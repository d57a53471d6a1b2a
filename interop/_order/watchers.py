"""Who is told of what interop does to streams and events: the ledger, the timeline.

While nobody watches, a call pays for one look at :data:`active`, which is empty then.
"""

from typing import Any

from interop import _cuda
from interop._native import native
from interop._safety import forks


class Watcher:
    """Told of each call after CUDA has accepted it, in the thread that made it. Override what is of interest.

    Streams are :class:`interop.ExternalStream`, events :class:`interop.Event`; this module knows neither class.
    """

    def recorded(self, stream: Any, event: Any) -> None:
        """*event* stands for the work that *stream* was given so far."""

    def waited(self, stream: Any, event: Any) -> None:
        """The later work of *stream* comes after what *event* stands for."""

    def joined(self, consumer: Any, producer: Any) -> None:
        """The later work of *consumer* comes after what *producer* was given so far."""

    def finished(self, what: Any) -> None:
        """The host knows that a stream's work so far, or what an event stands for, is done: it waited, or asked."""

    def handed_over(self, array: object, tensor: Any, producer: Any, consumer: Any) -> None:
        """*array*, which is the memory *tensor*, was handed to *consumer*, which waits for *producer* already.

        Without a *producer*, the array has ordered the consumer itself.
        """


active: tuple[Watcher, ...] = ()

_lock = forks.lock()


def watch(watcher: Watcher) -> None:
    """Tell *watcher* from now on, for all threads."""
    global active  # noqa: PLW0603  (rebound, never changed: whoever is telling has a whole one)
    with _lock:
        active = (*active, watcher)
        _tell_the_extension()


def unwatch(watcher: Watcher) -> None:
    """Tell *watcher* no longer."""
    global active  # noqa: PLW0603  (rebound, never changed: whoever is telling has a whole one)
    with _lock:
        active = tuple(other for other in active if other is not watcher)
        _tell_the_extension()


def _tell_the_extension() -> None:
    """Its fast calls tell nobody, and give way to those that do."""
    if native is not None:
        native.watch(bool(active) or _cuda.GPU.was_forked)
