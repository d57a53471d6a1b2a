"""cuda.core: its streams accept any protocol object and keep it alive; no current stream, no foreign events."""

from typing import Any

from cuda.core import Buffer, Device, Event, Stream
from cuda.core.utils import StridedMemoryView

from interop._cudart import per_thread_by_default
from interop.adapters.base import LEGACY, PER_THREAD, Adapter, Ordered, Source


class CudaCoreAdapter(Adapter):
    """cuda.core.Stream and cuda.core.Event."""

    library = "cuda.core"
    streams_close = True
    makes_arrays = True
    takes_dlpack = True
    says_read_only = True
    instead = "pass `stream.to('cuda.core')` to the call that launches, copies or allocates"

    def stream_handle(self, stream: object) -> int | None:
        """Its default streams are spelled 1 and 2; a 0 means what it means to cuda.bindings."""
        if not isinstance(stream, Stream):
            return None
        return int(stream.__cuda_stream__()[1]) or (PER_THREAD if per_thread_by_default() else LEGACY)

    def make_stream(self, source: Source) -> object:
        """Through the device: ``Stream.from_handle`` would keep nothing alive."""
        device = Device(source.device)
        # cuda.core refuses a device that it has not made current itself, though its context is current already.
        device.set_current()
        return device.create_stream(source)

    def event_handle(self, event: object) -> int | None:
        """cuda.core events are created when they are made."""
        return int(event.handle) if isinstance(event, Event) else None

    def is_array(self, array: object) -> bool:
        """A StridedMemoryView, or a buffer."""
        return isinstance(array, StridedMemoryView | Buffer)

    def make_array(self, memory: Any) -> object:  # noqa: ANN401
        """-1 is cuda.core's word for "no order"."""
        if hasattr(memory, "__cuda_array_interface__"):
            return StridedMemoryView.from_cuda_array_interface(memory, stream_ptr=-1)
        return StridedMemoryView.from_dlpack(Ordered(memory), stream_ptr=-1)


ADAPTER = CudaCoreAdapter()
