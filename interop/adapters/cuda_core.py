"""cuda.core: streams that wrap any object with ``__cuda_stream__`` and keep it alive; no current stream."""

from typing import Any

import numpy as np
from cuda.core import Buffer, Device, Event, Stream
from cuda.core.utils import StridedMemoryView

from interop.adapters.base import Adapter, Source, Takes, exchanges, make_tensor, null_handle
from interop.adapters.tensor import CUDA, INT, TYPES, DataType, Tensor

_TYPES = {np.dtype(typestr): dtype for typestr, dtype in TYPES.items()}
_EXCHANGES = exchanges(StridedMemoryView)
_BYTE = DataType(INT, 8, 1)  # as in the DLPack of a Buffer


class CudaCoreAdapter(Adapter):
    """cuda.core.Stream and cuda.core.Event."""

    library = "cuda.core"
    streams_close = True
    needs_device = not _EXCHANGES
    takes = Takes(unaligned=True, read_only=True)
    instead = "pass `stream.to('cuda.core')` to the call that launches, copies or allocates"

    def stream_handle(self, stream: object) -> int | None:
        """The default streams have the handles 1 and 2; 0 means what it means to cuda.bindings."""
        if not isinstance(stream, Stream):
            return None
        return int(stream.__cuda_stream__()[1]) or null_handle()

    def make_stream(self, source: Source) -> object:
        """By the device, because ``Stream.from_handle`` would keep nothing alive."""
        device = Device(source.device)
        # cuda.core refuses a device that it has not made current itself, even if its context is current already.
        device.set_current()
        return device.create_stream(source)

    def event_handle(self, event: object) -> int | None:
        """The handle exists from the start."""
        return int(event.handle) if isinstance(event, Event) else None

    def is_array(self, array: object) -> bool:
        """A StridedMemoryView or a Buffer."""
        return isinstance(array, StridedMemoryView | Buffer)

    def read(self, array: Any) -> Tensor | None:  # noqa: ANN401
        """None for a view without a type, which DLPack can tell."""
        if isinstance(array, StridedMemoryView):
            dtype = None if array.dtype is None else _TYPES.get(array.dtype)
            if dtype is None or not array.is_device_accessible or array.device_id < 0:
                return None
            return Tensor(array.ptr, array.shape, array.strides, dtype, CUDA, array.device_id, array.readonly, array)
        if isinstance(array, Buffer) and array.is_device_accessible and array.device_id >= 0:
            address = int(array.handle)
            return Tensor(address, (array.size,), None, _BYTE, CUDA, array.device_id, False, array)  # noqa: FBT003
        return None

    def holder_of(self, array: Any) -> object | None:  # noqa: ANN401
        """The object from which a view was made."""
        return getattr(array, "exporting_obj", None)

    def mark_of(self, array: Any) -> int:  # noqa: ANN401
        """The address of the capsule that a view was made from. Parts of the view have the same capsule."""
        exporter = getattr(array, "exporting_obj", None)
        return 0 if exporter is None else id(exporter)

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401
        """In C, or by the array interface, where -1 means "no order", and cuda.core asks CUDA for the device."""
        if _EXCHANGES:
            return make_tensor(StridedMemoryView, tensor, holder)
        return StridedMemoryView.from_cuda_array_interface(holder, stream_ptr=-1)


ADAPTER = CudaCoreAdapter()
