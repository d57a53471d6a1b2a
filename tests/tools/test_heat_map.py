"""The picture of the matrix shows every row in its cell, and every outcome in its own way."""

import itertools

import pytest

from interop.matrix import BLOCKED, HANDOFF, NONE, ORDERED, OURS, RACE, WHEN
from interop.matrix.heat_map import draw, png
from interop.matrix.libraries import LIBRARIES

LETTERS = {"ordered": "o", "host blocked": "B", "error": "e", "RACE": "R", "-": "–"}  # noqa: RUF001  (a dash, drawn)
OUTCOMES = [RACE, ORDERED, BLOCKED, "error: TypeError", NONE]


@pytest.fixture
def rows():
    outcomes = itertools.cycle(OUTCOMES)
    return [
        {"producer": p, "consumer": c, "route": route, **{when: next(outcomes) for when in WHEN}}
        for p, c in itertools.product(LIBRARIES, repeat=2)
        if p != c
        for route in ("one way", "another", *OURS)
    ]


def test_every_row_in_its_cell(rows):
    figure = draw(rows)
    producers = [label.get_text().removeprefix("from ") for label in figure.axes[0].get_yticklabels()]
    for axes, ours in zip(figure.axes, (False, True), strict=True):
        consumers = [label.get_text().removeprefix("to ") for label in axes.get_xticklabels()]
        names = {kind.title: name for name, kind in LIBRARIES.items()}
        shown = {}
        for text in axes.texts:
            x, y = text.get_position()
            cell = names[producers[int(y)]], names[consumers[int(x)]]
            shown.setdefault(cell, []).append((y, x, text.get_text()))
        for cell, texts in shown.items():
            there = [
                row for row in rows if (row["producer"], row["consumer"]) == cell and (row["route"] in OURS) == ours
            ]
            expected = [LETTERS[row[when].partition(":")[0]] for row in there for when in WHEN]
            assert [letter for _, _, letter in sorted(texts)] == expected
        assert len(shown) == len({(row["producer"], row["consumer"]) for row in rows})


def test_no_two_outcomes_look_alike():
    row = {"producer": "cupy", "consumer": "torch", "route": HANDOFF}
    rows = [{**row, **dict.fromkeys(WHEN, outcome)} for outcome in OUTCOMES]
    boxes = draw(rows).axes[1].patches
    assert len({(box.get_facecolor(), box.get_hatch()) for box in boxes}) == len(OUTCOMES)


def test_the_legend_names_the_lines_of_a_cell():
    rows = [
        {"producer": "numba", "consumer": consumer, "route": route, **dict.fromkeys(WHEN, ORDERED)}
        for consumer, routes in {"cupy": ("one way", "another"), "torch": ("a third",)}.items()
        for route in (*routes, *OURS)
    ]
    text = draw(rows).legends[0].get_title().get_text().replace("\n", " ")
    assert "lines of a cell: by default, to CuPy by one way and another, to PyTorch by a third; " in text
    assert text.endswith("; through interop, interop.handoff and interop.borrow")


@pytest.mark.parametrize("names", [["numba"], ["cupy", "torch"], ["jax", "torch", "numba"]], ids=", ".join)
def test_nothing_is_cut(names):
    outcomes = itertools.cycle(OUTCOMES)
    row = {"producer": "numba", "route": "an.unusually.long_name_of_a_route", **dict.fromkeys(WHEN, ORDERED)}
    rows = [{**row, "consumer": name, when: next(outcomes)} for name in names for when in WHEN] * 2
    figure = draw(rows)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    for text in (legend.get_title(), *legend.get_texts(), *figure.axes[0].get_yticklabels()):
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_no_rows():
    with pytest.raises(ValueError, match="there are no rows to draw"):
        png([])


def test_as_a_file(rows):
    assert png(rows).startswith(b"\x89PNG")
