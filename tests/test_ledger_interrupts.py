"""Signal handlers that raise, at any moment, while a ledger or a timeline starts, runs, or stops."""

import gc
import random
import signal
import time

import pytest

import interop
from interop import _watch
from interop.ledger import watch
from interop.ordering import check

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers that send signals here"),
    # Python drops what a handler raises in a finaliser.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:.*was never entered"),
]

TIMES = 2_000


@pytest.fixture
def interrupt():
    """Call a function so many times, each time until a signal handler raises in it, or until it returns."""

    def raise_it(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, raise_it)
    chance = random.Random(1)

    def interrupt(call, check, times=TIMES):
        call()  # what is imported lazily
        start = time.perf_counter()
        for _ in range(10):
            call()
        whole = (time.perf_counter() - start) / 10
        hits = 0
        for _ in range(times):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, max(1e-6, chance.random() * whole))
                    call()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                hits += 1
            check()
        assert hits > times / 4
        return hits

    yield interrupt
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def everything_of(*owners):
    return {(owner, name): value for owner in owners for name, value in vars(owner).items()}


def test_nothing_of_the_libraries_stays_replaced(interrupt, interop_need):
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
        assert not watch._all._ledgers
        assert not _watch.watchers

    interrupt(call, is_as_before)


def test_a_ledger_that_others_have_open_goes_on(interrupt):
    with interop.sim.simulate(), check() as ledger:

        def call():
            with check():
                pass

        def is_as_before():
            assert _watch.watchers == (ledger,)

        interrupt(call, is_as_before)


def test_no_timeline_goes_on_recording(interrupt):
    with interop.sim.simulate():

        def call():
            with interop.Timeline():
                pass

        def is_as_before():
            assert not _watch.watchers

        interrupt(call, is_as_before)
