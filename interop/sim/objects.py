"""The objects of a simulation that a program holds: streams, arrays and gates."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from numpy.typing import NDArray

from interop.sim.machine import Machine
from interop.sim.state import Array
from interop.sim.work import Work

P = ParamSpec("P")
T = TypeVar("T")


def step(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Make a method one step of a simulation that is running, as :meth:`~interop.sim.machine.Machine.alone` does.

    The method's object has the machine in ``_machine``.
    """

    def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:  # noqa: ANN401  (several classes have a machine)
        self._machine.check()
        return method(self, *args, **kwargs)

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:  # noqa: ANN401
        machine: Machine = self._machine
        return machine.alone(run, self, *args, **kwargs)

    return call


class SimulatedStream:
    """A stream of a simulation, as another library might have made it.

    It has ``__cuda_stream__`` and no other method. The last reference destroys it; its pending work still runs.

    Attributes:
        name: its name in reports.
        device: ordinal of its simulated device.
    """

    def __init__(self, machine: Machine, handle: int, name: str, device: int) -> None:
        self.name = name
        self.device = device
        self._handle = handle
        weakref.finalize(self, _destroy, machine, handle).atexit = False

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, self._handle)

    def __repr__(self) -> str:
        return f"<SIMULATED stream {self.name!r} {self._handle:#x} on device {self.device}>"


def _destroy(machine: Machine, handle: int) -> None:
    if not machine.ended:
        machine.alone(machine.destroy_stream, handle)


class SimulatedArray:
    """An array in simulated device memory, which only kernels, ``gpu.read`` and ``gpu.write`` touch.

    Attributes:
        name: its name in reports.
        shape: as NumPy's.
        dtype: as NumPy's.
    """

    def __init__(self, memory: NDArray[Any], array: Array) -> None:
        self.name = array.name
        self.shape = memory.shape
        self.dtype = memory.dtype
        self._memory = memory
        self._array = array

    def __repr__(self) -> str:
        return f"<SIMULATED array {self.name!r}, shape {self.shape}, {self.dtype}>"


class Gate:
    """Holds the later work of a stream until the gate is opened. As a context manager, it opens on exit.

    Nothing in a simulation blocks: a host thread that waits for a closed gate gets a
    :class:`~interop.errors.DeadlockError` at once, even if another thread is about to open it.
    """

    def __init__(self, machine: Machine, work: Work) -> None:
        self._machine = machine
        self._work = work

    @property
    def is_open(self) -> bool:
        """Whether the gate was opened, or has opened itself."""
        if not self._machine.ended:
            self._machine.alone(self._machine.queue.open_overdue)
        return self._work.is_open

    @property
    def is_overdue(self) -> bool:
        """Whether the gate had to open itself."""
        return self.is_open and self._work.is_overdue

    @step
    def open(self) -> None:
        """Let the stream go on when all work before the gate is done. To open it again changes nothing."""
        if not self.is_open:
            self._machine.queue.trace.add(f"the host opens the {self._work.name} on {self._work.stream}")
            self._machine.queue.open(self._work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.open()

    def __repr__(self) -> str:
        return f"<SIMULATED {'open' if self.is_open else 'closed'} gate on {self._work.stream}>"
