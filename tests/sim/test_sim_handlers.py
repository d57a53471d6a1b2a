"""A signal handler uses the simulation while a call of the simulation runs, at each line of the clocks' code."""

import sys

import pytest

import interop
from interop import sim
from interop._order import accesses, ended
from tests.threads import in_thread

CLOCKS = tuple(f"_order/{name}.py" for name in ("clocks", "clock", "ended", "accesses"))


def at_line(moment, handler):
    """A trace function that calls *handler* at line number *moment* that the clocks run, and ``[lines left]``."""
    left, is_busy = [moment], False

    def trace(frame, event, _argument):
        nonlocal is_busy
        if is_busy or not frame.f_code.co_filename.endswith(CLOCKS):
            return trace
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                is_busy = True
                handler()
                is_busy = False
        return trace

    return trace, left


def use(gpu, x, **kind):
    """Make streams, let them work in order, and drop them."""
    main, legacy = interop.new_stream(**kind), interop.as_stream(1)
    for _ in range(2):
        short = interop.new_stream(**kind)
        gpu.launch(short, lambda _: None, reads=[x])
        main.wait_stream(short)
    legacy.record_event()
    gpu.launch(legacy, lambda _: None, reads=[x])
    main.wait_event(legacy.record_event())


@pytest.mark.parametrize("non_blocking", [False, True])
def test_a_signal_handler_may_use_the_simulation(non_blocking, monkeypatch):
    monkeypatch.setattr(ended, "_ROOM", 0)  # so that the clocks are tidied each time
    monkeypatch.setattr(accesses, "_ROOM", 2)
    for moment in range(1, 6000, 4):
        with sim.simulate() as gpu:
            x = gpu.array([0.0])
            trace, left = at_line(moment, lambda: use(gpu, x, non_blocking=non_blocking))  # noqa: B023
            sys.settrace(trace)
            try:
                use(gpu, x, non_blocking=False)
                sys.settrace(None)
                in_thread(lambda: gpu.launch(1, lambda _: None, reads=[x]))  # noqa: B023
                sys.settrace(trace)
                use(gpu, x, non_blocking=False)
            finally:
                sys.settrace(None)
        if left[0] > 0:
            break
    assert 300 < moment < 5999
