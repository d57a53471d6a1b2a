"""The structures of DLPack, and capsules taken apart by hand: what interop does in C, for tests to look at."""

import ctypes
from collections.abc import Callable
from typing import Any, Final, NamedTuple


class DLTensor(ctypes.Structure):
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


class Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (
        ("tensor", DLTensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class ManagedVersioned(ctypes.Structure):
    """DLManagedTensorVersioned. All but the tensor stays where it is in every version."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


def of_python(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of Python's C API, called with the GIL held."""
    # Not an attribute of ctypes.pythonapi: those are shared by all of the process, with their argument types.
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


capsule_pointer: Final = of_python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
capsule_set_name: Final = of_python("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_void_p)
incref: Final = of_python("Py_IncRef", None, ctypes.py_object)


def address_of(text: bytes) -> int:
    """The address of a C string that is never freed: capsules keep the address of their name, even at exit."""
    memory = ctypes.create_string_buffer(text)
    incref(memory)
    return ctypes.addressof(memory)


class Kind(NamedTuple):
    """One of the two kinds of capsules: addresses of its name and of its name once consumed, and what it points to."""

    name: int
    used: int
    layout: type[Managed | ManagedVersioned]


OLD: Final = Kind(address_of(b"dltensor"), address_of(b"used_dltensor"), Managed)
VERSIONED: Final = Kind(address_of(b"dltensor_versioned"), address_of(b"used_dltensor_versioned"), ManagedVersioned)


class ExchangeAPI(ctypes.Structure):
    """DLPackExchangeAPI, of DLPack 1.3."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("older", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("from_object", ctypes.c_void_p),
        ("to_object", ctypes.c_void_p),
        ("view_of_object", ctypes.c_void_p),
        ("current_stream", ctypes.c_void_p),
    )

    def call(self, name: str, *arguments: Any) -> int:
        """What a function answers; or the error that it has set."""
        function = ctypes.PYFUNCTYPE(ctypes.c_int, *(type(argument) for argument in arguments))(getattr(self, name))
        return function(*arguments)


def exchange_api(kind: type) -> ExchangeAPI:
    """That of a type."""
    capsule: Any = kind.__dlpack_c_exchange_api__  # type: ignore[attr-defined]
    return ExchangeAPI.from_address(capsule_pointer(capsule, EXCHANGE))


EXCHANGE: Final = address_of(b"dlpack_exchange_api")
