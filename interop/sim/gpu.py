"""The simulated GPU: what a program calls to make streams and arrays, and to launch kernels."""

# ruff: noqa: SLF001  (the GPU alone may touch an array's memory; `_cuda` is the seam for the simulator)

import contextlib
import inspect
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interop import _cuda
from interop._cuda.codes import error_text
from interop._order.clocks import StreamKind
from interop._order.findings import Finding
from interop._safety.blocks import block
from interop._show.callsite import where
from interop._show.text import described
from interop.errors import CudaError, InvalidArrayError, InvalidStreamError, NoDeviceError, NotSupportedError
from interop.sim.codes import Refused
from interop.sim.machine import Machine
from interop.sim.objects import Gate, SimulatedArray, SimulatedStream, step
from interop.sim.processes import Processes
from interop.sim.runtime import Driver, Runtime
from interop.sim.schedule import InOrder, Schedule
from interop.sim.state import Array, Stream
from interop.sim.waits import HostWaits
from interop.sim.work import Work

OnRace = Literal["raise", "record"]

_running: list[int] = []
"""The thread of each simulation that is running, the innermost last. All are the same thread."""


class SimulatedGPU:
    """One simulation. Made by :func:`simulate`; every call raises :class:`~interop.errors.InteropError` after its end.

    Several threads may use it. A thread does not know for what another thread has waited, with two exceptions: a new
    thread knows what all others know, and all threads know what a thread that has ended knew. For all else, such as a
    message through a queue, call :meth:`hear`.

    Attributes:
        cuda: the simulated CUDA, as interop calls it.
        runtime: the simulated ``cuda.bindings.runtime``.
        driver: the simulated ``cuda.bindings.driver``.
        processes: the simulated processes.
    """

    def __init__(self, machine: Machine) -> None:
        runtime, driver = _cuda.load_bindings()
        self.runtime = Runtime(machine, runtime)
        self.driver = Driver(machine, driver)
        self.cuda = _cuda.Cuda(
            lambda: (self.runtime, self.driver),
            lambda address: address in machine.streams or address in machine.events,
            simulation=self,
        )
        self.processes = Processes()
        self._machine = machine
        self._arrays = itertools.count(1)

    # -- what there is -------------------------------------------------------------------------------------------

    @property
    def devices(self) -> int:
        """How many devices are simulated."""
        return self._machine.devices

    @property
    def races(self) -> list[Finding]:
        """The races found so far, in the order in which the later accesses were enqueued."""
        return list(self._machine.races)

    @property
    def schedule(self) -> Schedule:
        """What has happened so far, and, when exploring, the choices that led to it."""
        trace = self._machine.queue.trace
        lines = trace.lines()
        return Schedule(self._machine.scheduler.choices, lines, trace.count - len(lines))

    def __repr__(self) -> str:
        state = ", ended" if self._machine.ended else ""
        return f"<SIMULATED GPU, {self._machine.devices} device(s){state}>"

    # -- streams and arrays --------------------------------------------------------------------------------------

    @step
    def stream(self, name: str | None = None, *, device: int = 0, non_blocking: bool = True) -> SimulatedStream:
        """Make a stream that looks like a foreign library's: ``interop.as_stream`` of it has the methods.

        Args:
            name: its name in reports. If it is the name of the variable, the advice in reports is valid code.
            device: ordinal of its device. The current device stays the same.
            non_blocking: whether the stream is exempt from the legacy stream's rules.

        Raises:
            NoDeviceError: no such device is simulated.
        """
        machine = self._machine
        kind = StreamKind.NON_BLOCKING if non_blocking else StreamKind.BLOCKING
        if device not in range(machine.devices):
            message = f"there is no simulated device {device!r}: there are {machine.devices}, numbered from 0"
            raise NoDeviceError(message)
        handle = machine.create_stream(machine.contexts[device], kind, name=name)
        return SimulatedStream(machine, handle, machine.streams[handle].name, device)

    def name_stream(self, handle: int, name: str) -> None:
        """Let reports call a stream *name*. A default stream keeps its name there. ``interop.as_stream`` calls this."""
        if handle in self._machine.streams:
            self._machine.streams[handle].name = name

    def array(self, values: ArrayLike, name: str | None = None) -> SimulatedArray:
        """Make an array with a copy of *values*, which it has from the start."""
        self._machine.check()
        number = next(self._arrays)
        return SimulatedArray(np.array(values), Array(number, name or f"array {number}"))

    # -- work ----------------------------------------------------------------------------------------------------

    def launch(
        self,
        stream: object,
        function: Callable[..., object],
        *,
        reads: Sequence[SimulatedArray] = (),
        writes: Sequence[SimulatedArray] = (),
        name: str | None = None,
    ) -> None:
        """Enqueue a kernel; returns at once.

        Args:
            stream: anything with ``__cuda_stream__``, an object with an int ``cuda_stream``, or a handle.
            function: called when the kernel runs, with the NumPy arrays of *reads* and then of *writes*. The arrays of
                *reads* are read-only. On a stream that captures, *function* is never called.
            reads: the arrays that the kernel reads.
            writes: the arrays that it writes, or reads and writes.
            name: what reports call the kernel; by default the function's name.

        Raises:
            RaceError: earlier work uses one of the arrays too, one of the two writes, and nothing orders them. Nothing
                was enqueued. Only with ``on_race="raise"``.
            CudaError: the stream is not one of this simulation, or a capture forbids it.
            InvalidStreamError: *stream* is not a stream.
            InvalidArrayError: one of *reads* or *writes* was not made by :meth:`array`.
            TypeError: *function* cannot be called with these arrays.
        """
        read_only = [_memory_of(array).view() for array in reads]
        for view in read_only:
            view.flags.writeable = False
        arguments = [*read_only, *map(_memory_of, writes)]
        _check_call(function, [*reads, *writes])
        work = Work(
            name=name or _name_of(function),
            where=where(),
            run=lambda: function(*arguments),
            reads=frozenset(array._array for array in reads if array not in writes),
            writes=frozenset(array._array for array in writes),
        )
        self._enqueue(_place_of(stream), work, "launch")

    def gate(self, stream: object, timeout: float = math.inf) -> Gate:
        """Enqueue a closed gate, which holds the later work of *stream*.

        Args:
            stream: as for :meth:`launch`.
            timeout: seconds after which the gate opens itself, at the next query or synchronise by the host.

        Raises:
            NotSupportedError: the stream captures.
        """
        work = Work(name="gate", where=where(), is_gate=True, deadline=time.monotonic() + timeout)
        self._enqueue(_place_of(stream), work, "gate")
        return Gate(self._machine, work)

    @step
    def read(self, array: SimulatedArray) -> NDArray[Any]:
        """Copy what the host sees in *array* now. Waits for nothing.

        Raises:
            RaceError: work that writes *array* is not known to this host thread to be done, whether it is or not.
                Only with ``on_race="raise"``.
            InvalidArrayError: *array* was not made by :meth:`array`.
        """
        memory = _memory_of(array)
        self._machine.access(array._array, where(), writes=False)
        return memory.copy()

    def write(self, array: SimulatedArray, values: ArrayLike) -> None:
        """Let the host write *values* into *array* now. Waits for nothing.

        Raises:
            RaceError: work that touches *array* is not known to this host thread to be done, whether it is or not.
                Nothing was written. Only with ``on_race="raise"``.
            InvalidArrayError: *array* was not made by :meth:`array`.
        """
        self._write(array, np.asarray(values))

    def synchronize(self, device: int | None = None) -> None:
        """Block the host until the work of *device*, by default the current one, is done.

        Raises:
            DeadlockError: a closed gate holds some of it.
            NoDeviceError: no such device is simulated.
        """
        context = self.cuda.current_context() if device is None else self.cuda.primary_context(device)
        self.cuda.within(context, self.cuda.call, "cudaDeviceSynchronize")

    @step
    def steps(self, event: int) -> int:
        """The least number of kernels that run one after the other before an event: the nearest thing to a time.

        Args:
            event: the handle of an event that was recorded outside of captures.
        """
        return self._machine.clocks.of_event(self._machine.event(event)).steps

    @step
    def is_done(self, handle: int) -> bool:
        """Whether the work of a stream, or the work that an event stands for, is done.

        Unlike a query, this runs nothing, and no host thread learns the answer.

        Args:
            handle: of a stream or an event.
        """
        machine = self._machine
        stream = machine.streams.get(handle)
        clocks = machine.clocks
        target = clocks.of_stream(stream) if stream else clocks.of_event(machine.events.get(handle))
        return not machine.queue.holds(target)

    @step
    def comes_after(self, event: int, gate: Gate) -> bool:
        """Whether an event comes after *gate*, which may be open or closed. Nothing runs, and the host does not wait.

        Args:
            event: the handle of an event that was recorded outside of captures.
            gate: a gate of this simulation.
        """
        return self._machine.clocks.of_event(self._machine.event(event)).knows(gate._work.epoch)

    @contextlib.contextmanager
    def host_waits(self, *streams: object) -> Iterator[list[str]]:
        """Note each wait of the host for pending work, during the block.

        Args:
            streams: the streams whose work counts, as for :meth:`launch`. The legacy stream includes the blocking
                streams of its device. By default, all streams count.

        Yields:
            A list that fills with strings: the line of the program, and for what it waited.
        """
        waits = self._watch(list(map(_place_of, streams)))
        try:
            yield waits.seen
        finally:
            self._machine.host_waits.remove(waits)

    @step
    def hear(self, thread: threading.Thread) -> None:
        """Order the calling thread after what *thread* has done so far.

        Call this after a message from *thread*, through a queue or a ``threading.Event``. The simulator cannot see such
        messages. Without this call, the other thread's accesses and synchronisations are unordered.
        """
        self._machine.hear(thread)

    # -- processes -----------------------------------------------------------------------------------------------

    def process(self, number: int) -> contextlib.AbstractContextManager[None]:
        """Be another process for the length of a ``with`` block: ``interop.share`` and ``receive`` see two processes.

        The streams and arrays are not kept apart: that a process uses only its own is up to the program.

        Args:
            number: any int but 0, which is the process outside of all blocks.
        """
        return self.processes.enter(number)

    def kill(self, number: int) -> None:
        """Kill a process, as ``kill -9`` does; but the work that it has submitted still runs here."""
        self.processes.kill(number)

    # -- inside --------------------------------------------------------------------------------------------------

    @step
    def _watch(self, places: list[tuple[int, object]]) -> HostWaits:
        waits = HostWaits([self._stream(*place) for place in places])
        self._machine.host_waits.append(waits)
        return waits

    @step
    def _write(self, array: SimulatedArray, values: NDArray[Any]) -> None:
        memory = _memory_of(array)
        self._machine.access(array._array, where(), writes=True)
        memory[...] = values

    @step
    def _enqueue(self, place: tuple[int, object], work: Work, call: str) -> None:
        machine = self._machine
        try:
            stream = self._stream(*place)
            work.stream = stream.name
            machine.enqueue(stream, work)
        except Refused as answer:
            code = self.runtime.cudaError_t(answer.code)
            text = error_text(code, self.runtime)
            raise CudaError(answer.code, code.name, f"gpu.{call}", text) from None

    def _stream(self, handle: int, device: object) -> Stream:
        if handle <= _cuda.PER_THREAD and isinstance(device, int):
            return self.cuda.within(self.cuda.primary_context(device), self._machine.stream, handle)
        return self._machine.stream(handle)


