"""Where the elements of an array lie, and whether two arrays share a byte. Nothing is ordered, copied or waited for."""

import contextlib
import math
import sys
import weakref
from typing import Any, Final, NamedTuple

from interop._arrays import reading
from interop.adapters.tensor import Tensor

_EFFORT: Final[Any] = 10_000  # NumPy's types know two of the values only
"""Candidates that NumPy may try to find a common byte of two strided arrays: a few milliseconds at most."""

_PADDING: Final = 512
"""Bytes that an allocator may add to what it was asked for."""


class _Elements(NamedTuple):
    """The elements of a strided array; strides and itemsize in bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int


class Layout(NamedTuple):
    """Where the elements of an array lie.

    Attributes:
        space: None for memory with addresses, which no two devices share; else a simulated array, not kept alive.
        start: the address of the lowest byte.
        stop: the address after the highest byte; *start* if there are no elements.
        strided: None if the elements take every byte from *start* to *stop*, in whatever order; else the elements.
        at_most: whether *stop* only says how far the array may reach; *strided* are elements that it has for sure.
    """

    space: weakref.ref[Any] | None
    start: int
    stop: int
    strided: _Elements | None = None
    at_most: bool = False

    @property
    def is_bare(self) -> bool:
        """Whether only an address is known, from which on something is touched."""
        return self.at_most and not self.strided


def block(address: int, size: int, space: weakref.ref[Any] | None = None) -> Layout:
    """The layout of *size* contiguous bytes."""
    return Layout(space, address, address + size)


def elements(address: int, shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> Layout:
    """The layout of elements of *size* bytes; the strides in bytes."""
    if not math.prod(shape):
        return block(address, 0)
    ends = [(count - 1) * stride for count, stride in zip(shape, strides, strict=True)]
    start, stop = address + sum(min(0, end) for end in ends), address + sum(max(0, end) for end in ends) + size
    filled = size
    for stride, count in sorted((abs(stride), count) for count, stride in zip(shape, strides, strict=True)):
        filled *= count if stride == filled or count == 1 else 0
    return Layout(None, start, stop, None if filled == stop - start else _Elements(address, shape, strides, size))


def of_tensor(tensor: Tensor) -> Layout:
    """The layout of a tensor."""
    start, stop = tensor.extent()
    strides = tensor.byte_strides()
    if strides is None or tensor.is_dense():
        return Layout(None, start, stop)
    itemsize = tensor.dtype.bits * tensor.dtype.lanes // 8
    return Layout(None, start, stop, _Elements(tensor.address, tensor.shape, strides, itemsize))


def layout_of(array: Any) -> Layout:
    """The layout of *array*.

    Raises:
        InvalidArrayError: *array* does not say where its elements lie.
        NotSupportedError: *array* has a type or strides that interop does not know.
    """
    if _is_simulated(array):
        return block(0, math.prod(array.shape) * array.dtype.itemsize, weakref.ref(array))
    return of_tensor(reading.locate(array))


def describe(array: object) -> str:
    """An array in a report, without a look at its elements."""
    name = f"{type(array).__module__.partition('.')[0]}.{type(array).__qualname__}"
    if _is_simulated(array):
        return str(array.name)  # type: ignore[attr-defined]
    with contextlib.suppress(Exception):  # whatever a library's properties raise, the report goes on
        shape, dtype = array.shape, array.dtype  # type: ignore[attr-defined]
        return f"{name} {tuple(shape)} {dtype}"
    return name


def _is_simulated(array: object) -> bool:
    simulator = sys.modules.get("interop.sim")
    return simulator is not None and isinstance(array, simulator.SimulatedArray)


def share(a: Layout, b: Layout) -> bool | None:
    """Whether two arrays whose ranges of addresses overlap have a byte in common; None if that cannot be said."""
    is_open = a.at_most or b.at_most
    if a.is_bare or b.is_bare:
        return _is_reached(a, b) or None
    if a == b or not (a.strided or b.strided):
        return True
    if any(layout.strided and not layout.strided.itemsize for layout in (a, b)):  # several elements in one byte
        return None
    try:
        import numpy as np  # noqa: PLC0415  (needed for strided arrays only, and no requirement of interop's)
    except ModuleNotFoundError:
        return None
    try:
        shared = bool(np.shares_memory(_host_array(a, np), _host_array(b, np), max_work=_EFFORT))
    except np.exceptions.TooHardError:
        return None
    return shared or (None if is_open else False)


def _is_reached(a: Layout, b: Layout) -> bool:
    """Whether two arrays, one of them bare, surely have a byte in common."""
    bare, other = (a, b) if a.is_bare else (b, a)
    if other.is_bare:
        return bare.start == other.start
    # The other one has all bytes that may be touched from the address on.
    starts = other.start == bare.start or (other.start < bare.start and not other.strided)
    return starts and bare.stop - other.stop < _PADDING


def _host_array(layout: Layout, np: Any) -> Any:
    """A NumPy array with this layout. Nothing may touch its elements: the memory is not the host's."""
    address, shape, strides, itemsize = layout.strided or (layout.start, (layout.stop - layout.start,), (1,), 1)

    class Holder:
        __array_interface__ = {  # noqa: RUF012  (read once, by the next line)
            "version": 3,
            "shape": shape,
            "strides": strides,
            "typestr": f"|V{itemsize}",
            "data": (address, True),
        }

    return np.asarray(Holder())
