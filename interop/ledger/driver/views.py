"""How far an array reaches that a kernel was given: told by the words that CuPy and Numba pass with its address.

CuPy passes the address, the number of elements, the shape, the strides. Numba passes two words for the memory's owner,
the number of elements, their size, the address, the shape, the strides. Other libraries pass the address alone.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

from interop.ledger.driver.memory import Part
from interop.ledger.layout import Layout, elements

_MOST_DIMENSIONS: Final = 8
_SIGN: Final = 1 << 63
_LARGEST: Final = 16
"""The size of CuPy's largest elements of one number, in bytes."""


def view(words: Mapping[int, int], offset: int, part: Part, *, by_cupy: bool) -> Layout:
    """Where the array lies whose address is the word at *offset*.

    Args:
        words: the words of a launch, by their offsets.
        offset: of the address.
        part: the memory that the address lies in.
        by_cupy: whether the kernel is one of CuPy's own, which takes CuPy's arrays.
    """
    address = words[offset]
    size = words.get(offset - 8, 0)
    if words.get(offset - 32) == 0 == words.get(offset - 24) and size > 0:
        count = words[offset - 16]
        found = [
            elements(address, shape, strides, size)
            for shape, strides in _shapes(words, offset + 8, count)
            if all(stride % size == 0 for stride in strides)
        ]
        if found := _within(found, part):
            return found[0] if len(found) == 1 else _open(found)
    if by_cupy and offset + 8 in words:
        count = words[offset + 8]
        found = [_of_cupy(address, shape, strides) for shape, strides in _shapes(words, offset + 16, count)]
        if found := _within(found, part):
            return found[0] if len(found) == 1 else _open(found)
    return Layout(None, address, part.stop, at_most=True)


def _shapes(words: Mapping[int, int], at: int, count: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of *count* elements that the words from *at* on may mean, with strides."""
    for dimensions in range(1, _MOST_DIMENSIONS + 1):
        last = at + 16 * dimensions - 8
        if last not in words:
            return
        shape = tuple(words.get(at + 8 * i, _SIGN) for i in range(dimensions))
        if math.prod(shape) == count and max(shape) < _SIGN:
            strides = (words.get(at + 8 * (dimensions + i), 0) for i in range(dimensions))
            yield shape, tuple(stride - (stride & _SIGN) * 2 for stride in strides)


def _of_cupy(address: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Layout:
    """The elements, of which only the first byte is known to be one: their size is not among the words."""
    size = min((abs(stride) for stride in strides if stride), default=_LARGEST)
    most = elements(address, shape, strides, min(size, _LARGEST))
    if size == 1 or most.start == most.stop:
        return most
    return most._replace(strided=elements(address, shape, strides, 1).strided, at_most=True)


def _within(found: list[Layout], part: Part) -> list[Layout]:
    return [one for one in found if part.start <= one.start and one.stop <= part.stop]


def _open(found: list[Layout]) -> Layout:
    """All that one of several layouts would have."""
    return Layout(None, min(one.start for one in found), max(one.stop for one in found), at_most=True)
