"""The work of a simulated GPU that has been enqueued and has not run yet."""

import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

from interop._order.clock import Clock, Epoch, Line
from interop.sim.state import Array

TRACED: Final = 10_000
"""How many lines of what happened are kept."""


def _nothing() -> None:
    pass


_NONE: Final = Epoch(Line(None), 0)


@dataclass(eq=False, slots=True)
class Work:
    """A kernel, or a gate, on its stream.

    Attributes:
        name: what the user calls it.
        where: the line of the launch, as :func:`interop._show.callsite.where` writes it.
        number: its place in the order in which the program enqueued work.
        stream: the name of its stream.
        epoch: its own place on its stream.
        clock: the work that it comes after, and itself.
        is_gate: whether it is a gate.
        run: for a kernel, the function that it calls.
        reads: the arrays that it reads.
        writes: the arrays that it writes.
        is_open: for a gate, whether it lets later work pass.
        deadline: for a gate, when it opens itself, by ``time.monotonic``.
        is_overdue: for a gate, whether it had to open itself.
        is_done: whether the kernel has run, or the gate has let later work pass.
        blockers: the work that has to be done first: of each stream, only the last, since a stream runs in order.
    """

    name: str
    where: str
    number: int = 0
    stream: str = ""
    epoch: Epoch = _NONE
    clock: Clock = field(default_factory=Clock)
    is_gate: bool = False
    run: Callable[[], object] = _nothing
    reads: frozenset[Array] = frozenset()
    writes: frozenset[Array] = frozenset()
    is_open: bool = False
    deadline: float = math.inf
    is_overdue: bool = False
    is_done: bool = False
    blockers: "list[Work]" = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether other work has to be done first."""
        while self.blockers:
            if not self.blockers[-1].is_done:
                return True
            self.blockers.pop()
        return False

    @property
    def is_ready(self) -> bool:
        """Whether it is a kernel, and can run now."""
        return not (self.is_gate or self.is_done or self.waits)

    @property
    def is_closed(self) -> bool:
        """Whether it is a gate, and closed."""
        return self.is_gate and not self.is_open

    def comes_after(self, other: "Work") -> bool:
        """Whether it may run only after *other*."""
        return self is not other and self.clock.knows(other.epoch)

    def conflicts(self, other: "Work") -> bool:
        """Whether the order in which the two run can make a difference to memory."""
        return self is not other and not (
            self.writes.isdisjoint(other.reads | other.writes) and self.reads.isdisjoint(other.writes)
        )

    def conflicts_with_host(self, array: Array, *, writes: bool) -> bool:
        """Whether it conflicts with an access by the host, which reads *array*, or writes it."""
        return array in self.writes or (writes and array in self.reads)


class Trace:
    """What ran and what the host did, one line each, in the order in which it happened: the last :data:`TRACED`."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=TRACED)
        self.count = 0
        """How many lines there were."""

    def add(self, line: str, *, once: bool = False) -> None:
        """Add a line. With *once*, do not repeat the last line."""
        if not (once and self._lines and self._lines[-1] == line):
            self._lines.append(line)
            self.count += 1

    def lines(self) -> tuple[str, ...]:
        """The last ones."""
        return tuple(self._lines)


