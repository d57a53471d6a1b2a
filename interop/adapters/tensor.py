"""Arrays without any library: the :class:`Tensor`, and the types of elements."""

import math
from typing import Final, NamedTuple

# DLDataTypeCode of DLPack 1.1.
INT: Final = 0
UINT: Final = 1
FLOAT: Final = 2
OPAQUE: Final = 3
BFLOAT: Final = 4
COMPLEX: Final = 5
BOOL: Final = 6
FLOAT4_E2M1FN: Final = 17
"""The last code. The types from 7 on have their bits in their names."""

_NAMES: Final = {INT: "int", UINT: "uint", FLOAT: "float", BFLOAT: "bfloat", COMPLEX: "complex"}
_SMALL: Final = (
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn",
)

CUDA: Final = 2
CUDA_HOST: Final = 3
CUDA_MANAGED: Final = 13
"""DLPack's device types for memory that a GPU can use: device memory, pinned host memory and managed memory."""


class DataType(NamedTuple):
    """The type of an element, in native byte order: its code, the bits of a lane, and the number of lanes."""

    code: int
    bits: int
    lanes: int

    def __str__(self) -> str:
        """NumPy's name, such as ``"float32"``, or that of ml_dtypes; with more than one lane ``"float32x4"``."""
        if BOOL < self.code <= FLOAT4_E2M1FN:
            name = _SMALL[self.code - BOOL - 1]
        else:
            name = {BOOL: "bool", OPAQUE: "opaque"}.get(self.code) or f"{_NAMES.get(self.code, 'float')}{self.bits}"
        return name if self.lanes == 1 else f"{name}x{self.lanes}"


class Tensor(NamedTuple):
    """Elements in memory, and the owner of the memory.

    Attributes:
        address: the address of the first element. May be 0 if there are no elements.
        shape: the number of elements in each dimension.
        strides: the distance to the next element in each dimension, in elements, not bytes; None if C-contiguous.
        dtype: the type of the elements.
        device_type: ``DLDeviceType``: 1 is the CPU, 2 CUDA, 3 pinned host memory, 13 managed memory.
        device_id: the ordinal of the device.
        read_only: whether the memory must not be written.
        owner: the memory lives as long as this object.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: DataType
    device_type: int
    device_id: int
    read_only: bool
    owner: object

    def offsets(self) -> tuple[int, int]:
        """The offsets in bits of the first bit and of the end, from the address; both 0 if there are no elements."""
        if 0 in self.shape:
            return (0, 0)
        bits = self.dtype.bits * self.dtype.lanes  # may be fewer than 8
        if self.strides is None:
            return (0, math.prod(self.shape) * bits)
        steps = [stride * (count - 1) for count, stride in zip(self.shape, self.strides, strict=True)]
        first, last = sum(step for step in steps if step < 0), sum(step for step in steps if step > 0)
        return (first * bits, (last + 1) * bits)

    def extent(self) -> tuple[int, int]:
        """The addresses of the first byte and of the end; equal if there are no elements."""
        first, stop = self.offsets()
        return (self.address + first // 8, self.address - (-stop // 8))

    def byte_strides(self) -> tuple[int, ...] | None:
        """The strides in bytes; None if C-contiguous."""
        size = self.dtype.bits * self.dtype.lanes // 8
        return None if self.strides is None else tuple(size * stride for stride in self.strides)

    def is_dense(self) -> bool:
        """Whether the elements fill one block of memory, in any order and direction."""
        if self.strides is None or 0 in self.shape:
            return True
        expected = 1
        for stride, count in sorted((abs(stride), n) for stride, n in zip(self.strides, self.shape, strict=True)):
            if count > 1:
                if stride != expected:
                    return False
                expected *= count
        return True


TYPES: Final = {
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
"""The types of the array interface by their typestrs."""

BFLOAT16: Final = DataType(BFLOAT, 16, 1)
COMPLEX32: Final = DataType(COMPLEX, 32, 1)
FLOAT8: Final = tuple(DataType(BOOL + 1 + i, 8, 1) for i, name in enumerate(_SMALL) if name.startswith("float8"))

TYPESTRS: Final = {dtype: typestr for typestr, dtype in TYPES.items()}
"""The typestrs by type. The array interface has none for bfloat16, float8 and vectors."""


def c_contiguous(shape: tuple[int, ...], step: int = 1) -> tuple[int, ...]:
    """The strides of a C-contiguous array of *shape* whose elements are *step* apart."""
    strides = []
    for size in reversed(shape):
        strides.append(step)
        step *= size or 1
    return tuple(reversed(strides))
