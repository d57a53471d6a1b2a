"""The memory pools of the libraries that are loaded: which library takes its memory from which pool.

Nothing is imported, and no context or pool is created: a library is asked only when the context of the device exists,
by functions that read what is there.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Final, NamedTuple

from interop import _cuda
from interop.diagnosis.attempt import attempt
from interop.diagnosis.libraries import Library
from interop.diagnosis.machine import has_context

DRIVERS: Final = "the driver's pool (cudaMallocAsync)"
_NO_POOL: Final = "no pool: cudaMalloc"


@dataclass(frozen=True, slots=True)
class Pool:
    """One memory pool of the current device.

    Attributes:
        name: whose pool it is.
        libraries: the loaded libraries that take memory from it, as they are set up now. Several of them share it.
        held: in bytes, what it has from CUDA; None if that cannot be asked.
        used: in bytes, what the libraries have of it at present; None if that cannot be asked.
    """

    name: str
    libraries: tuple[str, ...]
    held: int | None
    used: int | None


class _Seen(NamedTuple):
    name: str
    held: int | None = None
    used: int | None = None


def look(libraries: Iterable[Library], device: int | None) -> list[Pool]:
    """Look at the pools of all loaded libraries.

    Args:
        libraries: the installed libraries.
        device: the ordinal of the current device; None if there is none.
    """
    cuda = _cuda.active()
    if device is None or cuda.simulation is not None or not has_context(cuda, device):
        return []
    # Relaxed: a question about a pool must not invalidate a capture, in whatever mode.
    return cuda.within(cuda.current_context(), cuda.relaxed, _look, cuda, device, libraries)


def _look(cuda: _cuda.Cuda, device: int, libraries: Iterable[Library]) -> list[Pool]:
    seen, _ = attempt(lambda: _drivers(cuda, device), _Seen(DRIVERS))
    found = {DRIVERS: Pool(DRIVERS, (), seen.held, seen.used)}
    for library in libraries:
        module = sys.modules.get(library.name)
        if library.name not in _READERS or not library.loaded or library.failure or module is None:
            continue
        pool, _ = attempt(lambda: _READERS[library.name](module, device), None)  # noqa: B023  (called at once)
        if pool is not None:
            known = found.setdefault(pool.name, Pool(pool.name, (), pool.held, pool.used))
            found[pool.name] = replace(known, libraries=(*known.libraries, library.name))
    return [pool for pool in found.values() if pool.libraries]


def _drivers(cuda: _cuda.Cuda, device: int) -> _Seen:
    """The pool of ``cudaMallocAsync``."""
    attribute = cuda.load()[1].CUmemPool_attribute
    pool = cuda.drive("cuDeviceGetMemPool", device)
    held = cuda.drive("cuMemPoolGetAttribute", pool, attribute.CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
    used = cuda.drive("cuMemPoolGetAttribute", pool, attribute.CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
    return _Seen(DRIVERS, int(held), int(used))


# -- libraries -----------------------------------------------------------------------------------------------------


def _cuda_core(_: ModuleType, __: int) -> _Seen:
    """``Device.memory_resource``, as it is by default."""
    return _Seen(DRIVERS)


def _cupy(cupy: ModuleType, device: int) -> _Seen:
    allocate = cupy.cuda.get_allocator()
    pool = getattr(allocate, "__self__", None)
    if isinstance(pool, cupy.cuda.MemoryAsyncPool):
        return _Seen(DRIVERS)
    if isinstance(pool, cupy.cuda.MemoryPool):
        return _Seen("CuPy's pool", pool.total_bytes(), pool.used_bytes())
    if getattr(allocate, "__module__", None) == "rmm.allocators.cupy":
        return _of_rmm(device)
    return _Seen(_NO_POOL if getattr(allocate, "__name__", "") == "_malloc" else f"CuPy's allocator {allocate!r}")


def _torch(torch: ModuleType, device: int) -> _Seen | None:
    if not torch.cuda.is_initialized():
        return None
    backend = torch.cuda.get_allocator_backend()
    if backend == "native":
        return _Seen("PyTorch's pool", torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device))
    if backend == "cudaMallocAsync":
        return _Seen(DRIVERS)
    return _of_rmm(device) if "rmm.allocators.torch" in sys.modules else _Seen(f"PyTorch's allocator {backend!r}")


def _rmm(rmm: ModuleType, _: int) -> _Seen:
    """The pool under the adaptors of RMM's current resource, whose statistics say what is in use, if they are kept."""
    resource, used = rmm.mr.get_current_device_resource(), None
    while not hasattr(resource, "pool_size") and hasattr(resource, "upstream_mr"):
        used = resource.allocation_counts.current_bytes if hasattr(resource, "allocation_counts") else used
        resource = resource.upstream_mr
    kind = type(resource).__name__
    if kind == "CudaMemoryResource":
        return _Seen(_NO_POOL)
    return _Seen(f"RMM's {kind}", resource.pool_size() if hasattr(resource, "pool_size") else None, used)


def _of_rmm(device: int) -> _Seen:
    return _rmm(sys.modules["rmm"], device)


def _numba(_: ModuleType, device: int) -> _Seen | None:
    """None before it has chosen, which it does at its first use of the GPU."""
    manager = getattr(sys.modules.get("numba.cuda.cudadrv.driver"), "_memory_manager", None)
    if manager is None:
        return None
    return _of_rmm(device) if manager.__module__ == "rmm.allocators.numba" else _Seen(_NO_POOL)


def _jax(jax: ModuleType, device: int) -> _Seen | None:
    if not jax._src.xla_bridge.backends_are_initialized():  # noqa: SLF001  (any public question initialises them)
        return None
    (found,) = (each for each in jax.local_devices(backend="cuda") if each.local_hardware_id == device)
    stats = found.memory_stats()
    return _Seen("JAX's pool", stats.get("pool_bytes"), stats["bytes_in_use"])


def _warp(warp: ModuleType, device: int) -> _Seen | None:
    if getattr(sys.modules.get("warp._src.context"), "runtime", None) is None:  # the question would initialise it
        return None
    return _Seen(DRIVERS if warp.is_mempool_enabled(f"cuda:{device}") else _NO_POOL)


_READERS: Final[dict[str, Callable[[ModuleType, int], _Seen | None]]] = {
    "cuda.core": _cuda_core,
    "cupy": _cupy,
    "jax": _jax,
    "numba": _numba,
    "rmm": _rmm,
    "torch": _torch,
    "warp": _warp,
}
