"""Timelines with more in them than a picture can show: what is drawn, what is said to be left out, in what time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.timeline import selection
from interop.timeline.picture import draw, png
from interop.timeline.reading import Arrow, Lane, Reading, Span, Table
from interop.timeline.selection import select
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
    arrows = [patch for patch in axes.patches if type(patch).__name__ == "FancyArrowPatch"]
    assert len(boxes) <= selection._LANES * selection._ROWS * selection._DEPTHS
    assert len(arrows) <= 200
    assert max(figure.get_size_inches()) < 200
    said = figure._supxlabel.get_text()
    chosen = select(large)
    bars = [bar for found in chosen.bars.values() for bar in found]
    assert len(boxes) == len(bars)
    short = sum(bar.spans for bar in bars if bar.spans > 1)
    assert not short or f"{short:,} short spans are drawn together" in said
    hidden = sum(span.lane not in chosen.bars for span in large.spans)
    assert (hidden > 0) == ("streams are not drawn" in said)
    deep = MANY - hidden - sum(bar.spans for bar in bars)
    assert not deep or f"{deep:,} spans are not drawn" in said
    shown = [arrow for arrow in large.arrows if {arrow.producer, arrow.consumer} <= chosen.bars.keys()]
    assert len(shown) == len(arrows) or f"{len(shown) - len(arrows):,} of {len(shown):,} arrows are not drawn" in said
    assert "timeline.save('trace.json')" in said


ends = st.tuples(st.integers(0, 50), st.integers(0, 20)).map(lambda at: (at[0], at[0] + at[1]))


@given(st.lists(st.tuples(st.sampled_from("ab"), ends), max_size=30), st.integers(1, 30))
def test_bars_of_short_spans_are_where_the_spans_are(marked, most):
    spans = [Span(name, LANES[0], *at) for name, at in marked]
    before = selection._BARS
    selection._BARS = most
    try:
        (bars,) = select(reading_of(spans, lanes=1)).bars.values()
    finally:
        selection._BARS = before
    drawn = [(span, place) for span, place in zip(spans, selection.places(spans), strict=True)]
    drawn = [(span, place) for span, place in drawn if place.row < selection._ROWS and place.depth < selection._DEPTHS]
    assert sum(bar.spans for bar in bars) == len(drawn)
    for bar in bars:
        within = [s for s, place in drawn if place == bar.place and bar.start <= s.start and s.end <= bar.end]
        assert {span.name for span in within} >= set(bar.names)
        assert bar.start in [span.start for span in within]
        assert bar.end in [span.end for span in within]
    for span, place in drawn:
        assert any(bar.place == place and bar.start <= span.start and span.end <= bar.end for bar in bars)


def test_a_long_span_among_short_ones_is_drawn_as_it_is():
    spans = [Span("short", LANES[0], i, i + 0.9) for i in range(5_000)]
    spans += [Span("long", LANES[0], 5_000, 9_000)]
    spans += [Span("short", LANES[0], i, i + 0.9) for i in range(9_000, 14_000)]
    bars = select(reading_of(spans, lanes=1)).bars[LANES[0]]
    assert [(bar.names, bar.start, bar.end, bar.spans) for bar in bars] == [
        (("short",), 0, 4_999.9, 5_000),
        (("long",), 5_000, 9_000, 1),
        (("short",), 9_000, 13_999.9, 5_000),
    ]


def test_a_bar_of_spans_with_several_names_has_its_own_look():
    figure = draw(in_turn(1))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*(f"k{i}" for i in range(10)), "several, too short to see"]


def test_a_large_table_shows_its_ends_and_keeps_all_rows():
    table = Table(in_turn(1))
    assert len(table) == MANY
    text = str(table)
    assert "19,700 of 20,000 rows are not shown here: the list has all of them." in text
    starts = [line.split("│")[4].strip() for line in text.splitlines() if line.count("│") == 7]
    assert starts == [*(f"{i}.000" for i in range(150)), "…", *(f"{i}.000" for i in range(MANY - 150, MANY))]
