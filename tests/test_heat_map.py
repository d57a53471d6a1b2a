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


def test_as_a_file(rows):
    assert png(rows).startswith(b"\x89PNG")
