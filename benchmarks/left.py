"""What many hand-overs leave behind: Python objects, and memory of the device and of the host."""

import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import interop
from benchmarks.handovers import HANDOFF, INTO_JAX, between
from benchmarks.lab import Lab

COUNT: Final = 1_000_000
"""The number of hand-overs in the goals."""
_WARM_UP: Final = 2000
_AT_ONCE: Final = 1000
_SETTLES: Final = 5
"""The most seconds until everything that was handed over is released."""


@dataclass
class Left:
    """What the hand-overs between two libraries have left behind.

    Attributes:
        way: producer and consumer.
        made: hand-overs, each dropped at once.
        objects: how many more objects the garbage collector tracks.
        device: how many more bytes of the device are in use.
        host: how many more bytes of the process are in memory.
        error: why there are no figures.
    """

    way: str
    made: int = 0
    objects: int = 0
    device: int = 0
    host: int = 0
    error: str = ""


def _state(lab: Lab) -> tuple[int, int, int]:
    """Objects, bytes of the device and bytes of the host, after everything that can be released is gone.

    A plain tuple: the garbage collector does not count it.
    """
    lab.drain()
    deadline = time.monotonic() + _SETTLES
    while interop.release() and time.monotonic() < deadline:  # JAX releases arrays in a thread of its own
        time.sleep(0.01)
    gc.collect()
    _, free, total = lab.runtime.cudaMemGetInfo()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(gc.get_objects()), total - free, pages * os.sysconf("SC_PAGE_SIZE")


def left_behind(lab: Lab, source: str, target: str, count: int, seconds: float) -> Left:
    """Hand an array over *count* times, or as often as *seconds* allow."""
    left = Left(f"{source} to {target}")
    try:
        batch = between(lab, INTO_JAX if target == "JAX" else HANDOFF, source, target).prepare()
        batch(_WARM_UP)
        _state(lab)  # the first call allocates something itself
        before, end = _state(lab), time.monotonic() + seconds
        while left.made < count and time.monotonic() < end:
            batch(_AT_ONCE)
            left.made += _AT_ONCE
        after = _state(lab)
        left.objects, left.device, left.host = (a - b for a, b in zip(after, before, strict=True))
    except Exception as error:
        left.error = f"{type(error).__name__}: {error}"
    return left
