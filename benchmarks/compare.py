"""Whether interop has become slower: two runs, compared by the ratios to what was measured beside them."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from benchmarks.measure import Measured
from benchmarks.operations import OURS
from benchmarks.results import Results, Spread, Table

TOLERANCE: Final = 0.10
"""How much a ratio may grow."""


class Change(NamedTuple):
    """One row of interop's in two runs.

    Attributes:
        name: of the row.
        before: its ratio in the first run; None if it was not measured there.
        after: likewise in the second.
        problem: why it counts as slower, or nothing.
    """

    name: str
    before: Spread | None
    after: Spread | None
    problem: str


def compare(before: Results, after: Results, tolerance: float = TOLERANCE) -> list[Change]:
    """Every row of interop's that is in the first run, on both of its paths, and what the second says of it.

    It is slower if the median of its ratio has grown by more than *tolerance* and the middle halves of the batches do
    not overlap; or if it is not there any more.
    """
    return [*_changes(before, after, tolerance)]


def _changes(before: Results, after: Results, tolerance: float) -> Iterator[Change]:
    paths = {after.path: Table(after.rows), **({_other(after.path): Table(after.other)} if after.other else {})}
    for path, rows in ((before.path, before.rows), (_other(before.path), before.other)):
        table = Table(rows)
        for row in rows:
            if row.label.startswith(OURS) and row.ns:
                old, new = table.ratio(row), _found(paths.get(path), row)
                yield Change(_name(row, path), old, new, _problem(old, new, tolerance))


def _other(path: str) -> str:
    return "Python" if path == "native" else "native"


def _found(table: Table | None, row: Measured) -> Spread | None:
    again = table.get(row.operation, row.label, row.size) if table else None
    return table.ratio(again) if table and again else None


def _name(row: Measured, path: str) -> str:
    size = "" if row.size is None else f", {row.size}"
    return f"{row.operation}{size}: {row.label} ({path})"


def _problem(old: Spread | None, new: Spread | None, tolerance: float) -> str:
    if old is None:
        return ""
    if new is None:
        return "not measured any more"
    if new.median > old.median * (1 + tolerance) and new.low > old.high:
        return f"{new.median / old.median - 1:.0%} slower"
    return ""
