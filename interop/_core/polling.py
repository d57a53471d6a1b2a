"""Waiting on the host with a limit of time, which CUDA has no call for."""

import time
from collections.abc import Callable
from typing import Final

from interop._show.text import described

_FIRST_PAUSE: Final = 20e-6
_LONGEST_PAUSE: Final = 1e-3
_FOREVER: Final = 1e9
"""Seconds: 30 years. A longer time may not fit in a float."""


def check_timeout(timeout: object) -> None:
    """Make sure that *timeout* is a number of seconds, or None.

    Raises:
        ValueError: it is neither.
    """
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        message = f"timeout is a number of seconds, 0 or more, or None to wait without limit; got {described(timeout)}"
        raise ValueError(message)


def poll(done: Callable[[], bool], timeout: float, what: object) -> None:
    """Call *done* until it returns True. Sleep between the calls, at first for 20 microseconds, later up to 1 ms.

    Raises:
        TimeoutError: *done* has not returned True within *timeout* seconds. *what* is named in the message.
    """
    deadline = time.monotonic() + min(timeout, _FOREVER)
    pause = _FIRST_PAUSE
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            message = f"{what!r} was not done after {timeout} s; its work goes on"
            raise TimeoutError(message)
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
