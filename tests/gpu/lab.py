"""What the GPU tests share: streams of every library, and cells of device memory, which show what ran first."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cuda.bindings import runtime

from interop.matrix.libraries import LIBRARIES, Library

NON_BLOCKING = 1
STALE, WRITTEN, UNSEEN = 1, 7, 9


def call(result):
    """The value of a CUDA call, which must have succeeded."""
    assert not result[0], result
    return result[1] if len(result) > 1 else None


@contextmanager
def on_device(device: int) -> Iterator[None]:
    before = call(runtime.cudaGetDevice())
    call(runtime.cudaSetDevice(device))
    try:
        yield
    finally:
        call(runtime.cudaSetDevice(before))


def device_count() -> int:
    code, count = runtime.cudaGetDeviceCount()
    return 0 if code else count


def stream_of(library: str) -> object:
    return LIBRARIES[library]().stream()


def warp_stream():
    import warp

    warp.config.quiet = True
    return warp.Stream(f"cuda:{call(runtime.cudaGetDevice())}")


def tvm_ffi_stream():
    """tvm-ffi makes no streams: it keeps addresses."""
    import tvm_ffi

    return tvm_ffi.use_raw_stream(tvm_ffi.device("cuda", call(runtime.cudaGetDevice())), int_stream())


def dali_stream():
    import nvidia.dali.experimental.dynamic as ndd

    return ndd.stream(device_id=call(runtime.cudaGetDevice()))


def bindings_stream():
    return call(runtime.cudaStreamCreateWithFlags(NON_BLOCKING))


def int_stream():
    return int(bindings_stream())


STREAMS: dict[str, Callable[[], object]] = {
    **{
        library: functools.partial(stream_of, library)
        for library, kind in LIBRARIES.items()
        if kind.stream is not Library.stream
    },
    "nvidia.dali.experimental.dynamic": dali_stream,
    "tvm_ffi": tvm_ffi_stream,
    "warp": warp_stream,
    "cuda.bindings": bindings_stream,
    "int": int_stream,
}


@functools.cache
def native_stream(library: str, device: int, number: int) -> object:
    """A stream of *library* on *device*, another one for each *number*. It lives for the whole run."""
    with on_device(device):
        return STREAMS[library]()


def pair(producer: str, consumer: str, devices: tuple[int, int] = (0, 0)) -> tuple[object, object]:
    """Two different streams."""
    return native_stream(producer, devices[0], 0), native_stream(consumer, devices[1], 1)


def handle_of(stream: object) -> int:
    """The handle of a stream of any library, read without interop."""
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    return int(getattr(stream, "stream", stream))


@functools.cache
def _peer_access(a: int, b: int) -> None:
    with on_device(a):
        code = runtime.cudaDeviceEnablePeerAccess(b, 0)[0]
        assert int(code) in (0, 704), code  # 704: already enabled


@functools.cache
def _memory(device: int) -> int:
    with on_device(device):
        return int(call(runtime.cudaMalloc(4096)))


class Cell:
    """One byte on a device. Writes and copies are queued on streams; nothing is allocated after the first one."""

    def __init__(self, device: int, offset: int) -> None:
        self.device = device
        self.address = _memory(device) + offset

    def put(self, value: int) -> None:
        """Set the cell from the host, at once. No stream may be held up."""
        with on_device(self.device):
            call(runtime.cudaMemset(self.address, value, 1))
            call(runtime.cudaDeviceSynchronize())

    def write(self, stream: object, value: int) -> None:
        with on_device(self.device):
            call(runtime.cudaMemsetAsync(self.address, value, 1, handle_of(stream)))

    def copy_from(self, source: "Cell", stream: object) -> None:
        if source.device != self.device:
            _peer_access(self.device, source.device)
            _peer_access(source.device, self.device)
        kind = runtime.cudaMemcpyKind.cudaMemcpyDefault
        with on_device(self.device):
            call(runtime.cudaMemcpyAsync(self.address, source.address, 1, kind, handle_of(stream)))

    def value(self) -> int:
        """The value, once the device is done."""
        import ctypes

        host = ctypes.c_uint8()
        with on_device(self.device):
            call(runtime.cudaDeviceSynchronize())
            kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
            call(runtime.cudaMemcpy(ctypes.addressof(host), self.address, 1, kind))
        return host.value


def race(producer: object, consumer: object, devices: tuple[int, int], order: Callable[[], None] | None) -> int:
    """The value that *consumer* reads of a cell that the gated *producer* writes, with *order* in between.

    Fails if any call blocked the host.
    """
    from interop.testing import gate

    source, target = Cell(devices[0], 0), Cell(devices[1], 64)
    target.copy_from(source, consumer)  # CUDA must load everything before the gate is shut
    source.put(STALE)
    target.put(UNSEEN)
    with gate(producer) as shut:
        source.write(producer, WRITTEN)
        if order is not None:
            order()
        target.copy_from(source, consumer)
        assert not shut.is_open, "the host was blocked until the gate opened itself"
        if order is None:
            # Nothing holds the consumer up: it is done before the gate opens.
            call(runtime.cudaStreamSynchronize(handle_of(consumer)))
    return target.value()
