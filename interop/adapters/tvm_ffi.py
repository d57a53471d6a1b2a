"""tvm-ffi: a current stream per thread and device, which it calls the environment stream, kept as an address."""

from functools import cache
from typing import Any

import tvm_ffi
from tvm_ffi.stream import StreamContext

from interop.adapters.base import LEGACY, Adapter, Source, Takes, capsule, current_device, is_kept, keep
from interop.adapters.tensor import CUDA, DataType, Tensor

_device = cache(lambda ordinal: tvm_ffi.device("cuda", ordinal))


class TvmFfiAdapter(Adapter):
    """tvm_ffi.Tensor; and what tvm_ffi.use_raw_stream returns, as tvm-ffi has no streams of its own."""

    library = "tvm_ffi"
    streams_stay_the_same = True
    needs_device = False
    needs_extension = True
    takes = Takes()

    def stream_handle(self, stream: object) -> int | None:
        """0 is the legacy stream, in kernels that are compiled by default."""
        if not isinstance(stream, StreamContext) or stream.device_type != CUDA:
            return None
        return int(stream.stream) or LEGACY

    def stream_device(self, stream: object) -> int | None:
        """Each device has an environment stream of its own."""
        return int(stream.device_id)  # type: ignore[attr-defined]

    def keeps_alive(self, stream: object) -> bool:
        """False for an address that :meth:`make_stream` has not wrapped."""
        return is_kept(stream)

    def make_stream(self, source: Source) -> object:
        """The context manager that makes the address current."""
        handle = 0 if source.handle == LEGACY else source.handle
        return keep(tvm_ffi.use_raw_stream(_device(source.device), handle), source)

    def is_array(self, array: object) -> bool:
        """A tensor on a GPU."""
        return isinstance(array, tvm_ffi.Tensor) and array.__dlpack_device__()[0] == CUDA

    def array_stream(self, array: Any) -> object | None:  # noqa: ANN401
        """The environment stream of the tensor's device."""
        return _current(array.__dlpack_device__()[1])

    def read(self, array: Any) -> Tensor | None:  # noqa: ANN401
        """By the tensor's attributes. None for complex numbers: tvm-ffi has no name for them, and DLPack tells."""
        if not self.is_array(array):
            return None
        try:
            dtype = array.dtype
        except ValueError:
            return None
        kind = DataType(dtype.type_code, dtype.bits, dtype.lanes)
        strides = None if array.is_contiguous() else array.strides
        device = array.__dlpack_device__()[1]
        return Tensor(array.data_ptr(), array.shape, strides, kind, CUDA, device, False, array)  # noqa: FBT003

    def mark_of(self, array: Any) -> int:  # noqa: ANN401
        """The address of the object in C++ that all wrappers of the tensor share."""
        return int(array.__chandle__())

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401
        """By a capsule, because ``from_dlpack`` passes no stream to ``__dlpack__``."""
        return tvm_ffi.from_dlpack(capsule(tensor, holder, versioned=True))

    def current_stream(self) -> object:
        """The environment stream of the calling thread and the current device. It keeps nothing alive."""
        return _current(current_device())

    def current_handle(self, device: int | None) -> int:
        """Without an object for the stream."""
        return tvm_ffi.get_raw_stream(_device(current_device() if device is None else device)) or LEGACY

    def before(self, stream: Any) -> object:  # noqa: ANN401
        """The environment stream of the device of *stream*."""
        return _current(stream.device_id)

    def enter(self, stream: object, before: object) -> None:  # noqa: ARG002
        """Set the address."""
        _set(stream)

    def leave(self, before: object) -> None:
        """Set the previous address."""
        _set(before)


def _current(ordinal: int) -> object:
    device = _device(ordinal)
    return StreamContext(device, tvm_ffi.get_raw_stream(device))


def _set(stream: Any) -> None:  # noqa: ANN401
    """Make a stream current. By a new object, because one that a block has entered knows what to restore."""
    StreamContext(_device(stream.device_id), stream.stream).__enter__()


ADAPTER = TvmFfiAdapter()
