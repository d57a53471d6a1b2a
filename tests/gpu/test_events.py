"""Events of every library, recorded and waited for on streams of every library."""

import itertools
import subprocess
import sys

import pytest

import interop
from interop import _cuda
from interop.errors import DeviceMismatchError, NotSupportedError, UnrecordedEventError
from interop.testing import assert_not_ordered, assert_ordered, gate
from tests.gpu.lab import STALE, STREAMS, WRITTEN, Cell, call, on_device, pair, race, runtime

ONE = (0, 0)


def ours():
    return interop.Event()


def torch_event():
    import torch

    return torch.cuda.Event()


def cupy_event():
    import cupy

    return cupy.cuda.Event(disable_timing=True)


def numba_event():
    from numba import cuda

    return cuda.event(timing=False)


def numba_cuda_mlir_event():
    from numba_cuda_mlir import cuda

    return cuda.event(timing=False)


def core_event():
    from cuda.core import Device

    device = Device(call(runtime.cudaGetDevice()))
    device.set_current()
    return device.create_event()


def warp_event():
    import warp

    warp.config.quiet = True
    return warp.Event(f"cuda:{call(runtime.cudaGetDevice())}")


def binding_event():
    return call(runtime.cudaEventCreateWithFlags(2))


def int_event():
    return int(binding_event())


EVENTS = {
    "interop": ours,
    "torch": torch_event,
    "cupy": cupy_event,
    "numba": numba_event,
    "numba_cuda_mlir": numba_cuda_mlir_event,
    "cuda.core": core_event,
    "warp": warp_event,
    "cuda.bindings": binding_event,
    "int": int_event,
}
LIBRARIES = {*EVENTS, *STREAMS} - {"interop", "int"}

kinds = pytest.mark.parametrize("kind", EVENTS)


@pytest.fixture(autouse=True)
def _needs(request):
    for library in getattr(getattr(request.node, "callspec", None), "params", {}).values():
        if library in LIBRARIES:
            request.getfixturevalue("interop_need")(library)


@kinds
@pytest.mark.parametrize(("producer", "consumer"), list(itertools.product(STREAMS, repeat=2)))
def test_record_and_wait_order_two_streams(kind, producer, consumer):
    p, c = pair(producer, consumer)
    event = EVENTS[kind]()

    def order():
        recorded = interop.as_stream(p).record_event(event)
        assert recorded is event or recorded.owner is event or recorded.cuda_event == event
        interop.as_stream(c).wait_event(event)

    assert race(p, c, ONE, order) == WRITTEN
    with assert_ordered(p, c):
        order()


@kinds
@pytest.mark.parametrize("devices", [(0, 1), (1, 0)])
@pytest.mark.parametrize("current", [0, 1])
def test_record_and_wait_order_streams_of_two_devices(kind, devices, current, interop_need):
    interop_need("gpu2")
    for library in ("int", *LIBRARIES & {kind}):
        p, c = pair(library, library, devices)
        with on_device(devices[0]):
            event = EVENTS[kind]()

        def order(event=event, p=p, c=c):
            interop.as_stream(p).record_event(event)
            interop.as_stream(c).wait_event(event)

        with on_device(current):
            assert race(p, c, devices, order) == WRITTEN
            assert race(p, c, devices, None) == STALE


@kinds
def test_control_a_record_alone_orders_nothing(kind):
    p, c = pair("int", "int")
    event = EVENTS[kind]()
    with assert_not_ordered(p, c):
        interop.as_stream(p).record_event(event)
    interop.as_stream(p).record_event(event)
    assert race(p, c, ONE, None) == STALE


def test_record_event_makes_a_new_event():
    p, c = pair("int", "int")
    with assert_ordered(p, c):
        interop.as_stream(c).wait_event(interop.as_stream(p).record_event())


def test_a_later_record_does_not_change_a_wait():
    p, c = pair("int", "int")
    event = interop.Event()
    other = interop.new_stream()

    def order():
        event.record(p)
        event.wait(c)
        event.record(other)

    assert race(p, c, ONE, order) == WRITTEN


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_other_libraries_wait_for_an_interop_event(library, interop_need):
    interop_need(library)
    p, c = pair("int", library)
    event = interop.Event()

    def order():
        event.record(p)
        c.wait_event(event)

    assert race(p, c, ONE, order) == WRITTEN
    with assert_ordered(p, c):
        order()


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_other_libraries_record_an_interop_event(library, interop_need):
    interop_need(library)
    p, c = pair(library, "int")
    event = interop.Event()

    def order():
        p.record_event(event) if library == "torch" else p.record(event)
        interop.as_stream(c).wait_event(event)

    assert race(p, c, ONE, order) == WRITTEN


@pytest.mark.parametrize("library", ["int", "torch", "cupy"])
def test_the_generic_event_of_torch_is_supported(library, interop_need):
    interop_need("torch")
    import torch

    p, c = pair(library, library)
    event = torch.Event(device="cuda")
    with pytest.raises(UnrecordedEventError):
        interop.as_stream(c).wait_event(event)
    for _ in range(2):  # the first record creates the CUDA event

        def order():
            interop.as_stream(p).record_event(event)
            interop.as_stream(c).wait_event(event)

        assert race(p, c, ONE, order) == WRITTEN
    event.synchronize()
    assert event.query()
    assert interop.as_event(event).query()


@pytest.mark.parametrize("device", [0, 1])
def test_an_event_knows_its_device(device, interop_need):
    if device:
        interop_need("gpu2")
    stream = interop.new_stream(device)
    assert interop.Event().device is None
    assert interop.Event(device=device).device == device
    for timing in (False, True):
        event = interop.Event(enable_timing=timing)
        stream.record_event(event)
        assert event.device == device
    assert [stream.record_event().device for _ in range(3)] == [device] * 3  # later ones take the fast path


