"""The demo: two libraries share one stream, then work on two streams, in order.

:func:`run` is the program. It runs with real libraries on a GPU, or with stand-ins for them on the simulator.
"""

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import interop
from interop import _cuda, sim
from interop._show import plain
from interop.errors import NoDeviceError
from interop.stream import ExternalStream
from interop.testing import gate, is_ordered

SIZE = 1 << 20
STALE = -1.0


class _RealLaboratory:
    """The steps of the program, by CuPy, Numba and, if it is installed, PyTorch, on the GPU."""

    def __init__(self) -> None:
        """Import the libraries, and compile and load every kernel: later, loading one could wait for the GPU."""
        import cupy
        from numba import cuda

        self._cupy, self._cuda = cupy, cuda
        self._torch = None
        with contextlib.suppress(ModuleNotFoundError):
            torch = importlib.import_module("torch")
            self._torch = torch if torch.cuda.is_available() else None
        properties = cupy.cuda.runtime.getDeviceProperties(0)
        self.backend = f"{properties['name'].decode()}, driver for CUDA {_dotted(cupy.cuda.runtime.driverGetVersion())}"
        self.libraries = [("CuPy", cupy.__version__), ("Numba", importlib.metadata.version("numba-cuda"))]
        if self._torch:
            self.libraries.append(("PyTorch", self._torch.__version__))

        @cuda.jit("void(float64[::1], float64[::1])")  # type: ignore[untyped-decorator]
        def square(source: Any, target: Any) -> None:
            i = cuda.grid(1)
            if i < source.size:
                target[i] = source[i] * source[i]

        self._square = square
        self._count = cupy.ElementwiseKernel("", "float64 number", "number = i", "interop_demo_count")
        stream = interop.new_stream()
        array = self.array(0.0, "warm-up")
        self.fill(array, stream)
        self.square(array, array, stream)
        self.total(array, stream)
        stream.synchronize()

    def streams(self) -> tuple[object, object]:
        """A stream of CuPy and a stream of Numba: the libraries' own objects."""
        return self._cupy.cuda.Stream(non_blocking=True), self._cuda.stream()

    def array(self, value: float, name: str) -> Any:  # noqa: ARG002
        """An array of SIZE numbers, all *value*, which is ready on every stream."""
        array = self._cupy.full(SIZE, value)
        self._cupy.cuda.get_current_stream().synchronize()
        return array

    def fill(self, array: Any, stream: ExternalStream) -> None:
        """CuPy writes 0, 1, 2, ... into *array*, on *stream*."""
        with interop.use(stream, "cupy"):
            self._count(array)

    def square(self, source: Any, target: Any, stream: ExternalStream) -> None:
        """Numba writes the squares of *source* into *target*, on *stream*."""
        # sync=False: otherwise Numba would block the host until the array is ready.
        blocks = (SIZE + 255) // 256
        arrays = [self._cuda.as_cuda_array(array, sync=False) for array in (source, target)]
        self._square[blocks, 256, stream.to("numba")](*arrays)

    def total(self, array: Any, stream: ExternalStream) -> Callable[[], float] | None:
        """PyTorch sums *array*, on *stream*. Call the result when the stream is done. None without PyTorch."""
        if self._torch is None:
            return None
        with interop.use(stream, "torch"):
            total = self._torch.as_tensor(array, device="cuda").sum()
        return lambda: float(total.item())

    def values(self, array: Any) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """A copy on the host. The work on *array* is done."""
        return np.asarray(self._cupy.asnumpy(array))


class _SimulatedLaboratory:
    """The same steps by stand-ins for the three libraries: simulated streams, and NumPy functions as kernels."""

    def __init__(self, gpu: sim.SimulatedGPU, reason: str) -> None:
        """Work on *gpu*. *reason* says why no real GPU is used."""
        self._gpu = gpu
        self.backend = f"SIMULATED ({reason})"
        self.libraries = [("stand-ins for CuPy, Numba and PyTorch in NumPy", np.__version__)]

    def streams(self) -> tuple[object, object]:
        return self._gpu.stream("cupy_stream"), self._gpu.stream("numba_stream")

    def array(self, value: float, name: str) -> Any:
        return self._gpu.array(np.full(SIZE, value), name=name)

    def fill(self, array: Any, stream: ExternalStream) -> None:
        def fill(values: Any) -> None:
            values[:] = np.arange(SIZE)

        self._gpu.launch(stream, fill, writes=[array], name="CuPy fill")

    def square(self, source: Any, target: Any, stream: ExternalStream) -> None:
        def square(old: Any, new: Any) -> None:
            new[:] = old * old

        self._gpu.launch(stream, square, reads=[source], writes=[target], name="Numba square")

    def total(self, array: Any, stream: ExternalStream) -> Callable[[], float] | None:
        total = self._gpu.array(np.zeros(1), name="total")

        def add(values: Any, result: Any) -> None:
            result[0] = values.sum()

        self._gpu.launch(stream, add, reads=[array], writes=[total], name="PyTorch sum")
        return lambda: float(self._gpu.read(total)[0])

    def values(self, array: Any) -> "np.ndarray[Any, np.dtype[np.float64]]":
        return np.asarray(self._gpu.read(array))

    def explain(self) -> None:
        """Print the races that the simulator found in this run, and one schedule, of all, that goes wrong."""
        for race in self._gpu.races:
            print(f"\nFound in this one run, whatever the schedule:\n{race}")
        found = sim.explore(_without_wait)
        assert found.failure is not None
        print(f"\nOf {found.schedules} schedules, this one goes wrong:\n{found.failure}")


