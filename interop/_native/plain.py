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


class _Fields:
    __slots__ = ("__dict__",)  # and not __weakref__, which ExternalStream and Event have

    def __new__(cls, *_arguments: object, **_named: object) -> Self:
        """Leave the arguments to ``__init__``, as the extension does."""
        return super().__new__(cls)


class StreamFields(_Fields):
    """What an ExternalStream is made of."""

    __slots__ = ()

    _cuda: Any
    _adapter: Any = None  # the subclasses say of which class
    _handle: int = 0
    _context: int = 0
    _context_id: int = 0
    _pool: Pool | None = None
    _device: int | None = None
    _id: int | None = None
    _natives: dict[str, object] | None = None
    _priority: int | None = None
    _thread: object = None
    owner: object = None


class EventFields(_Fields):
    """What an Event is made of; when it is freed, its CUDA event returns to a pool, or is destroyed."""

    __slots__ = ()

    _cuda: Any
    _adapter: Any = None
    _handle: int = 0
    _context: int = 0
    _capture: int = 0
    _recorded: bool = False
    _handle_was_shared: bool = False
    _pool: Pool | None = None
    _device: int | None = None
    _flags: int | None = None
    owner: object = None

    def __del__(self) -> None:
        """The CUDA event returns to its pool, or is destroyed. Waits that were placed on it stay."""
        handle = self._handle
        if handle and self._flags is not None:
            # Other finalisers of the same cycle may still use this object: from now on it has no CUDA event.
            self._handle = 0
            self._recorded = False
            if self._pool is None or self._handle_was_shared or not self._pool.give(handle):
                self._cuda.event_discard(handle)
