"""Who decides which pending kernel of a simulation runs when.

Kernels run only when their results are needed: at a query, a synchronise, an access by the host, or the end of the
simulation. :class:`InOrder` is the default. :class:`Chosen` follows a list of choices, one for each point at which more
than one thing could happen, so that all of them can be tried.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from interop._order.clock import Clock
from interop._show.text import as_printed
from interop.errors import DeadlockError, InteropError
from interop.sim.state import Array
from interop.sim.work import Queue, Work

PENDING: Final = 512
"""The greatest number of pending pieces of work. On a GPU too, a launch waits when too many are pending."""

PATIENCE: Final = 1000
"""How many times an explored program may query work behind a closed gate before that is a deadlock."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which way each choice of a simulation went; what :func:`interop.sim.replay` takes.

    Attributes:
        choices: for each point at which more than one thing could happen, the number of the thing that did.
        trace: what happened, one line each: kernels that ran, and what the host did in between. The last 10,000 lines.
        left_out: how many lines came before these.
    """

    choices: tuple[int, ...]
    trace: tuple[str, ...]
    left_out: int = 0

    _repr_pretty_ = as_printed

    def __str__(self) -> str:
        lines = [f"{number:3}. {line}" for number, line in enumerate(self.trace, 1 + self.left_out)]
        return "\n".join([f"({self.left_out} lines before these are left out)", *lines] if self.left_out else lines)


class InOrder:
    """The default: one deterministic schedule, in which nothing runs before it has to.

    What is needed runs in the order in which it was enqueued. A query answers from what has run, and lets the next
    kernel that it asks for run afterwards: so it says False while work is pending, and a polling loop ends.
    """

    def __init__(self) -> None:
        self._room = PENDING

    @property
    def choices(self) -> tuple[int, ...]:
        """The choices made so far: none."""
        return ()

    def enqueued(self, queue: Queue) -> None:
        """Work was enqueued. If too much is pending, run the older half, as far as gates allow: memory is bounded."""
        if len(queue) >= self._room:
            for work in queue.pending[: len(queue) // 2]:
                if work.is_ready:
                    queue.run(work)
            self._room = max(PENDING, 2 * len(queue))

    def query(self, queue: Queue, target: Clock, asked: str) -> bool:
        """Answer whether the work that *target* knows is done, and let the next kernel run."""
        del asked
        done = not queue.holds(target)
        work = queue.first_ready(target)
        if work is not None:
            queue.run(work)
        return done

    def reach(self, queue: Queue, target: Clock) -> None:
        """Run what must run before *target* is reached, as far as closed gates allow."""
        for work in queue.held(target):
            if work.is_ready:
                queue.run(work)

    def access(self, queue: Queue, array: Array, *, writes: bool) -> None:
        """The host reads or writes *array*. Work for which it has not waited has not run yet."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One point at which more than one thing could happen, and the one that did."""

    options: tuple[str, ...]
    taken: int


class Chosen(InOrder):
    """Follows a list of choices, and takes the first option wherever the list has ended.

    A kernel that nobody observes, and that could as well run later, runs later: schedules that differ in nothing that
    the program can see are not told apart. What is left of the choices:

    - A *query* of work that is not done says so, having run nothing, or runs all of it and says that it is done.
    - A *synchronise* runs what it must, in every order. Kernels that share no array, directly or through others, with
      what must run are left for later.
    - An *access by the host* comes before, between and after the kernels that it conflicts with, and the others that
      these depend on or conflict with.

    Attributes:
        prefix: the choices to follow.
        polls: how many times the same pending work is reported as not done. Then it is done: a polling loop ends.
        chance: takes an option wherever the list has ended, in place of the first one.
        made: the choices that were made.
    """

    def __init__(self, prefix: Sequence[int], polls: int, chance: random.Random | None = None) -> None:
        self.prefix, self.polls, self.chance = prefix, polls, chance
        self.made: list[Choice] = []
        self._refused: dict[tuple[object, ...], int] = {}

    @property
    def choices(self) -> tuple[int, ...]:
        """The numbers of the choices made so far."""
        return tuple(choice.taken for choice in self.made)

    def enqueued(self, queue: Queue) -> None:
        """Run nothing."""

    def query(self, queue: Queue, target: Clock, asked: str) -> bool:
        """Say that the work is pending, or run it."""
        held = queue.held(target)
        if not held:
            return True
        key = (asked, *(work.number for work in held))
        refused = self._refused[key] = self._refused.get(key, 0) + 1
        if gates := [work for work in held if work.is_closed]:
            if refused > PATIENCE:
                message = f"the host asked {refused} times, {asked}: never, behind the closed {gates[0].name}"
                raise DeadlockError(message)
            return False
        if refused <= self.polls and self._choose((f"{asked}? no", f"{asked}? yes")) == 0:
            return False
        self.reach(queue, target)
        return True

    def reach(self, queue: Queue, target: Clock) -> None:
        """Run what must run, in any order that can make a difference."""
        while held := queue.held(target):
            cluster = _cluster(queue, held[:1])
            options = [work for work in queue.ready() if work in cluster]
            # What must run now and conflicts with nothing can as well run first.
            free = [work for work in options if work in held and not any(map(work.conflicts, queue.pending))]
            options = free[:1] or options
            if not options:
                # The first one stands behind a closed gate: so does the target. The rest need not run in vain.
                return
            queue.run(options[self._choose([_label(work) for work in options])])

    def access(self, queue: Queue, array: Array, *, writes: bool) -> None:
        """Run any of what the access conflicts with, or nothing."""
        may_stop = True
        while seen := [work for work in queue.pending if work.conflicts_with_host(array, writes=writes)]:
            cluster = _cluster(queue, seen)
            options = [work for work in queue.ready() if work in cluster]
            if not options:
                return
            # To stop after a kernel that the host cannot see is to stop before it.
            stop = ["the host goes on"] if may_stop else []
            taken = self._choose([*stop, *map(_label, options)]) - len(stop)
            if taken < 0:
                return
            may_stop = options[taken] in seen
            queue.run(options[taken])

    def _choose(self, options: Sequence[str]) -> int:
        if len(options) == 1:
            return 0
        position = len(self.made)
        if position < len(self.prefix):
            taken = self.prefix[position]
        else:
            taken = self.chance.randrange(len(options)) if self.chance else 0
        if not 0 <= taken < len(options):
            message = (
                f"choice {position} of this schedule is option {taken}, but there are only {len(options)}: "
                f"{', '.join(options)}. Was it made by another program, or is the program not deterministic?"
            )
            raise InteropError(message)
        self.made.append(Choice(tuple(options), taken))
        return taken


def _label(work: Work) -> str:
    return f"run {work.name!r} (number {work.number}, on {work.stream})"


def _cluster(queue: Queue, seeds: Sequence[Work]) -> set[Work]:
    """*seeds*, what they come after, what conflicts with these, and so on.

    The ready kernels of a cluster are a persistent set: nothing outside can enable, disable or influence them, so if
    one of them has to run, or may, there is no need to look at anything else first.
    """
    cluster = set(seeds)
    found = list(seeds)
    pending = queue.pending
    while found:
        work = found.pop()
        new = [
            other for other in pending if other not in cluster and (work.comes_after(other) or work.conflicts(other))
        ]
        cluster.update(new)
        found += new
    return cluster
