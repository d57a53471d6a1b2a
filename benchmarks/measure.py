"""Times rows batch by batch. The rows of an operation take turns, so that a drifting clock affects all of them alike.

Most rows are statements, as a user would write them. :mod:`timeit` puts the statement itself into its loop: a function
around it would cost as much as some of the calls do. The streams are empty before each batch, so that no batch meets
a full launch queue, and the garbage collector is off while batches run.
"""

import contextlib
import gc
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

Batch = Callable[[int], float]
"""A function that does something *n* times, and returns the nanoseconds that this took in all."""

LONGEST_BATCH: Final = 1.5e6
"""The most nanoseconds of a batch. Slow rows make fewer calls in a batch."""
FEWEST_CALLS: Final = 5
WARM_UP: Final = 20
"""Calls before the first batch that counts. They make events, load adapters and compile kernels."""


@dataclass(frozen=True)
class Row:
    """One way to do an operation.

    Attributes:
        label: the library, or another name of the way.
        statement: what is timed, as source text.
        prepare: makes what the statement needs, and returns the batch. Raises whatever the library raises.
    """

    label: str
    statement: str
    prepare: Callable[[], Batch]


@dataclass(frozen=True)
class Operation:
    """Rows that do the same thing.

    Attributes:
        name: what the rows do.
        rows: the ways to do it, interop's first.
        most_calls: the most calls in one batch. The launch queue, of about 1024 entries, must not fill up.
    """

    name: str
    rows: Sequence[Row]
    most_calls: int


@dataclass
class Measured:
    """What was measured of one row.

    Attributes:
        operation: name of the operation.
        label: of the row.
        statement: of the row.
        calls: how many in one batch.
        ns: nanoseconds for one call, a figure for each batch. In the rows of one operation, the figures at one index
            were measured right after each other.
        error: why there are no figures.
    """

    operation: str
    label: str
    statement: str
    calls: int = 0
    ns: list[float] = field(default_factory=list)
    error: str = ""


def statement(
    text: str,
    names: Mapping[str, object],
    within: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Batch:
    """A batch of a Python statement, each inside the context that *within* makes."""
    timer = timeit.Timer(text, globals=dict(names))

    def batch(n: int) -> float:
        with within():
            return timer.timeit(n) * 1e9

    return batch


class _Running:
    """A row that is being measured, until it fails."""

    def __init__(self, operation: Operation, row: Row) -> None:
        self.measured = Measured(operation.name, row.label, row.statement)
        self._batch: Batch | None = None
        with self._caught():
            batch = row.prepare()
            batch(WARM_UP)
            once = max(batch(FEWEST_CALLS) / FEWEST_CALLS, 1.0)
            self.measured.calls = min(operation.most_calls, max(FEWEST_CALLS, int(LONGEST_BATCH / once)))
            self._batch = batch

    def run(self) -> None:
        """Run one batch."""
        if self._batch is not None:
            with self._caught():
                took = self._batch(self.measured.calls)
                self.measured.ns.append(round(took / self.measured.calls, 1))

    @contextlib.contextmanager
    def _caught(self) -> Iterator[None]:
        """Keep an error as the row's result, so that the other rows go on."""
        try:
            yield
        except Exception as error:
            self._batch = None
            self.measured.ns.clear()
            self.measured.error = f"{type(error).__name__}: {error}"


def measure(operation: Operation, batches: int, drain: Callable[[], None]) -> list[Measured]:
    """Run *batches* batches of each row, in turns.

    Args:
        operation: what to measure.
        batches: how many of each row.
        drain: empties the streams. It is called before each batch, and not timed.
    """
    gc.disable()
    try:
        rows = []
        for row in operation.rows:
            drain()
            rows.append(_Running(operation, row))
        for number in range(batches):
            turn = number % len(rows)
            for running in rows[turn:] + rows[:turn]:
                drain()
                running.run()
        return [running.measured for running in rows]
    finally:
        gc.enable()
