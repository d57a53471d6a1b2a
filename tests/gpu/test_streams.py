"""Streams on a GPU: all methods, whichever device is current, and from any thread."""

import gc
import importlib
import os
import subprocess
import sys
import threading

import pytest

import interop
from interop import _cuda
from interop._core import borrowing
from interop.errors import DeviceMismatchError, InvalidDeviceError, InvalidStreamError
from interop.testing import assert_not_ordered, assert_ordered, gate
from tests.gpu.lab import STALE, STREAMS, WRITTEN, call, device_count, native_stream, on_device, race, runtime
from tests.threads import in_thread, in_threads

ONE = (0, 0)


def run(code, **environment):
    """Run *code* in a process of its own, because it may crash."""
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, env=environment)


def test_query_is_false_while_work_is_pending():
    stream = interop.new_stream()
    assert stream.query() is True
    with gate(stream) as shut:
        assert stream.query() is False
        shut.open()
        stream.synchronize()
        assert stream.query() is True


def test_synchronize_raises_after_its_timeout():
    stream = interop.new_stream()
    with gate(stream) as shut:
        with pytest.raises(TimeoutError, match=r"0\.02 s"):
            stream.synchronize(timeout=0.02)
        with pytest.raises(TimeoutError):
            stream.synchronize(timeout=0)
        shut.open()
        stream.synchronize(timeout=10)
    stream.synchronize()
    stream.synchronize(timeout=0)


def test_synchronize_releases_the_gil():
    stream = interop.new_stream()
    with gate(stream) as shut:
        opener = threading.Timer(0.1, shut.open)
        opener.start()
        stream.synchronize()  # would never return if the opener could not run
        opener.join()


@pytest.mark.parametrize("library", STREAMS)
@pytest.mark.parametrize("device", [0, 1])
def test_the_device_of_a_stream_is_found(library, device, interop_need):
    if device:
        interop_need("gpu2")
    if library != "int":
        interop_need(library)
    native = native_stream(library, device, 0)
    for current in range(device_count()):
        with on_device(current):
            assert interop.as_stream(native).device == device
            assert interop.as_stream(native, device).device == device
            for wrong in {0, 1, 7} - {device}:
                with pytest.raises(DeviceMismatchError, match=f"on device {device}"):
                    interop.as_stream(native, wrong)


def test_a_device_that_does_not_exist_is_refused():
    for make in (interop.new_stream, lambda device: interop.ExternalStream(1, device)):
        with pytest.raises(InvalidDeviceError, match="there is no device 99: this process sees"):
            make(99)
    with pytest.raises(InvalidDeviceError):
        interop.new_stream().record_event(interop.Event(device=99))


@pytest.mark.parametrize("device", [0, 1])
def test_everything_works_whichever_device_is_current(device, interop_need):
    interop_need("gpu2")
    stream, other = interop.new_stream(device), interop.new_stream(1 - device)
    for current in (0, 1):
        with on_device(current):
            assert stream.query()
            stream.synchronize()
            event = stream.record_event()
            other.wait_event(event)
            other.wait_stream(stream)
            assert event.query() in (True, False)
            assert not stream.is_capturing()
            assert stream.priority == 0
            assert stream.stream_id > 0
            assert interop.new_stream(device).device == device
            assert interop.ExternalStream(1, device).device == device
            interop.ExternalStream(1, device).synchronize()
            interop.ExternalStream(2, device).wait_stream(other)
            assert call(runtime.cudaGetDevice()) == current


@pytest.mark.parametrize("special", [1, 2])
def test_default_streams_of_two_devices_are_two(special, interop_need):
    interop_need("gpu2")
    streams = [interop.ExternalStream(special, device) for device in (0, 1)]
    assert streams[0] != streams[1]
    assert streams[0].stream_id != streams[1].stream_id
    for current in (0, 1):
        with on_device(current):
            assert interop.ExternalStream(special) == streams[current]
            with gate(streams[1]) as shut:
                assert streams[0].query() is True
                assert streams[1].query() is False
                shut.open()
                streams[1].synchronize()


