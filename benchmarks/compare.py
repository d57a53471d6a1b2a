"""Whether interop has become slower: two runs, compared by the ratios to what was measured beside them."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from benchmarks.measure import Measured
from benchmarks.operations import OURS
from benchmarks.results import Results, Spread, Table, interval
from benchmarks.startup import FIRST_CALLS

TOLERANCE: Final = 0.10
"""How much a ratio may grow."""

PACKAGES: Final = ("cuda-bindings", "cuda-core", "cupy-cuda13x", "numba", "numba-cuda", "numpy", "torch")
"""The libraries that are measured."""


class ComparisonError(Exception):
    """Two runs cannot be compared."""


class Change(NamedTuple):
    """One row of interop's in two runs.

    Attributes:
        name: of the row.
        before: its ratio in the first run, and where its true median is; None if nothing was measured beside it, so
            that the row is not compared. Of a fresh process: milliseconds.
        after: likewise in the second.
        problem: why it counts as slower, or nothing.
    """

    name: str
    before: Spread | None
    after: Spread | None
    problem: str


def differences(before: Results, after: Results) -> list[str]:
    """What is not the same around the two runs, so that their ratios say little of interop."""
    old, new = _around(before.machine), _around(after.machine)
    return [f"{name} was {old[name]}, and is {new[name]}" for name in old if old[name] != new[name]]


def _around(machine: Mapping[str, Any]) -> dict[str, object]:
    python = str(machine.get("python")).rpartition(".")[0]
    versions = machine.get("versions", {})
    about = {"Python": python, **{f"the {name}": machine.get(name.lower()) for name in ("GPU", "CPU", "driver")}}
    return {**about, **{package: versions.get(package) for package in PACKAGES}}


def compare(before: Results, after: Results, tolerance: float = TOLERANCE) -> list[Change]:
    """Every row of interop's that is in the first run, on both of its paths, and what the second says of it.

    It is slower if the median of its ratio has grown by more than *tolerance* and the two medians are apart for certain
    (:func:`~benchmarks.results.interval`); or if it is not there any more.
    """
    return [*_changes(before, after, tolerance), *_startup(before, after, tolerance)]


def _changes(before: Results, after: Results, tolerance: float) -> Iterator[Change]:
    paths = {after.path: Table(after.rows), **({_other(after.path): Table(after.other)} if after.other else {})}
    for path, rows in ((before.path, before.rows), (_other(before.path), before.other)):
        table = Table(rows)
        for row in rows:
            if row.label.startswith(OURS) and row.ns:
                old, new = _ratio(table, row), _found(paths.get(path), row)
                yield Change(_name(row, path), old, new, _problem(old, new, tolerance))


def _startup(before: Results, after: Results, tolerance: float) -> Iterator[Change]:
    """By the times themselves: there is nothing beside them."""
    old, new = (
        {
            f"{row['what']}, {row['after']}": interval([1e3 * seconds for seconds in row["seconds"]])
            for row in results.startup
            if row["what"] in FIRST_CALLS and row.get("seconds")
        }
        for results in (before, after)
    )
    for name, time in old.items():
        yield Change(name, time, new.get(name), _problem(time, new.get(name), tolerance))


def _other(path: str) -> str:
    return "Python" if path == "native" else "native"


def _ratio(table: Table, row: Measured) -> Spread | None:
    ratios = table.ratios(row)
    return interval(ratios) if ratios else None


def _found(table: Table | None, row: Measured) -> Spread | None:
    again = table.get(row.operation, row.label, row.size) if table else None
    return _ratio(table, again) if table and again else None


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
