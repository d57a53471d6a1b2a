"""Which accesses touch the same bytes: memory as ranges of addresses, cut where accesses begin and end."""

import bisect
import operator
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from interop._order.clock import Clock, Epoch
from interop._order.findings import Kind, Party
from interop.ledger.layout import Layout, share

_ROOM: Final = 64
"""So many accesses of one byte are kept before equal ones of ended streams are merged."""


@dataclass(eq=False, slots=True)
class Touch:
    """An access of some memory, by a piece of work."""

    party: Party
    epoch: Epoch
    layout: Layout

    def covers(self, old: "Touch") -> bool:
        """Whether *old*, which comes before this access, can be forgotten: what conflicts with *old* conflicts here."""
        kind, before = self.party.kind, old.party.kind
        if (kind < before and kind < Kind.WRITE) or (self.party.doubt and not old.party.doubt):
            return False
        whole = not self.layout.strided and (not self.layout.at_most or old.layout.at_most)
        return whole or self.layout == old.layout

    @property
    def merge_key(self) -> Hashable:
        """Equal for two accesses that no report tells apart: by work of ended streams, from one line of code."""
        return self.epoch.line.group, self.party.kind, self.layout, self.party.by, self.party.where


class _Piece(NamedTuple):
    """A range of bytes with the same accesses. Immutable: a signal handler may raise between any two changes."""

    start: int
    stop: int
    live: tuple[Touch, ...]


_START: Final = operator.attrgetter("start")
_STOP: Final = operator.attrgetter("stop")


class _Space:
    """Pieces in the order of their addresses. They do not overlap."""

    def __init__(self) -> None:
        self.pieces: list[_Piece] = []

    def overlapping(self, start: int, stop: int) -> list[_Piece]:
        first, last = self._range(start, stop)
        return self.pieces[first:last]

    def touches(self, start: int, stop: int) -> Iterable[Touch]:
        """The accesses of any byte of a range, each once, oldest first."""
        found = self.overlapping(start, stop)
        if len(found) == 1:
            return found[0].live
        return dict.fromkeys(touch for piece in found for touch in piece.live)

    def change(self, start: int, stop: int, change: Callable[[tuple[Touch, ...]], tuple[Touch, ...]]) -> None:
        """Replace the accesses of each byte of a range by what *change* returns for them."""
        if start == stop:
            return
        first, last = self._range(start, stop)
        if last == first + 1:
            piece = self.pieces[first]
            if piece.start == start and piece.stop == stop and (live := change(piece.live)):
                self.pieces[first] = _Piece(start, stop, live)
                return
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
        # With the neighbours, which may now be equal to the first and the last piece.
        before = max(0, first - 1)
        self.pieces[before : last + 1] = _joined([*self.pieces[before:first], *changed, *self.pieces[last : last + 1]])

    def _range(self, start: int, stop: int) -> tuple[int, int]:
        first = bisect.bisect_right(self.pieces, start, key=_STOP)
        if first + 1 < len(self.pieces) and self.pieces[first + 1].start < stop:
            return first, bisect.bisect_left(self.pieces, stop, key=_START)
        return first, first + (first < len(self.pieces) and self.pieces[first].start < stop)


class Memory:
    """The accesses that later ones can still conflict with, by the bytes that they touch."""

    def __init__(self) -> None:
        self._addressed = _Space()
        self._simulated: weakref.WeakKeyDictionary[Any, _Space] = weakref.WeakKeyDictionary()

    def is_untouched(self, layout: Layout) -> bool:
        """Whether no access is known of any byte in the array's range."""
        return not self._space(layout).overlapping(layout.start, layout.stop)

    def conflicts(self, layout: Layout, kind: Kind, known: Clock) -> Iterator[tuple[Touch, bool]]:
        """The earlier accesses that *known* does not know and that a new one may conflict with, oldest first.

        Yields:
            The access, and whether the conflict is certain: at least one of the two writes, and they share a byte.
        """
        for old in self._space(layout).touches(layout.start, layout.stop):
            if known.knows(old.epoch) or (old.party.kind is Kind.READ and kind is Kind.READ):
                continue
            shared = share(old.layout, layout)
            if shared is not False:
                yield old, bool(shared) and max(old.party.kind, kind) >= Kind.WRITE

    def add(self, touch: Touch, known: Clock) -> None:
        """Add an access that comes after what *known* knows."""

        def added(live: tuple[Touch, ...]) -> tuple[Touch, ...]:
            kept = [old for old in live if not (known.knows(old.epoch) and touch.covers(old))]
            if len(kept) >= _ROOM:
                kept = list({old.merge_key: old for old in kept}.values())
            return (*kept, touch)

        self._space(touch.layout).change(touch.layout.start, touch.layout.stop, added)

    def forget(self, layout: Layout) -> None:
        """Forget all accesses of a range of bytes: the memory is new."""
        self._space(layout).change(layout.start, layout.stop, lambda _: ())

    def forget_stream(self, layout: Layout, stream: Hashable) -> None:
        """Forget the accesses of a range of bytes that the work of one stream made."""
        self._space(layout).change(
            layout.start, layout.stop, lambda live: tuple(old for old in live if old.epoch.line.key != stream)
        )

    def _space(self, layout: Layout) -> _Space:
        if layout.space is None:
            return self._addressed
        array = layout.space()
        # Nothing can access an array that is gone.
        return _Space() if array is None else self._simulated.setdefault(array, _Space())


def _joined(pieces: Iterable[_Piece]) -> list[_Piece]:
    """The pieces without those that are empty or have no access. Equal neighbours become one piece."""
    found: list[_Piece] = []
    for piece in pieces:
        if piece.start == piece.stop or not piece.live:
            continue
        if found and found[-1].stop == piece.start and found[-1].live == piece.live:
            piece = found.pop()._replace(stop=piece.stop)  # noqa: PLW2901
        found.append(piece)
    return found
