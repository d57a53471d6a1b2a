"""Memory by its address: where it lies, and which devices can use it."""

import contextlib
from typing import Final

from interop._cuda.codes import PEER_ACCESS_ALREADY_ENABLED, checked
from interop._cuda.operations import Cuda
from interop.errors import CudaError

_KINDS: Final = {1: 3, 2: 2, 3: 13}
"""DLPack's device types, by cudaMemoryTypeHost, cudaMemoryTypeDevice and cudaMemoryTypeManaged."""


def pointer_place(cuda: Cuda, address: int) -> tuple[int, int]:
    """The kind of memory at *address*, and its device.

    The kind is DLPack's device type: 2 for a device's memory, 3 for pinned, 13 for managed; 0 for memory that CUDA
    does not know.
    """
    attributes = cuda.call("cudaPointerGetAttributes", address)
    return _KINDS.get(int(attributes.type), 0), int(attributes.device)


def peer_access(cuda: Cuda, device: int, other: int, address: int) -> bool:
    """Let *device* use memory of the device *other*, for the rest of the process; False if it cannot.

    A stream-ordered pool (cudaMallocAsync) has an access list of its own. If *address* lies in such a pool, *device*
    gets access to the pool; otherwise, to all memory of the primary context of *other*.
    """
    if (device, other) not in cuda.peers:
        able = bool(cuda.call("cudaDeviceCanAccessPeer", device, other))
        if able:
            name, runtime = "cudaDeviceEnablePeerAccess", cuda.runtime()
            result = cuda.within(cuda.primary_context(device), getattr(runtime, name), other, 0)
            if result[0] != PEER_ACCESS_ALREADY_ENABLED:
                checked(result, name, runtime)
        cuda.peers[device, other] = able
    return cuda.peers[device, other] and _pool_access(cuda, device, address)


def _pool_access(cuda: Cuda, device: int, address: int) -> bool:
    _, driver = cuda.load()
    attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE
    pool = cuda.drive("cuPointerGetAttribute", attribute, address)
    if not int(pool):
        return True
    location = driver.CUmemLocation()
    location.type, location.id = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE, device
    if cuda.drive("cuMemPoolGetAccess", pool, location):
        return True
    access = driver.CUmemAccessDesc()
    access.location, access.flags = location, driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    with contextlib.suppress(CudaError):  # the access to a pool of another process cannot be changed
        cuda.drive("cuMemPoolSetAccess", pool, [access], 1)
        return True
    return False
