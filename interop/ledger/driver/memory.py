"""What memory is allocated, call by call: the driver's blocks, and the parts that pools have cut out of them."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from interop._order.findings import Party

_FREED_KEPT: Final = 10_000
"""So many freed parts of memory are remembered: later use of them is told from use of memory that is not known."""
_LOWEST: Final = 1 << 32
_HIGHEST: Final = 1 << 49
"""What lies between the two may be an address of a device's memory."""
_UNKNOWN_KEPT: Final = 100_000


@dataclass(eq=False, slots=True)
class Part:
    """Memory that was allocated by one call.

    Attributes:
        start: the first address.
        stop: the address after the last byte.
        number: of the call: no other allocation has it.
        label: what a report calls it; empty if that is not known yet.
        on_host: whether it is pinned memory of the host.
        is_pooled: whether a pool has given it, and not the driver.
        freed: the call that has freed it; None as long as it is allocated.
        freed_at: when that was, if a pool has told it, in nanoseconds.
    """

    start: int
    stop: int
    number: int
    label: str
    on_host: bool = False
    is_pooled: bool = False
    freed: Party | None = None
    freed_at: int = 0


class _Level:
    """Parts that do not overlap."""

    def __init__(self) -> None:
        self.parts: dict[int, Part] = {}
        self._starts: list[int] = []

    def find(self, address: int) -> Part | None:
        """The part that an address lies in."""
        part = self.parts.get(address)
        if part is None:
            at = bisect.bisect_right(self._starts, address) - 1
            if at < 0:
                return None
            part = self.parts[self._starts[at]]
        return part if address < part.stop else None

    def overlapping(self, start: int, stop: int) -> list[Part]:
        """The parts that have a byte from *start* to *stop*."""
        first = bisect.bisect_right(self._starts, start)
        if first and self.parts[self._starts[first - 1]].stop > start:
            first -= 1
        return [self.parts[at] for at in self._starts[first : bisect.bisect_left(self._starts, stop)]]

    def add(self, part: Part) -> None:
        bisect.insort(self._starts, part.start)
        self.parts[part.start] = part

    def remove(self, part: Part) -> None:
        del self.parts[part.start]
        del self._starts[bisect.bisect_left(self._starts, part.start)]


class Allocations:
    """What is allocated, and what was freed last where nothing is. Its size is that of what is allocated."""

    def __init__(self, ask: Callable[[int], tuple[int, int] | None] = lambda _: None) -> None:
        """Start with nothing. *ask* gives the driver's block at an address, which may be older than all calls."""
        self._ask = ask
        self._unknown: set[int] = set()
        self._blocks = _Level()
        self._pooled: list[_Level] = []  # the parts of each level lie in parts of the levels before
        self._freed = _Level()
        self._mapped: dict[int, int] = {}

    def add(self, part: Part) -> None:
        """Memory was allocated. What was known of its bytes on the same level was freed out of sight."""
        if part.start >= part.stop:
            return
        if not part.is_pooled:
            for old in (*self._blocks.overlapping(part.start, part.stop), part):
                for inner in self._pooled:
                    self._drop(inner, old)
            self._drop(self._blocks, part)
            self._blocks.add(part)
        else:
            for level in self._pooled:
                if not self._lies_within(level, part):
                    break
            else:
                level = _Level()
                self._pooled.append(level)
            for inner in self._pooled[self._pooled.index(level) :]:
                self._drop(inner, part)
            level.add(part)
        self._drop(self._freed, part)

    def map(self, part: Part) -> Part:
        """Memory was mapped. With what is mapped before and behind it, it is one block, which is returned."""
        self._mapped[part.start] = part.stop
        self.add(part)
        for other in (self._blocks.find(part.start - 1), self._blocks.find(part.stop)):
            if other is not None and self.is_mapped(other.start):
                part = Part(min(part.start, other.start), max(part.stop, other.stop), part.number, part.label)
                self._drop(self._blocks, part)
                self._blocks.add(part)
        return part

    def unmap(self, start: int) -> Part | None:
        """Memory that was mapped there by one call is no longer: that part is returned."""
        stop, block = self._mapped.pop(start, None), self._blocks.find(start)
        if stop is None or block is None:
            return None
        self._blocks.remove(block)
        for rest in (
            Part(block.start, start, block.number, block.label),
            Part(stop, block.stop, block.number, block.label),
        ):
            if rest.start < rest.stop:
                self._blocks.add(rest)
        gone = Part(start, stop, block.number, block.label)
        for level in self._pooled:
            self._drop(level, gone)
        return gone

    def is_mapped(self, start: int) -> bool:
        """Whether memory was mapped there by one call."""
        return start in self._mapped

    def free(self, start: int, *, pooled: bool) -> Part | None:
        """The memory that begins at *start* was given back, to a pool or to the driver; None if it is not known."""
        for level in reversed(self._pooled) if pooled else (self._blocks,):
            part = level.parts.get(start)
            if part is not None:
                break
        else:
            return None
        level.remove(part)
        if not pooled:
            for inner in self._pooled:
                self._drop(inner, part)
        self._drop(self._freed, part)
        if part.on_host:  # the host may have the addresses again, for memory that the driver does not know
            return part
        self._freed.add(part)
        if len(self._freed.parts) > _FREED_KEPT:
            self._freed.remove(next(iter(self._freed.parts.values())))
        return part

    def find(self, address: int) -> Part | None:
        """The innermost part that an address lies in."""
        for level in reversed(self._pooled):
            if (part := level.find(address)) is not None:
                return part
        return self._blocks.find(address)

    def last(self, address: int) -> Part | None:
        """The innermost part that an address lies in, or has lain in: memory that a pool has back is freed."""
        part = self.find(address)
        if part is None or not part.is_pooled:
            freed = self._freed.find(address)
            if freed is not None and (part is None or freed.is_pooled):
                return freed
        return part or self.asked(address)

    def asked(self, address: int) -> Part | None:
        """The block of memory at an address that was allocated before everything that is known here."""
        if not _LOWEST <= address < _HIGHEST or address in self._unknown:
            return None
        found = self._ask(address)
        if found is None:
            if len(self._unknown) > _UNKNOWN_KEPT:
                self._unknown.clear()
            self._unknown.add(address)
            return None
        part = Part(*found, 0, "")
        self._drop(self._blocks, part)
        self._blocks.add(part)
        return part

    @staticmethod
    def _lies_within(level: _Level, part: Part) -> bool:
        outer = level.find(part.start)
        return outer is not None and part.stop <= outer.stop and (outer.start, outer.stop) != (part.start, part.stop)

    @staticmethod
    def _drop(level: _Level, part: Part) -> None:
        for other in level.overlapping(part.start, part.stop):
            level.remove(other)
