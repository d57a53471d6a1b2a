"""Share CUDA streams between Python libraries, and make their work wait for each other's, on the device.

A map of the package:

- ``stream``: :class:`ExternalStream`, :func:`as_stream`, :func:`new_stream`, :func:`wait_device`: borrow a stream of
  any library, make it wait for any other or for a whole device, hand it on as any library's own type
- ``event``: :class:`Event`, :func:`as_event`
- ``current``: :func:`use`, :func:`current_stream`, :func:`current_handle`: make one stream current in all libraries
- ``arrays``: :func:`handoff`, :func:`borrow`, :func:`hold`: hand arrays over in order, without a copy
- ``processes``: :func:`share`, :func:`receive`: hand arrays to other processes
- ``jit``: :func:`jax_call`: other libraries' work inside ``jax.jit``
- ``adapters``: what interop knows of each library, one small file for each; :func:`register` adds one
- ``errors``: all errors, under one root
- ``sim``: a simulated CUDA, for machines without a GPU, which also finds missing waits
- ``testing``: proofs of order, gates, delays, poison, and the tests that an adapter inherits
- ``pytest_plugin``: marks and fixtures for these
- ``ordering``: ``check()``, which watches a program and reports missing waits; and the clocks that it decides by
- ``ledger``: what ``ordering.check()`` returns
- ``timeline``: :class:`Timeline`, a picture of what ran when, and which stream waited for which
- ``diagnosis``: what :func:`doctor` returns
- ``matrix``: hands arrays between all pairs of libraries, and measures which of them race

In the examples of the docstrings, ``producer`` and ``consumer`` are two streams, as :func:`new_stream` makes them.

Importing ``interop`` imports no GPU library and creates no context: interop looks for libraries among the imported
modules.
"""

import importlib
from typing import TYPE_CHECKING

from interop import errors
from interop._arrays.handover import Handover
from interop.adapters import register
from interop.arrays import borrow, handoff, hold, release
from interop.current import current_handle, current_stream, use
from interop.errors import *  # noqa: F403  (what `errors.__all__` names)
from interop.event import Event, as_event
from interop.jit import jax_call
from interop.processes import Token, receive, share
from interop.stream import ExternalStream, as_stream, new_stream, wait_device

if TYPE_CHECKING:
    from interop import diagnosis as diagnosis
    from interop import ledger as ledger
    from interop import matrix as matrix
    from interop import ordering as ordering
    from interop import pytest_plugin as pytest_plugin
    from interop import sim as sim
    from interop import testing as testing
    from interop import timeline as timeline
    from interop.timeline import Timeline

__all__ = [
    "Event",
    "ExternalStream",
    "Handover",
    "Timeline",
    "Token",
    "as_event",
    "as_stream",
    "borrow",
    "current_handle",
    "current_stream",
    "doctor",
    "errors",
    "handoff",
    "hold",
    "jax_call",
    "new_stream",
    "receive",
    "register",
    "release",
    "share",
    "use",
    "wait_device",
]
__all__ += errors.__all__

__version__ = "0.2.0"


def doctor(*, probe: bool = False) -> "diagnosis.Diagnosis":
    """Look at the machine, the libraries and their current streams, and say what to fix.

    Example::

        found = interop.doctor()
        print(found)
        print(found.warnings)  # what to fix

    Without *probe*, it changes nothing: it imports no library, creates no context, breaks no capture and does not block
    the host. A library that is not imported, or has not used the GPU yet, is not asked for its current stream. Current
    streams are those of the calling thread, on the current device. Counting the devices initialises the driver:
    processes that are forked from this one afterwards cannot use CUDA.

    Args:
        probe: also import every installed library, create a context on the current device, let each library set up
            what it needs, and hand each a stream and borrow it back.

    Returns:
        The findings. They show themselves at an interactive prompt and in a notebook.
        ``to_dict()`` returns them as data, and ``warnings`` has what to fix.
    """
    from interop.diagnosis import examine  # noqa: PLC0415  (most programs do not need it)

    return examine(__version__, probe=probe)


def load_ipython_extension(shell: object) -> None:
    """For ``%load_ext interop``: gives a notebook the magic ``%%interop_check``, which runs a cell under a ledger."""
    from interop.ledger import magic  # noqa: PLC0415  (only in notebooks)

    magic.register(shell)


# Modules that not every program needs, and what each of them needs.
_ON_DEMAND = {
    "diagnosis": "",
    "ledger": "",
    "matrix": "numpy",
    "ordering": "",
    "pytest_plugin": "pytest",
    "sim": "numpy",
    "testing": "",
    "timeline": "",
}


def __dir__() -> list[str]:
    from importlib.util import find_spec  # noqa: PLC0415  (only when somebody looks)

    modules = [name for name, needed in _ON_DEMAND.items() if not needed or find_spec(needed)]
    return sorted({*__all__, *modules, *(name for name in globals() if name.startswith("__"))})


if not TYPE_CHECKING:  # type checkers would take any name for one that is there

    def __getattr__(name: str) -> object:
        """Import a module that not every program needs, when it is first named."""
        if name in _ON_DEMAND:
            return importlib.import_module(f"interop.{name}")
        if name == "Timeline":
            return importlib.import_module("interop.timeline").Timeline
        import difflib  # noqa: PLC0415  (only for the message)

        close = difflib.get_close_matches(name, [*__all__, *_ON_DEMAND], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        message = f"module 'interop' has no attribute {name!r}{hint}"
        raise AttributeError(message, name=name)
