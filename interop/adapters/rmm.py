"""RMM: a stream type that wraps any protocol object and keeps it alive; no current stream, no events."""

from typing import Any

from rmm.pylibrmm.device_buffer import DeviceBuffer
from rmm.pylibrmm.stream import LEGACY_DEFAULT_STREAM, PER_THREAD_DEFAULT_STREAM, Stream

from interop.adapters.base import CUDA, LEGACY, PER_THREAD, TYPES, Adapter, Source, Tensor

_DEFAULT_STREAMS = {LEGACY: LEGACY_DEFAULT_STREAM, PER_THREAD: PER_THREAD_DEFAULT_STREAM}


class RmmAdapter(Adapter):
    """rmm.pylibrmm.stream.Stream."""

    library = "rmm"
    instead = "pass `stream.to('rmm')` to the buffer or the copy"

    def stream_handle(self, stream: object) -> int | None:
        """DEFAULT_STREAM is 0: the legacy stream, as RMM's wheels are built."""
        return int(stream.__cuda_stream__()[1]) or LEGACY if isinstance(stream, Stream) else None

    def make_stream(self, source: Source) -> object:
        """RMM tells its default streams by their own objects."""
        return _DEFAULT_STREAMS.get(source.handle) or Stream(source)

    def is_array(self, array: object) -> bool:
        """A buffer of bytes. It does not say which stream it was written on."""
        return isinstance(array, DeviceBuffer)

    def read(self, array: Any) -> Tensor | None:  # noqa: ANN401
        """Bytes; on which device, CUDA knows."""
        if not isinstance(array, DeviceBuffer):
            return None
        return Tensor(array.ptr, (array.size,), None, TYPES["|u1"], CUDA, -1, False, array)  # noqa: FBT003


ADAPTER = RmmAdapter()
