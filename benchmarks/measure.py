"""Rows, timed batch by batch; the rows of an operation take turns, so that a drifting clock hits all of them alike.

A row is a statement, as a user would write it, and is timed by :mod:`timeit`, which puts it into its loop as it is: a
function around it would cost as much as some of the calls do. The C row times itself. Before each batch the streams are
empty, so that no batch meets a full launch queue; collection of garbage is off while batches run.
"""

import contextlib
import gc
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

Batch = Callable[[int], float]
"""Does it so many times; the nanoseconds that all of them took."""

LONGEST_BATCH: Final = 1.5e6
"""Nanoseconds; slow rows make fewer calls."""
FEWEST_CALLS: Final = 5
WARM_UP: Final = 20
"""Calls before the first that count: scratch events are made, adapters loaded, kernels compiled."""


class Row(Protocol):
    """One library's way to do an operation."""

    @property
    def label(self) -> str:
        """The library, or the way."""

    @property
    def statement(self) -> str:
        """What is timed, as source text."""

    def prepare(self) -> Batch:
        """Make what the statement needs; raises whatever the library raises."""


@dataclass(frozen=True)
class Statement:
    """A row in Python.

    Attributes:
        label: the library.
        statement: what is timed.
        names: makes the names in it; called once.
        within: makes what each batch runs in.
    """

    label: str
    statement: str
    names: Callable[[], Mapping[str, object]]
    within: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext

    def prepare(self) -> Batch:
        """Compile the statement in a loop."""
        timer = timeit.Timer(self.statement, globals=dict(self.names()))

        def batch(n: int) -> float:
            with self.within():
                return timer.timeit(n) * 1e9

        return batch


@dataclass(frozen=True)
class Timed:
    """A row that times itself, as C does.

    Attributes:
        label: as of :class:`Statement`.
        statement: what it does.
        make: as :meth:`Row.prepare`.
    """

    label: str
    statement: str
    make: Callable[[], Batch]

    def prepare(self) -> Batch:
        """Make it."""
        return self.make()


@dataclass(frozen=True)
class Operation:
    """Rows that do the same thing.

    Attributes:
        name: what they do.
        rows: the ways to do it; the first is what the others are compared with.
        most_calls: in one batch, so that the launch queue, of about 1024 entries, does not fill up.
        same: whether the first row makes the same CUDA calls. If not, it is a yardstick only: it says how fast the
            machine was meanwhile.
        group: ``"call"``, ``"growth"`` or ``"ping-pong"``.
        size: of what grows.
    """

    name: str
    rows: Sequence[Row]
    most_calls: int
    same: bool = True
    group: str = "call"
    size: int | None = None


@dataclass
class Measured:
    """One row of the results.

    Attributes:
        operation: its name.
        group: of the operation.
        size: of the operation.
        same: of the operation.
        reference: label of the row that this one is compared with.
        label: of the row.
        statement: of the row.
        calls: in one batch.
        ns: nanoseconds a call, batch by batch. The batches of the rows of one operation belong together.
        error: why there are none.
    """

    operation: str
    group: str
    size: int | None
    same: bool
    reference: str
    label: str
    statement: str
    calls: int = 0
    ns: list[float] = field(default_factory=list)
    error: str = ""


class _Running:
    """A row that is being measured, until it fails."""

    def __init__(self, operation: Operation, row: Row) -> None:
        self.measured = Measured(
            operation=operation.name,
            group=operation.group,
            size=operation.size,
            same=operation.same,
            reference=operation.rows[0].label,
            label=row.label,
            statement=row.statement,
        )
        self.batch: Batch | None = None
        with self._caught():
            batch = row.prepare()
            batch(WARM_UP)
            once = max(batch(FEWEST_CALLS) / FEWEST_CALLS, 1.0)
            calls = max(FEWEST_CALLS, int(LONGEST_BATCH / once))
            self.measured.calls = min(operation.most_calls, calls)
            self.batch = batch

    def run(self) -> None:
        """One batch."""
        if self.batch is not None:
            with self._caught():
                took = self.batch(self.measured.calls)
                self.measured.ns.append(round(took / self.measured.calls, 1))

    @contextlib.contextmanager
    def _caught(self) -> Iterator[None]:
        """A row fails alone."""
        try:
            yield
        except Exception as error:
            self.batch = None
            self.measured.ns.clear()
            self.measured.error = f"{type(error).__name__}: {error}"


def measure(operation: Operation, batches: int, drain: Callable[[], None]) -> list[Measured]:
    """Run so many batches of every row, in turns.

    Args:
        operation: what to measure.
        batches: how many.
        drain: empties the streams; called, untimed, before each batch.
    """
    collects = gc.isenabled()
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
        if collects:
            gc.enable()
