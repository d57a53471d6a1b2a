"""cuda.bindings: objects that hold an address and nothing else; no current stream, no arrays."""

import sys
from typing import Any

from cuda.bindings.driver import CUevent, CUstream

from interop.adapters.base import Adapter, Source, lock, null_handle

_kept: list[tuple[Any, Source]] = []
"""Each object that :meth:`CudaBindingsAdapter.make_stream` has made, and the source that lives as long."""
_lock = lock()
_ONLY_KEPT = 2
"""The references to an object that nobody else holds: that of the list, and that of the question."""


class CudaBindingsAdapter(Adapter):
    """cuda.bindings.driver.CUstream and CUevent, and cudaStream_t and cudaEvent_t, which are subclasses of them."""

    library = "cuda.bindings"
    instead = "pass `stream.to('cuda.bindings')` to the call"
    simulated = None

    def stream_handle(self, stream: object) -> int | None:
        """0 means what it means to cuda.bindings."""
        return int(stream) or null_handle() if isinstance(stream, CUstream) else None

    def keeps_alive(self, stream: object) -> bool:
        """False for an object that :meth:`make_stream` has not made."""
        return any(stream is kept for kept, _ in list(_kept))

    def life(self, stream: object) -> object | None:  # noqa: ARG002
        """None: the objects take neither weak references nor attributes."""
        return None

    def make_stream(self, source: Source) -> object:
        """The driver's type, because its users want exactly that type, while the runtime's functions take both.

        The object can hold nothing. So the source is kept here for as long as anybody else has the object. It is let go
        when the next stream is made.
        """
        stream = CUstream(source.handle)
        with _lock:
            before = list(_kept)
            kept = [pair for pair in before if sys.getrefcount(pair[0]) > _ONLY_KEPT]
            _kept[:] = [*kept, (stream, source)]
        del before  # here, and not under the lock: the last reference to an owner may run code
        return stream

    def event_handle(self, event: object) -> int | None:
        """The null event is none."""
        if not isinstance(event, CUevent):
            return None
        if not int(event):
            message = "it is null"
            raise ValueError(message)
        return int(event)


ADAPTER = CudaBindingsAdapter()
