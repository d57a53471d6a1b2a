"""The holder of a hand-over, and the list of open hand-overs: the Python version of what the extension does in C.

The holder is freed with the last array over the memory. Then the hand-over ends: the way back has to be ordered, and
the memory has to be kept until the consumer is done. A finaliser in Python cannot do that alone, because a signal
handler may raise in any of its lines, and the rest of it would not run. So the end has two steps. The first step is one
call of C: it puts the weak reference to the holder into a queue. The weak reference was made at the hand-over, and has
all that the second step needs. The second step does the work. It follows at once; if it is interrupted, the next call
of interop does it.
"""

import sys
import weakref
from collections.abc import Callable
from typing import Final, Self

from interop._arrays.keepalive import PendingRelease, keepalive
from interop.adapters.tensor import Tensor
from interop.event import Event
from interop.stream import ExternalStream

_NOTHING: Final = object()


class HandoverFields:
    """The fields of a Handover. The extension has this class in C."""

    __slots__ = ("__weakref__", "_consumer", "_is_neutral", "_link", "_producer", "_relay", "_tensor")

    def __init__(
        self,
        tensor: Tensor,
        producer: ExternalStream | None,
        consumer: ExternalStream,
        parent: "OpenHandover | None" = None,
        *,
        is_neutral: bool,
    ) -> None:
        """Hold *tensor*, and through it the source.

        Args:
            tensor: the memory.
            producer: the stream that waits for the consumer when the holder is freed; None if no stream waits.
            consumer: the stream that the memory is handed to. It waits for the producer already.
            parent: the hand-over that the source came from, as :func:`find` returns it; None if it came from none.
            is_neutral: whether the holder itself is the result, for a library without an adapter.
        """
        self._tensor = tensor
        self._producer = producer
        self._consumer = consumer
        self._is_neutral = is_neutral
        self._relay: ExternalStream | None = None
        self._link = OpenHandover(self, tensor, producer, consumer, parent)

    @property
    def _mark(self) -> int:
        """The number that identifies the array that was made, and views of it; 0 if it has none."""
        return self._link.mark

    @_mark.setter
    def _mark(self, mark: int) -> None:
        self._link.mark = mark

    def _returned(self, done: Event) -> None:
        """Note that the way back is ordered already. The event *done* stands for the consumer's work."""
        self._link.returned = done


class OpenHandover(weakref.ref[HandoverFields]):
    """A hand-over whose holder is alive: a weak reference to the holder, and all that the end needs.

    Attributes:
        consumer: the stream that the memory was handed to.
        root: the object that keeps the memory alive. If the array was handed over several times, it is the source of
            the first hand-over.
        mark: the number that identifies the array that was made, and views of it; 0 if it has none.
        returned: the event that stands for the consumer's work, if the way back is ordered already; else None.
    """

    __slots__ = ("_parent", "_pending", "_start", "_stop", "_tensor", "_then", "consumer", "mark", "returned", "root")
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __new__(cls, holder: HandoverFields, *_: object) -> Self:
        """Make a weak reference that is put into the queue when *holder* is freed."""
        return super().__new__(cls, holder, keepalive.ended.append)

    def __init__(
        self,
        holder: HandoverFields,
        tensor: Tensor,
        producer: ExternalStream | None,
        consumer: ExternalStream,
        parent: "OpenHandover | None",
    ) -> None:
        """Keep what the end of the hand-over needs."""
        super().__init__(holder, keepalive.ended.append)  # type: ignore[call-arg]
        self._then: _Then | None = _Then(holder, _ended)
        self._then.handover = self
        self._start, self._stop = tensor.extent()
        self._parent = parent
        self._tensor: Tensor | None = tensor
        self.consumer = consumer
        self.mark = 0
        self.returned: Event | None = None
        self.root: object = tensor if parent is None else parent.root
        self._pending: PendingRelease | None = PendingRelease(producer, consumer, tensor, None)
        _open[self] = None

    def settle(self) -> None:
        """Order the way back, and keep the memory until the consumer is done. The holder is freed already."""
        # None if this was done before, or if __init__ was interrupted, so that no array was handed over.
        pending = getattr(self, "_pending", None)
        tensor = getattr(self, "_tensor", None)
        if pending is not None and tensor is not None:
            if pending.memory is None:
                pending.memory = self._memory(tensor)
            if self.returned is not None:
                pending.event, pending.is_ordered = self.returned, True
            keepalive.put(pending)
            _open.pop(self, None)
        # Without this, each of several hand-overs of one array that overlap in time would keep all earlier ones.
        self._parent = self.root = self._then = self._pending = self._tensor = None
        self.consumer = None  # type: ignore[assignment]

    def _memory(self, tensor: Tensor) -> object:
        """The object to keep until the consumer is done, once the way back is ordered.

        It is the source. But if the source came from an earlier hand-over, it is the source of that one. The array
        between the two must be freed as soon as no program uses it, because its own way back starts then.
        """
        if self._start == self._stop:
            return _NOTHING
        # If the parent has ended, the source does not keep it alive: then the source did not come from the parent.
        parent, root = self._parent, self.root
        is_chain = parent is not None and parent() is not None
        return root if is_chain and root is not None else tensor


_open: Final[dict[OpenHandover, None]] = {}
"""All open hand-overs, the oldest first. It keeps each alive until KeepAlive has its way back."""


class _Then(weakref.ref[HandoverFields]):
    """A second weak reference to the holder, whose callback does the second step of the end at once.

    Python may call it before or after the callback of the :class:`OpenHandover`.
    """

    __slots__ = ("handover",)

    handover: OpenHandover


def _ended(then: _Then, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
    """Do the second step of the end. While the interpreter exits, do nothing: memory that is in use is not freed."""
    if not _finalizing():
        keepalive.ended.append(then.handover)  # the queue may have it already, which does no harm
        keepalive.poll()


def find(address: int, stream: ExternalStream | None, mark: int = 0) -> OpenHandover | None:
    """The open hand-over of the memory at *address*, or None.

    With a *mark*, it is the one that has this mark. Without one (0), it is the newest that was handed to *stream*; if
    there is none, the newest of all. This is a search through all open hand-overs; the extension needs none.
    """
    found = None
    for handover in _newest():
        if handover._start <= address < handover._stop and handover() is not None:
            if handover.mark == mark if mark else handover.consumer == stream:
                return handover
            found = found or handover
    return None if mark else found


def _newest() -> list[OpenHandover]:
    while True:
        try:
            return list(reversed(_open))
        except RuntimeError:  # another thread or a finaliser changed the dict meanwhile
            continue


def count_open() -> int:
    """How many hand-overs are open."""
    return len(_open)