def test_a_stream_works_from_any_thread():
    stream, other = interop.new_stream(), interop.new_stream()

    def work():
        with assert_ordered(stream, other):
            other.wait_stream(stream)
        stream.synchronize()

    for _ in range(3):
        in_thread(work)


def test_many_threads_may_order_streams_at_once():
    # Each thread orders its own two streams again and again. If threads shared an event, these would be mixed up.
    start = threading.Barrier(8)

    def work():
        p, c = (interop.new_stream() for _ in range(2))
        start.wait()
        for _ in range(20):
            with assert_ordered(p, c):
                c.wait_stream(p)

    in_threads(*[work] * 8)


def test_repeated_waits_create_no_event(monkeypatch):
    streams = [interop.new_stream() for _ in range(3)]
    streams[0].wait_stream(*streams[1:])
    created = []
    real = _cuda.Cuda.event_create
    monkeypatch.setattr(_cuda.Cuda, "event_create", lambda *a: created.append(a) or real(*a))
    for _ in range(100):
        streams[0].wait_stream(*streams[1:])
        streams[1].wait_stream(streams[2])
    assert created == []


def test_a_stream_waits_for_all_streams_of_the_device():
    producer, consumer = native_stream("int", 0, 0), interop.new_stream()
    interop.wait_device(consumer)  # what is made at the first use is made before the gate
    assert race(producer, consumer, (0, 0), None) == STALE
    assert race(producer, consumer, (0, 0), lambda: interop.wait_device(consumer)) == WRITTEN


def test_a_stream_need_not_wait_for_itself(monkeypatch):
    native = native_stream("int", 0, 0)
    calls = []
    for name in ("event_record", "stream_wait_event", "event_create"):
        monkeypatch.setattr(_cuda.Cuda, name, lambda *a: calls.append(a))
    interop.as_stream(native).wait_stream(native, interop.as_stream(native))
    interop.ExternalStream(0).wait_stream(1)
    assert calls == []


def test_each_stream_has_its_own_id():
    ids = set()
    for _ in range(20):
        stream = interop.new_stream()
        ids.add(stream.stream_id)
        del stream
        gc.collect()
    assert len(ids) == 20


def test_a_new_stream_lives_as_long_as_its_native_objects(monkeypatch, interop_need):
    interop_need("torch")
    destroyed = []
    real = _cuda.Cuda.stream_destroy

    def spy(self, handle):
        destroyed.append(handle)
        real(self, handle)

    monkeypatch.setattr(_cuda.Cuda, "stream_destroy", spy)
    stream = interop.new_stream()
    destroyed.clear()  # an earlier stream may have had the same address
    handle, native = stream.cuda_stream, stream.to("torch")
    del stream
    gc.collect()
    interop.new_stream()
    assert handle not in destroyed
    native.synchronize()
    del native
    gc.collect()
    interop.new_stream()
    assert handle in destroyed


def test_a_finaliser_may_use_a_stream_of_the_same_cycle():
    class Worker:
        def __init__(self):
            self.stream, self.me = interop.new_stream(), self

        def __del__(self):
            self.stream.synchronize()
            done.append(self.stream.query())

    done = []
    for _ in range(20):
        worker = Worker()
        worker.stream.record_event()
        del worker
    gc.collect()
    assert done == [True] * 20


def test_a_borrowed_stream_is_not_destroyed(monkeypatch):
    destroyed = []
    monkeypatch.setattr(_cuda.Cuda, "stream_destroy", lambda _, handle: destroyed.append(handle))
    handle = STREAMS["int"]()
    stream = interop.as_stream(handle)
    stream.synchronize()
    del stream
    gc.collect()
    assert destroyed == []
    assert not runtime.cudaStreamQuery(handle)[0]


