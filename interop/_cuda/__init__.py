"""The seam between interop and CUDA: the only package that calls ``cuda.bindings``.

All other code calls CUDA through a :class:`Cuda` object. There is one for the real GPU, :data:`GPU`, which starts at
the first call that needs it, and one for each simulation. A stream or event keeps the one under which it was made, so
the handle of a simulated stream never reaches the driver.

- ``calls``: the checked call, in any context and without breaking captures
- ``operations``: the class :class:`Cuda`: contexts, streams and events, over checked calls
- ``codes``: the numbers that CUDA defines, and the errors for its status codes
- ``addresses``: which objects can be handles or devices, and which memory can be read
- ``memory``: where memory lies, and which devices can use it
"""

from typing import Any, Final

from interop._cuda.addresses import readable
from interop._cuda.calls import noted
from interop._cuda.codes import (
    BROKEN,
    CAPTURE_CODES,
    CAPTURE_IMPLICIT,
    CAPTURE_ISOLATION,
    CHECK,
    DEFAULT_NAMES,
    EVENT_BLOCKING_SYNC,
    EVENT_DISABLE_TIMING,
    EVENT_INTERPROCESS,
    INVALID_RESOURCE_HANDLE,
    INVALID_VALUE,
    IPC_HANDLE_BYTES,
    LEGACY,
    PER_THREAD,
    WAY_OUT,
    null_handle,
)
from interop._cuda.operations import Cuda
from interop._native import native

__all__ = [
    "BROKEN",
    "CAPTURE_CODES",
    "CAPTURE_IMPLICIT",
    "CAPTURE_ISOLATION",
    "CHECK",
    "DEFAULT_NAMES",
    "EVENT_BLOCKING_SYNC",
    "EVENT_DISABLE_TIMING",
    "EVENT_INTERPROCESS",
    "GPU",
    "INVALID_RESOURCE_HANDLE",
    "INVALID_VALUE",
    "IPC_HANDLE_BYTES",
    "LEGACY",
    "PER_THREAD",
    "WAY_OUT",
    "Cuda",
    "activate",
    "active",
    "load_bindings",
    "noted",
    "null_handle",
]


def load_bindings() -> tuple[Any, Any]:
    """Import the runtime and the driver modules of cuda.bindings."""
    from cuda.bindings import driver, runtime

    return runtime, driver


GPU: Final = Cuda(
    load_bindings,
    readable if native is None else native.readable,
    extension=None if CHECK else native,
)
"""The real GPU."""

_active = GPU
if native is not None:
    native.activate(GPU)


def active() -> Cuda:
    """The object under which new streams and events are made: that of the GPU, or of the simulation that runs."""
    return _active


def activate(cuda: Cuda) -> Cuda:
    """Make *cuda* the active one, and return the one that was active before."""
    global _active
    previous, _active = _active, cuda
    if native is not None:
        native.activate(cuda)
    return previous
