"""Every schedule of a small program."""

import math
import random
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, TypeVar

import numpy as np

from interop._order.findings import Finding
from interop._show.progress import Line
from interop._show.text import as_printed, plural
from interop.errors import InteropError
from interop.sim.gpu import SimulatedGPU, simulation
from interop.sim.schedule import Choice, Chosen, Schedule

T = TypeVar("T")
Program = Callable[[SimulatedGPU], T]

_SHOWN: Final = 10
"""So many outcomes are printed."""
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

    _repr_pretty_ = as_printed

    def __str__(self) -> str:
        error = "".join(traceback.format_exception_only(self.error)).rstrip()
        return f"{self.schedule}\n     {error}"


@dataclass(frozen=True, slots=True)
class Exploration:
    """The results of running a program under every schedule, or under as many as the limit allows.

    Its truth value is the verdict: no schedule failed, and none had a race.

    Attributes:
        schedules: how many ran.
        covered: the probability that these include a schedule whose choices are made at random, each option of a choice
            with the same probability. 1.0 if all schedules ran.
        complete: whether all schedules ran.
        outcomes: the distinct values that the program returned; arrays and sequences as tuples.
        races: the distinct races, of all schedules.
    """

    schedules: int
    covered: float
    complete: bool
    outcomes: frozenset[Any]
    races: tuple[Finding, ...]
    _failure: Failure | None

    @property
    def failure(self) -> Failure | None:
        """The first schedule found under which the program failed; None if it fails under none.

        Raises:
            InteropError: none failed, but not all ran: there is no verdict.
        """
        if self._failure is None:
            self._check()
        return self._failure

    def __bool__(self) -> bool:
        """Whether no schedule failed, and none had a race.

        Raises:
            InteropError: that is so for those that ran, but not all ran: there is no verdict.
        """
        if self._failure is not None or self.races:
            return False
        self._check()
        return True

    def _check(self) -> None:
        if not self.complete:
            message = (
                f"no verdict: none of {self.schedules} schedules failed, but they are not all there are: they cover "
                f"{_percent(self.covered)}. Make the program smaller, or give a higher limit. "
                "Their results are in .outcomes and .races"
            )
            raise InteropError(message)

    def __repr__(self) -> str:
        ended = "all there are" if self.complete else f"not all there are: they cover {_percent(self.covered)}"
        verdict = "none failed" if self._failure is None else f"one failed with {type(self._failure.error).__name__}"
        raced = f", {plural(len(self.races), 'race')}" if self.races else ""
        return f"<SIMULATED exploration: {plural(self.schedules, 'schedule')}, {ended}; {verdict}{raced}>"

    _repr_pretty_ = as_printed

    def __str__(self) -> str:
        """The same, with the outcomes, the races, and the schedule that fails."""
        outcomes = sorted(map(repr, self.outcomes))
        shown = ", ".join([*outcomes[:_SHOWN], *(["..."] if len(outcomes) > _SHOWN else [])])
        lines = [repr(self)[1:-1], f"{plural(len(outcomes), 'outcome')}: {shown}", *map(str, self.races)]
        return "\n".join([*lines, f"This schedule fails:\n{self._failure}"] if self._failure else lines)


def _percent(share: float | Fraction) -> str:
    return f"{100 * float(share):.2g} %" if share < 1 else "nearly all"


