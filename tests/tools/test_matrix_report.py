"""The table that ``python -m interop matrix`` prints, of the rows that a GPU has given."""

import json
import re
from pathlib import Path

import pytest

from interop.matrix import report

ROWS = json.loads((Path(__file__).parents[1] / "gpu/matrix.json").read_text())["rows"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_cuts_nothing(width, monkeypatch, capsys):
    monkeypatch.setattr(report, "measure", lambda *_: ROWS)
    monkeypatch.setenv("COLUMNS", str(width))
    assert report.main(as_json=False, only=None) == 0
    table, _, caption = capsys.readouterr().out.partition("\n\n")
    assert max(map(len, table.splitlines())) <= width
    assert "…" not in table
    assert "interop." not in table
    assert table.count("ordered") == sum(row[when] == "ordered" for row in ROWS for when in ("inside", "after", "back"))
    for head in ("inside", "after", "back"):
        assert re.search(rf"\b{head}: ", caption)


def test_wide_enough_for_every_name(monkeypatch, capsys):
    monkeypatch.setattr(report, "measure", lambda *_: ROWS)
    monkeypatch.setenv("COLUMNS", "140")
    report.main(as_json=False, only=None)
    table = capsys.readouterr().out
    assert all(row["route"].removeprefix("interop.") in table for row in ROWS)
