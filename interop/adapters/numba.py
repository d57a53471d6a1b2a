"""Numba: launches and copies take only Numba's own type of stream; no current stream."""

from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.cudadrv.devicearray import DeviceNDArray
from numba.cuda.cudadrv.driver import Event, MemoryPointer, Stream, binding, memory_size_from_info

from interop.adapters.base import Adapter, Source, Takes, is_kept, keep, null_handle, strided
from interop.adapters.tensor import TYPES, Tensor, c_contiguous
from interop.errors import NotSupportedError

_TYPES = {np.dtype(typestr): dtype for typestr, dtype in TYPES.items()}
_DTYPES = {dtype: numbers for numbers, dtype in _TYPES.items()}


class NumbaAdapter(Adapter):
    """Objects made by numba.cuda.stream(), external_stream(), default_stream() and event()."""

    library = "numba"
    streams_stay_the_same = True
    needs_device = False
    takes = Takes(types=frozenset(TYPES.values()))
    instead = "pass `stream.to('numba')` at the launch, `kernel[grid, block, stream.to('numba')](...)`, and to copies"

    def stream_handle(self, stream: object) -> int | None:
        """default_stream() is 0, which Numba passes to cuda.bindings: it means what it means to them."""
        if not isinstance(stream, Stream):
            return None
        return int(stream.handle) or null_handle()

    def keeps_alive(self, stream: object) -> bool:
        """False for an external stream that :meth:`make_stream` has not made."""
        return not stream.external or is_kept(stream)  # type: ignore[attr-defined]

    def make_stream(self, source: Source) -> object:
        """An external stream keeps nothing alive, so the source is tied to it. 1 and 2 mean the same to Numba."""
        try:
            stream = cuda.external_stream(source.handle)
        except RuntimeError as error:
            if "non-primary" not in str(error):
                raise
            message = (
                f"Numba works only in the primary context of a device, and stream {source.handle:#x} belongs to "
                "another one, such as a green context. Give Numba a stream of the primary context, "
                "interop.new_stream(device), and order the two with wait_stream()"
            )
            raise NotSupportedError(message) from error
        return keep(stream, source)

    def event_handle(self, event: object) -> int | None:
        """The handle exists from the start."""
        return int(event.handle) if isinstance(event, Event) else None

    def is_array(self, array: object) -> bool:
        """A device array."""
        return isinstance(array, DeviceNDArray)

    def array_stream(self, array: object) -> object | None:
        """The stream to which the array is bound; 0 means none."""
        return array.stream or None  # type: ignore[attr-defined]

    def read(self, array: Any) -> Tensor | None:  # noqa: ANN401
        """By the array's strides: its array interface states None for a broadcast array, whose strides are 0.

        Numba does not know the device of memory that other code has allocated.
        """
        dtype = _TYPES.get(array.dtype) if isinstance(array, DeviceNDArray) else None
        if dtype is None:
            return None
        memory = array.gpu_data
        device = memory.context.device.id if isinstance(memory.owner, MemoryPointer) else -1
        return strided(memory.device_pointer_value or 0, array.shape, array.strides, dtype, device, array)

    def holder_of(self, array: Any) -> object | None:  # noqa: ANN401
        """The owner of the memory, which parts of the array share."""
        owner: object = array.gpu_data.owner
        return owner

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401
        """As ``as_cuda_array`` does, but on the device of the memory instead of the current one."""
        address, shape, _, dtype, _, device, _, _ = tensor
        numbers = _DTYPES[dtype]
        if 0 in shape:  # Numba makes an empty array over a null pointer of the current device
            with cuda.gpus[device]:
                return cuda.as_cuda_array(holder, sync=False)
        strides = tensor.byte_strides() or c_contiguous(shape, numbers.itemsize)
        context = cuda.gpus[device].get_primary_context()
        size = memory_size_from_info(shape, strides, numbers.itemsize)
        memory = MemoryPointer(context, binding.CUdeviceptr(address), size, owner=holder)
        return DeviceNDArray(shape, strides, numbers, gpu_data=memory)


ADAPTER = NumbaAdapter()
