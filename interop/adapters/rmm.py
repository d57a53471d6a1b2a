"""RMM: streams that wrap any object with ``__cuda_stream__`` and keep it alive; no current stream, no events."""

from typing import Any

from rmm.pylibrmm.device_buffer import DeviceBuffer
from rmm.pylibrmm.stream import LEGACY_DEFAULT_STREAM, PER_THREAD_DEFAULT_STREAM, Stream

from interop.adapters.base import LEGACY, PER_THREAD, Adapter, Source
from interop.adapters.tensor import CUDA, TYPES, Tensor

_DEFAULT_STREAMS = {LEGACY: LEGACY_DEFAULT_STREAM, PER_THREAD: PER_THREAD_DEFAULT_STREAM}


class RmmAdapter(Adapter):
    """rmm.pylibrmm.stream.Stream."""

    library = "rmm"
    instead = "pass `stream.to('rmm')` to the buffer or the copy"

    def stream_handle(self, stream: object) -> int | None:
        """0 is DEFAULT_STREAM: the legacy stream, in the way in which RMM's wheels are built."""
        return int(stream.__cuda_stream__()[1]) or LEGACY if isinstance(stream, Stream) else None

    def make_stream(self, source: Source) -> object:
        """RMM has its own objects for the default streams."""
        return _DEFAULT_STREAMS.get(source.handle) or Stream(source)

    def is_array(self, array: object) -> bool:
        """A DeviceBuffer, which does not tell the stream on which it was written."""
        return isinstance(array, DeviceBuffer)

    def read(self, array: Any) -> Tensor | None:  # noqa: ANN401
        """The bytes of the buffer, which does not tell its device."""
        if not isinstance(array, DeviceBuffer):
            return None
        return Tensor(array.ptr, (array.size,), None, TYPES["|u1"], CUDA, -1, False, array)  # noqa: FBT003


ADAPTER = RmmAdapter()
