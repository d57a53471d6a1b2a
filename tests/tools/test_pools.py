"""The memory pools that ``interop.doctor()`` shows, on stand-ins of the libraries; tests/gpu has the libraries."""

import sys
import types
from types import SimpleNamespace

import pytest

import interop
from interop.diagnosis import drawing, pools
from interop.diagnosis.libraries import Library
from interop.diagnosis.pools import DRIVERS, Pool

MIB = 2**20


def library(name, **facts):
    return Library(name, {}, loaded=True, adapter="", null=None, default=None, **facts)


class PoolOfCuPy:
    def malloc(self, size):
        """What CuPy calls to allocate."""

    def total_bytes(self):
        return 5 * MIB

    def used_bytes(self):
        return 3 * MIB


class AsyncPoolOfCuPy:
    def malloc(self, size):
        """What CuPy calls to allocate."""


def cupy(allocate):
    return SimpleNamespace(
        cuda=SimpleNamespace(MemoryPool=PoolOfCuPy, MemoryAsyncPool=AsyncPoolOfCuPy, get_allocator=lambda: allocate)
    )


def torch(backend, *, initialised=True):
    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_initialized=lambda: initialised,
            get_allocator_backend=lambda: backend,
            memory_reserved=lambda device: 20 * MIB + device,
            memory_allocated=lambda device: 2 * MIB + device,
        )
    )


class CudaMemoryResource:
    """RMM's, without a pool."""


class PoolMemoryResource:
    upstream_mr = CudaMemoryResource()

    def pool_size(self):
        return 64 * MIB


class StatisticsResourceAdaptor:
    upstream_mr = PoolMemoryResource()
    allocation_counts = SimpleNamespace(current_bytes=MIB)


def rmm(resource):
    return SimpleNamespace(mr=SimpleNamespace(get_current_device_resource=lambda: resource))


def rmm_cupy_allocator(size):
    """RMM's, for CuPy."""


rmm_cupy_allocator.__module__ = "rmm.allocators.cupy"


class Cuda:
    """In place of CUDA, with a context on device 0, whose pool holds 8 MiB."""

    simulation = None
    is_relaxed = False

    def load(self):
        return None, SimpleNamespace(
            CUmemPool_attribute=SimpleNamespace(
                CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT=8 * MIB, CU_MEMPOOL_ATTR_USED_MEM_CURRENT=MIB
            )
        )

    def drive(self, _name, *arguments):
        assert self.is_relaxed
        return arguments[-1]

    def current_context(self):
        return 1

    def within(self, _context, function, *arguments):
        return function(*arguments)

    def relaxed(self, function, *arguments):
        self.is_relaxed = True
        return function(*arguments)


