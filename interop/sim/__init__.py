"""A simulated CUDA: streams, events, graph captures, and memory in NumPy. It needs no GPU and no driver.

:func:`simulate` is for tests on machines without a GPU. One run finds a missing wait, whatever the schedule: CUDA's
rules of order decide, and not which kernel happens to run first. :func:`explore` runs a small program under every
schedule, and returns the first schedule that fails.

A program has to ask for the simulator: nothing falls back to it, and every object says SIMULATED. The simulator has no
clock, runs no real kernels, and launches no graphs. Several processes are simulated in one, by ``gpu.process(1)``. One
suite of tests checks its rules against those of a real GPU.
"""

from interop._order.findings import Finding, Kind, Party
from interop.errors import LibraryNotFoundError

try:
    import numpy as np  # noqa: F401  (the memory of simulated devices)
except ModuleNotFoundError as error:
    message = "the simulator keeps its memory in NumPy: pip install numpy"
    raise LibraryNotFoundError(message, name="numpy") from error

from interop.sim.explore import Exploration, Failure, explore, replay
from interop.sim.gpu import SimulatedGPU, simulate
from interop.sim.objects import Gate, SimulatedArray, SimulatedStream
from interop.sim.schedule import Schedule

Race = Finding

__all__ = [
    "Exploration",
    "Failure",
    "Finding",
    "Gate",
    "Kind",
    "Party",
    "Race",
    "Schedule",
    "SimulatedArray",
    "SimulatedGPU",
    "SimulatedStream",
    "explore",
    "replay",
    "simulate",
]
