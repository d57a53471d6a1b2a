"""Prove which work is ordered, without sleeps and without luck.

- :func:`assert_ordered`, :func:`assert_not_ordered`, :func:`is_ordered`: does the code in a ``with`` block make one
  stream wait for another? The block is captured into a graph that is thrown away, so nothing runs. For code that
  cannot be captured, a gate gives the proof.
- :func:`gate`: hold a stream shut until the test opens the gate. A missing wait then gives wrong values every time.
- :func:`slow`: a delay on the device, of a known length.
- :func:`poison`, :func:`is_poisoned`: a pattern in memory, written in the order of a stream.
- :func:`assert_host_free`: the block does not make the host wait for the device.
- :func:`assert_only_on`: all work that the block submits goes to some streams, whichever library submits it.
- ``conformance``: tests for adapters to inherit.

The fixtures and marks for pytest are in :mod:`interop.pytest_plugin`, which pytest loads by itself.
"""

from interop.testing.gate import Gate, gate
from interop.testing.host_free import assert_host_free
from interop.testing.only_on import assert_only_on
from interop.testing.poison import POISON, is_poisoned, poison
from interop.testing.proof import Verdict, assert_not_ordered, assert_ordered, is_ordered
from interop.testing.slow import slow

__all__ = [
    "POISON",
    "Gate",
    "Verdict",
    "assert_host_free",
    "assert_not_ordered",
    "assert_only_on",
    "assert_ordered",
    "gate",
    "is_ordered",
    "is_poisoned",
    "poison",
    "slow",
]
