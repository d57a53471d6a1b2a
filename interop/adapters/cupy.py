"""CuPy: a current stream a thread and device, kept on a stack by ``with`` and beside it by ``use()``."""

from itertools import starmap
from math import prod
from typing import Any, cast

import cupy
import numpy as np

from interop.adapters.base import (
    BFLOAT16,
    CUDA,
    LEGACY,
    TYPES,
    Adapter,
    Ordered,
    Source,
    Takes,
    Tensor,
    byte_strides_to_elements,
)

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
        """Stream.null is 0 and always the legacy stream: CUPY_CUDA_PER_THREAD_DEFAULT_STREAM only picks the default."""
        return int(stream.ptr) or LEGACY if isinstance(stream, _STREAM_TYPES) else None

    def keeps_alive(self, stream: object) -> bool:
        """Not the deprecated ExternalStream."""
        return isinstance(stream, cupy.cuda.Stream)

    def make_stream(self, source: Source) -> object:
        """``from_external`` neither warns nor destroys the stream, and keeps *source* alive."""
        if source.handle == LEGACY:
            return cupy.cuda.Stream.null
        stream = cupy.cuda.Stream.from_external(source)
        # -1, which from_external leaves, is "whichever device is current" to CuPy: a stream has one device.
        stream.device_id = source.device
        return stream

    def event_handle(self, event: object) -> int | None:
        """CuPy events are created when they are made."""
        return int(event.ptr) if isinstance(event, cupy.cuda.Event) else None

    def is_array(self, array: object) -> bool:
        """Any cupy.ndarray."""
        return isinstance(array, cupy.ndarray)

    def array_stream(self, array: object) -> object | None:
        """CuPy's current stream on the array's device."""
        return cupy.cuda.get_current_stream(array.data.device_id)  # type: ignore[attr-defined, no-any-return]

    def read(self, array: Any) -> Tensor | None:  # noqa: ANN401
        """Records, and other types of more than a number, are left to the array interface."""
        if not isinstance(array, cupy.ndarray):
            return None
        dtype = _TYPES.get(array.dtype)
        if dtype is None:
            return None
        memory, shape, strides = array.data, array.shape, None
        if not array.flags.c_contiguous:
            try:
                strides = byte_strides_to_elements(array.strides, shape, array.dtype.itemsize)
            except ValueError:
                return None
        return Tensor(memory.ptr, shape, strides, dtype, CUDA, memory.device_id, False, array)  # noqa: FBT003

    def holder_of(self, array: Any) -> object | None:  # noqa: ANN401
        """The owner of memory that CuPy did not allocate."""
        return getattr(array.data.mem, "_owner", None)

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401
        """Over memory that begins at the lowest byte: an array that runs backwards begins at its highest."""
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
        """Asked of CUDA by CuPy itself."""
        return bool(cupy.cuda.is_available())

    def current_stream(self) -> object:
        """Of the calling thread, on the current device."""
        return cupy.cuda.get_current_stream()

    def before(self, stream: object) -> object:
        """The current stream, which ``use()`` may have set beside the stack."""
        return _Entry(stream, cupy.cuda.get_current_stream())

    def enter(self, stream: Any, before: object) -> None:  # noqa: ANN401
        """Push, so that a ``with`` inside comes back to *stream*."""
        # In one step of C, also the note that it was done: no signal handler can come in between.
        cast("_Entry", before).pushed.extend(starmap(stream.__enter__, ((),)))

    def leave(self, before: object) -> None:
        """Pop, if it was pushed; and where ``use()`` had set a stream that is not on the stack, set it again."""
        entry: Any = before
        if entry.pushed and not entry.popped:
            entry.popped.extend(starmap(entry.stream.__exit__, ((None, None, None),)))
        if cupy.cuda.get_current_stream() is not entry.previous:
            entry.previous.use()


class _Entry:
    """One block: its stream, the one before it, and whether it was pushed and popped."""

    __slots__ = ("popped", "previous", "pushed", "stream")

    def __init__(self, stream: object, previous: object) -> None:
        self.stream = stream
        self.previous = previous
        self.pushed: list[object] = []
        self.popped: list[object] = []


ADAPTER = CupyAdapter()
