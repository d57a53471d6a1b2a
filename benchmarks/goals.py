"""What interop is to reach, what it wants to reach beyond that, and whether a run says that it did."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from benchmarks import pingpong
from benchmarks.lab import FOREIGN, LIBRARIES
from benchmarks.operations import OURS, C
from benchmarks.results import Spread, Table


class Goal(NamedTuple):
    """One row of interop's shall take at most so many times what another row takes, or so many nanoseconds.

    Attributes:
        operation: which.
        against: label of the other row; None for nanoseconds.
        at_most: the limit.
        label: of interop's row.
        beyond: whether it is one more than was asked for; those are counted apart.
    """

    operation: str
    against: str | None
    at_most: float
    label: str = OURS
    beyond: bool = False


class Verdict(NamedTuple):
    """A goal, and what was measured; None if it was not."""

    goal: Goal
    measured: Spread | None

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the limit."""
        return None if self.measured is None else self.measured.median <= self.goal.at_most


def _goals() -> Iterator[Goal]:
    yield Goal("wait_stream", C, 1.3)
    for library, limit in {"cuda.core": 0.55, "CuPy": 0.3, "torch": 0.15}.items():
        yield Goal("wait_stream", library, limit)
    for library in ("CuPy", "torch", "Numba"):
        yield Goal(f"wait_stream, {library}'s stream", C, 1.8)
    for operation in ("record, event reused", "wait_event"):
        yield Goal(operation, C, 1.6)
        yield Goal(operation, "cuda.core", 1.0)
    yield Goal("record, new event", C, 1.4)
    for library in LIBRARIES:
        yield Goal("record, new event", library, 1.0)
    yield Goal("query", C, 1.5)
    yield Goal("query", "CuPy", 1.05)
    yield Goal("synchronize", C, 1.35)
    for library in ("CuPy", "cuda.core"):
        yield Goal("synchronize", library, 1.05)
    for library in FOREIGN:
        yield Goal(f"as_stream, {library}'s stream", None, 400)
    for path in FOREIGN.values():
        yield Goal(f"to({path}) again", None, 100)
    yield Goal("enter and leave, CuPy and torch together (torch: alone)", "torch", 1.0)
    yield Goal("CuPy <-> Numba", pingpong.DEFAULT, 0.5, pingpong.BY_WAIT)
    yield Goal("CuPy <-> Numba", pingpong.SHARED, 1.1, pingpong.BY_WAIT)
    yield Goal("CuPy <-> Numba", pingpong.DEFAULT, 0.555, pingpong.BY_KEPT_HANDOFF, beyond=True)
    yield Goal("CuPy <-> Numba", pingpong.SHARED, 1.25, pingpong.BY_KEPT_HANDOFF, beyond=True)


GOALS: Final = tuple(_goals())


def verdicts(table: Table) -> list[Verdict]:
    """What a run says of each goal."""
    return [Verdict(goal, _measured(table, goal)) for goal in GOALS]


def _measured(table: Table, goal: Goal) -> Spread | None:
    row = table.get(goal.operation, goal.label)
    if row is None:
        return None
    return table.ns(row) if goal.against is None else table.ratio(row, goal.against)
