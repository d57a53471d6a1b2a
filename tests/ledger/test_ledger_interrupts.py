"""A signal handler raises while a ledger or a timeline starts, runs, or stops."""

import contextlib
import gc
import signal
import sys
from pathlib import Path

import pytest

import interop
from interop._order import watchers
from interop.ledger import session
from interop.ordering import check
from tests.interrupts import interrupt
from tests.threads import in_thread

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers that send signals here"),
    # Python only reports an exception that a signal handler raises in a finaliser.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:.*was never entered"),
]


def everything_of(*owners):
    return {(owner, name): value for owner in owners for name, value in vars(owner).items()}


def test_an_interrupt_leaves_no_library_patched(interop_need):
    for library in ("torch", "cupy", "numba"):
        interop_need(library)
    import cupy
    import torch
    from numba.cuda.cudadrv import driver
    from torch.utils import _python_dispatch as modes

    owners = [
        modes,
        torch,
        torch.cuda,
        torch.cuda.Event,
        torch.cuda.Stream,
        cupy.cuda,
        cupy.cuda.Event,
        cupy.cuda.runtime,
    ]
    owners += [driver, driver.Event, driver.Stream, driver.Context]
    with check():
        pass
    before = everything_of(*owners)

    def call():
        with check():
            pass

    def is_as_before():
        gc.collect(0)
        assert everything_of(*owners) == before
        assert not modes._get_current_dispatch_mode_stack()
        assert not session._all._ledgers
        assert not watchers.active

    interrupt(call, is_as_before)


def test_an_interrupt_leaves_another_ledger_open():
    with interop.sim.simulate(), check() as ledger:

        def call():
            with check():
                pass

        def is_as_before():
            assert watchers.active == (ledger,)

        interrupt(call, is_as_before)


def test_an_interrupt_leaves_no_timeline_recording():
    with interop.sim.simulate():

        def call():
            with interop.Timeline():
                pass

        def is_as_before():
            assert not watchers.active

        interrupt(call, is_as_before)


@pytest.mark.parametrize("ordered", [True, False])
def test_an_interrupted_call_is_entered_once_or_not_at_all(ordered):
    with interop.sim.simulate() as gpu, check(raises=False) as ledger:
        x = gpu.array([0.0])
        a, b = interop.new_stream(), interop.new_stream()
        tried = done = 0

        def call():
            nonlocal tried, done
            a.wait_stream(b)
            tried += 1
            ledger.writes(x, a)
            if ordered:
                b.wait_stream(a)
            tried += 1
            ledger.reads(x, b)
            done += 2
            short = interop.new_stream()  # takes the address of the one before
            short.record_event()
            short.synchronize()

        def is_free():
            assert not ledger._steps.lock._is_owned()

        interrupt(call, is_free)
        assert done <= in_thread(lambda: ledger.accesses) <= tried
        assert not ledger._steps.pending
        assert not ledger.unknown
        assert bool(ledger.races) is not ordered
        if not ordered:
            (race,) = ledger.races
            assert ledger._steps.state.findings[race] <= tried


BETWEEN = ("_take_all", "_take")
"""Functions of the ledger in which no signal handler can run between two lines."""


@contextlib.contextmanager
def raised_at(moment, error):
    """Raise *error* at line number *moment* that the ledger runs, as a signal handler may. Yields ``[lines left]``."""
    left = [moment]

    def count(frame, event, _argument):
        code = frame.f_code
        if not code.co_filename.endswith(BOOKS) or code.co_name in BETWEEN:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise error
        return count

    sys.settrace(count)
    try:
        yield left
    except error:
        pass
    finally:
        sys.settrace(None)


BOOKS = tuple(
    str(Path("ledger", f"{name}.py")) for name in ("ledger", "steps", "history", "memory", "layout", "events", "report")
)
BOOKS += tuple(str(Path("_order", f"{name}.py")) for name in ("accesses", "clock", "clocks", "ended"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_step_that_is_interrupted_at_any_line_is_repeated(ordered, error):
    for moment in range(1, 2000):
        with interop.sim.simulate() as gpu, check(raises=False) as ledger:
            x = gpu.array([0.0])
            a, b = interop.new_stream(), interop.new_stream()
            ledger.writes(x, a)
            with raised_at(moment, error) as left:
                if ordered:
                    b.wait_stream(a)
                ledger.reads(x, b)
            if left[0] > 0:
                break
            if ordered:
                b.wait_stream(a)
            ledger.reads(x, b)
            assert not ledger._steps.lock._is_owned()
            assert not ledger._steps.pending
            assert bool(ledger.races) is not ordered
            assert not ledger.unknown
    assert 50 < moment < 1999


def test_an_interrupted_step_is_repeated_before_the_next_one():
    taken = []

    def step():
        taken.append("interrupted")
        if len(taken) == 1:
            raise KeyboardInterrupt

    with interop.sim.simulate(), check() as ledger:
        with pytest.raises(KeyboardInterrupt):
            ledger._steps.take(step)
        in_thread(lambda: ledger._steps.take(lambda: taken.append("next")))
    assert taken == ["interrupted", "interrupted", "next"]


def test_a_step_that_raises_twice_is_dropped():
    def step():
        raise ZeroDivisionError

    with interop.sim.simulate() as gpu, check() as ledger:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                ledger._steps.take(step) if not ledger._steps.pending else ledger.accesses
        ledger.writes(gpu.array([0.0]), interop.new_stream())
        assert ledger.accesses == 1
