"""What the adapters of numba-cuda and of its successor share: the successor has copies of the same classes."""

from typing import Any, ClassVar

import numpy as np

from interop.adapters.base import Adapter, Source, Takes, is_kept, keep, null_handle, strided
from interop.adapters.tensor import TYPES, Tensor, c_contiguous
from interop.errors import NotSupportedError

_TYPES = {np.dtype(typestr): dtype for typestr, dtype in TYPES.items()}
_DTYPES = {dtype: numbers for numbers, dtype in _TYPES.items()}


class Numbas(Adapter):
    """Objects made by cuda.stream(), external_stream(), default_stream() and event(), and device arrays.

    Attributes:
        title: what the library is called in messages.
        cuda: its module ``cuda``.
        driver: its module ``cudadrv.driver``.
        arrays: its class of device arrays.
    """

    streams_stay_the_same = True
    needs_device = False
    takes = Takes(types=frozenset(TYPES.values()))

    title: ClassVar[str]
    cuda: ClassVar[Any]
    driver: ClassVar[Any]
    arrays: ClassVar[Any]

    def null(self) -> int:
        """Which default stream 0 is. cuda.bindings decides, where all calls go through it."""
        return null_handle()

    def stream_handle(self, stream: object) -> int | None:
        """default_stream() is 0."""
        if not isinstance(stream, self.driver.Stream):
            return None
        return int(stream.handle) or self.null()

    def keeps_alive(self, stream: object) -> bool:
        """False for an external stream that :meth:`make_stream` has not made."""
        return not stream.external or is_kept(stream)  # type: ignore[attr-defined]

    def make_stream(self, source: Source) -> object:
        """An external stream keeps nothing alive, so the source is tied to it. 1 and 2 mean the same to Numba."""
        try:
            stream = self.cuda.external_stream(source.handle)
        except RuntimeError as error:
            if "non-primary" not in str(error):
                raise
            message = (
                f"{self.title} works only in the primary context of a device, and stream {source.handle:#x} belongs to "
                f"another one, such as a green context. Give {self.title} a stream of the primary context, "
                "interop.new_stream(device), and order the two with wait_stream()"
            )
            raise NotSupportedError(message) from error
        return keep(stream, source)

    def event_handle(self, event: object) -> int | None:
        """The handle exists from the start."""
        return int(event.handle) if isinstance(event, self.driver.Event) else None

    def is_array(self, array: object) -> bool:
        """A device array."""
        return isinstance(array, self.arrays)

    def array_stream(self, array: object) -> object | None:
        """The stream to which the array is bound; 0 means none."""
        return array.stream or None  # type: ignore[attr-defined]

    def read(self, array: Any) -> Tensor | None:  # noqa: ANN401
        """By the array's strides: numba-cuda's array interface states None for a broadcast array, whose strides are 0.

        Numba does not know the device of memory that other code has allocated.
        """
        dtype = _TYPES.get(array.dtype) if isinstance(array, self.arrays) else None
        if dtype is None:
            return None
        memory = array.gpu_data
        device = memory.context.device.id if isinstance(memory.owner, self.driver.MemoryPointer) else -1
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
            with self.cuda.gpus[device]:
                return self.cuda.as_cuda_array(holder, sync=False)
        strides = tensor.byte_strides() or c_contiguous(shape, numbers.itemsize)
        context = self.cuda.gpus[device].get_primary_context()
        size = self.driver.memory_size_from_info(shape, strides, numbers.itemsize)
        memory = self.driver.MemoryPointer(context, self.driver.binding.CUdeviceptr(address), size, owner=holder)
        return self.arrays(shape, strides, numbers, gpu_data=memory)
