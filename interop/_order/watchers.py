"""Watchers are told of everything that interop does to streams and events. The ledger and the timeline are watchers.

Without a watcher, a call only tests whether :data:`active` is empty.
"""

from typing import Any

from interop import _cuda
from interop._native import native
from interop._safety import forks


class Watcher:
    """The base class. After CUDA has accepted a call, interop calls the method for it in the same thread.

    Streams are :class:`interop.ExternalStream`, events :class:`interop.Event`; this module knows neither class.
    """

    def recorded(self, stream: Any, event: Any) -> None:
        """*event* was recorded on *stream*: it stands for the stream's work so far."""

    def recorded_device(self, cuda: Any, context: int, event: Any) -> None:
        """*event* was recorded on all streams of a context: it stands for their work so far."""

    def waited(self, stream: Any, event: Any) -> None:
        """*stream* waits for *event*: its later work comes after what the event stands for."""

    def joined(self, consumer: Any, producer: Any) -> None:
        """The later work of *consumer* comes after the work of *producer* so far."""

    def finished(self, what: Any) -> None:
        """The host has waited for a stream or an event, or has asked and heard that it is done."""

    def handed_over(self, array: object, tensor: Any, producer: Any, consumer: Any) -> None:
        """*array*, with the memory *tensor*, was handed to *consumer*, which waits for *producer* already.

        *producer* is None if the array itself has ordered the consumer.
        """


active: tuple[Watcher, ...] = ()

_lock = forks.lock()


def watch(watcher: Watcher) -> None:
    """Tell *watcher* of all calls from now on, in all threads."""
    with _lock:
        _replace((*active, watcher))


def unwatch(watcher: Watcher) -> None:
    """Stop telling *watcher*."""
    with _lock:
        _replace(tuple(other for other in active if other is not watcher))


def _replace(watchers: tuple[Watcher, ...]) -> None:
    global active  # noqa: PLW0603  (a call that is iterating over the tuple keeps the old one)
    active = watchers
    if native is not None:
        native.watch(bool(active) or _cuda.GPU.was_forked)  # to fall back to Python, whose calls tell the watchers
