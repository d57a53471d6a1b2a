"""A GPU follows the rules of CUDA in :mod:`tests.rules`, which the simulator follows too.

Calls that may wait for the device come before the first gate is closed: memory is allocated once, and every kind of
operation has run once on every kind of stream.
"""

import ctypes
import faulthandler
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cuda.bindings import driver, runtime

from interop.testing import Gate, gate

pytest.register_assert_rewrite("tests.rules")

from tests.rules import LEGACY, PER_THREAD, STALE, CudaRules, value  # noqa: E402

pytestmark = pytest.mark.needs("gpu")

SIZE = 4096
SPACING = 64
DISABLE_TIMING = 2

HANGS_AFTER = 60.0
SHUT_FOR = 30.0
DONE_WITHIN = 5.0
PENDING_FOR = 0.03


class Memory:
    """The memory of the cells, on device 0, which is allocated once."""

    def __init__(self) -> None:
        self.devices = int(value(runtime.cudaGetDeviceCount()))
        # All contexts are made here: that may wait for the device.
        self.contexts = [value(driver.cuDevicePrimaryCtxRetain(device)) for device in range(self.devices)]
        value(runtime.cudaSetDevice(0))
        self.cells = int(value(runtime.cudaMalloc(SIZE)))

    def reset(self) -> None:
        """Make all cells stale. Nothing may be running."""
        value(runtime.cudaMemset(self.cells, STALE, SIZE))
        value(runtime.cudaDeviceSynchronize())


class GpuLab:
    """A :class:`tests.rules.Lab` on a GPU."""

    def __init__(self, memory: Memory, need: Callable[[str], None]) -> None:
        self.runtime: Any = runtime
        self.driver: Any = driver
        self.devices = memory.devices
        self._contexts = memory.contexts
        self._need = need
        self._streams: list[Any] = []
        self._events: list[Any] = []
        self._gates: list[Gate] = []
        self._next_cell = itertools.count(memory.cells, SPACING)

    def need_two_devices(self) -> None:
        self._need("gpu2")

    def stream(self, *, non_blocking: bool = True, device: int = 0) -> int:
        made = self._on(device, lambda: runtime.cudaStreamCreateWithFlags(1 if non_blocking else 0))
        self._streams.append(made)
        return int(made)

    def event(self, *, device: int = 0) -> int:
        made = self._on(device, lambda: runtime.cudaEventCreateWithFlags(DISABLE_TIMING))
        self._events.append(made)
        return int(made)

    def cell(self) -> int:
        return next(self._next_cell)

    def gate(self, stream: int) -> Gate:
        shut = gate(stream, timeout=SHUT_FOR)
        self._gates.append(shut)
        return shut

    def put(self, stream: int, cell: int, value_: int) -> None:
        value(runtime.cudaMemsetAsync(cell, value_, 1, stream))

    def copy(self, stream: int, source: int, target: int) -> None:
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        value(runtime.cudaMemcpyAsync(target, source, 1, kind, stream))

    def read(self, cell: int) -> int:
        self.synchronize()
        byte = ctypes.c_uint8()
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        value(runtime.cudaMemcpy(ctypes.addressof(byte), cell, 1, kind))
        return byte.value

    def becomes_done(self, query: Callable[[], tuple[Any, ...]]) -> bool:
        return self._poll(query, DONE_WITHIN)

    def stays_pending(self, query: Callable[[], tuple[Any, ...]]) -> bool:
        return not self._poll(query, PENDING_FOR)

    def synchronize(self) -> None:
        """Wait for all devices."""
        for device in range(self.devices):
            self._on(device, runtime.cudaDeviceSynchronize)

    def close(self) -> None:
        """Open the gates, wait for all work, and destroy the streams and events."""
        for shut in self._gates:
            shut.let_pass()
        self.synchronize()
        for stream in self._streams:
            value(runtime.cudaStreamDestroy(stream))
        for event in self._events:
            value(runtime.cudaEventDestroy(event))
        for shut in self._gates:
            shut.open()  # raises if the gate had to open itself

    def _poll(self, query: Callable[[], tuple[Any, ...]], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            late = time.monotonic() > deadline
            code = int(query()[0])
            assert code in (0, 600)
            if code == 0 or late:
                return code == 0

    def _on(self, device: int, call: Callable[[], tuple[Any, ...]]) -> Any:
        value(driver.cuCtxPushCurrent(self._contexts[device]))
        try:
            return value(call())
        finally:
            value(driver.cuCtxPopCurrent())


@pytest.fixture(scope="module")
def real_stderr(pytestconfig: pytest.Config) -> Iterator[int]:
    """The standard error that pytest was started with. pytest's capture would swallow what the watchdog prints."""
    capture: Any = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        number = os.dup(2)
    yield number
    os.close(number)


@pytest.fixture(scope="module")
def memory() -> Memory:
    """The memory, after each operation that tests do behind closed gates was done once."""
    memory = Memory()
    memory.reset()
    lab = GpuLab(memory, lambda _: None)
    source, target = lab.cell(), lab.cell()
    for stream in (lab.stream(), lab.stream(non_blocking=False), LEGACY, PER_THREAD):
        shut, event = lab.gate(stream), lab.event()
        shut.open()
        lab.put(stream, source, 1)
        lab.copy(stream, source, target)
        value(runtime.cudaEventRecord(event, stream))
        value(runtime.cudaStreamWaitEvent(stream, event, 0))
        value(runtime.cudaStreamSynchronize(stream))
        assert lab.read(target) == 1
    for device in range(lab.devices):
        lab.stream(device=device)
        value(driver.cuCtxRecordEvent(memory.contexts[device], lab.event(device=device)))
    lab.close()
    return memory


class TestGpu(CudaRules):
    @pytest.fixture
    def lab(self, interop_need: Callable[[str], None], memory: Memory, real_stderr: int) -> Iterator[GpuLab]:
        # Behind a gate that nobody opens, Python hangs in C, where no other time limit reaches it.
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True, file=real_stderr)
        value(runtime.cudaSetDevice(0))
        memory.reset()
        lab = GpuLab(memory, interop_need)
        try:
            yield lab
        finally:
            lab.close()
            faulthandler.cancel_dump_traceback_later()
