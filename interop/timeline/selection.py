"""What is drawn of a timeline: all of it if it is small, else as much as can be seen in a picture."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from interop._show.text import plural
from interop.timeline.nesting import Place, outer_first, places
from interop.timeline.reading import Arrow, Lane, Reading, Span

_LANES: Final = 30
_ROWS: Final = 6
"""The most rows of a lane."""
_DEPTHS: Final = 6
"""The most spans inside each other in a row."""
_BARS: Final = 1000
_ARROWS: Final = 200
_FINEST: Final = 1 / 2048
"""If there is too much, shorter spans are drawn together: a part of the whole length, doubled until all fits."""


class Bar(NamedTuple):
    """One box in the picture: a span, or short spans that lie close together.

    Attributes:
        names: the names of the spans; two at most.
        start: when the first one began.
        end: when the last one ended.
        place: the place of all of them.
        spans: how many they are.
    """

    names: tuple[str, ...]
    start: float
    end: float
    place: Place
    spans: int


class Selection(NamedTuple):
    """What is drawn.

    Attributes:
        bars: by lane, the bars in the order of their start.
        arrows: the arrows.
        end: the last position of the timeline, drawn or not.
        notes: what is left out, a sentence each.
    """

    bars: dict[Lane, list[Bar]]
    arrows: list[Arrow]
    end: float
    notes: list[str]


def by_lane(spans: Iterable[Span]) -> dict[Lane, list[Span]]:
    """The spans of each lane."""
    found: defaultdict[Lane, list[Span]] = defaultdict(list)
    for span in spans:
        found[span.lane].append(span)
    return found


def select(reading: Reading) -> Selection:
    """Choose what is drawn of *reading*."""
    positions = [span.end for span in reading.spans]
    positions += [at for arrow in reading.arrows for at in (arrow.recorded, arrow.waited)]
    end = max(positions, default=0.0)
    spans = by_lane(reading.spans)
    lanes = reading.lanes[:_LANES]
    fitting: dict[Lane, list[tuple[Span, Place]]] = {}
    for lane in lanes:
        placed = zip(spans[lane], places(spans[lane]), strict=True)
        fitting[lane] = [(span, place) for span, place in placed if place.row < _ROWS and place.depth < _DEPTHS]

    shortest = 0.0
    while True:
        bars = {lane: _bars(fitting[lane], shortest) for lane in lanes}
        if sum(map(len, bars.values())) <= _BARS or shortest > end:
            break
        shortest = max(2 * shortest, end * _FINEST)

    seen = set(lanes)
    between = [arrow for arrow in reading.arrows if arrow.producer in seen and arrow.consumer in seen]
    arrows, shortest = between, 0.0
    while len(arrows) > _ARROWS and shortest <= end:
        shortest = max(2 * shortest, end * _FINEST)
        arrows = _apart(between, shortest)
    arrows = arrows[:: math.ceil(len(arrows) / _ARROWS) or 1]

    return Selection(bars, arrows, end, _notes(reading, fitting, bars, between, arrows))


def _bars(placed: list[tuple[Span, Place]], shortest: float) -> list[Bar]:
    """The bars of a lane. Spans that are shorter than *shortest*, and closer than that, share a bar."""
    bars: list[Bar] = []
    latest: dict[Place, int] = {}
    for i in outer_first([span for span, _ in placed]):
        (name, _, start, end), place = placed[i]
        number = latest.get(place)
        if number is not None and end - start < shortest:
            names, first, before, _, count = bars[number]
            if (count > 1 or before - first < shortest) and start - before < shortest:
                names = names if name in names else (*names, name)[:2]  # it only matters that there is more than one
                bars[number] = Bar(names, first, max(before, end), place, count + 1)
                continue
        latest[place] = len(bars)
        bars.append(Bar((name,), start, end, place, 1))
    return bars


def _apart(arrows: list[Arrow], shortest: float) -> list[Arrow]:
    """Of the arrows that would lie on each other, the first one."""
    found: dict[tuple[object, ...], Arrow] = {}
    for arrow in arrows:
        kind, producer, consumer, recorded, waited, _ = arrow
        found.setdefault((kind, producer, consumer, recorded // shortest, waited // shortest), arrow)
    return list(found.values())


def _notes(
    reading: Reading,
    fitting: dict[Lane, list[tuple[Span, Place]]],
    bars: dict[Lane, list[Bar]],
    between: list[Arrow],
    arrows: list[Arrow],
) -> list[str]:
    notes = []
    if left := len(reading.lanes) - len(bars):
        notes.append(f"{left:,} of {len(reading.lanes):,} streams are not drawn, nor what they did.")
    there = [span.lane for span in reading.spans if span.lane in bars]
    if left := len(there) - sum(map(len, fitting.values())):
        notes.append(f"{left:,} spans are not drawn: too many others are around or beside them.")
    if together := [bar for found in bars.values() for bar in found if bar.spans > 1]:
        count = sum(bar.spans for bar in together)
        notes.append(f"{count:,} short spans are drawn together, as {plural(len(together), 'bar')}.")
    if left := len(between) - len(arrows):
        notes.append(f"{left:,} of {len(between):,} arrows are not drawn: others are close to them.")
    if notes:
        notes.append("A trace has it all: timeline.save('trace.json').")
    return notes
