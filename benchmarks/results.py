"""The JSON file of a run, and its statistics: medians with quartiles, and ratios batch by batch."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.left import Left
from benchmarks.measure import Measured


class Spread(NamedTuple):
    """A median, and the quartiles around it."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of *values*."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass
class Results:
    """One run.

    Attributes:
        machine: the date, the machine, and the versions of the packages.
        options: the options of the command.
        rows: interop as it is installed, and everything that is measured beside it.
        python: interop without the extension, and C beside it, measured in a process of its own.
        left: what many hand-overs have left behind.
        problems: what could not be measured, and why.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    rows: list[Measured] = field(default_factory=list)
    python: list[Measured] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file."""
        content = json.loads(path.read_text())
        for name, kind in (("rows", Measured), ("python", Measured), ("left", Left)):
            content[name] = [kind(**row) for row in content[name]]
        return cls(**content)

    def write(self, path: Path) -> None:
        """Write a file, with one line for each row."""
        parts = []
        for name, content in asdict(self).items():
            if isinstance(content, list) and content:
                lines = ",\n".join(f"  {json.dumps(row)}" for row in content)
                parts.append(f' "{name}": [\n{lines}\n ]')
            else:
                parts.append(f' "{name}": {json.dumps(content)}')
        path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


class Table:
    """Rows, by operation and label."""

    def __init__(self, rows: Iterable[Measured]) -> None:
        """Index the rows."""
        self._rows = {(row.operation, row.label): row for row in rows}

    def ns(self, operation: str, label: str) -> Spread | None:
        """The nanoseconds of a call; None if that was not measured."""
        row = self._rows.get((operation, label))
        return spread(row.ns) if row and row.ns else None

    def ratio(self, operation: str, label: str, other: str) -> Spread | None:
        """The ratio of *label*'s time to *other*'s, batch by batch; None if one of them was not measured."""
        rows = self._rows.get((operation, label)), self._rows.get((operation, other))
        if not all(row and row.ns for row in rows):
            return None
        ours, theirs = (row.ns for row in rows if row)
        return spread([a / b for a, b in zip(ours, theirs, strict=True)])
