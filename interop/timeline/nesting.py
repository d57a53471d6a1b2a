"""How the spans of a stream are nested: in which row and how deep each is drawn."""

import bisect
import heapq
from collections.abc import Sequence
from typing import NamedTuple

from interop.timeline.reading import Span


class Place(NamedTuple):
    """Where a span is drawn.

    Attributes:
        row: the row of its stream, from 0. Two spans of one row are nested, or do not overlap.
        depth: how many spans of its row it lies in.
    """

    row: int
    depth: int


def outer_first(spans: Sequence[Span]) -> list[int]:
    """The indices of *spans*, sorted by start. Of spans that start together, the outer one is first."""
    # Of two spans with the same start and end, the one that was left later is the outer one.
    return sorted(range(len(spans)), key=lambda i: (spans[i].start, -spans[i].end, -i))


def places(spans: Sequence[Span]) -> list[Place]:
    """Where each of the *spans* of one stream is drawn.

    The spans of one thread fit into one row. A span that partly overlaps another one gets another row.
    """
    found = [Place(0, 0)] * len(spans)
    rows: list[list[float]] = []  # of each row, the ends of the spans that are open
    innermost: list[tuple[float, int]] = []  # the end of the innermost open span of a row, and the row; sorted
    empty: list[int] = []  # a heap of the rows without an open span
    for i in outer_first(spans):
        _, _, start, end = spans[i]
        # A span without length at the end of another one counts as inside it.
        while innermost and innermost[0][0] <= start and innermost[0][0] < end:
            _, row = innermost.pop(0)
            rows[row].pop()
            if rows[row]:
                bisect.insort(innermost, (rows[row][-1], row))
            else:
                heapq.heappush(empty, row)
        inside = bisect.bisect_left(innermost, (end, 0))
        if inside < len(innermost):
            _, row = innermost.pop(inside)
        elif empty:
            row = heapq.heappop(empty)
        else:
            row = len(rows)
            rows.append([])
        found[i] = Place(row, len(rows[row]))
        rows[row].append(end)
        bisect.insort(innermost, (end, row))
    return found
