"""Checks of the ints that users hand over: addresses of streams and events, device ordinals."""

from interop import _cudart
from interop.errors import InteropError, NoDeviceError

_ADDRESSES = 2**64


def check_handle(handle: object, kind: str, error: type[InteropError], lowest: int = 0) -> int:
    """An int that can be the address of a *kind* ("stream" or "event"), as it is.

    No CUDA call is made: one on an address that is no memory kills the interpreter.

    Raises:
        error: *handle* is no int, out of range, or not the address of readable memory.
    """
    if isinstance(handle, bool) or not isinstance(handle, int):
        message = f"a handle is an int, the address of the {kind}; got {handle!r} of type {type(handle).__qualname__}"
        raise error(message)
    if not lowest <= handle < _ADDRESSES:
        message = f"a handle is the address of the {kind}, {lowest} <= handle < 2**64; got {handle}"
        raise error(message)
    if handle > _cudart.PER_THREAD and not _cudart.active().readable(handle):
        message = (
            f"no {kind} is at {handle:#x}: this process has no readable memory there. Is it a device "
            f"pointer, or was the {kind} destroyed?"
        )
        raise error(message)
    return int(handle)


def check_device(device: object) -> int:
    """A device ordinal, as it is; whether there is such a device is asked when it is used.

    Raises:
        NoDeviceError: *device* is negative or no int.
    """
    if isinstance(device, bool) or not isinstance(device, int) or device < 0:
        message = f"a device is its ordinal, an int from 0; got {device!r} of type {type(device).__qualname__}"
        raise NoDeviceError(message)
    return int(device)
