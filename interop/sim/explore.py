"""Every schedule of a small program."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from interop.errors import InteropError
from interop.sim.gpu import SimulatedGPU, simulation
from interop.sim.races import Race
from interop.sim.schedule import Choice, Chosen, Schedule

T = TypeVar("T")
Program = Callable[[SimulatedGPU], T]

POLLS: Final = 3
"""How many times :func:`explore` lets the same pending work be reported as not done."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A schedule under which the program failed.

    Attributes:
        schedule: what to give to :func:`replay`; printed, it tells what ran when and on which stream.
        error: what the program raised.
    """

    schedule: Schedule
    error: Exception

    @property
    def trace(self) -> str:
        """What happened, one numbered line each."""
        return str(self.schedule)

    def __str__(self) -> str:
        """The trace, and the error that it ends with."""
        return f"{self.schedule}\n     {type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, slots=True)
class Exploration:
    """What came of running a program under every schedule.

    Attributes:
        schedules: how many ran.
        complete: whether these were all; False if the limit was reached first.
        outcomes: the distinct values that the program returned; arrays and sequences as tuples.
        failure: the first schedule under which it failed, or None.
        races: the distinct races, under whatever schedule.
    """

    schedules: int
    complete: bool
    outcomes: frozenset[object]
    failure: Failure | None
    races: tuple[Race, ...]

    def __repr__(self) -> str:
        """Say how many, and how it went."""
        ended = "all" if self.complete else "not all"
        verdict = "none failed" if self.failure is None else f"one failed with {type(self.failure.error).__name__}"
        return f"<SIMULATED exploration: {self.schedules} schedules, {ended} there are; {verdict}>"


def explore(program: Program[object], *, devices: int = 1, limit: int = 10_000, polls: int = POLLS) -> Exploration:
    """Run *program* under every schedule of its kernels.

    A schedule says what has run at each point at which the program can tell: a query, a synchronise, an access by the
    host. Schedules that differ in nothing it can see are tried once. Races are recorded and not raised, so that the
    wrong value shows.

    The program is run from the start for each schedule. It must do the same each time but for what it observes; other
    host threads are not scheduled, and should not be used. Kernels must touch nothing but their arrays.

    Args:
        program: called with the simulated GPU. It fails if it raises an :class:`Exception`.
        devices: how many devices to simulate.
        limit: how many schedules to run at most.
        polls: how many times the same pending work is reported as not done, after which it is; so that loops end.

    Raises:
        InteropError: the program is not deterministic.
    """
    outcomes: set[object] = set()
    races: dict[Race, None] = {}
    failure: Failure | None = None
    made: list[Choice] = []
    ran = 0
    complete = False
    while ran < limit:
        scheduler = Chosen([choice.taken for choice in made], polls)
        expected = made
        found: SimulatedGPU | None = None
        try:
            with simulation(devices, "record", scheduler) as gpu:
                found = gpu
                outcome = _frozen(program(gpu))
            outcomes.add(outcome)
        except Exception as error:  # whatever the program raises is its failure
            _check(expected, scheduler.made)
            if found is None:
                raise
            failure = failure or Failure(found.schedule, error)
        _check(expected, scheduler.made)
        races.update(dict.fromkeys(found.races))
        ran += 1
        made = _next(scheduler.made)
        if not made:
            complete = True
            break
    return Exploration(ran, complete, frozenset(outcomes), failure, tuple(races))


def replay(program: Program[T], schedule: Schedule | Sequence[int], *, devices: int = 1, polls: int = POLLS) -> T:
    """Run *program* under one schedule that :func:`explore` found; what it returns, or raises.

    Args:
        program: the program that was explored.
        schedule: such as ``exploration.failure.schedule``, or its ``choices``.
        devices: as it was explored with.
        polls: as it was explored with.

    Raises:
        InteropError: the schedule does not fit the program.
    """
    choices = schedule.choices if isinstance(schedule, Schedule) else tuple(schedule)
    scheduler = Chosen(choices, polls)
    with simulation(devices, "record", scheduler) as gpu:
        result = program(gpu)
    if len(scheduler.made) < len(choices):
        message = f"the schedule has {len(choices)} choices, and the program came to {len(scheduler.made)} only"
        raise InteropError(message)
    return result


def _next(made: Sequence[Choice]) -> list[Choice]:
    """The choices to follow next, depth first; none when all were tried."""
    done = len(made)
    while done and made[done - 1].taken + 1 == len(made[done - 1].options):
        done -= 1
    if not done:
        return []
    last = made[done - 1]
    return [*made[: done - 1], Choice(last.options, last.taken + 1)]


def _check(expected: Sequence[Choice], made: Sequence[Choice]) -> None:
    if list(made[: len(expected)]) != list(expected):
        message = (
            "the program is not deterministic: run again with the same choices, it came to other ones. It must do the "
            "same each time but for what it observes of the GPU"
        )
        raise InteropError(message)


def _frozen(value: object) -> object:
    """*value* as something that can be an element of a set."""
    if isinstance(value, np.ndarray | np.generic):
        return _frozen(value.tolist())
    if isinstance(value, Mapping):
        return frozenset((_frozen(key), _frozen(item)) for key, item in value.items())
    if isinstance(value, AbstractSet):
        return frozenset(map(_frozen, value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(map(_frozen, value))
    return value if isinstance(value, Hashable) else repr(value)
