"""Timelines with more in them than a picture can show: what is drawn, what is said to be left out, in what time."""

import time

import pytest

from interop.timeline.picture import draw, png
from interop.timeline.reading import Arrow, Lane, Reading, Span, Table
from interop.timeline.trace import trace_text

MANY = 20_000
LANES = [Lane(number, "interop", f"{number:#x}", 0) for number in range(2_000)]


def reading_of(spans=(), arrows=(), lanes=4):
    return Reading("ms", tuple(LANES[:lanes]), tuple(spans), tuple(arrows), 0, 0.0)


def in_turn(lanes, names=10):
    """One after the other, with gaps, on *lanes* in turn."""
    return reading_of((Span(f"k{i % names}", LANES[i % lanes], i, i + 0.9) for i in range(MANY)), lanes=lanes)


def waits(lanes):
    """As many spans as waits."""
    arrows = (Arrow("wait", LANES[i % lanes], LANES[(i + 1) % lanes], i, i + 0.5, "") for i in range(MANY))
    return in_turn(lanes)._replace(arrows=tuple(arrows))


LARGE = {
    "short spans": lambda: in_turn(1),
    "spans of many names": lambda: in_turn(4, names=MANY),
    "many streams": lambda: in_turn(2_000),
    "spans that partly overlap": lambda: reading_of(Span("k", LANES[0], i, i + MANY) for i in range(MANY)),
    "spans in spans": lambda: reading_of(Span("k", LANES[0], i, 2 * MANY - i) for i in range(MANY)),
    "long and short spans": lambda: reading_of(
        Span("k", LANES[0], i, i + (30 if i % 40 == 0 else 0)) for i in range(MANY)
    ),
    "spans without a length": lambda: reading_of(Span("k", LANES[i % 4], 0, 0) for i in range(MANY)),
    "waits": lambda: waits(4),
    "waits between many streams": lambda: waits(2_000),
}


@pytest.fixture(params=LARGE)
def large(request):
    return LARGE[request.param]()


@pytest.mark.parametrize("show", [png, lambda reading: str(Table(reading)), trace_text], ids=["png", "table", "trace"])
def test_a_large_timeline_is_shown_in_seconds(large, show):
    png(reading_of())  # matplotlib finds its fonts
    before = time.process_time()
    show(large)
    assert time.process_time() - before < 3


def test_the_picture_says_what_of_a_large_timeline_is_left_out(large):
    figure = draw(large)
    axes = figure.axes[0]
    boxes = [patch for patch in axes.patches if patch.get_zorder() >= 2 and type(patch).__name__ == "Rectangle"]
    greys = [path for drawn in axes.collections if drawn.get_zorder() >= 2 for path in drawn.get_paths()]
    arrows = [patch for patch in axes.patches if type(patch).__name__ == "FancyArrowPatch"]
    assert len(boxes) <= 1000
    assert len(arrows) <= 200
    assert max(figure.get_size_inches()) < 200
    said = figure._supxlabel.get_text()
    assert f"{len(greys):,} short spans are drawn in grey" in said or not greys
    hidden = sum(span.lane not in large.lanes[:30] for span in large.spans)
    assert (hidden > 0) == ("streams are not drawn" in said)
    deep = MANY - hidden - len(boxes) - len(greys)
    assert f"{deep:,} spans are not drawn" in said or not deep
    shown = [arrow for arrow in large.arrows if {arrow.producer, arrow.consumer} <= {*large.lanes[:30]}]
    assert len(shown) == len(arrows) or f"{len(shown) - len(arrows):,} of {len(shown):,} arrows are not drawn" in said
    assert "timeline.save('trace.json')" in said


def test_a_long_span_among_short_ones_is_drawn_as_it_is():
    spans = [Span("short", LANES[0], i, i + 0.9) for i in range(5_000)]
    spans += [Span("long", LANES[0], 5_000, 9_000)]
    figure = draw(reading_of(spans, lanes=1))
    (box,) = [patch for patch in figure.axes[0].patches if patch.get_zorder() >= 2]
    assert (box.get_x(), box.get_width()) == (5_000, 4_000)
    (grey,) = [drawn for drawn in figure.axes[0].collections if drawn.get_zorder() >= 2]
    assert [path.vertices[:, 0].min() for path in grey.get_paths()] == list(range(5_000))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["short", "long", "short spans"]


def test_a_large_table_shows_its_ends_and_keeps_all_rows():
    table = Table(in_turn(1))
    assert len(table) == MANY
    text = str(table)
    assert "19,700 of 20,000 rows are not shown here: the list has all of them." in text
    starts = [line.split()[-3] for line in text.splitlines()[2:-1]]
    assert starts == [*(f"{i}.000" for i in range(150)), "…", *(f"{i}.000" for i in range(MANY - 150, MANY))]
