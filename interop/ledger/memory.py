"""Which accesses touch the same bytes: memory as ranges of addresses, cut where accesses begin and end."""

import bisect
import enum
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from interop.ordering import Clock, Epoch

if TYPE_CHECKING:
    from interop.ledger.report import Party

_EFFORT: Final[Any] = 10_000  # NumPy's types know two of the values only
"""Candidates that NumPy may try to find a common byte of two strided arrays: a few milliseconds at most."""


class Kind(enum.IntEnum):
    """What an access does. Each covers those before it: who is ordered after it needs no order with them."""

    READ = 1
    MAYBE = 2
    """It reads, and may write: nothing says which."""
    WRITE = 3


class Layout(NamedTuple):
    """Where the elements of an array lie.

    Attributes:
        space: None for memory with addresses, which no two devices share; a simulated array stands for itself.
        address: of the first element.
        shape: how many elements, by dimension.
        strides: from one element to the next, by dimension, in bytes.
        itemsize: the bytes of an element.
    """

    space: Hashable
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @classmethod
    def of(
        cls,
        address: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        itemsize: int,
        space: Hashable = None,
    ) -> "Layout":
        """The layout; C-contiguous if there are no *strides*."""
        if strides is None:
            steps = [itemsize]
            for count in reversed(shape[1:]):
                steps.append(steps[-1] * count)
            strides = tuple(reversed(steps)) if shape else ()
        return cls(space, address, shape, strides, itemsize)

    @property
    def start(self) -> int:
        """The lowest byte."""
        return self.address + sum(min(0, (n - 1) * step) for n, step in zip(self.shape, self.strides, strict=True))

    @property
    def stop(self) -> int:
        """The first byte after the highest one."""
        if 0 in self.shape:
            return self.start
        reach = sum(max(0, (n - 1) * step) for n, step in zip(self.shape, self.strides, strict=True))
        return self.address + reach + self.itemsize

    @property
    def is_dense(self) -> bool:
        """Whether it takes every byte between its first and its last, in whatever order."""
        expected = self.itemsize
        for step, count in sorted((abs(s), n) for s, n in zip(self.strides, self.shape, strict=True) if n > 1):
            if step != expected:
                return False
            expected *= count
        return True


def share(a: Layout, b: Layout) -> bool | None:
    """Whether two arrays that lie in one range of addresses have a byte in common; None if that is too hard to say."""
    if a == b or (a.is_dense and b.is_dense):
        return True
    try:
        import numpy as np  # noqa: PLC0415  (needed for strided arrays only, and no requirement of interop's)
    except ModuleNotFoundError:
        return None
    try:
        return bool(np.shares_memory(_bytes(a, np), _bytes(b, np), max_work=_EFFORT))
    except np.exceptions.TooHardError:
        return None


def _bytes(layout: Layout, np: Any) -> Any:  # noqa: ANN401  (NumPy, and an array of it)
    """An array of NumPy's with this layout. Nothing may touch its elements: they are not the host's."""

    class Holder:
        __array_interface__ = {  # noqa: RUF012  (read once, by the next line)
            "version": 3,
            "shape": layout.shape,
            "strides": layout.strides,
            "typestr": f"|V{layout.itemsize}",
            "data": (layout.address, True),
        }

    return np.asarray(Holder())


@dataclass(eq=False, slots=True)
class Touch:
    """An access of some memory, by a piece of work."""

    party: "Party"
    epoch: Epoch
    kind: Kind
    layout: Layout

    def covers(self, old: "Touch") -> bool:
        """Whether whoever is ordered after this one, which is ordered after *old*, need not look at *old*."""
        return self.kind >= old.kind and (self.layout.is_dense or self.layout == old.layout)


@dataclass(eq=False, slots=True)
class _Piece:
    start: int
    stop: int
    live: list[Touch] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Space:
    """Pieces in order, that do not overlap."""

    starts: list[int] = field(default_factory=list)
    pieces: list[_Piece] = field(default_factory=list)

    def overlapping(self, start: int, stop: int) -> list[_Piece]:
        first = max(0, bisect.bisect_right(self.starts, start) - 1)
        last = bisect.bisect_left(self.starts, stop)
        return [piece for piece in self.pieces[first:last] if piece.stop > start]

    def cut(self, start: int, stop: int) -> list[_Piece]:
        """The pieces that make up the range, new ones where there were none."""
        for edge in (start, stop):
            for piece in self.overlapping(edge, edge + 1):
                if piece.start < edge:
                    self._insert(_Piece(edge, piece.stop, list(piece.live)))
                    piece.stop = edge
        found = []
        at = start
        for piece in self.overlapping(start, stop):
            if piece.start > at:
                found.append(self._insert(_Piece(at, piece.start)))
            found.append(piece)
            at = piece.stop
        if at < stop:
            found.append(self._insert(_Piece(at, stop)))
        return found

    def remove(self, start: int, stop: int) -> None:
        for piece in self.cut(start, stop):
            index = bisect.bisect_left(self.starts, piece.start)
            del self.starts[index], self.pieces[index]

    def _insert(self, piece: _Piece) -> _Piece:
        index = bisect.bisect_left(self.starts, piece.start)
        self.starts.insert(index, piece.start)
        self.pieces.insert(index, piece)
        return piece


class Memory:
    """The accesses that later ones can still conflict with, by the bytes that they touch."""

    def __init__(self) -> None:
        """Start with nothing touched."""
        self._spaces: dict[Hashable, _Space] = {}

    def is_untouched(self, layout: Layout) -> bool:
        """Whether no access is known of any byte in the array's range."""
        return not any(piece.live for piece in self._space(layout).overlapping(layout.start, layout.stop))

    def conflicts(self, layout: Layout, kind: Kind, known: Clock) -> Iterator[tuple[Touch, bool]]:
        """The earlier accesses that *known* does not know, and that a new one conflicts with, or may; oldest first.

        Yields:
            The access, and whether the two are sure to conflict: at least one writes, and they share a byte.
        """
        seen: dict[Touch, None] = {}
        for piece in self._space(layout).overlapping(layout.start, layout.stop):
            seen.update(dict.fromkeys(piece.live))
        for old in seen:
            if known.knows(old.epoch) or (old.kind is Kind.READ and kind is Kind.READ):
                continue
            shared = share(old.layout, layout)
            if shared is not False:
                yield old, bool(shared) and Kind.WRITE in (old.kind, kind)

    def add(self, touch: Touch, known: Clock) -> None:
        """Add an access that comes after what *known* knows."""
        layout = touch.layout
        if layout.start == layout.stop:
            return
        for piece in self._space(layout).cut(layout.start, layout.stop):
            piece.live = [old for old in piece.live if not (known.knows(old.epoch) and touch.covers(old))]
            piece.live.append(touch)

    def forget(self, layout: Layout) -> None:
        """Forget a range of bytes whose memory is new."""
        self._space(layout).remove(layout.start, layout.stop)

    def leave(self, layout: Layout, line: Hashable) -> None:
        """Forget what a stream did to a range of bytes."""
        for piece in self._space(layout).cut(layout.start, layout.stop):
            piece.live = [old for old in piece.live if old.epoch.line.key != line]

    def _space(self, layout: Layout) -> _Space:
        return self._spaces.setdefault(layout.space, _Space())
