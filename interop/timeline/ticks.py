"""Ticks: timing events from a pool, read as points on one axis of time.

A tick is the handle of a recorded event. It stands for the moment at which its stream reached the event.
"""

import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Final

from interop._cuda import Cuda

_TIMING: Final = 0
"""cudaEventDefault."""
_BATCH: Final = 64
"""How many events are made at once: entering their context costs more than making an event."""
_SPARE: Final = 4096
"""How many events of a context are kept for the next timeline."""
_ROUNDS: Final = 20
"""How often a device's clock is compared with the host's. The fastest comparison counts."""


_spare: Final[weakref.WeakKeyDictionary[Cuda, dict[int, list[int]]]] = weakref.WeakKeyDictionary()
"""The unused events, by the id of their context. Not by its address: that is reused when the context is destroyed."""


class Ticks:
    """The events of one timeline."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._spare = _spare.setdefault(cuda, {})
        self._clocks: dict[int, int] = {}
        self._contexts: dict[int, int] = {}

    def take(self, context: int, context_id: int) -> int:
        """An unused event of a context."""
        try:
            tick = self._spare[context_id].pop()
        except (KeyError, IndexError):
            tick = self._make(context, context_id)
        self._clocks[tick] = context_id
        self._contexts[context_id] = context
        return tick

    def put_back(self, tick: int) -> None:
        """Give an event back in which nothing was recorded."""
        self._spare[self._clocks.pop(tick)].append(tick)

    def _make(self, context: int, context_id: int) -> int:
        made: list[int] = []
        try:
            self._cuda.event_batch(context, _TIMING, _BATCH, made)
            return made.pop()
        finally:
            self._spare.setdefault(context_id, []).extend(made)

    def give_back(self) -> None:
        """Give all events to the next timeline. What they recorded is lost."""
        taken, self._clocks = self._clocks, {}
        for tick, clock in taken.items():
            spare = self._spare.setdefault(clock, [])
            if len(spare) < _SPARE:
                spare.append(tick)
            else:
                self._cuda.discard(self._cuda.event_destroy, tick)

    def read(self, ticks: Sequence[int]) -> tuple[Mapping[int, float], float]:
        """Block the host until the device has reached all *ticks*, and find their positions. In a simulation, no wait.

        Returns:
            The position of each tick, from the first one, and the error between different contexts at most. Both are in
            milliseconds; in a simulation, positions are in steps.
        """
        if self._cuda.simulation is not None:
            return {tick: float(self._cuda.simulation.steps(tick)) for tick in ticks}, 0.0
        # All of them: if two threads record on one stream, it is not known which record was the last. For an event that
        # is done, the call returns at once.
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
        """When *reference* was reached, by the host's clock, in milliseconds; and the error at most.

        Each device has its own clock. By the host's clock, an event on an idle stream is reached between the call that
        records it and the return of the call that waits for it.
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
                # CUDA returns the time as a 32-bit float.
                error = 1e3 * (after - before) / 2 + abs(since) * 2**-24
                found.append((error, 1e3 * (before + after) / 2 - since))
        finally:
            for event in events:
                cuda.event_destroy(event)
            cuda.stream_destroy(stream)
        error, zero = min(found)
        return zero, error
