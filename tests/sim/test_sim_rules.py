"""The simulator follows the rules of CUDA in :mod:`tests.rules`."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from interop import sim

pytest.register_assert_rewrite("tests.rules")

from tests.rules import RELAXED, STALE, CudaRules  # noqa: E402


class SimulatedLab:
    """A :class:`tests.rules.Lab` on the simulator."""

    def __init__(self, gpu: sim.SimulatedGPU) -> None:
        self.gpu = gpu
        self.runtime: Any = gpu.runtime
        self.driver: Any = gpu.driver
        self.devices = gpu.devices
        self.gates: list[sim.Gate] = []

    def need_two_devices(self) -> None:
        assert self.devices > 1

    def stream(self, *, non_blocking: bool = True, device: int = 0) -> int:
        context, kind = self.gpu.cuda.primary_context(device), 1 if non_blocking else 0
        return int(self.gpu.cuda.within(context, self.runtime.cudaStreamCreateWithFlags, kind)[1])

    def event(self, *, device: int = 0) -> int:
        return self.gpu.cuda.event_create(self.gpu.cuda.primary_context(device), 2)

    def cell(self) -> sim.SimulatedArray:
        return self.gpu.array([STALE])

    def gate(self, stream: int) -> sim.Gate:
        self.gates.append(self.gpu.gate(stream))
        return self.gates[-1]

    def put(self, stream: int, cell: sim.SimulatedArray, value: int) -> None:
        def put(memory: Any) -> None:
            memory[:] = value

        self.gpu.launch(stream, put, writes=[cell])

    def copy(self, stream: int, source: sim.SimulatedArray, target: sim.SimulatedArray) -> None:
        def copy(source: Any, target: Any) -> None:
            target[:] = source

        self.gpu.launch(stream, copy, reads=[source], writes=[target])

    def read(self, cell: sim.SimulatedArray) -> int:
        for device in range(self.devices):
            self.gpu.synchronize(device)
        return int(self.gpu.read(cell)[0])

    def becomes_done(self, query: Callable[[], tuple[Any, ...]]) -> bool:
        return any(self._answer(query) == 0 for _ in range(10))

    def stays_pending(self, query: Callable[[], tuple[Any, ...]]) -> bool:
        return not self.becomes_done(query)

    def _answer(self, query: Callable[[], tuple[Any, ...]]) -> int:
        code = int(query()[0])
        assert code in (0, 600)
        return code


class TestSimulator(CudaRules):
    @pytest.fixture
    def lab(self) -> Iterator[SimulatedLab]:
        with sim.simulate(devices=2, on_race="record") as gpu:  # the controls race
            lab = SimulatedLab(gpu)
            gpu.runtime.cudaSetDevice(0)
            yield lab
            for gate in lab.gates:
                gate.open()


def test_the_simulator_refuses_a_destroyed_handle_where_cuda_crashes() -> None:
    with sim.simulate() as gpu:
        runtime = gpu.runtime
        stream = runtime.cudaStreamCreateWithFlags(1)[1]
        event = runtime.cudaEventCreateWithFlags(2)[1]
        assert runtime.cudaStreamDestroy(stream) == (0,)
        assert runtime.cudaEventDestroy(event) == (0,)
        mode = runtime.cudaStreamCaptureMode(RELAXED)
        codes = [
            runtime.cudaStreamDestroy(stream),
            runtime.cudaStreamQuery(stream),
            runtime.cudaStreamSynchronize(stream),
            runtime.cudaStreamGetId(stream),
            runtime.cudaStreamIsCapturing(stream),
            runtime.cudaStreamBeginCapture(stream, mode),
            runtime.cudaStreamEndCapture(stream),
            runtime.cudaStreamWaitEvent(stream, event, 0),
            runtime.cudaStreamWaitEvent(1, event, 0),
            runtime.cudaEventQuery(event),
            runtime.cudaEventRecord(event, 1),
            runtime.cudaEventDestroy(event),
            gpu.driver.cuStreamGetCtx(stream),
        ]
        assert {int(code[0]) for code in codes} == {400}
        assert runtime.cudaStreamGetId(stream) == (400, None)
        assert runtime.cudaStreamGetCaptureInfo(stream) == (400, None, None, None, None, None, None)
