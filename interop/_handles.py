"""Checks of what users hand over: addresses of streams and events, device ordinals; and how to name it in a message."""

import numbers
import reprlib
from typing import Literal

from interop import _cudart
from interop.errors import InvalidDeviceError, InvalidEventError, InvalidStreamError

_ADDRESSES = 2**64


def check_handle(handle: object, kind: Literal["stream", "event"], cuda: _cudart.Cuda) -> int:
    """An int that can be the address of a stream or event, as it is; 0, 1 and 2 are streams, but no events.

    No CUDA call is made: one on an address that is no memory kills the interpreter.

    Args:
        handle: the int.
        kind: whose address it shall be.
        cuda: the GPU or simulation where the stream or event is.

    Raises:
        InvalidStreamError, InvalidEventError: *handle* is no int, out of range, or not the address of readable memory.
    """
    if type(handle) is int and _cudart.PER_THREAD < handle < _ADDRESSES and cuda.readable(handle):
        return handle  # the common case
    error = InvalidStreamError if kind == "stream" else InvalidEventError
    if isinstance(handle, bool) or not isinstance(handle, int):
        message = f"a handle is an int, the address of the {kind}; got {described(handle)}"
        raise error(message)
    lowest = 0 if kind == "stream" else 1
    if not lowest <= handle < _ADDRESSES:
        message = f"a handle is the address of the {kind}, {lowest} <= handle < 2**64; got {handle}"
        raise error(message)
    is_default = kind == "stream" and handle <= _cudart.PER_THREAD
    if not is_default and not cuda.readable(handle):
        message = (
            f"no {kind} is at {handle:#x}: this process has no readable memory there. Is it a device "
            f"pointer, or was the {kind} destroyed?"
        )
        raise error(message)
    return int(handle)


def check_device(device: object) -> int:
    """A device ordinal, as it is; whether there is such a device is asked when it is used.

    Raises:
        InvalidDeviceError: *device* is negative or no int.
    """
    if isinstance(device, bool) or not isinstance(device, int) or device < 0:
        message = f"a device is its ordinal, an int from 0; got {described(device)}"
        raise InvalidDeviceError(message)
    return int(device)


def described(obj: object) -> str:
    """An object in a message: built-in ones as they are, others by type and identity.

    Other libraries' own representations may call CUDA, and crash on the very handle that the message is about.
    """
    if isinstance(obj, type):
        return type.__repr__(obj)
    if type(obj).__module__ == "builtins":
        return f"{reprlib.repr(obj)} of type {type(obj).__qualname__}"
    hint = f" (an integer of another kind: pass int() of it, {int(obj)})" if isinstance(obj, numbers.Integral) else ""
    return object.__repr__(obj) + hint
