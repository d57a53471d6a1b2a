"""Several simulated processes on one simulated GPU: each its own side of ``interop.share`` and ``interop.receive``."""

# ruff: noqa: SLF001  (what is shared is the memory of an array)

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from interop._cuda import IPC_HANDLE_BYTES
from interop._show.text import described
from interop.adapters.tensor import CUDA, TYPES, Tensor
from interop.errors import InvalidArrayError, NotSupportedError
from interop.sim.objects import SimulatedArray


class _Desk(Protocol):
    def close(self) -> None: ...


class Processes:
    """The simulated processes of one simulation, by number.

    Attributes:
        current: the process that the program is now.
        killed: those that were killed.
    """

    def __init__(self) -> None:
        self.current = 0
        self.killed: set[int] = set()
        self._desks: dict[int, _Desk] = {}
        self._arrays: weakref.WeakValueDictionary[int, SimulatedArray] = weakref.WeakValueDictionary()

    @contextlib.contextmanager
    def enter(self, number: int) -> Iterator[None]:
        """Be the process *number*."""
        if number in self.killed:
            message = f"the simulated process {number} was killed"
            raise NotSupportedError(message)
        before, self.current = self.current, number
        try:
            yield
        finally:
            self.current = before

    def desk(self, make: Callable[[], Any]) -> Any:  # noqa: ANN401  (of a class of a higher floor)
        """The desk of the current process, which *make* makes: where its sockets are."""
        if self.current not in self._desks:
            self._desks[self.current] = make()
        return self._desks[self.current]

    def kill(self, number: int) -> None:
        """End a process, as the kernel does: its sockets close, and it says no more."""
        self.killed.add(number)
        desk = self._desks.pop(number, None)
        if desk is not None:
            desk.close()

    def end(self) -> None:
        """The simulation has ended, and all processes with it."""
        for number in list(self._desks):
            self.kill(number)

    def lend(self, array: object) -> tuple[Tensor, bytes, int]:
        """The array as a tensor, a handle that :meth:`take` knows, and where the array is in what that gives.

        Raises:
            NotSupportedError: *array* is not of a simulation, or has elements of a type without a name.
        """
        dtype = TYPES.get(array.dtype.str) if isinstance(array, SimulatedArray) else None
        if not isinstance(array, SimulatedArray) or dtype is None:
            message = f"in a simulation, arrays of gpu.array() are shared, of plain numbers; got {described(array)}"
            raise NotSupportedError(message)
        number = array._array.number
        self._arrays[number] = array
        handle = number.to_bytes(IPC_HANDLE_BYTES, "little")
        return Tensor(0, array.shape, None, dtype, CUDA, 0, False, array), handle, 0  # noqa: FBT003

    def take(self, handle: bytes) -> SimulatedArray:
        """The same memory, for another process.

        Raises:
            InvalidArrayError: there is none.
        """
        found = self._arrays.get(int.from_bytes(handle, "little"))
        if found is None:
            message = "no array of this simulation is shared by this handle"
            raise InvalidArrayError(message)
        return SimulatedArray(found._memory, found._array)
