"""The adapters of the real libraries read and make arrays, as far as that needs no GPU."""

import types
import weakref

import numpy as np
import pytest

from interop.adapters import adapter_named
from interop.adapters.base import strided
from interop.adapters.dlpack import CAPSULES
from interop.adapters.tensor import BFLOAT16, CUDA, FLOAT8, TYPES, DataType, Tensor, c_contiguous

NUMPY = {np.dtype(typestr): dtype for typestr, dtype in TYPES.items()}

CASES = {
    "plain": lambda a: a,
    "negative": lambda a: a[::-1],
    "negative in both": lambda a: a[::-1, ::-1],
    "zero": lambda a: np.broadcast_to(a[0], (3, 4)),
    "overlapping": lambda a: np.lib.stride_tricks.sliding_window_view(a.reshape(-1), 4),
    "transposed": lambda a: a.T,
    "gaps": lambda a: a[:, ::2],
    "one row": lambda a: a[1:2],
    "one column": lambda a: a[:, 1:2],
    "empty": lambda a: a[:0],
    "0-d": lambda a: a[1:2, 1:2].reshape(()),
    "9-d": lambda a: a.reshape(1, 1, 1, 1, 1, 1, 1, 3, 4),
    "33-d": lambda a: a.reshape(*[1] * 31, 3, 4),
}
layouts = pytest.mark.parametrize("layout", CASES)
needs_capsules = pytest.mark.skipif(not CAPSULES, reason="capsules are read and made by the extension")


def numpy_view(layout, dtype="<f4"):
    return CASES[layout](np.arange(12).astype(dtype).reshape(3, 4))


def address_of(array):
    return array.__array_interface__["data"][0]


