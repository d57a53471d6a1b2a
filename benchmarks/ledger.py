"""What the ledger costs, off and on, as ratios: ``python -m benchmarks.ledger``, and ``--gpu`` on a real one.

Off, a call looks at a tuple that is empty. That look is timed by itself, and set against the whole call. On the
simulator a call is all Python, and slower than CUDA's: both ratios are larger on a GPU.
"""

import contextlib
import sys
import timeit
from collections.abc import Callable

import interop
from interop import _watch
from interop.ordering import check
from interop.sim import simulate


def best(function: Callable[[], object], number: int) -> float:
    """The seconds of a call, the best of several: what other processes do only ever adds."""
    return min(timeit.repeat(function, number=number, repeat=15)) / number


def look() -> None:
    """What a call does while nobody watches."""
    for watcher in _watch.watchers:
        raise AssertionError(watcher)


def measure(number: int) -> None:
    """Print the table, from so many calls each."""
    a, b = interop.new_stream(), interop.new_stream()
    event = a.record_event()
    calls: dict[str, Callable[[], object]] = {
        "wait_stream": lambda: b.wait_stream(a),
        "record_event": lambda: a.record_event(event),
        "wait_event": lambda: b.wait_event(event),
        "query": a.query,
    }
    a.synchronize()
    looked = best(look, number * 20) - best(lambda: None, number * 20)
    off = {name: best(call, number) for name, call in calls.items()}
    with check():
        on = {name: best(call, number) for name, call in calls.items()}
    print(f"{'call':14}{'the look, of a call':>22}{'an open ledger':>18}")
    for name, time in off.items():
        print(f"{name:14}{looked / time:>21.2%} {on[name] / time:>16.1f}x")


if __name__ == "__main__":
    on_gpu = "--gpu" in sys.argv
    with contextlib.nullcontext() if on_gpu else simulate():
        measure(2000 if on_gpu else 200)
