"""The picture of the matrix shows every row, and every outcome in its own way."""

import json
from pathlib import Path

from interop import matrix
from interop.heat_map import draw, png

ROWS = json.loads((Path(__file__).parent / "gpu" / "matrix.json").read_text())["rows"]


def test_every_row_on_its_side():
    default, ours = draw(ROWS).axes
    for axes, rows in (
        (default, [row for row in ROWS if row["route"] != matrix.OURS]),
        (ours, [row for row in ROWS if row["route"] == matrix.OURS]),
    ):
        assert len(axes.get_yticklabels()) == len(rows) > 0
        shown = [text.get_text() for text in axes.texts]
        assert shown == [row[when].partition(":")[0] for row in rows for when in ("inside", "after")]
        for box, outcome in zip(axes.patches, shown, strict=True):
            assert (box.get_x() == 0) == (axes.patches.index(box) % 2 == 0)
            assert (box.get_hatch() == "////") == (outcome == matrix.RACE)


def test_as_a_file():
    assert png(ROWS).startswith(b"\x89PNG")


def test_what_went_wrong_in_other_ways_is_an_error():
    row = {"producer": "cupy", "consumer": "torch", "route": "torch.as_tensor", "inside": "error: TypeError"}
    default, _ = draw([{**row, "after": matrix.ORDERED}]).axes
    assert [text.get_text() for text in default.texts] == ["error", "ordered"]
