"""Memory that another process can open, and memory of other processes that is open here."""

import sys
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

from interop._cuda import IPC_HANDLE_BYTES, Cuda
from interop._safety import forks
from interop.adapters.tensor import CUDA, Tensor
from interop.errors import CudaError, InvalidDeviceError
from interop.stream import ExternalStream

_LAZY_PEER_ACCESS: Final = 1  # cudaIpcMemLazyEnablePeerAccess, the only flag there is


def device_uuid(cuda: Cuda, device: int) -> str:
    """What tells a device from all others, in every process, in hexadecimal."""
    if cuda.simulation is not None:
        return f"SIMULATED {device}"
    return bytes(cuda.drive("cuDeviceGetUuid", device).bytes).hex()


def device_with(cuda: Cuda, uuid: str) -> int:
    """The ordinal of a device in this process.

    Raises:
        InvalidDeviceError: this process does not see it.
    """
    for device in range(cuda.device_count()):
        if device_uuid(cuda, device) == uuid:
            return device
    message = f"the array is on the device {uuid}, which this process does not see: look at CUDA_VISIBLE_DEVICES"
    raise InvalidDeviceError(message)


# -- to other processes ------------------------------------------------------------------------------------------------


def why_not(cuda: Cuda, tensor: Tensor) -> str:
    """Why another process cannot open the memory; empty if it can."""
    if 0 in tensor.shape:
        return "it has no elements, and so no memory"
    if tensor.device_type != CUDA:
        return "it is pinned or managed memory, which CUDA exports to no process"
    _, driver = cuda.load()
    attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
    if int(cuda.drive("cuPointerGetAttribute", attribute, tensor.address)):
        return ""
    return (
        "it is of a stream-ordered pool (cudaMallocAsync), of JAX, or of PyTorch's expandable segments, whose memory "
        "has no handle for other processes. CuPy's default pool, PyTorch's default allocator, Numba, RMM's default "
        "and cudaMalloc have one"
    )


def exported(cuda: Cuda, tensor: Tensor) -> tuple[bytes, int]:
    """The handle of the allocation, and where in it the first element is, in bytes."""
    import ctypes  # noqa: PLC0415  (a third of the time of `import interop`)

    start, _ = allocation(cuda, tensor.address)
    handle = cuda.within(cuda.primary_context(tensor.device_id), cuda.call, "cudaIpcGetMemHandle", start)
    return ctypes.string_at(handle.getPtr(), IPC_HANDLE_BYTES), tensor.address - start


def allocation(cuda: Cuda, address: int) -> tuple[int, int]:
    """Where the allocation starts that has an address, and its bytes."""
    _, driver = cuda.load()
    code, start, size = driver.cuMemGetAddressRange(address)
    if code:
        raise CudaError(int(code), code.name, "cuMemGetAddressRange")
    return int(start), int(size)


class Copy:
    """Memory by cudaMalloc, which other processes can open."""

    def __init__(self, cuda: Cuda, device: int, size: int) -> None:
        self._cuda = cuda
        self._device = device
        self.address, self.size = 0, size
        for spare in list(_spare):
            if spare[:2] == (cuda, device) and size <= spare[3] <= 2 * size and _taken(spare):
                self.address, self.size = spare[2:]
                return
        self.address = int(cuda.within(cuda.primary_context(device), cuda.call, "cudaMalloc", size))

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # The memory is kept for the next copy: to free it waits for the device.
        if getattr(self, "address", 0) and not _finalizing() and not self._cuda.was_forked:
            _spare.append((self._cuda, self._device, self.address, self.size))
            if len(_spare) > _MOST_SPARE:
                cuda, device, address, _ = _spare.popleft()
                cuda.discard(lambda one: cuda.within(cuda.primary_context(device), cuda.call, "cudaFree", one), address)


_MOST_SPARE: Final = 4
_spare: Final[deque[tuple[Cuda, int, int, int]]] = deque()


def _taken(spare: tuple[Cuda, int, int, int]) -> bool:
    try:
        _spare.remove(spare)
    except ValueError:  # another thread was faster
        return False
    return True


def copied(cuda: Cuda, tensor: Tensor, stream: ExternalStream) -> Tensor:
    """A copy, with the same strides, which *stream* makes, in memory that can be exported."""
    start, stop = tensor.extent()
    buffer = Copy(cuda, stream.device, stop - start)
    kind = cuda.runtime().cudaMemcpyKind.cudaMemcpyDefault
    arguments = (buffer.address, start, stop - start, kind, stream.cuda_stream)
    cuda.within(stream._usable_context(), cuda.call, "cudaMemcpyAsync", *arguments)
    address = buffer.address + tensor.address - start
    return Tensor(address, tensor.shape, tensor.strides, tensor.dtype, CUDA, stream.device, False, buffer)  # noqa: FBT003


# -- from other processes ----------------------------------------------------------------------------------------------


class Mapping:
    """An allocation of another process that is open here. It is closed with the last array over it."""

    def __init__(self, cuda: Cuda, context: int, handle: bytes) -> None:
        import ctypes  # noqa: PLC0415  (a third of the time of `import interop`)

        self._cuda = cuda
        self._context = context
        self.address = 0
        raw = cuda.runtime().cudaIpcMemHandle_t()
        ctypes.memmove(raw.getPtr(), handle, IPC_HANDLE_BYTES)
        self.address = int(cuda.within(context, cuda.call, "cudaIpcOpenMemHandle", raw, _LAZY_PEER_ACCESS))
        self.size = allocation(cuda, self.address)[1]

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if getattr(self, "address", 0) and not _finalizing():
            self._cuda.discard(self._close, self.address)

    def _close(self, address: int) -> None:
        self._cuda.within(self._context, self._cuda.call, "cudaIpcCloseMemHandle", address)


_open: Final[weakref.WeakValueDictionary[tuple[int, bytes], Mapping]] = weakref.WeakValueDictionary()
_lock: Final = forks.lock()


def opened(cuda: Cuda, device: int, handle: bytes) -> Mapping:
    """The allocation of this handle, which is opened once for all arrays in it.

    Raises:
        InteropError: CUDA does not open it.
    """
    key = (cuda.primary_context(device), handle)
    with _lock:
        mapping = _open.get(key)
        if mapping is None:
            mapping = _open[key] = Mapping(cuda, *key)
    return mapping