def _memory_of(array: SimulatedArray) -> NDArray[Any]:
    if not isinstance(array, SimulatedArray):
        message = f"expected an array of this simulation, made by gpu.array(); got {described(array)}"
        raise InvalidArrayError(message)
    return array._memory


def _check_call(function: Callable[..., object], arrays: Sequence[SimulatedArray]) -> None:
    if not callable(function):
        message = f"a kernel is a function; got {described(function)}"
        raise TypeError(message)
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of C do not tell
        return
    try:
        signature.bind(*arrays)
    except TypeError as error:
        name, given = _name_of(function), ", ".join(array.name for array in arrays)
        message = (
            f"the kernel {name}{signature} cannot be called as {name}({given}), with its reads and then its writes: "
            f"{error}. Give launch() other arrays, or the function other parameters"
        )
        raise TypeError(message) from None


def _name_of(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", None) or repr(function)


def _place_of(stream: object) -> tuple[int, object]:
    """The handle of a stream, and its device if it has one: default streams of all devices share a handle."""
    protocol = getattr(stream, "__cuda_stream__", None)
    handle = protocol()[1] if callable(protocol) else getattr(stream, "cuda_stream", stream)
    if isinstance(handle, bool) or not isinstance(handle, int) or handle < 0:
        message = f"a stream is an object with __cuda_stream__ or cuda_stream, or a handle, an int; got {stream!r}"
        raise InvalidStreamError(message)
    return handle, getattr(stream, "device", None)


@contextlib.contextmanager
def simulation(devices: int, on_race: OnRace, scheduler: InOrder) -> Iterator[SimulatedGPU]:
    """Run a simulation whose kernels *scheduler* runs."""
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        message = f"devices is how many to simulate, an int from 1; got {devices!r}"
        raise ValueError(message)
    if on_race not in ("raise", "record"):
        message = f'on_race is "raise" or "record"; got {on_race!r}'
        raise ValueError(message)
    thread = threading.get_ident()
    if _running and _running[-1] != thread:
        message = "another thread runs a simulation, which holds for the whole process: end that simulation first"
        raise NotSupportedError(message)
    machine = Machine(devices, scheduler, raises=on_race == "raise")
    gpu = SimulatedGPU(machine)
    previous = _cuda.activate(gpu.cuda)
    _running.append(thread)
    try:
        yield gpu
        machine.alone(machine.end)
    finally:
        gpu.processes.end()
        _running.pop()
        _cuda.activate(previous)
        machine.ended = True


@block
def simulate(devices: int = 1, on_race: OnRace = "raise") -> Iterator[SimulatedGPU]:
    """Simulate CUDA for as long as the ``with`` block runs.

    Example::

        def fill(x):  # x is a NumPy array
            x[:] = 3

        with interop.sim.simulate() as gpu:
            producer, consumer = gpu.stream("producer"), gpu.stream("consumer")
            x = gpu.array([0, 0], name="x")
            gpu.launch(producer, fill, writes=[x])
            interop.as_stream(consumer).wait_stream(producer)  # without this line: RaceError
            gpu.launch(consumer, print, reads=[x])

    Inside, interop makes its streams and events in the simulation. On exit all pending work runs, and the CUDA that was
    active before is active again. After that, every call of this simulation raises
    :class:`~interop.errors.InteropError`, except that its streams and events can still be destroyed.

    Kernels run when their results are needed: at a query, a synchronise, or the end. The schedule is deterministic. A
    query returns False while work is pending, and then runs the next kernel.

    Simulations may be nested in one thread. All threads of the process see the innermost one.

    Args:
        devices: how many devices to simulate, with one context each.
        on_race: ``"raise"`` a :class:`~interop.errors.RaceError` where the second of two unordered accesses is
            enqueued, or ``"record"`` it in ``gpu.races`` and go on.

    Raises:
        NotSupportedError: another thread simulates.
        DeadlockError: on exit, a gate is still closed, and work is pending behind it.
        ImportError: cuda-bindings is not installed. The simulator uses its enums, and needs no driver.
    """
    with simulation(devices, on_race, InOrder()) as gpu:
        yield gpu
