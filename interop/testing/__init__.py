"""Prove which work is ordered, without luck: no sleeps, no spinning kernels.

- :func:`assert_ordered`, :func:`assert_not_ordered`, :func:`is_ordered`: does the code in a ``with`` block make one
  stream wait for another? Proved by capturing it into a graph that is thrown away: nothing runs.
- :func:`gate`: hold a stream shut until the test opens it, so that a missing wait shows in values, every time.
"""

from interop.testing.gate import Gate, gate
from interop.testing.proof import assert_not_ordered, assert_ordered, is_ordered

__all__ = ["Gate", "assert_not_ordered", "assert_ordered", "gate", "is_ordered"]
