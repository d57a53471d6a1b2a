"""The file of a run, and its statistics: medians, and quartiles of the ratios batch by batch."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.measure import Measured

Key = tuple[str, int | None, str]
"""Operation, size, label."""


class Spread(NamedTuple):
    """The middle half of something."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The quartiles."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


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
        startup: seconds to import things, and for first calls; the best and the median of several processes.
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
        """From a file."""
        content = json.loads(path.read_text())
        for name in ("rows", "other"):
            content[name] = [Measured(**row) for row in content[name]]
        return cls(**content)

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
        """How many times what the row of *label*, by default its reference, takes: batch by batch."""
        other = self.get(row.operation, label or row.reference, row.size)
        if other is None or len(other.ns) != len(row.ns):
            return None
        return spread([ours / theirs for ours, theirs in zip(row.ns, other.ns, strict=True)])
