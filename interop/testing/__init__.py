"""Prove which work is ordered, without luck: no sleeps, no spinning kernels of some library.

- :func:`assert_ordered`, :func:`assert_not_ordered`, :func:`is_ordered`: does the code in a ``with`` block make one
  stream wait for another? Proved by capturing it into a graph that is thrown away: nothing runs. Where capture cannot
  serve, a gate can.
- :func:`gate`: hold a stream shut until the test opens it, so that a missing wait shows in values, every time.
- :func:`slow`: a delay on the device, of a known length.
- :func:`poison`, :func:`is_poisoned`: a pattern in memory, written in the order of a stream.
- :func:`assert_host_free`: the block does not wait for the device.
- ``conformance``: tests that a library's own adapter inherits.

The fixtures and marks for pytest are in :mod:`interop.pytest_plugin`, which pytest loads by itself.
"""

from interop.testing.gate import Gate, gate
from interop.testing.host_free import assert_host_free
from interop.testing.poison import POISON, is_poisoned, poison
from interop.testing.proof import Verdict, assert_not_ordered, assert_ordered, is_ordered
from interop.testing.slow import slow

__all__ = [
    "POISON",
    "Gate",
    "Verdict",
    "assert_host_free",
    "assert_not_ordered",
    "assert_ordered",
    "gate",
    "is_ordered",
    "is_poisoned",
    "poison",
    "slow",
]
