"""Ticks: timing events, taken from a list of spare ones, and read as points on one axis.

A tick is the handle of an event that was recorded. It stands for the moment at which its stream came to it.
"""

import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Final

from interop._cuda import Cuda

_TIMING: Final = 0
"""cudaEventDefault."""
_BATCH: Final = 64
"""How many events are made at once: entering a context for each would cost more than the event."""
_SPARE: Final = 4096
"""How many events of a context are kept for the next timeline."""
_ROUNDS: Final = 20
"""How often a device's clock is compared with the host's; the fastest comparison counts."""


_spare: Final[weakref.WeakKeyDictionary[Cuda, dict[int, list[int]]]] = weakref.WeakKeyDictionary()
"""By the id of their context, and not its address: the events of a context that is gone are gone too."""


class Ticks:
    """The events of one timeline. They go back to the spare ones when it lets go of them."""

    def __init__(self, cuda: Cuda) -> None:
        """Take none yet."""
        self._cuda = cuda
        self._spare = _spare.setdefault(cuda, {})
        self._clocks: dict[int, int] = {}
        self._contexts: dict[int, int] = {}

    def take(self, context: int, context_id: int) -> int:
        """An event of a context, to be recorded in."""
        try:
            tick = self._spare[context_id].pop()
        except (KeyError, IndexError):
            tick = self._make(context, context_id)
        self._clocks[tick] = context_id
        self._contexts[context_id] = context
        return tick

    def put_back(self, tick: int) -> None:
        """Nothing was recorded in it."""
        self._spare[self._clocks.pop(tick)].append(tick)

    def _make(self, context: int, context_id: int) -> int:
        made: list[int] = []
        try:
            self._cuda.event_batch(context, _TIMING, _BATCH, made)
            return made.pop()
        finally:
            self._spare.setdefault(context_id, []).extend(made)

    def give_back(self) -> None:
        """Let go of all events. What they recorded is lost."""
        taken, self._clocks = self._clocks, {}
        for tick, clock in taken.items():
            spare = self._spare.setdefault(clock, [])
            if len(spare) < _SPARE:
                spare.append(tick)
            else:
                self._cuda.discard(self._cuda.event_destroy, tick)

    def read(self, ticks: Sequence[int]) -> tuple[Mapping[int, float], float]:
        """Wait for the device, and find out where the ticks are. On a simulation, which has no clock, nothing waits.

        Returns:
            The position of each, from the first one, and by how much those of different contexts may be apart: in
            milliseconds. Of a simulation, in steps.
        """
        if self._cuda.simulation is not None:
            return {tick: float(self._cuda.simulation.steps(tick)) for tick in ticks}, 0.0
        # Each by itself: of two threads that record on one stream, nobody knows who was last, and for an event that has
        # been waited for already the call returns at once.
        for tick in ticks:
            self._cuda.event_synchronize(tick)
        error = 0.0
        references: dict[int, int] = {}
        for tick in ticks:
            references.setdefault(self._clocks[tick], tick)
        found = {tick: self._cuda.event_elapsed(references[self._clocks[tick]], tick) for tick in ticks}
        if len(references) > 1:
            zeros = {clock: self._host_time(clock, reference) for clock, reference in references.items()}
            found = {tick: position + zeros[self._clocks[tick]][0] for tick, position in found.items()}
            error = sum(sorted(error for _, error in zeros.values())[-2:])
        first = min(found.values(), default=0.0)
        return {tick: position - first for tick, position in found.items()}, error

    def _host_time(self, clock: int, reference: int) -> tuple[float, float]:
        """When *reference* was passed by the host's clock, in milliseconds, and how wrong that may be at most.

        Devices have a clock each. All that can be known of an event by the host's is that it was passed between the
        call that recorded it, on an idle stream, and the return of the one that waited for it.
        """
        cuda, context = self._cuda, self._contexts[clock]
        stream = cuda.stream_create(context, non_blocking=True, priority=0)
        events: list[int] = []
        try:
            cuda.event_batch(context, _TIMING, 1, events)
            (event,) = events
            found = []
            for _ in range(_ROUNDS):
                before = time.perf_counter()
                cuda.event_record(event, stream)
                cuda.event_synchronize(event)
                after = time.perf_counter()
                since = cuda.event_elapsed(reference, event)
                # CUDA gives the time as a 32-bit float.
                error = 1e3 * (after - before) / 2 + abs(since) * 2**-24
                found.append((error, 1e3 * (before + after) / 2 - since))
        finally:
            for event in events:
                cuda.event_destroy(event)
            cuda.stream_destroy(stream)
        error, zero = min(found)
        return zero, error
