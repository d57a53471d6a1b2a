"""Calls while a CUDA graph is captured: legal ones work, and others raise without invalidating the capture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import interop
from interop.errors import CaptureError, UnrecordedEventError
from tests.gpu.lab import STALE, UNSEEN, WRITTEN, Cell, call, race, runtime

MODES = {
    "global": runtime.cudaStreamCaptureMode.cudaStreamCaptureModeGlobal,
    "thread local": runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
    "relaxed": runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed,
}


class Capture:
    """A new stream that captures. ``end()`` returns the graph, and fails if the capture was invalidated."""

    def __init__(self, mode, *, non_blocking=True):
        self.stream = interop.new_stream(non_blocking=non_blocking)
        call(runtime.cudaStreamBeginCapture(self.stream.cuda_stream, MODES[mode]))

    def end(self):
        return call(runtime.cudaStreamEndCapture(self.stream.cuda_stream))

    def abandon(self):
        graph = runtime.cudaStreamEndCapture(self.stream.cuda_stream)[1]
        if graph is not None and int(graph):
            runtime.cudaGraphDestroy(graph)


@pytest.fixture(params=MODES)
def capture(request):
    capture = Capture(request.param)
    yield capture
    capture.abandon()


def test_work_of_two_streams_is_captured_and_replayed(capture):
    p, c = capture.stream, interop.new_stream()
    source, target = Cell(0, 0), Cell(0, 64)
    capture.abandon()  # the cells cannot be set during a capture
    source.put(STALE)
    target.put(UNSEEN)
    call(runtime.cudaStreamBeginCapture(p.cuda_stream, MODES["relaxed"]))
    source.write(p.cuda_stream, WRITTEN)
    c.wait_stream(p)
    assert p.is_capturing()
    assert c.is_capturing()
    target.copy_from(source, c.cuda_stream)
    p.wait_stream(c)
    graph = capture.end()
    assert not p.is_capturing()
    assert target.value() == UNSEEN
    executable = call(runtime.cudaGraphInstantiate(graph, 0))
    for _ in range(3):
        source.put(STALE)
        target.put(UNSEEN)
        call(runtime.cudaGraphLaunch(executable, p.cuda_stream))
        assert target.value() == WRITTEN


def test_record_and_wait_are_captured(capture):
    p, c = capture.stream, interop.new_stream()
    event = p.record_event()
    c.wait_event(event)
    assert c.is_capturing()
    p.wait_event(c.record_event())
    capture.end()


def test_a_stream_borrowed_while_it_captures(capture):
    p = interop.ExternalStream(capture.stream.cuda_stream)
    assert p.device == 0
    assert p.priority == 0
    assert p.is_capturing()
    c = interop.new_stream()
    c.wait_stream(p)
    p.wait_stream(c)
    capture.end()


@pytest.mark.parametrize("verb", ["query", "synchronize", "stream_id"])
def test_queries_of_a_capturing_stream_are_refused(capture, verb):
    stream = interop.ExternalStream(capture.stream.cuda_stream)
    with pytest.raises(CaptureError, match="captures a graph"):
        stream.stream_id if verb == "stream_id" else getattr(stream, verb)()
    with pytest.raises(CaptureError):
        stream.synchronize(timeout=1)
    capture.end()


def test_queries_of_another_stream_work_during_a_capture(capture):
    other = interop.new_stream()
    event = other.record_event()
    assert other.query() in (True, False)
    other.synchronize()
    other.synchronize(timeout=5)
    event.synchronize()
    assert event.query() is True
    assert other.stream_id
    interop.ExternalStream(1).synchronize()
    capture.end()


def test_a_capturing_stream_cannot_wait_for_one_outside(capture):
    outside = interop.new_stream()
    with pytest.raises(CaptureError) as caught:
        capture.stream.wait_stream(outside)
    for stream in (capture.stream, outside):
        assert f"{stream.cuda_stream:#x}" in str(caught.value)
    capture.end()


def test_a_refused_producer_leaves_all_producers_unwaited(capture):
    inside, outside = interop.new_stream(), interop.new_stream()
    inside.wait_stream(capture.stream)
    with pytest.raises(CaptureError):
        capture.stream.wait_stream(inside, outside)
    capture.stream.wait_stream(inside)
    capture.end()


def test_two_captures_cannot_wait_for_each_other(capture):
    other = Capture("relaxed")
    with pytest.raises(CaptureError, match="another capture"):
        capture.stream.wait_stream(other.stream)
    with pytest.raises(CaptureError):
        capture.stream.wait_event(other.stream.record_event())
    other.end()
    capture.end()


def test_a_capturing_stream_cannot_wait_for_an_event_from_outside(capture):
    event = interop.new_stream().record_event()
    with pytest.raises(CaptureError, match="outside the graph capture"):
        capture.stream.wait_event(event)
    with pytest.raises(UnrecordedEventError):
        capture.stream.wait_event(interop.Event())
    capture.end()


def test_a_foreign_event_from_outside_invalidates_the_capture(capture):
    foreign = call(runtime.cudaEventCreateWithFlags(2))
    interop.new_stream().record_event(foreign)
    with pytest.raises(CaptureError, match="CUDA has invalidated the capture"):
        capture.stream.wait_event(foreign)


def test_queries_of_a_captured_event_are_refused(capture):
    event = capture.stream.record_event()
    with pytest.raises(CaptureError):
        event.query()
    with pytest.raises(CaptureError):
        event.synchronize()
    capture.end()
    with pytest.raises(CaptureError):
        event.query()
    with pytest.raises(CaptureError, match="is over"):
        interop.new_stream().wait_event(event)


def test_an_event_can_be_used_again_after_the_capture(capture):
    event = capture.stream.record_event()
    capture.end()
    stream = interop.new_stream()
    stream.record_event(event)
    event.synchronize()
    assert event.query()


def test_the_legacy_stream_cannot_join_a_capture(capture):
    legacy = interop.ExternalStream(1)
    with pytest.raises(CaptureError, match="legacy"):
        legacy.wait_stream(capture.stream)
    event = capture.stream.record_event()
    with pytest.raises(CaptureError, match="legacy"):
        legacy.wait_event(event)
    capture.end()


@pytest.mark.parametrize("mode", MODES)
def test_the_legacy_stream_is_refused_while_a_blocking_stream_captures(mode):
    capture = Capture(mode, non_blocking=False)
    legacy, other = interop.ExternalStream(1), interop.new_stream()
    event = other.record_event()
    assert legacy.is_capturing() is False
    for use in (
        legacy.query,
        legacy.synchronize,
        legacy.record_event,
        lambda: legacy.wait_event(event),
        lambda: legacy.wait_stream(other),
        lambda: other.wait_stream(legacy),
    ):
        with pytest.raises(CaptureError, match="blocking stream"):
            use()
    capture.end()


def test_events_of_the_pool_work_after_a_capture(capture):
    from tests.gpu.lab import STREAMS

    forked = interop.new_stream()
    forked.wait_stream(capture.stream)
    capture.stream.wait_stream(forked)
    capture.end()
    p, c = STREAMS["int"](), STREAMS["int"]()
    assert race(p, c, (0, 0), lambda: interop.as_stream(c).wait_stream(p)) == WRITTEN


def test_waits_work_in_a_capture_of_torch(interop_need):
    interop_need("torch")
    interop_need("cupy")
    import cupy
    import torch

    x = torch.zeros(256, device="cuda", dtype=torch.float64)
    y = cupy.asarray(x)
    cupy_stream = cupy.cuda.Stream(non_blocking=True)
    with cupy_stream:
        y *= 3.0  # compiles and loads the kernel
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        here = interop.current_stream("torch")
        x.fill_(2.0)
        there = interop.as_stream(cupy_stream)
        there.wait_stream(here)
        with cupy_stream:
            y *= 3.0
        here.wait_stream(there)
        x += 1.0
    for _ in range(3):
        x.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert x.tolist() == [7.0] * 256


@contextmanager
def graph_of(stream: interop.ExternalStream, work: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """A function that launches the graph of *work* on *stream*. It was launched once."""
    call(runtime.cudaStreamBeginCapture(stream.cuda_stream, MODES["relaxed"]))
    try:
        work()
    finally:
        graph = call(runtime.cudaStreamEndCapture(stream.cuda_stream))
    executable = call(runtime.cudaGraphInstantiate(graph, 0))

    def launch() -> None:
        call(runtime.cudaGraphLaunch(executable, stream.cuda_stream))

    launch()
    stream.synchronize()
    yield launch
    call(runtime.cudaDeviceSynchronize())
    call(runtime.cudaGraphExecDestroy(executable))
    call(runtime.cudaGraphDestroy(graph))


def test_a_launch_records_an_external_event():
    p, c, event = interop.new_stream(), interop.new_stream(), interop.Event()
    with graph_of(p, lambda: p.record_event(event, external=True)) as launch:

        def order():
            launch()
            c.wait_event(event)

        assert race(p, c, (0, 0), None) == STALE
        assert race(p, c, (0, 0), order) == WRITTEN


def test_a_launch_waits_for_an_external_event():
    p, c, event = interop.new_stream(), interop.new_stream(), interop.Event()
    with graph_of(c, lambda: c.wait_event(event, external=True)) as launch:

        def order():
            p.record_event(event)
            launch()

        assert race(p, c, (0, 0), None) == STALE
        assert race(p, c, (0, 0), order) == WRITTEN
