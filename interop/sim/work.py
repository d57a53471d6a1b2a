"""The work of a simulated GPU that has been enqueued and has not run yet."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from interop.ordering import Clock, Epoch, Line
from interop.sim.state import Array

_NONE: Final = Epoch(Line(None), 0)


@dataclass(eq=False, slots=True)
class Work:
    """A kernel, or a gate, on its stream.

    Attributes:
        name: what the user calls it.
        where: ``file:line`` of the launch.
        number: its place in the order in which the program enqueued work.
        stream: the name of its stream.
        epoch: its own place on its stream.
        clock: everything that it comes after, and itself.
        run: what it does; None for a gate.
        reads: the arrays that it reads.
        writes: the arrays that it writes.
        is_open: for a gate, whether it lets later work pass.
        deadline: for a gate, when it opens itself, by ``time.monotonic``.
        is_overdue: for a gate, whether it had to.
    """

    name: str
    where: str
    number: int = 0
    stream: str = ""
    epoch: Epoch = _NONE
    clock: Clock = field(default_factory=Clock)
    run: Callable[[], object] | None = None
    reads: frozenset[Array] = frozenset()
    writes: frozenset[Array] = frozenset()
    is_open: bool = False
    deadline: float = math.inf
    is_overdue: bool = False

    def comes_after(self, other: "Work") -> bool:
        """Whether it may only run when *other* is done."""
        return self is not other and self.clock.knows(other.epoch)

    def conflicts(self, other: "Work") -> bool:
        """Whether the order in which the two run can make a difference to memory."""
        return self is not other and self.touches(other.reads, other.writes)

    def touches(self, reads: frozenset[Array], writes: frozenset[Array]) -> bool:
        """Whether it conflicts with an access that reads and writes these arrays."""
        return not self.writes.isdisjoint(reads | writes) or not self.reads.isdisjoint(writes)


@dataclass(slots=True)
class Queue:
    """All pending work, of all streams, in the order in which it was enqueued.

    Whether work is ready is decided by the same clocks that decide what is a race: it is, when all that it comes after
    is done. So the simulator can never run things in an order that it does not also check for.
    """

    pending: list[Work] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    """What ran and what the host did, one line each, in the order in which it happened."""

    def held(self, target: Clock) -> list[Work]:
        """The pending work that *target* knows: what must run before the target is reached."""
        return [work for work in self.pending if target.knows(work.epoch)]

    def ready(self) -> list[Work]:
        """The kernels that can run now."""
        return [work for work in self.pending if work.run is not None and self._is_ready(work)]

    def closed_gates(self, works: Iterable[Work]) -> list[Work]:
        """The gates among *works* that are closed."""
        return [work for work in works if work.run is None and not work.is_open]

    def open_overdue(self) -> None:
        """Open the gates whose time is over."""
        now = time.monotonic()
        for gate in [gate for gate in self.closed_gates(self.pending) if gate.deadline < now]:
            gate.is_open = gate.is_overdue = True
            self.trace.append(f"the {gate.name} on {gate.stream} opens itself")
            self.settle()

    def run(self, work: Work) -> None:
        """Run a kernel that is ready."""
        if work.run is None:
            message = f"{work.name} is a gate, and gates do not run"
            raise TypeError(message)
        # First, so that a kernel that raises is not run again by the next one who wants to know.
        self.pending.remove(work)
        self.trace.append(f"kernel {work.name!r} ran on {work.stream} (launched at {work.where})")
        work.run()
        self.settle()

    def settle(self) -> None:
        """Let go of the open gates that everything before them has reached."""
        # Enqueue order is one of the orders that the clocks allow, so one pass finds them all.
        for work in list(self.pending):
            if work.run is None and work.is_open and self._is_ready(work):
                self.pending.remove(work)

    def _is_ready(self, work: Work) -> bool:
        return not any(work.comes_after(other) for other in self.pending)
