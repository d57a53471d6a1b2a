"""How clocks forget streams and threads that have ended."""

import sys
import weakref
from collections.abc import Iterable
from typing import Final

from interop._order.clock import Clock, Line

_ALL: Final = sys.maxsize
"""In a clock: all the work of a line that has ended."""
_ROOM: Final = 64
"""So many ended lines are kept before the clocks are tidied."""


class EndedLines:
    """The lines of streams and threads that have ended: until nobody holds them, or a group stands for them."""

    def __init__(self) -> None:
        """Start with none."""
        self._lines: dict[int, weakref.ref[Line]] = {}
        self._room = _ROOM

    @property
    def is_full(self) -> bool:
        """Whether it is time to tidy. The room grows with what there is to look at, so a line costs the same always."""
        return len(self._lines) >= self._room

    def add(self, line: Line, last: int) -> None:
        """Add a line whose last piece of work has the number *last*."""
        line._last = max(line._last, last)  # another set of clocks may have ended the line already
        self._lines[line.number] = weakref.ref(line)

    def tidy(self, parts: Iterable[tuple[list[Clock], list[Clock]]]) -> None:
        """Remove from the clocks the lines that nobody holds, and merge the lines that no clock tells apart.

        A later clock is made by joining the clocks that exist now. So lines that these do not tell apart are never told
        apart. Work that all threads know need not be in any other clock: every question joins the clock of a thread.

        Args:
            parts: for each set of clocks that follow the same streams, the clocks of its threads, and all others.
        """
        held = {number: line for number, reference in self._lines.items() if (line := reference()) is not None}
        knowers: dict[int, list[Clock]] = {number: [] for number in held}
        partly_known: set[int] = set()
        size = 0
        for hosts, others in parts:
            size += len(hosts) + len(others)
            for number, found in self._find([*hosts, *others], held).items():
                clocks = _needed(hosts, found, held[number])
                knowers[number] += clocks
                if not _know_all(clocks, held[number]):
                    partly_known.add(number)
        alike: dict[tuple[int, ...], list[Line]] = {}
        for number, clocks in knowers.items():
            # A line may have a group already, if a signal handler raised in the middle of this method before.
            if number not in partly_known and held[number]._group is None:
                alike.setdefault(tuple(map(id, clocks)), []).append(held[number])
        for lines in alike.values():
            if len(lines) > 1:
                group = _merge(lines, knowers[lines[0].number])
                held[group.number] = group
        self._lines = {number: weakref.ref(line) for number, line in held.items() if line._group is None}
        self._room = _ROOM + size + len(self._lines)

    def _find(self, clocks: list[Clock], held: dict[int, Line]) -> dict[int, list[Clock]]:
        """For each ended line, the clocks that know of it, in this order. The clocks forget lines that nobody holds."""
        found: dict[int, list[Clock]] = {}
        for clock in clocks:
            for number in clock._seen.keys() & self._lines.keys():
                if number in held:
                    found.setdefault(number, []).append(clock)
                else:
                    del clock._seen[number]
        return found


def _merge(lines: list[Line], clocks: list[Clock]) -> Line:
    """Let one line stand for *lines*. *clocks* know all of their work, and no other clock knows any."""
    group = next((line for line in lines if line._last == _ALL), None)
    if group is None:
        group = Line(None)
        group._last = _ALL
    # In this order, a signal handler that raises in the middle loses no order.
    for clock in clocks:
        clock._seen[group.number] = _ALL
    for line in lines:
        if line is not group:
            line._group = group
            for clock in clocks:
                clock._seen.pop(line.number, None)
    return group


def _needed(hosts: list[Clock], found: list[Clock], line: Line) -> list[Clock]:
    """The clocks of *found* that must know *line*: only those of the threads, if all threads know all of its work.

    The other clocks then forget the line.
    """
    if not hosts or found[: len(hosts)] != hosts or not _know_all(hosts, line):
        return found
    for clock in found[len(hosts) :]:
        del clock._seen[line.number]
    return hosts


def _know_all(clocks: Iterable[Clock], line: Line) -> bool:
    return all(clock._seen[line.number] >= line._last for clock in clocks)