def explore(
    program: Program[object],
    *,
    devices: int = 1,
    limit: int = 10_000,
    samples: int = 1_000,
    seed: int = 0,
    polls: int = POLLS,
) -> Exploration:
    """Run *program* under every schedule of its kernels.

    Example::

        def program(gpu):
            producer, consumer = gpu.stream("producer"), gpu.stream("consumer")
            x = gpu.array([0], name="x")
            gpu.launch(producer, lambda x: x.fill(3), writes=[x])
            interop.as_stream(consumer).wait_stream(producer)
            gpu.launch(consumer, lambda x: x.fill(4), writes=[x])

        assert interop.sim.explore(program)

    A schedule says which kernels have run at each point at which the program can tell: a query, a synchronise, an
    access by the host. Schedules that the program cannot tell apart are tried once. Races are recorded and not raised,
    so that the wrong value shows.

    The schedules run in order: the last choices vary first. If there are more than *limit*, others are taken at random,
    so that the first choices vary too.

    Each schedule runs the program from its start. The program must do the same each time, except for what depends on
    the GPU's answers. It should not use other host threads, which are not scheduled. Kernels must touch nothing but
    their arrays.

    Args:
        program: called with the simulated GPU. It fails if it raises an :class:`Exception`.
        devices: how many devices to simulate.
        limit: the greatest number of schedules to run in order.
        samples: how many schedules to take at random if there are more.
        seed: the seed of the random choices.
        polls: how many times the same pending work is reported as not done before it is done, so that loops end.

    Raises:
        InteropError: the program is not deterministic.
    """
    explorer = _Explorer(program, devices, polls)
    made: list[Choice] = []
    last: list[Choice] = []
    in_order = 0
    chance = random.Random(seed)  # noqa: S311  (no secret depends on it)
    seen: set[tuple[int, ...]] = set()
    with Line(after=1.0) as line:
        while in_order < limit:
            last = explorer.run(made)
            in_order += 1
            made = _next(last)
            if not made:
                break
            if line.is_due():
                line.show(f"exploring: {plural(in_order, 'schedule')}, which cover {_percent(_up_to(last))}")
        covered = _up_to(last) if in_order else Fraction()
        for number in range(samples):
            if covered == 1:
                break
            if line.is_due():
                line.show(f"exploring at random: {number} of {samples}")
            found = explorer.run([], chance)
            choices = _taken(found)
            # Those up to the last one have run in order.
            if choices not in seen and (not in_order or choices > _taken(last)):
                seen.add(choices)
                covered += _weight(found)
    return Exploration(
        in_order + len(seen),
        float(covered),
        covered == 1,
        frozenset(explorer.outcomes),
        tuple(explorer.races),
        explorer.failure,
    )


class _Explorer:
    """Runs a program again and again, and keeps the results."""

    def __init__(self, program: Program[object], devices: int, polls: int) -> None:
        self._program, self._devices, self._polls = program, devices, polls
        self.outcomes: set[object] = set()
        self.races: dict[Finding, None] = {}
        self.failure: Failure | None = None

    def run(self, expected: list[Choice], chance: random.Random | None = None) -> list[Choice]:
        """Run it with the choices *expected*, and after them the first options, or random ones; all choices made."""
        scheduler = Chosen([choice.taken for choice in expected], self._polls, chance)
        found: SimulatedGPU | None = None
        try:
            with simulation(self._devices, "record", scheduler) as gpu:
                found = gpu
                outcome = _frozen(self._program(gpu))
            self.outcomes.add(outcome)
        except Exception as error:  # whatever the program raises is its failure
            _check(expected, scheduler.made)
            if found is None:
                raise
            self.failure = self.failure or Failure(found.schedule, error)
        _check(expected, scheduler.made)
        self.races.update(dict.fromkeys(found.races))
        return scheduler.made


def _taken(made: Sequence[Choice]) -> tuple[int, ...]:
    return tuple(choice.taken for choice in made)


def _weight(made: Sequence[Choice]) -> Fraction:
    """How likely it is to make these choices at random."""
    return Fraction(1, math.prod(len(choice.options) for choice in made))


def _up_to(made: Sequence[Choice]) -> Fraction:
    """How likely it is to make these choices at random, or any that come before them in order."""
    before = sum((choice.taken * _weight(made[: number + 1]) for number, choice in enumerate(made)), Fraction())
    return before + _weight(made)


def replay(program: Program[T], schedule: Schedule | Sequence[int], *, devices: int = 1, polls: int = POLLS) -> T:
    """Run *program* under one schedule that :func:`explore` found; what it returns, or raises.

    Example::

        def program(gpu):
            stream = interop.as_stream(gpu.stream())
            gpu.launch(stream, lambda: None)
            assert stream.query(), "the kernel may still run"

        failure = interop.sim.explore(program).failure
        assert failure is not None
        try:
            interop.sim.replay(program, failure.schedule)
        except AssertionError:
            print(failure.trace)  # what ran when, on which stream

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
        message = f"the schedule has {len(choices)} choices, and the program made only {len(scheduler.made)}"
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
            "the program is not deterministic: a second run with the same choices came to other choices. It must do "
            "the same each time, except for what depends on the GPU's answers"
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
