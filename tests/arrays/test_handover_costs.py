"""The cost of a hand-over, counted and not timed: its calls, the files they are in, and the memory it leaves."""

import gc
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import interop
from interop import adapters
from interop._native import native, why_not
from interop.adapters import adapter_named
from interop.adapters.base import Adapter
from interop.adapters.tensor import CUDA, TYPES, Tensor
from tests.arrays.test_exchange import Array, Library
from tests.leaks import bytes_left_by

native_stubs = pytest.importorskip("tests.native_stubs")

PACKAGE = str(Path(interop.__file__).parent) + os.sep

needs_native = pytest.mark.skipif(native is None, reason=why_not)


@pytest.fixture
def world(driver, add_library):
    library = Library()
    library.simulated = False
    add_library(library)
    with native_stubs.bound(driver) as cuda:
        gc.collect()  # hand-overs of earlier tests that are garbage end here, and are not counted
        interop.release()
        world = native_stubs.World(driver, cuda)
        world.driver, world.cuda = driver, cuda
        world.p.owner = world.c.owner = object()
        world.p._device = world.c._device = 0
        yield world
        driver.reset()
        while interop.release():
            pass


def calls_of(work):
    """The functions in Python and C that *work* calls, and the files of interop that contain them."""
    calls, files = [], set()

    def note(frame, event, argument):
        if event == "c_call":
            calls.append(argument.__qualname__)
        elif event == "call":
            calls.append(frame.f_code.co_qualname)
            if frame.f_code.co_filename.startswith(PACKAGE):
                files.add(frame.f_code.co_filename.removeprefix(PACKAGE))

    gc.collect()
    gc.disable()  # what finalisers of other tests' objects call is not counted
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls, files


@needs_native
def test_a_handoff_makes_at_most_44_calls_in_6_files(world):
    source = Array()
    views = [interop.handoff(source, world.c, producer=world.p, into="standin")]  # loads everything
    calls, files = calls_of(lambda: views.append(interop.handoff(source, world.c, producer=world.p, into="standin")))
    assert len(calls) <= 44, calls
    assert len(files) <= 6, files
    view = views.pop().holder
    views.clear()
    world.driver.reset()
    kept = [view]
    del view
    calls, files = calls_of(kept.clear)
    assert [name for name in calls if not name.startswith(("list", "setprofile"))] == []
    assert files == set()


@needs_native
@pytest.mark.parametrize(
    ("route", "most"), [("cupy to torch", 51), ("torch to cupy", 49), ("cupy to numba", 59), ("cupy to cuda.core", 46)]
)
def test_a_handoff_of_a_route_makes_few_calls(world, route, most, monkeypatch):
    """The library's own calls included. PyTorch has no GPU here: what it reads and makes is on the CPU."""
    source, into = route.split(" to ")
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("interop.adapters.torch")
    pytest.importorskip("cupy")
    if into == "numba":
        pytest.importorskip("numba.cuda")
        from numba import cuda

        context = types.SimpleNamespace(device=types.SimpleNamespace(id=0))
        monkeypatch.setattr(cuda, "gpus", [types.SimpleNamespace(get_primary_context=lambda: context)])
    described, make = module.described, module.make_tensor
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(
        module, "make_tensor", lambda kind, tensor, holder: make(kind, tensor._replace(device_type=1), holder)
    )
    monkeypatch.setattr(module.TorchAdapter, "read", lambda _, array: described(array)._replace(device_type=CUDA))
    array = cupy_array() if source == "cupy" else torch.arange(12.0)
    views = [interop.handoff(array, world.c, producer=world.p, into=into) for _ in range(2)]  # loads everything
    calls, _ = calls_of(lambda: views.append(interop.handoff(array, world.c, producer=world.p, into=into)))
    assert len(calls) <= most, calls
    assert len(world.driver.calls) <= 20


@needs_native
def test_each_further_array_of_a_borrow_makes_at_most_37_calls(world):
    def borrow(*arrays):
        with interop.borrow(*arrays, consumer=world.c, producer=world.p, into="standin"):
            pass

    few, many = [Array()], [Array() for _ in range(9)]
    borrow(*few)  # loads everything
    (one, _), (nine, _) = calls_of(lambda: borrow(*few)), calls_of(lambda: borrow(*many))
    assert len(nine) - len(one) <= 8 * 37
    assert not [name for name in nine if "__hash__" in name]


class Borrowed:
    """A stream of another library, which interop remembers."""

    __module__ = "remembered"

    def __init__(self, handle):
        self.handle = handle


class Remembered(Adapter):
    library = "remembered"
    streams_stay_the_same = True

    def stream_handle(self, stream):
        return stream.handle


@pytest.mark.parametrize("kind", ["of a library", "of an unknown library", "an address"])
def test_the_device_of_a_stream_is_queried_once(world, kind, monkeypatch):
    monkeypatch.setitem(adapters.by_type, Borrowed, (Remembered(),))
    known, stating = Borrowed(native_stubs.C), native_stubs.Stating()
    stream = {"of a library": known, "of an unknown library": stating, "an address": native_stubs.C}[kind]
    source = Array()
    interop.handoff(source, stream, producer=world.p, into="standin")
    world.driver.reset()
    interop.handoff(source, stream, producer=world.p, into="standin")
    assert "cuCtxSetCurrent" not in world.driver.plain
    if kind == "of a library" and native is not None:
        assert world.driver.plain == []


def cupy_array():
    cupy = pytest.importorskip("cupy")
    values = np.arange(12, dtype="f4")
    memory = cupy.cuda.UnownedMemory(values.ctypes.data, values.nbytes, values, 0)
    return cupy.ndarray((3, 4), "f4", cupy.cuda.MemoryPointer(memory, 0))


def test_control_a_leak_is_measured(world):
    kept = []
    assert bytes_left_by(lambda: kept.append(bytes(100))) > 100


@pytest.mark.parametrize("into", ["standin", "cupy", "numba", None])
@pytest.mark.parametrize("source", ["standin", "cupy"])
def test_handoffs_leak_nothing(world, source, into, monkeypatch):
    array = Array() if source == "standin" else cupy_array()
    if into == "numba":
        pytest.importorskip("numba.cuda")
        from numba import cuda

        context = types.SimpleNamespace(device=types.SimpleNamespace(id=0))
        monkeypatch.setattr(cuda, "gpus", [types.SimpleNamespace(get_primary_context=lambda: context)])
    elif into == "cupy":
        pytest.importorskip("cupy")

    def work():
        world.driver.reset()
        interop.handoff(array, world.c, producer=world.p, into=into)

    monkeypatch.setattr(Library, "make_array", lambda _, tensor, holder: Array(holder, tensor))
    assert bytes_left_by(work, settle=interop.release) <= 0.2


def test_borrows_leak_nothing(world):
    arrays = [Array(), Array()]

    def work():
        world.driver.reset()
        with interop.borrow(*arrays, consumer=world.c, producer=world.p, into="standin"):
            pass

    assert bytes_left_by(work, settle=interop.release) <= 0.2


@needs_native
def test_tensors_of_torch_leak_nothing():
    torch = pytest.importorskip("torch")
    adapter, values = adapter_named("torch"), torch.arange(12.0)
    tensor = Tensor(values.data_ptr(), (12,), None, TYPES["<f4"], 1, 0, read_only=False, owner=values)

    class Holder:
        pass

    assert bytes_left_by(lambda: adapter.make_array(tensor, Holder())) <= 0.2
    assert bytes_left_by(lambda: sys.modules["interop.adapters.torch"].described(values)) <= 0.2
    assert tensor.device_type != CUDA
