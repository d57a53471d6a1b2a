"""Vector clocks: lines of work, epochs on them, and sets of epochs."""

import itertools
from collections.abc import Hashable, Mapping
from typing import NamedTuple


class Line:
    """Where work is done in order: one stream, or one host thread.

    Attributes:
        key: the caller's name for the stream or the thread.
        number: the clocks' name for the line. Unique in the process, and never used again.
    """

    __slots__ = ("__weakref__", "_group", "_last", "key", "number")

    def __init__(self, key: Hashable) -> None:
        """Start a line for the stream or thread *key*."""
        self.key = key
        self.number = next(_numbers)
        # Ended lines that no clock tells apart form a group. Clocks then hold the number of the group in their place.
        self._group: Line | None = None
        self._last = 0  # the number of the last piece of work, once the line has ended

    @property
    def group(self) -> "Line":
        """The line that stands for this one in clocks: the line itself, as long as its stream or thread is alive."""
        line = self
        while line._group is not None:
            line = line._group
        return line


_numbers = itertools.count(1)


class Epoch(NamedTuple):
    """One piece of work: the *number*-th on its *line*."""

    line: Line
    number: int


class Clock:
    """A set of work that is closed under "comes before", as one number for each line.

    Attributes:
        steps: at least so many pieces of work run one after the other until all of the set is done.
    """

    __slots__ = ("_seen", "steps")

    def __init__(self) -> None:
        """Start with the empty set."""
        self._seen: dict[int, int] = {}
        self.steps = 0

    def knows(self, epoch: Epoch) -> bool:
        """Whether the work is in the set."""
        line: Line | None = epoch.line
        while line is not None:
            if epoch.number <= self._seen.get(line.number, 0):
                return True
            line = line._group
        return False

    def join(self, *others: "Clock") -> None:
        """Add everything that *others* know."""
        seen = self._seen
        for other in others:
            if seen:
                for line, number in other._seen.copy().items():  # a signal handler may add to it
                    if number > seen.get(line, 0):
                        seen[line] = number
            else:
                seen.update(other._seen)
            self.steps = max(self.steps, other.steps)

    def add(self, epoch: Epoch, steps: int = 1) -> None:
        """Add a piece of work that comes after all of the set."""
        self._seen[epoch.line.number] = epoch.number
        self.steps += steps

    def tick(self, line: Line, steps: int = 1) -> Epoch:
        """Add the next piece of work of *line*. Returns its epoch."""
        epoch = Epoch(line, self._seen.get(line.number, 0) + 1)
        self.add(epoch, steps)
        return epoch

    def copy(self) -> "Clock":
        """Make an independent clock that knows the same."""
        clock = Clock()
        clock.join(self)
        return clock

    def among(self, lines: Mapping[int, object]) -> list[tuple[int, int]]:
        """Of *lines*, by number, those that the set has work of, each with the number of the last such work."""
        return [(line, self._seen[line]) for line in self._seen.keys() & lines.keys()]

    def __len__(self) -> int:
        """How many lines the set has work of."""
        return len(self._seen)

    def __repr__(self) -> str:
        """Show the last known number of each line."""
        return f"Clock({self._seen})"
