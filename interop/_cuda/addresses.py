"""Which objects can be the handle of a stream or event, or the ordinal of a device; and which memory can be read."""

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, TypeGuard, TypeVar

from interop._cuda.codes import PER_THREAD
from interop._cuda.operations import Cuda
from interop._show.text import described, exact_str
from interop.errors import InvalidDeviceError, InvalidEventError, InvalidStreamError

if TYPE_CHECKING:
    import ctypes

T = TypeVar("T")


class _Indexed(Protocol):
    @property
    def index(self) -> int | None: ...


Address: TypeAlias = "int | ctypes.c_void_p"
Device: TypeAlias = int | str | _Indexed
"""An ordinal, ``"cuda:1"``, or an object with an int ``index``, such as ``torch.device("cuda:1")``.

``"cuda"`` and ``torch.device("cuda")`` are the current device.
"""

_ADDRESSES: Final = 2**64
_ORDINALS: Final = 2**31
_FIRST_PAGE: Final = 4096
_RT_SIGPROCMASK: Final = {"x86_64": 14, "aarch64": 135}
"""The number of the system call rt_sigprocmask(2), on the architectures on which CUDA runs under Linux."""


def check_handle(handle: object, kind: Literal["stream", "event"], cuda: Cuda) -> int:
    """Return *handle* if it can be that of a stream or event; 0, 1 and 2 are streams, but not events.

    Makes no CUDA call: a call with an address at which there is no memory kills the interpreter.

    Args:
        handle: what the user gave, which must be an int.
        kind: what it must be the address of.
        cuda: the GPU or simulation of the stream or event.

    Raises:
        InvalidStreamError, InvalidEventError: *handle* is not an int, is out of range, or is not the address of
            readable memory.
    """
    if type(handle) is int and PER_THREAD < handle < _ADDRESSES and cuda.readable(handle):
        return handle  # the common case
    error = InvalidStreamError if kind == "stream" else InvalidEventError
    number = address_in(handle)
    if number is None:
        is_object = type(handle).__module__ != "builtins"
        hint = f". interop.as_{kind} borrows {kind}s that are objects of a library" if is_object else ""
        message = f"a handle is an int, the address of the {kind}; got {described(handle)}{hint}"
        raise error(message)
    lowest = 0 if kind == "stream" else 1
    if not lowest <= number < _ADDRESSES:
        message = f"a handle is the address of the {kind}, {lowest} <= handle < 2**64; got {described(number)}"
        raise error(message)
    is_default = kind == "stream" and number <= PER_THREAD
    if not is_default and not cuda.readable(number):
        message = (
            f"no {kind} is at {number:#x}: this process has no readable memory there. Is it a device "
            f"pointer, or was the {kind} destroyed?"
        )
        raise error(message)
    return number


def check_device(device: Device, cuda: Cuda) -> int:
    """The ordinal that *device* states. Whether there is such a device is found out when it is used.

    Args:
        device: what the user gave.
        cuda: the GPU or simulation, which knows the current device.

    Raises:
        InvalidDeviceError: *device* states no ordinal, a negative one, or one that does not fit into CUDA's ``int``.
    """
    number = exact_int(device)
    if number is None:
        number = cuda.current_device() if _is_current(device) else _stated_ordinal(device)
    if number is None or not 0 <= number < _ORDINALS:
        message = (
            "a device is its ordinal, an int from 0; or 'cuda:1', or an object with an int `index`, such as "
            f"torch.device('cuda:1'); got {described(device)}"
        )
        raise InvalidDeviceError(message)
    return number


def _is_current(device: object) -> bool:
    """Whether *device* is ``"cuda"`` or ``torch.device("cuda")``: PyTorch means the current device."""
    try:
        return exact_str(device) == "cuda" or (device.type, device.index) == ("cuda", None)  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001  (it is no such device, whatever it raises)
        return False


def _stated_ordinal(device: object) -> int | None:
    name = exact_str(device)
    if name is not None:
        kind, _, digits = name.partition(":")
        return int(digits) if kind == "cuda" and digits.isdecimal() and len(digits) <= len(str(_ORDINALS)) else None
    try:  # of PyTorch, the type is cuda, cpu, or another
        return exact_int(getattr(device, "index", None)) if getattr(device, "type", "cuda") == "cuda" else None
    except Exception:  # noqa: BLE001  (it is no device, whatever it raises)
        return None


def is_void_pointer(obj: object) -> "TypeGuard[ctypes.c_void_p]":
    """Whether *obj* is a ``ctypes.c_void_p``, found without an import of ctypes."""
    return any(cls.__name__ == "c_void_p" and cls.__module__ == "ctypes" for cls in type(obj).__mro__)


def address_in(handle: object) -> int | None:
    """The address in an int or a ``ctypes.c_void_p``; None for anything else."""
    return handle.value or 0 if is_void_pointer(handle) else exact_int(handle)


def exact_int(number: object) -> int | None:
    """The value of an int; None for anything else, and for a bool.

    An instance of a subclass of int counts by its value, whatever the methods of the subclass return.
    """
    if type(number) is int:
        return number
    return int.__index__(number) if is_a(number, int) and type(number) is not bool else None


def is_a(obj: object, cls: type[T]) -> TypeGuard[T]:
    """Whether *obj* is an instance of *cls*, by its type: proxies and mocks forge ``__class__``."""
    return issubclass(type(obj), cls)


def stands_for_another(obj: object) -> bool:
    """Whether *obj* forges ``__class__``, as lazy proxies and mocks do, or raises when it is asked for it."""
    try:
        return obj.__class__ is not type(obj)
    except Exception:  # noqa: BLE001  (a proxy for an object that is gone raises anything)
        return True


def readable(address: int) -> bool:
    """Whether this process can read the eight bytes at *address*; True where that cannot be found out."""
    # Nothing is ever mapped into the first page; and the kernel does not read a set of signals that is NULL.
    return address >= _FIRST_PAGE and _memory_probe()(address)


@functools.cache
def _memory_probe() -> Callable[[int], bool]:
    """Make the function that tells whether eight bytes at an address can be read."""
    if sys.platform != "linux" or os.uname().machine not in _RT_SIGPROCMASK:
        return lambda _address: True
    import ctypes  # noqa: PLC0415  (a third of the time of `import interop`)

    number = _RT_SIGPROCMASK[os.uname().machine]
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

    def probe(address: int) -> bool:
        # The kernel copies the eight bytes of the signal set before it looks at `how`, and -1 is not a legal `how`. So
        # the call changes nothing; it fails with EFAULT if the bytes cannot be read, and with EINVAL if they can.
        # Unlike /proc/self/maps, it also knows the address space that CUDA reserves without access, in which device
        # pointers lie.
        ctypes.set_errno(0)
        syscall(number, -1, address & ~7, None, 8)
        return ctypes.get_errno() != errno.EFAULT

    return probe
