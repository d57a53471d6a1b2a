"""What the extension in C has too, in Python: the holder of a hand-over, and the hand-overs that are open.

When the last array over the memory goes, the holder goes, and with it the hand-over ends: then the way back has to be
ordered, and the memory kept until the consumer is done. A signal handler may raise in any line of Python, also of a
finaliser, and what that has not done yet would be lost. So the first step is one call of C, on objects that were made
at the hand-over: the weak reference to the holder, which has all that is needed, is put into a queue. The second step
is done at once if nothing comes between, and by the next call of interop if something did.
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
    """What a Handover is made of."""

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
            producer: the stream that waits for the consumer when the holder goes; None if none does.
            consumer: the stream that the memory is handed to, and that waits for who wrote it already.
            parent: the hand-over that the source came of itself, if it did: what :func:`find` has found.
            is_neutral: whether a library that interop need not know will ask the holder, and no adapter has.
        """
        self._tensor = tensor
        self._producer = producer
        self._consumer = consumer
        self._is_neutral = is_neutral
        self._relay: ExternalStream | None = None
        self._link = OpenHandover(self, tensor, producer, consumer, parent)

    @property
    def _mark(self) -> int:
        """What the array that was made, and its parts, are known by; 0: nothing."""
        return self._link.mark

    @_mark.setter
    def _mark(self, mark: int) -> None:
        self._link.mark = mark

    def _returned(self, done: Event) -> None:
        """The way back is ordered already; *done* stands for what the consumer has done."""
        self._link.returned = done


class OpenHandover(weakref.ref[HandoverFields]):
    """A hand-over whose holder lives.

    Attributes:
        consumer: the stream that the memory was handed to.
        root: what keeps the memory alive: the source of the first hand-over, if this one's source came of another.
        mark: what the array that was made, and its parts, are known by; 0: nothing.
        returned: if the way back is ordered already, what stands for the consumer's work.
    """

    __slots__ = ("_parent", "_pending", "_start", "_stop", "_tensor", "_then", "consumer", "mark", "returned", "root")
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __new__(cls, holder: HandoverFields, *_: object) -> Self:
        """A weak reference that is put into the queue when *holder* goes."""
        return super().__new__(cls, holder, keepalive.ended.append)

    def __init__(
        self,
        holder: HandoverFields,
        tensor: Tensor,
        producer: ExternalStream | None,
        consumer: ExternalStream,
        parent: "OpenHandover | None",
    ) -> None:
        """Remember what is needed when *holder* goes."""
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
        """The holder is gone: order the way back, and keep the memory until the consumer is done."""
        # None: all is done; or an interrupt came while this was made, and nothing was handed over.
        pending = getattr(self, "_pending", None)
        tensor = getattr(self, "_tensor", None)
        if pending is not None and tensor is not None:
            if pending.memory is None:
                pending.memory = self._memory(tensor)
            if self.returned is not None:
                pending.event, pending.is_ordered = self.returned, True
            keepalive.put(pending)
            _open.pop(self, None)
        # Or hand-overs of one array that overlap would keep all that were before them.
        self._parent = self.root = self._then = self._pending = self._tensor = None
        self.consumer = None  # type: ignore[assignment]

    def _memory(self, tensor: Tensor) -> object:
        """What has to be kept until the consumer is done, once the producer's stream waits for it.

        If the array came of a hand-over itself, that is what its memory is from, and not the array: its own end, which
        makes its producer wait, has to come when nobody uses it any more, and not only when the device is done.
        """
        if self._start == self._stop:
            return _NOTHING
        # It is over only if the array does not keep it alive: then another one was handed over that lies there too.
        parent, root = self._parent, self.root
        is_chain = parent is not None and parent() is not None
        return root if is_chain and root is not None else tensor


_open: Final[dict[OpenHandover, None]] = {}
"""All of them, the oldest first: what keeps them until their way back is ordered, or put down."""


class _Then(weakref.ref[HandoverFields]):
    """What is called back beside an :class:`OpenHandover`, before it or after it."""

    __slots__ = ("handover",)

    handover: OpenHandover


def _ended(then: _Then, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
    """Do at once what the end needs; at interpreter exit nothing: what is still in use is not freed."""
    if not _finalizing():
        keepalive.ended.append(then.handover)  # which may be there already
        keepalive.poll()


def find(address: int, stream: ExternalStream | None, mark: int = 0) -> OpenHandover | None:
    """The open hand-over of the memory at *address* that has that *mark*, or None.

    If that is 0: the newest one to *stream*; failing that, to any stream. The extension finds it without a search.
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
        except RuntimeError:  # another thread, or a finaliser, has changed it meanwhile
            continue


def count_open() -> int:
    """How many hand-overs are open."""
    return len(_open)
