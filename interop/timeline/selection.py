"""What is drawn of a timeline: all of it if it is small, else as much as can be seen in a picture."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from interop.timeline.nesting import Place, places
from interop.timeline.reading import Arrow, Lane, Reading, Span

_LANES: Final = 30
_ROWS: Final = 6
"""The most rows of a lane."""
_DEPTHS: Final = 6
"""The most spans inside each other in a row."""
_BOXES: Final = 1000
_ARROWS: Final = 200


class Selection(NamedTuple):
    """What is drawn.

    Attributes:
        spans: by lane, the spans, and the place of each.
        short: spans that are no longer than this are drawn in grey, without a name.
        arrows: the arrows.
        notes: what is left out, a sentence each.
    """

    spans: dict[Lane, list[tuple[Span, Place]]]
    short: float
    arrows: list[Arrow]
    notes: list[str]


def by_lane(spans: Iterable[Span]) -> dict[Lane, list[Span]]:
    """The spans of each lane."""
    found: defaultdict[Lane, list[Span]] = defaultdict(list)
    for span in spans:
        found[span.lane].append(span)
    return found


def select(reading: Reading) -> Selection:
    """Choose what is drawn of *reading*."""
    of = by_lane(reading.spans)
    spans: dict[Lane, list[tuple[Span, Place]]] = {}
    hidden = 0
    for lane in reading.lanes[:_LANES]:
        placed = zip(of[lane], places(of[lane]), strict=True)
        spans[lane] = [(span, place) for span, place in placed if place.row < _ROWS and place.depth < _DEPTHS]
        hidden += len(of[lane]) - len(spans[lane])
    lengths = sorted((span.end - span.start for found in spans.values() for span, _ in found), reverse=True)
    short = lengths[_BOXES] if len(lengths) > _BOXES else -math.inf
    between = [arrow for arrow in reading.arrows if {arrow.producer, arrow.consumer} <= spans.keys()]
    arrows = between[:: math.ceil(len(between) / _ARROWS) or 1]

    notes = []
    if left := len(reading.lanes) - len(spans):
        notes.append(f"{left:,} of {len(reading.lanes):,} streams are not drawn, nor what they did.")
    if hidden:
        notes.append(f"{hidden:,} spans are not drawn: too many others are around or beside them.")
    if grey := sum(length <= short for length in lengths):
        notes.append(f"{grey:,} short spans are drawn in grey.")
    if left := len(between) - len(arrows):
        notes.append(f"{left:,} of {len(between):,} arrows are not drawn.")
    if notes:
        notes.append("A trace has it all: timeline.save('trace.json').")
    return Selection(spans, short, arrows, notes)
