"""After a signal handler raised in the middle of a call, the real libraries and the GPU are as before."""

import types

import pytest

import interop
from interop._core import switching
from interop._order import watchers
from tests.gpu.lab import call, device_count, on_device, runtime
from tests.gpu.test_use import both, currents, handles
from tests.interrupts import interrupt

# Python only reports an exception that a signal handler raises in a finaliser.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

__all__ = ["both"]


@pytest.mark.parametrize("way", ["use", "stream"])
def test_interrupted_blocks_restore_the_current_streams(both, way):
    cupy, _ = both
    before = currents(both)
    outer, inner, other = interop.new_stream(), interop.new_stream(), cupy.cuda.Stream(non_blocking=True)

    def work():
        with interop.use(outer) if way == "use" else outer:
            with interop.use(inner) if way == "use" else inner:
                assert handles(both) == (inner.cuda_stream,) * 2
            assert handles(both) == (outer.cuda_stream,) * 2

    def check():
        assert switching._thread.blocks == []
        assert currents(both) == before
        with other:  # CuPy's own stack of streams still works
            pass
        assert currents(both) == before

    interrupt(work, check)


PLAIN = {
    "new_stream": lambda _: interop.new_stream(device_count() - 1),
    "query of the legacy stream": lambda its: its.legacy.query(),
    "synchronize": lambda its: its.c.synchronize(),
    "query of an event": lambda its: its.event.query(),
    "record": lambda its: interop.Event().record(its.p),
    "wait_stream": lambda its: its.c.wait_stream(its.p),
    "wait_stream of the legacy stream": lambda its: its.c.wait_stream(its.legacy),
    "to": lambda _: interop.new_stream(device_count() - 1).to("cupy"),
}


def exchanged(mode):
    return call(runtime.cudaThreadExchangeStreamCaptureMode(mode))


@pytest.mark.parametrize("way", ["C", "Python"])
@pytest.mark.parametrize("name", PLAIN)
def test_interrupted_calls_restore_context_and_mode(interop_need, way, name):
    """The current context and the capture mode are the same as before."""
    if name == "to":
        interop_need("cupy")
    p, c, legacy = interop.new_stream(), interop.new_stream(), interop.ExternalStream(1, device_count() - 1)
    its = types.SimpleNamespace(p=p, c=c, legacy=legacy, event=p.record_event())
    watcher = watchers.Watcher()
    with on_device(0):
        context = interop._cuda.GPU.bound_context()
        local = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        first = exchanged(local)

        def work():
            PLAIN[name](its)

        def check():
            assert interop._cuda.GPU.bound_context() == context
            assert exchanged(local) == local

        try:
            if way == "Python":
                watchers.watch(watcher)
            work()  # interop reads the capture mode once
            interrupt(work, check)
        finally:
            watchers.unwatch(watcher)
            exchanged(first)
