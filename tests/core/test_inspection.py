"""The reprs of streams, events and handed-over memory, on the simulator."""

import contextlib

import pytest

import interop
from interop import _cuda
from interop._core.inspection import look_at
from interop.adapters.tensor import BFLOAT, BOOL, COMPLEX, FLOAT, UINT, DataType
from interop.errors import CudaError, InteropError


@pytest.fixture
def gpu():
    with interop.sim.simulate(devices=2) as gpu:
        yield gpu


@contextlib.contextmanager
def no_cuda(gpu):
    """Fail the test if a CUDA call is made in the block."""
    called = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (gpu.runtime, gpu.driver):
            for name in dir(type(module)):
                if name.startswith("cu"):
                    call = getattr(module, name)
                    patch.setattr(module, name, lambda *args, c=call, n=name: called.append(n) or c(*args))
        yield
    assert not called


class Capture:
    """A capture on a stream, which must be valid at the end."""

    def __init__(self, gpu, stream, mode=0):
        self.gpu, self.stream = gpu, stream.cuda_stream
        assert not gpu.runtime.cudaStreamBeginCapture(self.stream, mode)[0]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        assert int(self.gpu.runtime.cudaStreamEndCapture(self.stream)[0]) == 0, "the capture was broken"


# -- repr ----------------------------------------------------------------------------------------------------------


def test_repr_calls_no_cuda(gpu):
    stream = interop.new_stream(1, priority=-2)
    event = stream.record_event()
    things = [stream, event, interop.as_stream(gpu.stream()), interop.ExternalStream(1), interop.Event()]
    with no_cuda(gpu):
        for thing in things:
            assert "SIMULATED" in repr(thing)


def test_repr_shows_a_priority_that_is_known(gpu):
    assert repr(interop.new_stream(priority=-2)).endswith(", priority -2>")
    assert repr(interop.new_stream(priority=-99)).endswith(", priority -5>")  # CUDA has clamped it
    assert "priority" not in repr(interop.new_stream())
    ours = interop.new_stream(priority=-3)
    assert "priority" not in repr(interop.ExternalStream(ours.cuda_stream))


def test_repr_shows_a_priority_after_it_was_asked(gpu):
    ours = interop.new_stream(priority=-3)
    foreign = interop.ExternalStream(ours.cuda_stream, owner=ours)
    assert foreign.priority == -3
    assert repr(foreign).endswith(", priority -3>")


# -- html ----------------------------------------------------------------------------------------------------------


def test_a_stream_in_a_notebook(gpu):
    stream = interop.new_stream(1, priority=-2)
    shown = stream._repr_html_()
    for text in ("SIMULATED interop.ExternalStream", "interop", f"{stream.cuda_stream:#x}", "-2", "non-blocking", "no"):
        assert f">{text}<" in shown
    facts = look_at(stream)
    assert (facts.device, facts.priority, facts.blocking, facts.capturing) == (1, -2, False, False)
    assert facts.id == stream.stream_id
    assert facts.library == "interop"
    assert look_at(interop.as_stream(gpu.stream())).library is None
    assert look_at(interop.new_stream(non_blocking=False)).blocking is True


def test_inspection_leaves_the_current_context_and_pending_work_alone(gpu):
    stream = interop.new_stream(1)
    x = gpu.array([0])
    gpu.launch(stream, lambda x: x.fill(7), writes=[x])
    before = gpu.driver.cuCtxGetCurrent()
    stream._repr_html_()
    assert gpu.driver.cuCtxGetCurrent() == before
    assert not stream.query()


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_inspection_invalidates_no_capture(gpu, mode):
    stream = interop.new_stream(priority=-1)
    with Capture(gpu, stream, mode):
        facts = look_at(stream)
        assert (facts.capturing, facts.priority, facts.id, facts.blocking) == (True, -1, None, None)
        assert "capturing" in str(facts)
    assert look_at(stream).capturing is False


