"""DLPack capsules, read with ctypes alone.

This module knows nothing of streams, of CUDA, or of any library, and never touches the memory that is described.

Layout and protocol: https://dmlc.github.io/dlpack/latest/c_api.html and
https://dmlc.github.io/dlpack/latest/python_spec.html
"""

import ctypes
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from interop._show.text import described
from interop.adapters.tensor import DataType, Tensor
from interop.errors import InvalidArrayError, NotSupportedError

_MOST_DIMENSIONS: Final = 64
_READ_ONLY: Final = 1 << 0
_SUBBYTE_TYPE_PADDED: Final = 1 << 2


# -- the C side ---------------------------------------------------------------------------------------------------


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (
        ("tensor", _DLTensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class _ManagedVersioned(ctypes.Structure):
    """DLManagedTensorVersioned. All but the tensor stays where it is in every version."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


def _of_python(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401  (ctypes' types)
    """A function of Python's C API, called with the GIL held."""
    # Not an attribute of ctypes.pythonapi: those are shared by all of the process, with their argument types.
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_capsule_is_valid: Final = _of_python("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_void_p)
_capsule_pointer: Final = _of_python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
_capsule_set_name: Final = _of_python("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_void_p)
_incref: Final = _of_python("Py_IncRef", None, ctypes.py_object)

_DELETER: Final = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


def _address_of(text: bytes) -> int:
    """The address of a C string that is never freed: capsules keep the address of their name, even at exit."""
    memory = ctypes.create_string_buffer(text)
    _incref(memory)
    return ctypes.addressof(memory)


class _Kind(NamedTuple):
    """One of the two kinds of capsules: addresses of its name and of its name once consumed, and what it points to."""

    name: int
    used: int
    layout: type[_Managed | _ManagedVersioned]


_OLD: Final = _Kind(_address_of(b"dltensor"), _address_of(b"used_dltensor"), _Managed)
_VERSIONED: Final = _Kind(
    _address_of(b"dltensor_versioned"), _address_of(b"used_dltensor_versioned"), _ManagedVersioned
)


# -- reading ------------------------------------------------------------------------------------------------------


class _Taken:
    """A managed tensor that was taken from a capsule; its deleter is called when this object goes."""

    __slots__ = ("_address", "_deleter")

    def __init__(self, address: int, deleter: int | None) -> None:
        self._address = address
        self._deleter = _DELETER(deleter) if deleter else None

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At interpreter exit the producer may be torn down already, and what it held goes with the process.
        if self._deleter is not None and not _finalizing():
            self._deleter(self._address)


def read(capsule: object) -> Tensor:
    """Take over a capsule of either kind, as its consumer: it can be consumed only once.

    Its managed tensor stays for as long as the :class:`Tensor`'s owner; then its deleter is called, once, in whichever
    thread lets the owner go, with the GIL held. Only when the interpreter exits it is not called.

    Raises:
        InvalidArrayError: it states a number of dimensions that cannot be.
        NotSupportedError: this is no DLPack capsule, or a used one; its version is not 1.x; its elements, smaller than
            a byte, are padded. In the last two cases the capsule has been consumed, and its deleter called.
    """
    kind = next((kind for kind in (_VERSIONED, _OLD) if _capsule_is_valid(capsule, kind.name)), None)
    if kind is None:
        if any(_capsule_is_valid(capsule, kind.used) for kind in (_VERSIONED, _OLD)):
            message = (
                "the DLPack capsule was consumed before, and can be only once: ask for a new one with __dlpack__()"
            )
        else:
            message = f"expected a DLPack capsule, such as __dlpack__() returns; got {described(capsule)}"
        raise NotSupportedError(message)
    address = _capsule_pointer(capsule, kind.name)
    managed = kind.layout.from_address(address)
    _capsule_set_name(capsule, kind.used)
    owner = _Taken(address, managed.deleter)
    flags = 0
    if isinstance(managed, _ManagedVersioned):
        if managed.major != 1:
            message = (
                f"the capsule is of DLPack {managed.major}.{managed.minor}, and interop knows 1.x only: ask for that "
                "with __dlpack__(max_version=(1, 0))"
            )
            del owner  # the traceback would keep it
            raise NotSupportedError(message)
        flags = managed.flags
    if flags & _SUBBYTE_TYPE_PADDED:
        message = "the elements are smaller than a byte and padded: hand over packed ones, or a view as bytes"
        del owner
        raise NotSupportedError(message)
    tensor = managed.tensor
    if not 0 <= tensor.ndim <= _MOST_DIMENSIONS:
        message = f"the capsule states {tensor.ndim} dimensions; no library has arrays of more than {_MOST_DIMENSIONS}"
        del owner
        raise InvalidArrayError(message)
    numbers = ctypes.c_int64 * tensor.ndim
    return Tensor(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=tuple(numbers.from_address(tensor.shape)) if tensor.ndim else (),
        strides=tuple(numbers.from_address(tensor.strides)) if tensor.ndim and tensor.strides else None,
        dtype=DataType(tensor.code, tensor.bits, tensor.lanes),
        device_type=tensor.device_type,
        device_id=tensor.device_id,
        read_only=bool(flags & _READ_ONLY),
        owner=owner,
    )
