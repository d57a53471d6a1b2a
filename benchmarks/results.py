"""The file of a run, and its statistics: medians, and quartiles of the ratios batch by batch."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from benchmarks.measure import Measured

Key = tuple[str, int | None, str]
"""Operation, size, label."""


CONFIDENCE: Final = 0.95


class NotResultsError(Exception):
    """A file is not what a run has written."""


class Spread(NamedTuple):
    """A median, and what is around it."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The quartiles."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def interval(values: Sequence[float]) -> Spread:
    """The median, and where it is with CONFIDENCE, however the values are distributed: between two of them.

    How many of n values are below the true median is as if n coins had been tossed. If there are too few, it is between
    the least and the greatest.
    """
    ordered, n = sorted(values), len(values)
    below = [sum(math.comb(n, k) for k in range(most + 1)) / 2**n for most in range(n // 2)]
    outside = max(0, sum(2 * chance <= 1 - CONFIDENCE for chance in below) - 1)
    return Spread(ordered[outside], statistics.median(ordered), ordered[n - 1 - outside])


@dataclass
class Results:
    """One run.

    Attributes:
        machine: when, where, with what.
        options: of the command.
        rows: of the process in which everything was measured, with interop as it is by default.
        other: interop's rows from a process where it goes the other way, each with its own baseline beside it; none if
            there is no native module.
        path: how *rows* went: ``"native"`` or ``"Python"``.
        startup: seconds to import things, and for first calls, each in several processes.
        problems: what did not come to its end.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    startup: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rows: list[Measured] = field(default_factory=list)
    other: list[Measured] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file.

        Raises:
            NotResultsError: it is not there, or something else is in it.
        """
        try:
            content = json.loads(path.read_text())
            for name in ("rows", "other"):
                content[name] = [Measured(**row) for row in content[name]]
            results = cls(**content)
            results.check()
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            message = f"{path} has no results: {why}. `make bench` writes such files; name one of them"
            raise NotResultsError(message) from error
        return results

    def check(self) -> None:
        """Look whether everything is of its type.

        Raises:
            TypeError: it is not.
        """
        texts = [text for row in (*self.rows, *self.other) for text in (row.operation, row.label, row.reference)]
        texts += [self.path, *(row["what"] for row in self.startup), *(row["after"] for row in self.startup)]
        times = [row.ns for row in (*self.rows, *self.other)]
        times += [row["seconds"] for row in self.startup if "error" not in row]
        folders = (self.machine, self.machine.get("versions", {}), self.options)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(folder, dict) for folder in folders):
            raise TypeError("something is in the place of something else")
        if not all(isinstance(time, int | float) and 0 < time < math.inf for taken in times for time in taken):
            raise TypeError("a time is no positive number")

    def write(self, path: Path) -> None:
        """To a file, with one line for each row."""
        parts = []
        for name, content in asdict(self).items():
            if isinstance(content, list) and content:
                lines = ",\n".join(f"  {json.dumps(row)}" for row in content)
                parts.append(f' "{name}": [\n{lines}\n ]')
            else:
                parts.append(f' "{name}": {json.dumps(content)}')
        path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


class Table:
    """Rows, to be looked up."""

    def __init__(self, rows: Iterable[Measured]) -> None:
        """Index them."""
        self._rows: dict[Key, Measured] = {(row.operation, row.size, row.label): row for row in rows}

    def get(self, operation: str, label: str, size: int | None = None) -> Measured | None:
        """The row, if it was measured and came to its end."""
        row = self._rows.get((operation, size, label))
        return row if row and row.ns else None

    def ns(self, row: Measured) -> Spread:
        """Nanoseconds a call."""
        return spread(row.ns)

    def ratio(self, row: Measured, label: str | None = None) -> Spread | None:
        """How many times what the row of *label*, by default its reference, takes: of :meth:`ratios`."""
        ratios = self.ratios(row, label)
        return spread(ratios) if ratios else None

    def ratios(self, row: Measured, label: str | None = None) -> list[float]:
        """Batch by batch; none if there is no such row."""
        other = self.get(row.operation, label or row.reference, row.size)
        if other is None or len(other.ns) != len(row.ns):
            return []
        return [ours / theirs for ours, theirs in zip(row.ns, other.ns, strict=True)]