def test_inspection_of_the_legacy_stream_leaves_the_capture_of_a_blocking_stream_valid(gpu):
    legacy, blocking = interop.ExternalStream(1), interop.new_stream(non_blocking=False)
    with Capture(gpu, blocking):
        facts = look_at(legacy)
        assert "CaptureError" in facts.not_asked
        assert facts.id is None
    assert look_at(legacy).id == legacy.stream_id


def test_inspection_of_a_stream_whose_capture_is_invalidated(gpu):
    stream = interop.new_stream()
    assert not gpu.runtime.cudaStreamBeginCapture(stream.cuda_stream, 0)[0]
    gpu.runtime.cudaStreamQuery(stream.cuda_stream)
    assert look_at(stream).capturing is True
    gpu.runtime.cudaStreamEndCapture(stream.cuda_stream)


def test_cuda_is_not_asked_about_a_stream_that_nothing_keeps_alive(gpu):
    ours = interop.new_stream()
    foreign = interop.ExternalStream(ours.cuda_stream)
    with no_cuda(gpu):
        assert "nothing keeps it alive" in look_at(foreign).not_asked
        assert "nothing keeps it alive" in foreign._repr_html_()


def test_cuda_is_asked_nothing_in_a_forked_process(gpu, monkeypatch):
    stream = interop.new_stream()
    monkeypatch.setattr(gpu.cuda, "was_forked", True)
    with no_cuda(gpu):
        assert "forked" in look_at(stream).not_asked
    monkeypatch.undo()


def test_a_failure_of_cuda_is_shown_and_not_raised(gpu, monkeypatch):
    stream = interop.new_stream()

    def fail(*_args):
        raise CudaError(700, "cudaErrorIllegalAddress", "cudaStreamIsCapturing")

    monkeypatch.setattr(gpu.cuda, "stream_capture", fail)
    assert "cudaErrorIllegalAddress" in stream._repr_html_()


def test_after_the_end():
    with interop.sim.simulate():
        stream, default = interop.new_stream(), interop.ExternalStream(2)
    for thing in (stream, default):
        assert "this simulation has ended" in thing._repr_html_()
    with pytest.raises(InteropError):
        stream.query()


@pytest.mark.needs("no_gpu")
def test_without_a_driver(address):
    assert "there was no device" in interop.ExternalStream(1)._repr_html_()
    assert "NoDeviceError" in interop.ExternalStream(address, owner=object())._repr_html_()


def test_html_is_escaped(gpu):
    from interop._show.html import grid, table

    for shown in (table("<x>", {"<y>": "<z>"}), grid(["<x>", ""], [["<y>", "<z>"]])):
        assert not [letter for letter in "xyz" if f"<{letter}>" in shown]
        assert all(f"&lt;{letter}&gt;" in shown for letter in "xyz")


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (DataType(FLOAT, 32, 1), "float32"),
        (DataType(BFLOAT, 16, 1), "bfloat16"),
        (DataType(BOOL, 8, 1), "bool"),
        (DataType(UINT, 8, 4), "uint8x4"),
        (DataType(COMPLEX, 128, 1), "complex128"),
        (DataType(12, 8, 1), "float8_e5m2"),
    ],
)
def test_a_type_reads_as_in_numpy(dtype, name):
    assert f"{dtype}" == name


def test_memory_that_was_handed_over(gpu, monkeypatch):
    monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (2, 0))

    class Array:
        __cuda_array_interface__ = {  # noqa: RUF012
            "version": 3,
            "shape": (3, 4),
            "typestr": "<f4",
            "data": (0x10000, True),
            "strides": None,
        }

    producer, consumer = interop.new_stream(), interop.new_stream()
    holder = interop.handoff(Array(), consumer, producer=producer)
    assert "Handover of (3, 4) float32, <SIMULATED interop.ExternalStream" in repr(holder)
    shown = holder._repr_html_()
    for text in ("(3, 4)", "float32", "read-only", f"{producer.cuda_stream:#x}", f"{consumer.cuda_stream:#x}"):
        assert text in shown