@pytest.fixture
def seen(monkeypatch):
    """The pools of device 0, if these libraries are loaded."""

    def look(**modules):
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        names = ["cuda.core"] * ("cuda.core" in sys.modules) + [*modules]
        found = pools.look(map(library, names), 0)
        return [pool for pool in found if pool.libraries != ("cuda.core",)]

    monkeypatch.setattr(pools._cuda, "active", Cuda)
    monkeypatch.setattr(pools, "has_context", lambda *_: True)
    for name in ("cuda.core", "numba.cuda.cudadrv.driver", "rmm.allocators.torch", "warp._src.context"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return look


def test_each_library_has_its_own(seen):
    found = seen(cupy=cupy(PoolOfCuPy().malloc), torch=torch("native"), rmm=rmm(StatisticsResourceAdaptor()))
    assert found == [
        Pool("CuPy's pool", ("cupy",), 5 * MIB, 3 * MIB),
        Pool("PyTorch's pool", ("torch",), 20 * MIB, 2 * MIB),
        Pool("RMM's PoolMemoryResource", ("rmm",), 64 * MIB, MIB),
    ]


def test_the_drivers_pool_is_shared(seen, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core", types.ModuleType("cuda.core"))
    found = seen(cupy=cupy(AsyncPoolOfCuPy().malloc), torch=torch("cudaMallocAsync"))
    assert found == [Pool(DRIVERS, ("cuda.core", "cupy", "torch"), 8 * MIB, MIB)]


def test_rmm_is_shared(seen, monkeypatch):
    monkeypatch.setitem(sys.modules, "rmm.allocators.torch", types.ModuleType("rmm.allocators.torch"))
    found = seen(cupy=cupy(rmm_cupy_allocator), torch=torch("pluggable"), rmm=rmm(PoolMemoryResource()))
    assert found == [Pool("RMM's PoolMemoryResource", ("cupy", "torch", "rmm"), 64 * MIB, None)]


def jax(*, initialised):
    def memory_stats():
        return {"bytes_in_use": MIB, "pool_bytes": 100 * MIB}

    device = SimpleNamespace(local_hardware_id=0, memory_stats=memory_stats)
    bridge = SimpleNamespace(backends_are_initialized=lambda: initialised)
    return SimpleNamespace(_src=SimpleNamespace(xla_bridge=bridge), local_devices=lambda **_: [device])


def warp(*, enabled):
    return SimpleNamespace(is_mempool_enabled=lambda device: enabled if device == "cuda:0" else None)


def test_jax_warp_and_numba(seen, monkeypatch):
    numba = SimpleNamespace(_memory_manager=None)
    monkeypatch.setitem(sys.modules, "numba.cuda.cudadrv.driver", numba)
    assert seen(jax=jax(initialised=False), numba=numba, warp=warp(enabled=True)) == []
    monkeypatch.setitem(sys.modules, "warp._src.context", SimpleNamespace(runtime=1))
    numba._memory_manager = type("NumbaCUDAMemoryManager", (), {})
    assert seen(jax=jax(initialised=True), numba=numba, warp=warp(enabled=True)) == [
        Pool(DRIVERS, ("warp",), 8 * MIB, MIB),
        Pool("JAX's pool", ("jax",), 100 * MIB, MIB),
        Pool("no pool: cudaMalloc", ("numba",), None, None),
    ]
    numba._memory_manager = type("RMMNumbaManager", (), {"__module__": "rmm.allocators.numba"})
    found = seen(numba=numba, rmm=rmm(PoolMemoryResource()), warp=warp(enabled=False))
    assert found == [
        Pool("RMM's PoolMemoryResource", ("numba", "rmm"), 64 * MIB, None),
        Pool("no pool: cudaMalloc", ("warp",), None, None),
    ]


def test_other_allocators_and_none(seen):
    def _malloc(size):
        """CuPy's, without a pool."""

    found = seen(cupy=cupy(_malloc), torch=torch("pluggable"), rmm=rmm(CudaMemoryResource()))
    assert found == [
        Pool("no pool: cudaMalloc", ("cupy", "rmm"), None, None),
        Pool("PyTorch's allocator 'pluggable'", ("torch",), None, None),
    ]


def test_a_library_that_is_not_set_up_or_fails_has_none(seen):
    assert seen(cupy=SimpleNamespace(), torch=torch("native", initialised=False)) == []


def test_without_a_context_and_in_a_simulation_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(pools, "_look", pytest.fail)
    assert pools.look([library("cupy")], None) == []
    monkeypatch.setattr(pools, "has_context", lambda *_: False)
    assert pools.look([library("cupy")], 0) == []
    with interop.sim.simulate():
        assert pools.look([library("cupy")], 0) == []
        assert interop.doctor().pools == ()


def test_the_rows():
    pool, other = Pool("a", ("cupy", "torch"), 3 * MIB // 2, 0), Pool("b", ("rmm",), None, None)
    assert drawing.pool_rows([pool, other]) == [
        ("a", "cupy, torch", "1.5 MiB", "0.0 MiB"),
        ("b", "rmm", "not known", "not known"),
    ]
    found = interop.doctor()
    for draw in (drawing.text, drawing.html):
        assert "memory pool" in draw(found.machine, (), [pool], ())
        assert "memory pool" not in draw(found.machine, (), [], ())
