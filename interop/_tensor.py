"""What an array is, apart from any library: a :class:`Tensor`, read from a DLPack capsule with ctypes alone.

This module knows nothing of streams, of CUDA, or of any library, and never touches the memory that is described.

Layout and protocol: https://dmlc.github.io/dlpack/latest/c_api.html and
https://dmlc.github.io/dlpack/latest/python_spec.html
"""

import ctypes
import math
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from interop._handles import described
from interop.errors import NotSupportedError

# DLDataTypeCode of DLPack 1.1.
INT: Final = 0
UINT: Final = 1
FLOAT: Final = 2
OPAQUE: Final = 3
BFLOAT: Final = 4
COMPLEX: Final = 5
BOOL: Final = 6
FLOAT8_E3M4: Final = 7
FLOAT8_E4M3: Final = 8
FLOAT8_E4M3B11FNUZ: Final = 9
FLOAT8_E4M3FN: Final = 10
FLOAT8_E4M3FNUZ: Final = 11
FLOAT8_E5M2: Final = 12
FLOAT8_E5M2FNUZ: Final = 13
FLOAT8_E8M0FNU: Final = 14
FLOAT6_E2M3FN: Final = 15
FLOAT6_E3M2FN: Final = 16
FLOAT4_E2M1FN: Final = 17

_NAMES: Final = {INT: "int", UINT: "uint", BFLOAT: "bfloat", COMPLEX: "complex"}

_READ_ONLY: Final = 1 << 0
_SUBBYTE_TYPE_PADDED: Final = 1 << 2


class DataType(NamedTuple):
    """The type of an element, in native byte order: its code, its bits, and how many of them make one element."""

    code: int
    bits: int
    lanes: int

    def __str__(self) -> str:
        """As NumPy would call it, such as ``"float32"``; of more than one lane, ``"float32x4"``."""
        name = {BOOL: "bool", OPAQUE: "opaque"}.get(self.code, f"{_NAMES.get(self.code, 'float')}{self.bits}")
        return name if self.lanes == 1 else f"{name}x{self.lanes}"


class Tensor(NamedTuple):
    """Elements in memory, and what keeps the memory alive.

    Attributes:
        address: of the first element, in bytes. May be 0 if there are no elements.
        shape: how many elements, by dimension.
        strides: from one element to the next by dimension, in elements, not bytes; None if C-contiguous.
        dtype: the type of the elements.
        device_type: ``DLDeviceType``: 1 is the CPU, 2 CUDA, 3 pinned host memory of CUDA, 13 its managed memory.
        device_id: the ordinal of the device.
        read_only: whether the memory must not be written.
        owner: the memory is there for as long as this object is.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: DataType
    device_type: int
    device_id: int
    read_only: bool
    owner: object

    def extent(self) -> tuple[int, int]:
        """The address of the first byte, and the one after the last byte; twice the same if there are no elements."""
        if 0 in self.shape:
            return (self.address, self.address)
        first, last = 0, math.prod(self.shape) - 1
        if self.strides is not None:
            steps = [stride * (count - 1) for count, stride in zip(self.shape, self.strides, strict=True)]
            first, last = sum(step for step in steps if step < 0), sum(step for step in steps if step > 0)
        bits = self.dtype.bits * self.dtype.lanes  # which may be less than a byte's
        return (self.address + first * bits // 8, self.address - (-(last + 1) * bits // 8))


# -- the types of the array interface -----------------------------------------------------------------------------

_TYPES: Final = {
    "|b1": DataType(BOOL, 8, 1),
    "|i1": DataType(INT, 8, 1),
    "<i2": DataType(INT, 16, 1),
    "<i4": DataType(INT, 32, 1),
    "<i8": DataType(INT, 64, 1),
    "|u1": DataType(UINT, 8, 1),
    "<u2": DataType(UINT, 16, 1),
    "<u4": DataType(UINT, 32, 1),
    "<u8": DataType(UINT, 64, 1),
    "<f2": DataType(FLOAT, 16, 1),
    "<f4": DataType(FLOAT, 32, 1),
    "<f8": DataType(FLOAT, 64, 1),
    "<c8": DataType(COMPLEX, 64, 1),
    "<c16": DataType(COMPLEX, 128, 1),
}
_BY_NAME: Final = {typestr[1:]: dtype for typestr, dtype in _TYPES.items()}
_TYPESTRS: Final = {dtype: typestr for typestr, dtype in _TYPES.items()}


def from_typestr(typestr: object) -> DataType:
    """The DLPack type of a typestr such as ``"<f4"``.

    Raises:
        NotSupportedError: the type is big-endian, or not one of NumPy's booleans and numbers of up to 8 bytes (complex:
            16), or this is no typestr at all.
    """
    order, name = (typestr[:1], typestr[1:]) if isinstance(typestr, str) else ("", "")
    dtype = _BY_NAME.get(name)
    one_byte = dtype is not None and dtype.bits == 8  # noqa: PLR2004  (bits of a byte)
    if dtype is not None and (order in ("<", "=", "|") or (order == ">" and one_byte)):
        return dtype
    if dtype is not None and order == ">":
        way_out = (
            f"is big-endian, which no GPU computes with: convert the array first, with astype({_TYPESTRS[dtype]!r})"
        )
    elif name.startswith("V"):
        way_out = (
            "is structured, or a type of another library such as bfloat16, which the array interface cannot say: hand "
            "over its fields one by one, or a view as integers of the same size; or say bfloat16 and float8 by DLPack"
        )
    elif name[:1] in ("O", "S", "U", "M", "m", "t", "a"):
        way_out = "holds no numbers; hand over a view or a conversion to integers, if there is one"
    else:
        way_out = f"is none that interop knows: convert the array first, to one of {', '.join(_TYPES)}"
    message = f"the type {typestr!r} {way_out}" if isinstance(typestr, str) else f"{described(typestr)} {way_out}"
    raise NotSupportedError(message)


def typestr_of(dtype: DataType) -> str | None:
    """The typestr of a DLPack type; None if the array interface cannot say it, such as bfloat16, float8 and vectors."""
    return _TYPESTRS.get(dtype)


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
