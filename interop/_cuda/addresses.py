"""Checks of what users hand over: addresses of streams and events, device ordinals; and how to name it in a message."""

import numbers
import reprlib
from typing import Final, Literal, TypeGuard, TypeVar

from interop import _cuda
from interop.errors import InvalidDeviceError, InvalidEventError, InvalidStreamError

T = TypeVar("T")

_ADDRESSES: Final = 2**64
_ORDINALS: Final = 2**31
_MOST_BITS: Final = 256


def check_handle(handle: object, kind: Literal["stream", "event"], cuda: _cuda.Cuda) -> int:
    """An int that can be the address of a stream or event, as it is; 0, 1 and 2 are streams, but no events.

    No CUDA call is made: one on an address that is no memory kills the interpreter.

    Args:
        handle: the int.
        kind: whose address it shall be.
        cuda: the GPU or simulation where the stream or event is.

    Raises:
        InvalidStreamError, InvalidEventError: *handle* is no int, out of range, or not the address of readable memory.
    """
    if type(handle) is int and _cuda.PER_THREAD < handle < _ADDRESSES and cuda.readable(handle):
        return handle  # the common case
    error = InvalidStreamError if kind == "stream" else InvalidEventError
    number = exact_int(handle)
    if number is None:
        message = f"a handle is an int, the address of the {kind}; got {described(handle)}"
        raise error(message)
    lowest = 0 if kind == "stream" else 1
    if not lowest <= number < _ADDRESSES:
        message = f"a handle is the address of the {kind}, {lowest} <= handle < 2**64; got {described(number)}"
        raise error(message)
    is_default = kind == "stream" and number <= _cuda.PER_THREAD
    if not is_default and not cuda.readable(number):
        message = (
            f"no {kind} is at {number:#x}: this process has no readable memory there. Is it a device "
            f"pointer, or was the {kind} destroyed?"
        )
        raise error(message)
    return number


def check_device(device: object) -> int:
    """A device ordinal, as it is; whether there is such a device is asked when it is used.

    Raises:
        InvalidDeviceError: *device* is no int, negative, or more than CUDA can count.
    """
    number = exact_int(device)
    if number is None or not 0 <= number < _ORDINALS:
        message = f"a device is its ordinal, an int from 0; got {described(device)}"
        raise InvalidDeviceError(message)
    return number


def exact_int(number: object) -> int | None:
    """The value of an int; None for anything else, and for a bool.

    The value of an int of a subclass is what the int is, and not what the subclass's methods say.
    """
    if type(number) is int:
        return number
    return int.__index__(number) if is_a(number, int) and type(number) is not bool else None


def is_a(obj: object, cls: type[T]) -> TypeGuard[T]:
    """Whether *obj* is of *cls* or a subclass: by its type, and not by ``__class__``, which proxies and mocks forge."""
    return issubclass(type(obj), cls)


def stands_for_another(obj: object) -> bool:
    """Whether *obj* forges its class, as lazy proxies and mocks do, or cannot say what it is."""
    try:
        return obj.__class__ is not type(obj)
    except Exception:  # noqa: BLE001  (as of a proxy for nothing)
        return True


def described(obj: object) -> str:
    """An object in a message: built-in ones as they are, others by type and identity.

    Other libraries' own representations may call CUDA, and crash on the very handle that the message is about.
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
    return f"{object.__repr__(obj)}{_hint(obj)}"


def _hint(obj: object) -> str:
    """What to pass in place of an object that stands for another one."""
    try:
        if stands_for_another(obj):
            return f" (a stand-in for an object of {described(obj.__class__)}: pass that object itself)"
        if isinstance(obj, numbers.Integral):
            return f" (an integer of another kind: pass int() of it, {int(obj)})"
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
        return f" (asked what it is, it raised {type(error).__name__}: {error})"
    return ""
