"""A signal handler that raises at random times, to test that nothing is left over then."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

INTERRUPTS = int(os.environ.get("INTERRUPTS", "1000"))
"""How many interrupts a test needs. More of them hit more places of the code."""


class Interrupted(BaseException):
    """Raised by the handler, as KeyboardInterrupt is."""


def interrupt(work: Callable[[], object], check: Callable[[], object], count: int = INTERRUPTS) -> int:
    """Run *work* until *count* runs were interrupted, at random times, and *check* after each run.

    Returns how many runs were not interrupted.
    """
    is_armed, seed = False, random.Random(0)

    def handle(*_arguments: object) -> None:
        nonlocal is_armed
        if is_armed:
            is_armed = False
            raise Interrupted

    began = time.perf_counter()
    for _ in range(20):
        work()
    longest = (time.perf_counter() - began) / 20
    before = signal.signal(signal.SIGALRM, handle)
    hits = done = 0
    try:
        while hits < count:
            try:
                is_armed = True
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, seed.uniform(0, longest)))
                work()
                done += 1
                is_armed = False
            except Interrupted:
                hits += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            check()
    finally:
        with contextlib.suppress(Interrupted):
            is_armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return done
