"""Share CUDA streams between Python libraries, and make their work wait for each other's, on the device.

A map of the package:

- ``stream``: :class:`ExternalStream`, :func:`as_stream`, :func:`new_stream`; borrow any library's stream, order it
  against any other's, hand it on as any library's own type
- ``event``: :class:`Event`, :func:`as_event`
- ``current``: :func:`use`, :func:`current_stream`; one stream current in all libraries at once
- ``arrays``: :func:`handoff`, :func:`borrow`, :func:`hold`; arrays handed over in order, without a copy
- ``adapters``: what each library needs, one small file each; :func:`register` adds one
- ``errors``: all errors, under one root
- ``sim``: a simulated CUDA for machines without a GPU, and for finding a missing wait whatever the schedule
- ``testing``: proofs of order, gates, delays, poison, and the tests that an adapter inherits
- ``pytest_plugin``: all that as marks and fixtures
- ``ordering``: happens-before over streams and events; what the simulator decides races by; and
  ``ordering.check()``, which watches a program, on a GPU too, and reports the waits that it forgot
- ``ledger``: what ``ordering.check()`` gives
- ``diagnosis``: what :func:`doctor` finds
- ``timeline``: :class:`Timeline`, a picture of what ran when, and of who waited for whom
- ``_order``: tells those who want to know of every record, wait and hand-over
- ``_cuda``: the seam to CUDA, the only package that imports ``cuda.bindings``

Importing ``interop`` imports no GPU library and creates no context. Libraries are looked for among those that are
imported already.
"""

import importlib
from typing import TYPE_CHECKING

from interop import errors
from interop._arrays.handover import Handover
from interop.adapters import register
from interop.arrays import borrow, handoff, hold, release
from interop.current import current_stream, use
from interop.event import Event, as_event
from interop.stream import ExternalStream, as_stream, new_stream

if TYPE_CHECKING:
    from interop.diagnosis import Diagnosis
    from interop.timeline import Timeline

__all__ = [
    "Event",
    "ExternalStream",
    "Handover",
    "Timeline",
    "as_event",
    "as_stream",
    "borrow",
    "current_stream",
    "doctor",
    "errors",
    "handoff",
    "hold",
    "new_stream",
    "register",
    "release",
    "use",
]

__version__ = "0.1.0"


def doctor(*, probe: bool = False) -> "Diagnosis":
    """Look at the machine, the libraries and their current streams, and say what to mend.

    It looks, and touches nothing: it imports no library, creates no context, breaks no capture and does not block the
    host. So a library that was not imported, or has not used the GPU yet, is not asked for its current stream. Current
    streams are those of the calling thread, on the current device. (As any count of devices does, it starts the driver:
    processes that are forked from this one afterwards cannot use CUDA.)

    Args:
        probe: do more: import every library that is installed, create a context on the current device, let each
            library set up what it needs, and hand each a stream and take it back.

    Returns:
        The findings. They draw themselves at an interactive prompt (with rich, ``pip install rich``) and in a
        notebook; ``to_dict()`` gives them as data, ``warnings`` what to mend.
    """
    from interop.diagnosis import examine  # noqa: PLC0415  (seldom needed, and not named `doctor`, which is taken)

    return examine(__version__, probe=probe)


_ON_DEMAND = ("diagnosis", "ledger", "matrix", "ordering", "pytest_plugin", "sim", "testing", "timeline")
_ON_DEMAND_NAMES = {"Timeline": "timeline"}


def __getattr__(name: str) -> object:
    """Import the parts that not every program needs when they are first named."""
    if name in _ON_DEMAND:
        return importlib.import_module(f"interop.{name}")
    if name in _ON_DEMAND_NAMES:
        return getattr(importlib.import_module(f"interop.{_ON_DEMAND_NAMES[name]}"), name)
    message = f"module 'interop' has no attribute {name!r}"
    raise AttributeError(message)
