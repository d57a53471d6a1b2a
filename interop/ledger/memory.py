"""Which accesses touch the same bytes: memory as ranges of addresses, cut where accesses begin and end."""

import bisect
import enum
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from interop._order.clock import Clock, Epoch

if TYPE_CHECKING:
    from interop.ledger.report import Party

_EFFORT: Final[Any] = 10_000  # NumPy's types know two of the values only
"""Candidates that NumPy may try to find a common byte of two strided arrays: a few milliseconds at most."""

_FEW: Final = 64
"""So many accesses of one byte are not looked at for those that are alike."""


class Kind(enum.IntEnum):
    """What an access does. Each covers those before it: who is ordered after it needs no order with them."""

    READ = 1
    MAYBE = 2
    """It reads, and may write: nothing says which."""
    WRITE = 3


class Layout(NamedTuple):
    """Where the elements of an array lie.

    Attributes:
        space: None for memory with addresses, which no two devices share; else a simulated array, not kept alive.
        address: of the first element.
        shape: how many elements, by dimension.
        strides: from one element to the next, by dimension, in bytes.
        itemsize: the bytes of an element.
    """

    space: weakref.ref[Any] | None
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
        space: weakref.ref[Any] | None = None,
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

    @property
    def looks(self) -> Hashable:
        """Equal for two that are told apart by nobody: the work of streams that are gone, from one line of code."""
        by, where = (self.party.by, self.party.where) if self.party else ("", "")
        return self.epoch.line.group, self.kind, self.layout, by, where


class _Piece(NamedTuple):
    """A range of bytes that were touched alike. Never changed: a signal handler may raise between any two changes."""

    start: int
    stop: int
    live: tuple[Touch, ...]


class _Space:
    """Pieces in order, that do not overlap."""

    def __init__(self) -> None:
        self.pieces: list[_Piece] = []

    def overlapping(self, start: int, stop: int) -> list[_Piece]:
        first, last = self._range(start, stop)
        return self.pieces[first:last]

    def change(self, start: int, stop: int, change: Callable[[tuple[Touch, ...]], tuple[Touch, ...]]) -> None:
        """Let the accesses of each byte of a range be what *change* makes of those that there are."""
        if start == stop:
            return
        first, last = self._range(start, stop)
        changed: list[_Piece] = []
        at = start
        for piece in self.pieces[first:last]:
            within = max(piece.start, start), min(piece.stop, stop)
            changed.append(_Piece(piece.start, within[0], piece.live))
            changed.append(_Piece(at, within[0], change(())))
            changed.append(_Piece(*within, change(piece.live)))
            changed.append(_Piece(within[1], piece.stop, piece.live))
            at = within[1]
        changed.append(_Piece(at, stop, change(())))
        # With the neighbours, which may have become equal.
        before = max(0, first - 1)
        self.pieces[before : last + 1] = _joined([*self.pieces[before:first], *changed, *self.pieces[last : last + 1]])

    def _range(self, start: int, stop: int) -> tuple[int, int]:
        return (
            bisect.bisect_right(self.pieces, start, key=lambda piece: piece.stop),
            bisect.bisect_left(self.pieces, stop, key=lambda piece: piece.start),
        )


class Memory:
    """The accesses that later ones can still conflict with, by the bytes that they touch."""

    def __init__(self) -> None:
        """Start with nothing touched."""
        self._addressed = _Space()
        self._simulated: weakref.WeakKeyDictionary[Any, _Space] = weakref.WeakKeyDictionary()

    def is_untouched(self, layout: Layout) -> bool:
        """Whether no access is known of any byte in the array's range."""
        return not self._space(layout).overlapping(layout.start, layout.stop)

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

        def added(live: tuple[Touch, ...]) -> tuple[Touch, ...]:
            kept = [old for old in live if not (known.knows(old.epoch) and touch.covers(old))]
            if len(kept) >= _FEW:
                kept = list({old.looks: old for old in kept}.values())
            return (*kept, touch)

        self._space(touch.layout).change(touch.layout.start, touch.layout.stop, added)

    def forget(self, layout: Layout) -> None:
        """Forget a range of bytes whose memory is new."""
        self._space(layout).change(layout.start, layout.stop, lambda _: ())

    def leave(self, layout: Layout, line: Hashable) -> None:
        """Forget what a stream did to a range of bytes."""
        self._space(layout).change(
            layout.start, layout.stop, lambda live: tuple(old for old in live if old.epoch.line.key != line)
        )

    def _space(self, layout: Layout) -> _Space:
        if layout.space is None:
            return self._addressed
        array = layout.space()
        # Nobody can touch an array that is gone.
        return _Space() if array is None else self._simulated.setdefault(array, _Space())


def _joined(pieces: Iterable[_Piece]) -> list[_Piece]:
    """The same without pieces that are empty, or touched by nothing; of neighbours that are equal, one piece."""
    found: list[_Piece] = []
    for piece in pieces:
        if piece.start == piece.stop or not piece.live:
            continue
        if found and found[-1].stop == piece.start and found[-1].live == piece.live:
            piece = found.pop()._replace(stop=piece.stop)  # noqa: PLW2901
        found.append(piece)
    return found
