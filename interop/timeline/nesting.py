"""How the spans of a stream lie in each other, for whoever draws them."""

import bisect
import heapq
from collections.abc import Sequence
from typing import NamedTuple

from interop.timeline.reading import Span


class Place(NamedTuple):
    """Where a span is drawn.

    Attributes:
        row: of its stream, from 0. Spans of a row are nested or apart.
        depth: how many spans of its row it lies in.
    """

    row: int
    depth: int


def outer_first(spans: Sequence[Span]) -> list[int]:
    """The places in *spans*, sorted by start; of those that start together, the outer one is first."""
    # Of two with the same ends, the one that was left later is the outer one.
    return sorted(range(len(spans)), key=lambda i: (spans[i].start, -spans[i].end, -i))


def places(spans: Sequence[Span]) -> list[Place]:
    """Where each of the *spans* of one stream is drawn.

    A row is enough for what one thread marks by ``with``. A span that partly overlaps another one gets a row more.
    """
    found = [Place(0, 0)] * len(spans)
    rows: list[list[float]] = []  # of each, the ends of the spans around
    reached: list[tuple[float, int]] = []  # the end of the innermost span of each row that has one, sorted; the row
    empty: list[int] = []
    for i in outer_first(spans):
        _, _, start, end = spans[i]
        # An empty span at the end of another one is taken to be inside.
        while reached and reached[0][0] <= start and reached[0][0] < end:
            _, row = reached.pop(0)
            rows[row].pop()
            if rows[row]:
                bisect.insort(reached, (rows[row][-1], row))
            else:
                heapq.heappush(empty, row)
        inside = bisect.bisect_left(reached, (end, 0))
        if inside < len(reached):
            _, row = reached.pop(inside)
        elif empty:
            row = heapq.heappop(empty)
        else:
            row = len(rows)
            rows.append([])
        found[i] = Place(row, len(rows[row]))
        rows[row].append(end)
        bisect.insort(reached, (end, row))
    return found
