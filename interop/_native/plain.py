"""The types of the extension in C, in Python: for where there is no extension, and to compare it with.

How C and Python share a class is explained in ``methods.c``.
"""

from itertools import starmap
from typing import Any, Final, Self

_MOST_SPARE: Final = 256  # as MOST_SPARE in native.h


class Pool:
    """Events of one context that nobody uses: plain ones, without timing."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        """Start without any."""
        self._events: list[int] = []

    def take(self) -> int:
        """A spare event, which is yours now; 0 if there is none."""
        # A loop, and no call: a signal handler could raise between a call and what is done with its result.
        try:
            for event in starmap(self._events.pop, ((),)):
                return event
        except IndexError:
            pass
        return 0

    def give(self, event: int) -> bool:
        """Keep an event; False if there are enough."""
        events = self._events
        if len(events) >= _MOST_SPARE:
            return False
        events += (event,)  # for the same reason
        return True


class StreamFields:
    """What an ExternalStream is made of."""

    __slots__ = (
        "_adapter",
        "_context",
        "_context_id",
        "_cuda",
        "_device",
        "_handle",
        "_id",
        "_natives",
        "_pool",
        "_priority",
        "_thread",
        "owner",
    )

    _handle: int
    _context: int
    _context_id: int
    _pool: Pool | None
    _adapter: Any  # the subclasses say of which class
    _cuda: Any
    _device: int | None
    _id: int | None
    _natives: dict[str, object] | None
    _priority: int | None
    _thread: object
    owner: object

    def __new__(cls, *_arguments: object, **_named: object) -> Self:
        """Start with 0, and None."""
        self = super().__new__(cls)
        self._handle = self._context = self._context_id = 0
        self._pool = self._adapter = self._device = self._id = self._natives = self._priority = self._thread = (
            self.owner
        ) = None
        return self


class EventFields:
    """What an Event is made of; its CUDA event goes to a pool, or is destroyed, with the last reference."""

    __slots__ = (
        "_adapter",
        "_capture",
        "_context",
        "_cuda",
        "_device",
        "_flags",
        "_handle",
        "_handle_was_shared",
        "_pool",
        "_recorded",
        "owner",
    )

    _handle: int
    _context: int
    _capture: int
    _recorded: bool
    _handle_was_shared: bool
    _pool: Pool | None
    _adapter: Any  # the subclasses say of which class
    _cuda: Any
    _device: int | None
    _flags: int | None
    owner: object

    def __new__(cls, *_arguments: object, **_named: object) -> Self:
        """Start with 0, False, and None."""
        self = super().__new__(cls)
        self._handle = self._context = self._capture = 0
        self._recorded = self._handle_was_shared = False
        self._pool = self._adapter = self._device = self._flags = self.owner = None
        return self

    def __del__(self) -> None:
        """The CUDA event goes back to its pool, or is destroyed. Waits that were placed on it stay."""
        handle = self._handle
        if handle and self._flags is not None:
            # Finalisers of the same cycle may still use the event: from now on it stands for nothing.
            self._handle = 0
            self._recorded = False
            if self._pool is None or self._handle_was_shared or not self._pool.give(handle):
                self._cuda.event_discard(handle)
