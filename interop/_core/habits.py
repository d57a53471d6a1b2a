"""What the first wrong call is told: names of other libraries, and arguments in the wrong place."""

from typing import Final, NoReturn

from interop._core import above
from interop._show.text import described
from interop.errors import InteropError, InvalidEventError, InvalidStreamError

_HANDLE: Final = "the address is `{}`, an int"
_FINISH: Final = "`synchronize()` blocks the host until the work is done"
_ASK: Final = "`query()` says whether the work is done"

# Of cuda.core, CuPy and Numba. By name, what to write for a stream, and for an event; empty if the name is there.
_HABITS: Final = {
    "handle": (_HANDLE.format("cuda_stream"), _HANDLE.format("cuda_event")),
    "sync": (_FINISH, _FINISH),
    "done": (_ASK, _ASK),
    "is_done": (_ASK, _ASK),
    "wait": ("`wait_stream(stream)` waits for a stream, and `wait_event(event)` for an event", ""),
    "record": ("`record_event(event)` records in an event, and `record_event()` in a new one", ""),
    "close": (
        "its owner closes a borrowed stream; one of `new_stream` is destroyed when nothing refers to it",
        "an event is destroyed when nothing refers to it",
    ),
}


class _Habit:
    """An attribute that is not there: who asks for it is told what to write instead.

    A ``__getattr__`` in the class would say the same, and make each call of a method slower on Python 3.11.
    """

    __slots__ = ("_message", "_name")

    def __init__(self, cls: type, name: str, instead: str) -> None:
        self._name = name
        self._message = f"interop.{cls.__name__} has no attribute {name!r}: {instead}"

    def __get__(self, obj: object, owner: type) -> object:
        raise AttributeError(self._message, name=self._name)


def teach(stream_class: type, event_class: type) -> None:
    """Let the classes answer to the names of other libraries, by an error."""
    for name, hints in _HABITS.items():
        for cls, instead in zip((stream_class, event_class), hints, strict=True):
            if instead:
                setattr(cls, name, _Habit(cls, name, instead))


class WithoutHabits:
    """A base class whose ``dir()`` does not list what only answers by an error."""

    __slots__ = ()

    def __dir__(self) -> list[str]:
        """The attributes that are there."""
        return [name for name in super().__dir__() if name not in _HABITS or hasattr(self, name)]


def stream_beside(other: object, stream: object, call: str) -> above.Stream:
    """Borrow *stream*. If it is no stream, and *other* is one, the error says that the two are swapped."""
    try:
        return above.as_stream(stream)
    except InvalidStreamError:
        refuse_swapped(other, stream, call)
        raise


def refuse_swapped(other: object, stream: object, call: str) -> None:
    """Refuse *other*, which should not be a stream, if it is one.

    Args:
        other: an argument.
        stream: the one that should be the stream.
        call: what to write, such as ``"handoff(array, consumer)"``.

    Raises:
        InvalidStreamError: *other* is a stream.
    """
    try:
        if isinstance(other, int):
            return
        above.as_stream(other)
    except InteropError:
        return
    message = f"the arguments are swapped: write {call}; {described(other)} is a stream, and got {described(stream)}"
    raise InvalidStreamError(message) from None


def refuse_flags(*flags: object) -> NoReturn:
    """Say which of the flags for a new event is not True or False.

    Raises:
        InvalidEventError: always.
    """
    wrong = next(flag for flag in flags if type(flag) is not bool)
    message = (
        f"the flags of a new event are True or False, as in Event(enable_timing=True); got {described(wrong)}. "
        "interop.as_event borrows an event that is there"
    )
    raise InvalidEventError(message)