def described(array, owner=None):
    """The :class:`Tensor` of a NumPy array."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    strides = None if array.flags.c_contiguous else strides
    return Tensor(address_of(array), array.shape, strides, NUMPY[array.dtype], CUDA, 0, read_only=False, owner=owner)


def assert_same(tensor, array):
    """*tensor* has the elements of *array*. Strides of dimensions with one element may differ."""
    assert (tensor.address, tensor.shape, tensor.dtype) == (address_of(array), array.shape, NUMPY[array.dtype])
    assert (tensor.device_type, tensor.device_id, tensor.read_only) == (CUDA, 0, False)
    strides = c_contiguous(tensor.shape) if tensor.strides is None else tensor.strides
    if array.size:
        moves = [axis for axis, length in enumerate(array.shape) if length > 1]
        assert [strides[axis] * array.itemsize for axis in moves] == [array.strides[axis] for axis in moves]


class Holder:
    """Stands for a Handover."""


# -- CuPy, whose arrays can be made over any memory ------------------------------------------------------------------


@pytest.fixture
def cupy_array():
    cupy = pytest.importorskip("cupy")

    def make(array):
        first, stop = described(array).extent()
        memory = cupy.cuda.UnownedMemory(first, max(stop - first, 1), array, 0)
        pointer = cupy.cuda.MemoryPointer(memory, address_of(array) - first)
        return cupy.ndarray(array.shape, array.dtype, pointer, strides=array.strides)

    return make


@layouts
def test_cupy_reads_every_layout(cupy_array, layout):
    array = cupy_array(values := numpy_view(layout))
    tensor = adapter_named("cupy").read(array)
    assert tensor.owner is array
    assert_same(tensor, values)


@pytest.mark.parametrize("dtype", NUMPY)
def test_cupy_reads_every_type(cupy_array, dtype):
    values = np.zeros(3, dtype)
    assert_same(adapter_named("cupy").read(cupy_array(values)), values)


def test_cupy_does_not_read_odd_strides(cupy_array):
    record = np.zeros(4, [("a", "<f4"), ("b", "<i2")])
    assert adapter_named("cupy").read(cupy_array(record["a"])) is None  # its stride of 6 bytes is no multiple of 4
    assert adapter_named("cupy").read(np.zeros(3)) is None


@layouts
def test_cupy_makes_every_layout(layout):
    pytest.importorskip("cupy")
    adapter, holder = adapter_named("cupy"), Holder()
    values = numpy_view(layout)
    array = adapter.make_array(described(values), holder)
    assert_same(adapter.read(array), values)
    assert adapter.holder_of(array) is holder
    assert adapter.holder_of(array[...]) is holder
    low, high = described(values).extent()
    assert array.data.mem.ptr == low
    assert array.data.mem.size == high - low


def test_cupy_makes_an_empty_array_over_a_null_pointer():
    pytest.importorskip("cupy")
    tensor = Tensor(0, (0, 3), None, TYPES["<f4"], CUDA, 0, read_only=False, owner=None)
    array = adapter_named("cupy").make_array(tensor, Holder())
    assert (array.shape, array.dtype) == ((0, 3), np.float32)


# -- cuda.core, whose views can be made over any memory ---------------------------------------------------------------


@needs_capsules
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("layout", [layout for layout in CASES if layout != "33-d"])
def test_cuda_core_makes_every_layout(layout, read_only):
    pytest.importorskip("cuda.core")
    adapter, values = adapter_named("cuda.core"), numpy_view(layout)
    holder = Holder()
    kept = weakref.ref(holder)
    view = adapter.make_array(described(values)._replace(read_only=read_only), holder)
    del holder
    assert_same(adapter.read(view)._replace(read_only=False), values)
    assert view.readonly is read_only
    other = adapter.make_array(described(values), kept())
    assert 0 != adapter.mark_of(view) == adapter.mark_of(view) != adapter.mark_of(other)
    assert kept() is not None
    del view, other
    assert kept() is None


# -- Numba, both numba-cuda and its successor ------------------------------------------------------------------------


@pytest.fixture(params=["numba", "numba_cuda_mlir"])
def numba(request, monkeypatch):
    """Numba's adapter, and Numba's classes over an invented device."""
    cuda = pytest.importorskip(f"{request.param}.cuda")
    adapter = adapter_named(request.param)
    context = types.SimpleNamespace(device=types.SimpleNamespace(id=0))
    device = types.SimpleNamespace(get_primary_context=lambda: context)
    monkeypatch.setattr(cuda, "gpus", [device])
    return adapter


def numba_array(adapter, array, owner=None):
    driver = adapter.driver
    context = types.SimpleNamespace(device=types.SimpleNamespace(id=0))
    memory = driver.MemoryPointer(context, driver.binding.CUdeviceptr(address_of(array)), array.nbytes, owner=owner)
    return adapter.arrays(array.shape, array.strides, array.dtype, gpu_data=memory)


full_layouts = pytest.mark.parametrize("layout", [name for name in CASES if name != "empty"])


@full_layouts
def test_numba_reads_every_layout(numba, layout):
    array = numba_array(numba, values := numpy_view(layout))
    tensor = numba.read(array)
    assert tensor.owner is array
    assert_same(tensor, values)


def test_control_numbas_array_interface_is_wrong_for_a_broadcast_array(numba):
    array = numba_array(numba, numpy_view("zero"))
    assert array.strides == (0, 4)
    assert array.__cuda_array_interface__["strides"] is None


def test_numba_does_not_know_the_device_of_foreign_memory(numba):
    assert numba.read(numba_array(numba, numpy_view("plain"), owner=object())).device_id == -1


@full_layouts
def test_numba_makes_every_layout(numba, layout):
    values, holder = numpy_view(layout), Holder()
    array = numba.make_array(described(values), holder)
    assert (array.shape, array.dtype, array.stream) == (values.shape, values.dtype, 0)
    assert [s for s, n in zip(array.strides, array.shape, strict=True) if n > 1] == [
        s for s, n in zip(values.strides, values.shape, strict=True) if n > 1
    ]
    assert array.gpu_data.device_pointer_value == address_of(values)
    assert numba.holder_of(array) is holder


# -- tvm-ffi, whose tensors can be made over any memory ---------------------------------------------------------------


@needs_capsules
@layouts
def test_tvm_ffi_makes_and_reads_every_layout(layout):
    pytest.importorskip("tvm_ffi")
    adapter, values, holder = adapter_named("tvm_ffi"), numpy_view(layout), Holder()
    kept = weakref.ref(holder)
    tensor = adapter.make_array(described(values), holder)
    del holder
    assert adapter.is_array(tensor)
    found = adapter.read(tensor)
    assert found.owner is tensor
    assert_same(found, values)
    assert 0 != adapter.mark_of(tensor) != adapter.mark_of(adapter.make_array(described(values), kept()))
    assert kept() is not None
    del tensor, found
    assert kept() is None


@needs_capsules
@pytest.mark.parametrize("dtype", [BFLOAT16, *FLOAT8, TYPES["|b1"], DataType(2, 32, 4)], ids=str)
def test_tvm_ffi_makes_and_reads_every_type(dtype):
    pytest.importorskip("tvm_ffi")
    adapter = adapter_named("tvm_ffi")
    tensor = Tensor(4096, (4,), None, dtype, CUDA, 1, read_only=False, owner=None)
    made = adapter.make_array(tensor, Holder())
    assert adapter.read(made)._replace(owner=None) == tensor


@needs_capsules
def test_tvm_ffi_takes_complex_numbers_but_does_not_tell_of_them():
    pytest.importorskip("tvm_ffi")
    adapter = adapter_named("tvm_ffi")
    tensor = Tensor(4096, (4,), None, TYPES["<c8"], CUDA, 1, read_only=False, owner=None)
    assert adapter.read(adapter.make_array(tensor, Holder())) is None


def test_tvm_ffi_does_not_read_tensors_on_the_cpu():
    tvm_ffi = pytest.importorskip("tvm_ffi")
    tensor = tvm_ffi.from_dlpack(np.zeros(3))
    assert not adapter_named("tvm_ffi").is_array(tensor)
    assert adapter_named("tvm_ffi").read(tensor) is None


# -- PyTorch, with tensors on the CPU ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [name for name in CASES if "negative" not in name and name != "empty"])
def test_torch_reads_every_layout(layout):
    torch = pytest.importorskip("torch")
    from interop.adapters import torch as module

    values = numpy_view(layout)
    if not values.flags.writeable:
        values = np.lib.stride_tricks.as_strided(np.arange(12.0, dtype="<f4"), values.shape, values.strides)
    tensor = torch.from_numpy(values)
    found = module.described(tensor)
    # Without the extension, the adapter takes for granted that the tensor is on a GPU.
    assert (found.device_type, found.device_id) == ((1, 0) if CAPSULES else (CUDA, -1))
    assert found.owner is not tensor
    assert found.owner.data_ptr() == tensor.data_ptr()
    assert_same(found._replace(device_type=CUDA, device_id=0), values)


@needs_capsules
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "uint16", "bool"])
def test_torch_reads_the_types_of_its_capsules(name):
    torch = pytest.importorskip("torch")
    from interop.adapters import dlpack
    from interop.adapters import torch as module

    tensor = torch.zeros(4, dtype=getattr(torch, name))
    assert module.described(tensor).dtype == dlpack.read(tensor.__dlpack__()).dtype


def test_torch_does_not_read_sparse_or_cpu_tensors():
    torch = pytest.importorskip("torch")
    from interop.adapters import torch as module

    assert module.described(torch.zeros(3).to_sparse()) is None
    assert adapter_named("torch").read(torch.zeros(3)) is None


@needs_capsules
@pytest.mark.parametrize("layout", [name for name in CASES if "negative" not in name])
def test_torch_makes_every_layout(layout):
    pytest.importorskip("torch")
    values, holder = numpy_view(layout), Holder()
    adapter = adapter_named("torch")
    tensor = adapter.make_array(described(values)._replace(device_type=1), holder)
    assert tensor.data_ptr() == address_of(values) or not values.size
    assert tensor.tolist() == values.tolist()
    assert adapter.mark_of(tensor) == adapter.mark_of(tensor[...]) != adapter.mark_of(tensor.clone())
    assert not tensor.__dict__, "PyTorch copies and saves attributes with the tensor"


# -- strides ----------------------------------------------------------------------------------------------------------


@layouts
def test_strides_in_bytes_become_strides_in_elements(layout):
    values = numpy_view(layout)
    strides = strided(0, values.shape, values.strides, TYPES["<f4"], 0, None).strides
    assert (strides is None) == values.flags.c_contiguous
    if strides is not None:
        assert strides == tuple(stride // 4 for stride in values.strides)


def test_strides_that_are_no_multiples_are_not_described():
    assert strided(0, (3,), (6,), TYPES["<f4"], 0, None) is None
    assert strided(0, (1,), (6,), TYPES["<f4"], 0, None).strides is None


@layouts
def test_is_dense_says_whether_elements_fill_one_block(layout):
    dense = {"plain", "negative", "negative in both", "transposed", "one row", "empty", "0-d", "9-d", "33-d"}
    assert described(numpy_view(layout)).is_dense() == (layout in dense)


def test_the_text_of_a_type_names_its_lanes():
    assert str(DataType(2, 32, 4)) == "float32x4"