_Laboratory = _RealLaboratory | _SimulatedLaboratory


def _without_wait(gpu: sim.SimulatedGPU) -> None:
    """The part of :func:`run` with two streams, without its wait and its gate: small enough to explore."""
    lab = _SimulatedLaboratory(gpu, "explored")
    producer, consumer = map(interop.as_stream, lab.streams())
    x, y = lab.array(STALE, "x"), lab.array(STALE, "y")
    lab.fill(x, producer)
    lab.square(x, y, consumer)
    consumer.synchronize()
    seen = lab.values(y)[0]
    assert seen == 0.0, f"y[0] is {seen}, not 0.0"


def run(lab: _Laboratory, *, forget_wait: bool) -> bool:
    """Run the program, and print what happened.

    Returns:
        Whether the results are as expected: right values and a proof of order; with *forget_wait*, wrong values and no
        order.
    """
    squares = np.arange(SIZE, dtype=np.float64) ** 2
    print("CuPy writes x = 0, 1, 2, ...; Numba writes y = x * x; PyTorch sums y\n")
    rows: list[tuple[str, str, str]] = []
    good: list[bool] = []

    shared = interop.new_stream(name="shared")
    x, y = lab.array(STALE, "x"), lab.array(STALE, "y")
    lab.fill(x, shared)
    lab.square(x, y, shared)
    total = lab.total(y, shared)
    shared.synchronize()
    good.append(bool((lab.values(y) == squares).all()))
    rows.append((shared.name, "y", "right" if good[-1] else "WRONG"))
    if total is not None:
        good.append(np.isclose(total(), squares.sum()))
        rows.append(("", "PyTorch's sum of y", "right" if good[-1] else "WRONG"))

    cupy_stream, numba_stream = lab.streams()
    producer = interop.as_stream(cupy_stream, name="cupy_stream")
    consumer = interop.as_stream(numba_stream, name="numba_stream")
    x, y = lab.array(STALE, "x"), lab.array(STALE, "y")
    with gate(producer) as shut:  # CuPy's kernel cannot run before the gate is opened, so it is certain who waits
        lab.fill(x, producer)
        if not forget_wait:
            consumer.wait_stream(producer)
        lab.square(x, y, consumer)
        if forget_wait:
            consumer.synchronize()  # it returns, though CuPy's kernel has not run
        host_was_free = not shut.is_open
    consumer.synchronize()
    producer.synchronize()
    right = bool((lab.values(y) == squares).all())
    good.append(right is not forget_wait)
    names = f"{producer.name}, {consumer.name}"
    rows.append((names, "y", "right" if right else f"WRONG: y[0] = {lab.values(y)[0]}"))
    good.append(host_was_free)
    rows.append(("", "the host meanwhile", "free" if host_was_free else "blocked"))

    with is_ordered(producer, consumer) as ordered:
        if not forget_wait:
            consumer.wait_stream(producer)
    good.append(bool(ordered) is not forget_wait)
    rows.append(("", "proof by stream capture", "ordered" if ordered else "NOT ORDERED"))
    print(plain.table(rows, ("streams", "what", "seen")))
    wait = "interop.as_stream(numba_stream).wait_stream(cupy_stream)"
    print(f"\nThe wait that {'was left out' if forget_wait else 'made it right'}: {wait}")
    return all(good)


def main(*, forget_wait: bool) -> int:
    """Run the demo on the GPU, or on the simulator if there is none. Returns the exit status: 0 if all is as expected.

    Args:
        forget_wait: leave the wait out, and show what goes wrong.
    """
    with _laboratory(forget_wait=forget_wait) as lab:
        print(f"backend: {lab.backend}")
        print("libraries: " + ", ".join(f"{name} {version}" for name, version in lab.libraries))
        good = run(lab, forget_wait=forget_wait)
        if forget_wait and isinstance(lab, _SimulatedLaboratory):
            lab.explain()
    if not good:
        print("this is not the expected result")
    following = (
        "doctor, for your machine, its libraries and what to fix"
        if forget_wait
        else "demo --forget-wait, without the wait"
    )
    print(f"\nNext: python -m interop {following}")
    return 0 if good else 1


@contextlib.contextmanager
def _laboratory(*, forget_wait: bool) -> Iterator[_Laboratory]:
    try:
        interop.new_stream()
        lab = _RealLaboratory()
    except NoDeviceError as error:
        reason = str(error).partition(_cuda.WAY_OUT)[0].strip(" .")
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed"
    else:
        yield lab
        return
    with sim.simulate(on_race="record" if forget_wait else "raise") as gpu:
        yield _SimulatedLaboratory(gpu, reason)


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