class Queue:
    """All pending work, of all streams.

    The clocks that decide what is a race also decide, when work is enqueued, which pending work it comes after. So the
    simulator never runs work in an order that it does not check for races.

    A signal handler may raise between any two lines. Work is done if ``is_done`` says so; the tables follow later.
    """

    def __init__(self, drained: Callable[[Hashable], None]) -> None:
        """Start without pending work.

        Args:
            drained: called with the key of a stream when its last pending work is done.
        """
        self.trace = Trace()
        self.gone: list[object] = []
        """What finished work referred to. It is freed when no lock is held, since finalisers of the user's may run."""
        self._drained = drained
        self._works: dict[int, Work] = {}
        self._lines: dict[int, deque[Work]] = {}
        self._gates: dict[int, Work] = {}

    def __len__(self) -> int:
        return len(self._works)

    @property
    def pending(self) -> list[Work]:
        """All pending work, in the order in which it was enqueued."""
        return [work for work in self._works.values() if not work.is_done]

    def is_pending(self, line: Line) -> bool:
        """Whether there is work left on a stream."""
        return self._head(line.number) is not None

    def add(self, work: Work) -> None:
        """Enqueue *work*. Its clock does not know itself yet."""
        for line, number in work.clock.among(self._lines):
            before = next((other for other in reversed(self._lines[line]) if other.epoch.number <= number), None)
            if before is not None and not before.is_done:
                work.blockers.append(before)
        self._works[work.number] = work
        self._lines.setdefault(work.epoch.line.number, deque()).append(work)
        if work.is_gate:
            self._gates[work.number] = work

    def holds(self, target: Clock) -> bool:
        """Whether work is pending that *target* knows."""
        return bool(self._heads(target))

    def held(self, target: Clock) -> list[Work]:
        """The pending work that *target* knows, in the order in which it was enqueued: what must run before it."""
        found: list[Work] = []
        for line, last in target.among(self._lines):
            for work in self._lines[line]:
                if work.epoch.number > last:
                    break
                if not work.is_done:
                    found.append(work)
        return sorted(found, key=lambda work: work.number)

    def first_ready(self, target: Clock) -> Work | None:
        """The kernel that can run now, of those that *target* knows: the one that was enqueued first."""
        first = [work for work in self._heads(target) if work.is_ready]
        return min(first, key=lambda work: work.number, default=None)

    def ready(self) -> list[Work]:
        """The kernels that can run now, in the order in which they were enqueued."""
        return [work for work in self._works.values() if work.is_ready]

    def open_overdue(self) -> None:
        """Open the gates whose deadline has passed."""
        now = time.monotonic()
        for gate in list(self._gates.values()):
            if gate.is_closed and gate.deadline < now:
                gate.is_overdue = True
                self.trace.add(f"the {gate.name} on {gate.stream} opens itself")
                self.open(gate)

    def open(self, gate: Work) -> None:
        """Open a gate. It lets later work pass once all work before it is done."""
        gate.is_open = True
        self._settle()

    def _settle(self) -> None:
        """Mark the open gates done before which no work is pending."""
        # Enqueue order is one of the orders that the clocks allow, so one pass finds them all.
        for gate in list(self._gates.values()):
            if gate.is_open and not gate.waits:
                self._done(gate)

    def run(self, work: Work) -> None:
        """Run a kernel that is ready."""
        self.trace.add(f"kernel {work.name!r} ran on {work.stream} (launched at {work.where})")
        # The kernel is done first: one that raises is not run again.
        run = work.run
        self._done(work)
        self._settle()
        try:
            run()
        except Exception as error:
            error.add_note(f"raised by kernel {work.name!r}, which was launched on {work.stream} at {work.where}")
            raise

    def _done(self, work: Work) -> None:
        self.gone.append((work.run, work.reads, work.writes))
        work.is_done = True
        work.run, work.reads, work.writes = _nothing, frozenset(), frozenset()
        self._works.pop(work.number, None)
        self._gates.pop(work.number, None)
        if not self.is_pending(work.epoch.line):
            self._drained(work.epoch.line.key)

    def _head(self, line: int) -> Work | None:
        """The first pending work of a line."""
        pending = self._lines.get(line)
        while pending and pending[0].is_done:
            pending.popleft()
        if pending:
            return pending[0]
        self._lines.pop(line, None)
        return None

    def _heads(self, target: Clock) -> list[Work]:
        """The first pending work of each stream of which *target* knows pending work."""
        heads = [(self._head(line), last) for line, last in target.among(self._lines)]
        return [work for work, last in heads if work is not None and work.epoch.number <= last]
