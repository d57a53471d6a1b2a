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
            memory_reserved=lambda: 20 * MIB,
            memory_allocated=lambda: 2 * MIB,
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


@pytest.fixture
def seen(monkeypatch):
    """The pools, if these libraries are loaded."""

    def look(**modules):
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        names = ["cuda.core"] * ("cuda.core" in sys.modules) + [*modules]
        found = pools._look(map(library, names), lambda: pools._Seen(DRIVERS, 8 * MIB, MIB))
        return [pool for pool in found if pool.libraries != ("cuda.core",)]

    monkeypatch.delitem(sys.modules, "cuda.core", raising=False)
    monkeypatch.delitem(sys.modules, "rmm.allocators.torch", raising=False)
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