def test_an_unrecorded_torch_event_is_an_error(interop_need):
    interop_need("torch")
    stream = interop.new_stream()
    with pytest.raises(UnrecordedEventError):
        stream.wait_event(torch_event())
    with pytest.raises(UnrecordedEventError):
        interop.as_event(torch_event()).query()
    event = torch_event()
    borrowed = interop.as_event(event)
    event.record()
    stream.wait_event(borrowed)


def test_query_and_synchronize_follow_the_work():
    stream = interop.new_stream()
    event = interop.Event()
    with gate(stream) as shut:
        event.record(stream)
        assert event.query() is False
        with pytest.raises(TimeoutError, match=r"0\.01 s"):
            event.synchronize(timeout=0.01)
        shut.open()
        event.synchronize(timeout=5)
    assert event.query() is True
    event.synchronize()


def test_an_event_belongs_to_one_device(interop_need):
    interop_need("gpu2")
    streams = [interop.new_stream(device) for device in (0, 1)]
    event = streams[0].record_event()
    with pytest.raises(DeviceMismatchError, match="cannot be recorded"):
        streams[1].record_event(event)
    declared = interop.Event(device=1)
    with pytest.raises(DeviceMismatchError):
        streams[0].record_event(declared)
    streams[1].record_event(declared)
    with on_device(1):
        assert race(int(streams[0].cuda_stream), int(streams[1].cuda_stream), (0, 1), None) == STALE


@pytest.mark.parametrize("current", [0, 1])
def test_an_event_of_another_device_can_be_waited_for(current, interop_need):
    interop_need("gpu2")
    p, c = pair("int", "int", (0, 1))
    with on_device(current):
        for event in (interop.Event(), interop.Event(device=0)):

            def order(event=event):
                interop.as_stream(p).record_event(event)
                interop.as_stream(c).wait_event(event)

            assert race(p, c, (0, 1), order) == WRITTEN


def test_elapsed_time_is_in_milliseconds():
    stream = interop.new_stream()
    start, end = interop.Event(enable_timing=True), interop.Event(enable_timing=True)
    with gate(stream):
        start.record(stream)
        Cell(0, 0).write(stream.cuda_stream, 0)
        end.record(stream)
    end.synchronize()
    assert 0 <= start.elapsed_time(end) < 1000
    assert end.elapsed_time(start) <= 0


def test_elapsed_time_says_what_is_missing():
    stream = interop.new_stream()
    plain, timed = interop.Event(), interop.Event(enable_timing=True)
    for event in (plain, timed):
        event.record(stream)
    for a, b in ((plain, timed), (timed, plain)):
        with pytest.raises(NotSupportedError, match="enable_timing=True"):
            a.elapsed_time(b)
    with pytest.raises(UnrecordedEventError):
        timed.elapsed_time(interop.Event(enable_timing=True))
    with gate(stream):
        timed.record(stream)
        with pytest.raises(interop.errors.CudaError) as caught:
            timed.elapsed_time(timed)
    assert caught.value.name == "cudaErrorNotReady"


def test_a_blocking_event_can_be_synchronized():
    stream = interop.new_stream()
    event = interop.Event(blocking=True)
    event.record(stream)
    event.synchronize()


def test_events_are_created_with_the_right_flags():
    flags = []
    real = _cuda.GPU._runtime.cudaEventCreateWithFlags

    class Spy:
        def __getattr__(self, name):
            return getattr(real_runtime, name)

        def cudaEventCreateWithFlags(self, value):  # noqa: N802
            flags.append(value)
            return real(value)

    real_runtime = _cuda.GPU._runtime
    _cuda.GPU._runtime = Spy()
    try:
        stream = interop.new_stream()
        plain = []
        while not flags:  # a plain event is created only when the pool is empty
            assert len(plain) < 1000
            plain.append(interop.Event())
            plain[-1].record(stream)
        for kind in ("enable_timing", "blocking", "interprocess"):
            interop.Event(**{kind: True}).record(stream)
    finally:
        _cuda.GPU._runtime = real_runtime
    assert flags == [2, 0, 3, 6]


IPC = """
import sys
import interop
event = interop.Event.from_ipc_handle(0, bytes.fromhex(sys.argv[1]))
stream = interop.new_stream()
stream.wait_event(event)
print(stream.query(), flush=True)
sys.stdin.readline()
stream.synchronize()
print(stream.query(), flush=True)
"""


def test_another_process_can_wait_for_an_event():
    stream = interop.new_stream()
    event = interop.Event(interprocess=True)
    with gate(stream) as shut:
        event.record(stream)
        handle = event.ipc_handle()
        assert isinstance(handle, bytes)
        assert len(handle) == 64
        child = subprocess.Popen(
            [sys.executable, "-c", IPC, handle.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "False\n"
        shut.open()
        out, _ = child.communicate("\n", timeout=60)
    assert out == "True\n"
    assert child.returncode == 0


def test_only_an_interprocess_event_has_an_ipc_handle():
    with pytest.raises(NotSupportedError, match="interprocess=True"):
        interop.Event().ipc_handle()


def test_an_event_is_destroyed_once_and_its_waits_remain():
    destroyed = []
    real = _cuda.Cuda.event_destroy

    def spy(self, event):
        destroyed.append(event)
        real(self, event)

    p, c = pair("int", "int")
    _cuda.Cuda.event_destroy = spy
    try:

        def order():
            event = interop.as_stream(p).record_event()
            handle = event.cuda_event
            interop.as_stream(c).wait_event(event)
            destroyed.clear()
            del event
            assert destroyed == [handle]

        assert race(p, c, ONE, order) == WRITTEN
    finally:
        _cuda.Cuda.event_destroy = real
