"""Streams of a green context, which has some of the device's multiprocessors, work like all others."""

import threading

import pytest
from cuda.bindings import driver

import interop
from interop.errors import CaptureError, NotSupportedError
from interop.testing import assert_not_ordered, assert_ordered
from tests.gpu.lab import STALE, WRITTEN, call, native_stream, race, runtime

ONE = (0, 0)
NON_BLOCKING = 1
DEFAULT_STREAM = 1  # CU_GREEN_CTX_DEFAULT_STREAM, which must be given
SM = driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM


@pytest.fixture(scope="module")
def green():
    """A green context with eight multiprocessors of device 0, for the rest of the process."""
    call(runtime.cudaSetDevice(0))
    call(runtime.cudaFree(0))  # creates the primary context
    device = call(driver.cuDeviceGet(0))
    resource = call(driver.cuDeviceGetDevResource(device, SM))
    code, groups, *_ = driver.cuDevSmResourceSplitByCount(1, resource, 0, 8)
    assert not code, code
    description = call(driver.cuDevResourceGenerateDesc(groups[:1], 1))
    code, green = driver.cuGreenCtxCreate(description, device, DEFAULT_STREAM)
    if int(code) == 801:  # CUDA_ERROR_NOT_SUPPORTED
        pytest.skip("this device has no green contexts")
    assert not code, code
    return green


@pytest.fixture
def stream(green):
    handle = int(call(driver.cuGreenCtxStreamCreate(green, NON_BLOCKING, 0)))
    yield handle
    call(driver.cuStreamSynchronize(handle))
    call(driver.cuStreamDestroy(handle))


@pytest.fixture
def current(green):
    """Makes the green context current during the test."""
    call(driver.cuCtxPushCurrent(call(driver.cuCtxFromGreenCtx(green))))
    yield
    call(driver.cuCtxPopCurrent())


def test_a_green_stream_is_borrowed_with_its_device(stream):
    borrowed = interop.as_stream(stream)
    assert borrowed.device == 0
    assert borrowed.query()
    borrowed.synchronize()
    assert interop.as_stream(stream, 0) == borrowed
    assert borrowed.stream_id != interop.new_stream().stream_id
    assert not borrowed.is_capturing()


@pytest.mark.parametrize("is_producer", [True, False])
@pytest.mark.parametrize("library", ["int", "torch", "cupy", "cuda.core"])
def test_a_green_stream_waits_and_is_waited_for(stream, library, is_producer, interop_need):
    if library != "int":
        interop_need(library)
    other = native_stream(library, 0, 0)
    p, c = (stream, other) if is_producer else (other, stream)
    for _ in range(3):  # later waits take the fast path
        assert race(p, c, ONE, lambda: interop.as_stream(c).wait_stream(p)) == WRITTEN
    assert race(p, c, ONE, None) == STALE
    with assert_ordered(p, c):
        interop.as_stream(c).wait_stream(p)
    with assert_not_ordered(p, c):
        pass


@pytest.mark.parametrize("timing", [False, True])
def test_events_are_recorded_on_a_green_stream(stream, timing):
    other = interop.new_stream()
    event = interop.Event(enable_timing=timing)

    def order():
        interop.as_stream(stream).record_event(event)
        other.wait_event(event)

    for _ in range(2):
        assert race(stream, other.cuda_stream, ONE, order) == WRITTEN
    event.synchronize()
    assert event.query()
    assert event.device == 0
    if timing:
        later = interop.as_stream(stream).record_event(interop.Event(enable_timing=True))
        later.synchronize()
        assert event.elapsed_time(later) >= 0


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_libraries_can_use_a_green_stream(stream, green, library, interop_need):
    interop_need(library)
    before = interop.current_stream(library)
    context = int(call(driver.cuCtxGetCurrent()))
    with interop.use(stream, library):
        assert interop.current_stream(library).cuda_stream == stream
        assert int(call(driver.cuCtxGetCurrent())) == int(call(driver.cuCtxFromGreenCtx(green)))
    assert interop.current_stream(library) == before
    assert int(call(driver.cuCtxGetCurrent())) == context


@pytest.mark.parametrize("is_producer", [True, False])
def test_arrays_are_handed_to_and_from_a_green_stream(stream, is_producer, interop_need):
    interop_need("cupy", "torch")
    import cupy
    import torch

    other = interop.new_stream()
    p, c = map(interop.as_stream, (stream, other) if is_producer else (other, stream))
    with interop.use(other, "cupy"):
        source = cupy.zeros(1 << 20, dtype="float32")
    other.synchronize()
    with interop.use(p, "cupy"):
        source += 1
    view = interop.handoff(source, c, producer=p, into="torch")
    with interop.use(c, "torch"):
        total = view.sum()
    c.synchronize()
    assert float(total) == 1 << 20
    del view
    assert isinstance(total, torch.Tensor)
    p.synchronize()


def test_numba_refuses_a_green_stream(stream, interop_need):
    interop_need("numba")
    raised = []

    def in_a_thread_that_has_not_used_numba():
        try:
            interop.as_stream(stream).to("numba")
        except NotSupportedError as error:
            raised.append(str(error))

    thread = threading.Thread(target=in_a_thread_that_has_not_used_numba)
    thread.start()
    thread.join(timeout=60)
    assert "only in the primary context of a device" in raised[0]


@pytest.mark.usefixtures("current")
def test_the_legacy_stream_of_a_green_context_can_capture():
    legacy = interop.ExternalStream(1)
    assert not legacy.is_capturing()
    relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    call(driver.cuStreamBeginCapture(1, relaxed))
    try:
        assert legacy.is_capturing()
        assert legacy.capture_id()
        with pytest.raises(CaptureError, match="cannot query"):
            legacy.query()
        other = interop.new_stream()
        other.wait_stream(legacy)
        assert other.capture_id() == legacy.capture_id()
        legacy.wait_stream(other)
    finally:
        code, graph = driver.cuStreamEndCapture(1)
    assert not code, code
    call(driver.cuGraphDestroy(graph))
    assert not legacy.is_capturing()