def test_priorities_are_clamped():
    low, high = (interop.new_stream(priority=p) for p in (0, -100))
    assert low.priority == 0
    assert high.priority < low.priority


def test_only_a_blocking_stream_waits_for_the_legacy_stream():
    for non_blocking in (True, False):
        stream = interop.new_stream(non_blocking=non_blocking)
        with gate(1):
            event = stream.record_event()
            assert event.query() is non_blocking


@pytest.mark.parametrize("consumer", [1, 2])
def test_default_streams_wait_too(consumer):
    p = STREAMS["int"]()
    assert race(p, consumer, ONE, lambda: interop.as_stream(consumer).wait_stream(p)) == WRITTEN
    assert race(p, consumer, ONE, None) == STALE


@pytest.mark.parametrize("producer", [1, 2])
def test_default_streams_are_waited_for(producer):
    c = STREAMS["int"]()
    assert race(producer, c, ONE, lambda: interop.as_stream(c).wait_stream(producer)) == WRITTEN
    assert race(producer, c, ONE, None) == STALE


def test_a_per_thread_stream_stays_in_its_thread():
    borrowed = interop.ExternalStream(2)
    mine = borrowed.stream_id

    def work():
        for use in (borrowed.query, borrowed.record_event, lambda: interop.new_stream().wait_stream(borrowed)):
            with pytest.raises(InvalidStreamError, match="another thread"):
                use()
        return interop.ExternalStream(2).stream_id

    assert in_thread(work) != mine


# -- in a process of its own ---------------------------------------------------------------------------------------

OWN_CONTEXT = """
from cuda.bindings import driver, runtime
import interop
from interop.testing import assert_ordered, assert_not_ordered
runtime.cudaFree(0)
code, context = driver.cuCtxCreate(None, 0, 0)
assert not code, code
code, handle = driver.cuStreamCreate(1)
assert not code, code
assert not driver.cuCtxPopCurrent()[0]
foreign, ours = interop.as_stream(handle), interop.new_stream()
assert foreign.device == 0
for p, c in ((foreign, ours), (ours, foreign)):
    with assert_ordered(p, c):
        c.wait_stream(p)
    with assert_not_ordered(p, c):
        pass
    c.wait_event(p.record_event())
    c.synchronize()
driver.cuCtxPushCurrent(context)
mine = interop.ExternalStream(1)
driver.cuCtxPopCurrent()
assert mine != interop.ExternalStream(1)
mine.wait_stream(ours)
mine.synchronize()
print("fine")
"""


def test_streams_of_a_context_of_its_own_are_supported():
    result = run(OWN_CONTEXT)
    assert result.stdout == "fine\n", result.stderr


REUSED = """
import ctypes
from cuda.bindings import runtime
import interop
from interop.errors import StaleStreamError
alive = []
handle = int(runtime.cudaStreamCreateWithFlags(1)[1])
stream = interop.as_stream(handle)
other = interop.new_stream()
other.wait_stream(stream)
runtime.cudaStreamDestroy(handle)
for _ in range(50):
    alive.append(int(runtime.cudaStreamCreateWithFlags(1)[1]))
    if alive[-1] == handle:
        break
else:
    raise SystemExit("the address was not reused")
for use in (stream.query, stream.synchronize, stream.record_event, lambda: other.wait_stream(stream)):
    try:
        use()
    except StaleStreamError as error:
        print(type(error).__name__, "belongs to number" in str(error))
"""


def test_a_reused_address_is_noticed_when_checking():
    result = run(REUSED, INTEROP_CHECK="1")
    assert result.stdout == 4 * "StaleStreamError True\n", result.stderr


UNMAPPED = """
import mmap, ctypes
from cuda.bindings import runtime
import interop
device_memory = int(runtime.cudaMalloc(1 << 20)[1])
for wild in (device_memory, 0xDEAD0000, 2**64 - 4096):
    try:
        interop.as_stream(wild).query()
    except interop.errors.InvalidStreamError as error:
        print("refused")
"""


