"""Numba: launches and copies take Numba's own stream type only, and there is no current stream."""

from typing import Any

from numba import cuda
from numba.cuda.cudadrv.devicearray import DeviceNDArray
from numba.cuda.cudadrv.driver import Event, Stream

from interop._cudart import per_thread_by_default
from interop.adapters.base import LEGACY, PER_THREAD, Adapter, Source, is_kept, keep


class NumbaAdapter(Adapter):
    """The objects of numba.cuda.stream(), external_stream(), default_stream() and event()."""

    library = "numba"
    streams_stay_the_same = True
    makes_arrays = True
    has_layout = True
    arrays_change = False
    instead = "pass `stream.to('numba')` at the launch, `kernel[grid, block, stream.to('numba')](...)`, and to copies"

    def stream_handle(self, stream: object) -> int | None:
        """default_stream() is 0, which Numba hands to cuda.bindings: it means there what it means to them."""
        if not isinstance(stream, Stream):
            return None
        return int(stream.handle) or (PER_THREAD if per_thread_by_default() else LEGACY)

    def keeps_alive(self, stream: object) -> bool:
        """Not an external stream, unless it was made by :meth:`make_stream`."""
        return not stream.external or is_kept(stream)  # type: ignore[attr-defined]

    def make_stream(self, source: Source) -> object:
        """An external stream holds only a number, so the source is tied to it; 1 and 2 are Numba's spelling too."""
        return keep(cuda.external_stream(source.handle), source)

    def event_handle(self, event: object) -> int | None:
        """Numba events are created when they are made."""
        return int(event.handle) if isinstance(event, Event) else None

    def is_array(self, array: object) -> bool:
        """Any device array."""
        return isinstance(array, DeviceNDArray)

    def array_stream(self, array: object) -> object | None:
        """The stream that the array is bound to; 0 is none, and says nothing."""
        return array.stream or None  # type: ignore[attr-defined]

    def make_array(self, memory: Any) -> object:  # noqa: ANN401
        """Numba has no other way in than the array interface."""
        return cuda.as_cuda_array(memory, sync=False)


ADAPTER = NumbaAdapter()
