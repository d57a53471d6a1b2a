"""CuPy: a current stream per thread and device, which ``with`` keeps on a stack and ``use()`` sets beside it."""

from itertools import starmap
from math import prod
from typing import Any, cast

import cupy
import numpy as np

from interop.adapters.base import LEGACY, Adapter, Ordered, Source, Takes, strided
from interop.adapters.tensor import BFLOAT16, CUDA, TYPES, Tensor

# The base of cupy.cuda.Stream and of the deprecated cupy.cuda.ExternalStream.
_STREAM_TYPES = (cupy.cuda.Stream, cupy.cuda.ExternalStream)

_TYPES = {np.dtype(typestr): dtype for typestr, dtype in TYPES.items()}
_DTYPES = {dtype: numbers for numbers, dtype in _TYPES.items()}


class CupyAdapter(Adapter):
    """cupy.cuda.Stream, cupy.cuda.ExternalStream and cupy.cuda.Event."""

    library = "cupy"
    streams_stay_the_same = True
    needs_device = False
    takes = Takes(types=frozenset({*TYPES.values(), BFLOAT16}))

    def stream_handle(self, stream: object) -> int | None:
        """0 is always the legacy stream: CUPY_CUDA_PER_THREAD_DEFAULT_STREAM only sets the first current stream."""
        return int(stream.ptr) or LEGACY if isinstance(stream, _STREAM_TYPES) else None

    def keeps_alive(self, stream: object) -> bool:
        """False for the deprecated ExternalStream."""
        return isinstance(stream, cupy.cuda.Stream)

    def make_stream(self, source: Source) -> object:
        """By ``from_external``, which does not warn, does not destroy the stream, and keeps *source* alive."""
        if source.handle == LEGACY:
            return cupy.cuda.Stream.null
        stream = cupy.cuda.Stream.from_external(source)
        # from_external leaves -1 here, which means the current device to CuPy; but a stream belongs to one device.
        stream.device_id = source.device
        return stream

    def event_handle(self, event: object) -> int | None:
        """The handle exists from the start."""
        return int(event.ptr) if isinstance(event, cupy.cuda.Event) else None

    def is_array(self, array: object) -> bool:
        """A cupy.ndarray."""
        return isinstance(array, cupy.ndarray)

    def array_stream(self, array: object) -> object | None:
        """CuPy's current stream on the array's device."""
        return cupy.cuda.get_current_stream(array.data.device_id)  # type: ignore[attr-defined, no-any-return]

    def read(self, array: Any) -> Tensor | None:  # noqa: ANN401
        """None for records and other types that are not numbers, which the array interface can tell."""
        dtype = _TYPES.get(array.dtype) if isinstance(array, cupy.ndarray) else None
        if dtype is None:
            return None
        memory = array.data
        if array.flags.c_contiguous:
            return Tensor(memory.ptr, array.shape, None, dtype, CUDA, memory.device_id, False, array)  # noqa: FBT003
        return strided(memory.ptr, array.shape, array.strides, dtype, memory.device_id, array)

    def holder_of(self, array: Any) -> object | None:  # noqa: ANN401
        """The owner of memory that CuPy has not allocated."""
        return getattr(array.data.mem, "_owner", None)

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401
        """Over memory from the lowest byte on: an array with a negative stride starts at a higher one."""
        address, shape, strides, dtype, _, device, _, _ = tensor
        numbers = _DTYPES.get(dtype)
        if numbers is None:
            with cupy.cuda.Device(device):
                return cupy.from_dlpack(Ordered(holder))
        if strides is None:
            memory = cupy.cuda.UnownedMemory(address, prod(shape) * numbers.itemsize, holder, device)
            return cupy.ndarray(shape, numbers, cupy.cuda.MemoryPointer(memory, 0))
        start, stop = tensor.extent()
        memory = cupy.cuda.UnownedMemory(start, stop - start, holder, device)
        return cupy.ndarray(
            shape, numbers, cupy.cuda.MemoryPointer(memory, address - start), strides=tensor.byte_strides()
        )

    def usable(self) -> bool:
        """Whether CuPy finds a GPU."""
        return bool(cupy.cuda.is_available())

    def current_stream(self) -> object:
        """The stream of the calling thread and the current device."""
        return cupy.cuda.get_current_stream()

    def current_handle(self, device: int | None) -> int:
        """CuPy has no call without an object, but keeps the object. 0 is the legacy stream."""
        return int(cupy.cuda.get_current_stream(-1 if device is None else device).ptr) or LEGACY

    def before(self, stream: object) -> object:
        """The current stream, which may be one that ``use()`` has set beside the stack."""
        return _Entry(stream, cupy.cuda.get_current_stream())

    def enter(self, stream: Any, before: object) -> None:  # noqa: ANN401
        """Push *stream*, so that it is current again after a ``with`` block inside."""
        # One step of C pushes and notes it, so no signal handler can raise between the two.
        cast("_Entry", before).pushed.extend(starmap(stream.__enter__, ((),)))

    def leave(self, before: object) -> None:
        """Pop *stream* if it was pushed. If ``use()`` had set a stream that is not on the stack, set that again."""
        entry: Any = before
        if entry.pushed and not entry.popped:
            entry.popped.extend(starmap(entry.stream.__exit__, ((None, None, None),)))
        if cupy.cuda.get_current_stream() is not entry.previous:
            entry.previous.use()


class _Entry:
    """The stream of one block, the current stream before it, and whether the stream was pushed and popped."""

    __slots__ = ("popped", "previous", "pushed", "stream")

    def __init__(self, stream: object, previous: object) -> None:
        self.stream = stream
        self.previous = previous
        self.pushed: list[object] = []
        self.popped: list[object] = []


ADAPTER = CupyAdapter()