def test_an_address_without_memory_is_refused():
    result = run(UNMAPPED)
    assert result.stdout == 3 * "refused\n", (result.returncode, result.stderr)


HIDDEN = """
import interop
try:
    interop.new_stream()
except interop.errors.NoDeviceError as error:
    print(error)
"""


def test_without_a_visible_device_the_error_says_why():
    result = run(HIDDEN, CUDA_VISIBLE_DEVICES="")
    assert "cudaErrorNoDevice" in result.stdout, result.stderr
    assert "CUDA_VISIBLE_DEVICES is set to ''" in result.stdout
    assert "interop.sim" in result.stdout


def test_importing_and_borrowing_create_no_context():
    code = (
        "from cuda.bindings import driver\nimport interop\nimport ctypes\n"
        "b = ctypes.create_string_buffer(64)\ninterop.as_stream(ctypes.addressof(b))\n"
        "driver.cuInit(0)\nprint(driver.cuDevicePrimaryCtxGetState(0)[2])"
    )
    assert run(code).stdout == "0\n"


class Speaks:
    """Has ``__cuda_stream__``, and no adapter."""

    def __init__(self, stream):
        self.stream = stream

    def __cuda_stream__(self):
        return (0, self.stream.cuda_stream)


@pytest.mark.parametrize("kind", ["torch", "cupy", "protocol"])
def test_stream_objects_made_for_one_call_are_waited_for_and_forgotten(kind, interop_need):
    p, c = interop.new_stream(), interop.new_stream()
    if kind == "protocol":
        current = lambda: Speaks(p)  # noqa: E731
    else:
        interop_need(kind)
        cuda = importlib.import_module(kind).cuda
        current = cuda.current_stream if kind == "torch" else lambda: cuda.Stream.from_external(Speaks(p))
    with interop.use(p):
        for _ in range(3):
            with assert_ordered(p, c):
                c.wait_stream(current())
            with assert_ordered(c, p):
                interop.as_stream(current()).wait_stream(c)
            with assert_not_ordered(p, c):
                current()
        gc.collect()
        before = len(borrowing.borrowed_by_id), len(borrowing.lifetimes)
        for _ in range(100):
            c.wait_stream(current(), current())
            interop.as_stream(current()).record_event().wait(c)
        gc.collect()
        assert (len(borrowing.borrowed_by_id), len(borrowing.lifetimes)) == before
    with gate(p), interop.use(p):
        event = interop.as_stream(current()).record_event()
        c.wait_event(event)
        assert not interop.as_stream(current()).query()
        assert not c.query()
    c.synchronize()


def test_a_wait_for_another_librarys_event_does_not_block_the_host(interop_need):
    interop_need("torch", "cupy")
    import cupy
    import torch

    p, c = interop.new_stream(), interop.new_stream()
    for library, event in (("torch", torch.cuda.Event()), ("cupy", cupy.cuda.Event(disable_timing=True))):
        with gate(p):
            event.record(p.to(library))
            c.wait_event(event)
            assert not c.query()
            other = interop.new_stream()
            assert other.query(), "the control: a stream without the wait is done"
        c.synchronize()


@pytest.mark.needs("cuda.core")
def test_a_stream_of_cuda_core_is_known_until_it_is_closed():
    theirs, stream = STREAMS["cuda.core"](), interop.new_stream()
    first = interop.as_stream(theirs)
    for _ in range(3):
        stream.wait_stream(theirs)
        assert interop.as_stream(theirs) == first
        assert interop.as_stream(theirs).owner is theirs
    stream.synchronize()
    theirs.close()
    with pytest.raises(InvalidStreamError, match="closed"):
        interop.as_stream(theirs)
    with pytest.raises(InvalidStreamError, match="closed"):
        stream.wait_stream(theirs)
