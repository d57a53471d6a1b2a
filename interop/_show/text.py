"""Text for messages and notebooks."""

import numbers
import reprlib
from typing import Any, Final

_MOST_BITS: Final = 256


def as_printed(self: object, printer: Any, cycle: bool) -> None:  # noqa: ANN401, FBT001  (IPython's)
    """The method ``_repr_pretty_`` of a class whose objects look in a notebook as ``print`` shows them."""
    del cycle
    printer.text(str(self))


def plural(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``"1 race"``, ``"2 races"``."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def exact_str(obj: object) -> str | None:
    """The value of a str, also of a subclass, whose methods may do anything; None for anything else."""
    return str.__str__(obj) if issubclass(type(obj), str) else None


def described(obj: object) -> str:
    """How an object is named in a message: a built-in one and interop's own by ``repr``, others by type and address.

    The ``repr`` of another library's object may call CUDA, and crash on the very handle that the message is about.
    """
    cls = type(obj)
    if issubclass(cls, type):
        return type.__repr__(obj)
    if type(obj) is int and obj.bit_length() > _MOST_BITS:
        return f"an int of {obj.bit_length()} bits"
    if cls.__module__ == "builtins":
        try:
            return f"{reprlib.repr(obj)} of type {cls.__qualname__}"
        except ValueError:  # it holds an int of thousands of digits, which Python does not print
            return object.__repr__(obj)
    if (exact_str(cls.__module__) or "").startswith("interop."):
        return repr(obj)
    return f"{object.__repr__(obj)}{_hint(obj)}"


def _hint(obj: object) -> str:
    """What to pass in place of an object that stands for another object or number."""
    try:
        if obj.__class__ is not type(obj):
            return f" (a stand-in for an object of {described(obj.__class__)}: pass that object itself)"
        if isinstance(obj, numbers.Integral):
            return f" (an integer of another kind: pass int() of it, {int(obj)})"
    except Exception as error:  # noqa: BLE001  (the message quotes whatever it raised)
        return f" (asked what it is, it raised {type(error).__name__}: {error})"
    return ""
