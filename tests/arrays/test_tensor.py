"""interop reads DLPack capsules (those of NumPy and PyTorch, on the CPU), and the types of both array protocols."""

import ctypes
import gc
import re
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from interop._arrays.reading import from_typestr
from interop._native import native, why_not
from interop.adapters.dlpack import read
from interop.adapters.tensor import BFLOAT, BOOL, FLOAT, FLOAT8, TYPESTRS, DataType
from interop.errors import InteropError, NotSupportedError
from tests import capsules

CPU = 1
needs_native = pytest.mark.skipif(native is None, reason=why_not)
VERSIONS = pytest.mark.parametrize("version", [None, (1, 0)], ids=["old", "versioned"])
NUMPY_TYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)

new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
VERSIONED = b"dltensor_versioned"


# -- types ----------------------------------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("name", NUMPY_TYPES)
def test_a_typestr_gives_the_type_of_numpys_capsule(name):
    array = np.empty(1, name)
    dtype = from_typestr(array.dtype.str)
    assert dtype == read(array.__dlpack__()).dtype
    assert TYPESTRS.get(dtype) == array.dtype.str


@pytest.mark.parametrize("typestr", ["=f4", "|f4", "<f4"])
def test_native_byte_order_has_three_names(typestr):
    assert from_typestr(typestr) == DataType(FLOAT, 32, 1)


def test_a_type_of_one_byte_has_no_byte_order():
    assert from_typestr(">u1") == from_typestr("<u1") == from_typestr("|u1")


@pytest.mark.parametrize(
    ("typestr", "text"),
    [
        (">f4", "'>f4' is big-endian, which no GPU computes with: convert the array first, with astype('<f4')"),
        ("|V8", "'|V8' is structured"),
        ("<V2", "bfloat16"),
        ("|O", "'|O' holds no numbers"),
        ("<M8[ns]", "'<M8[ns]' holds no numbers"),
        ("<m8[s]", "'<m8[s]' holds no numbers"),
        ("<U3", "'<U3' holds no numbers"),
        ("|S3", "'|S3' holds no numbers"),
        ("<f16", "'<f16' is unknown to interop"),
        ("f4", "'f4' is unknown"),
        ("", "'' is unknown"),
        (None, "None of type NoneType is unknown"),
        (b"<f4", "b'<f4' of type bytes is unknown"),
    ],
)
def test_types_that_interop_does_not_know_are_refused(typestr, text):
    with pytest.raises(NotSupportedError, match=re.escape(text)):
        from_typestr(typestr)


@pytest.mark.parametrize(
    "dtype",
    [
        DataType(BFLOAT, 16, 1),
        *FLOAT8,
        DataType(FLOAT, 32, 4),
        DataType(BOOL, 1, 1),
    ],
)
def test_some_types_have_no_typestr(dtype):
    assert TYPESTRS.get(dtype) is None


# -- capsules of NumPy and PyTorch ----------------------------------------------------------------------------------


def as_numpy(tensor, dtype):
    """The elements of *tensor*, as NumPy reads them by its array interface."""
    strides = None if tensor.strides is None else tuple(stride * dtype.itemsize for stride in tensor.strides)
    interface = {
        "version": 3,
        "shape": tensor.shape,
        "typestr": TYPESTRS[tensor.dtype],
        "data": (tensor.address or 1, tensor.read_only),
        "strides": strides,
    }
    return np.asarray(type("Seen", (), {"__array_interface__": interface}))


@needs_native
@VERSIONS
@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(NUMPY_TYPES), shape=SHAPES)
def test_capsules_of_numpy_are_read(version, data, dtype, shape):
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    if shape:
        array = array[data.draw(arrays.basic_indices(shape, allow_newaxis=False, allow_ellipsis=False))]
    array = np.asarray(array).T
    tensor = read(array.__dlpack__(max_version=version))
    assert tensor.dtype == from_typestr(array.dtype.str)
    assert (tensor.device_type, tensor.device_id) == (CPU, 0)
    np.testing.assert_array_equal(as_numpy(tensor, array.dtype), array)


@needs_native
@VERSIONS
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "bool"])
def test_capsules_of_pytorch_are_read(version, dtype):
    torch = pytest.importorskip("torch")
    original = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)).T
    tensor = read(original.__dlpack__(max_version=version))
    assert (tensor.shape, tensor.strides) == ((3, 2), (1, 3))
    assert tensor.address == original.data_ptr()
    code = {"bfloat16": BFLOAT, "float8_e4m3fn": 10, "float8_e5m2": 12}  # DLPack's
    assert tensor.dtype.code == code.get(dtype, tensor.dtype.code)


@needs_native
@VERSIONS
def test_the_source_lives_as_long_as_the_tensor(version):
    array = np.arange(6.0)
    alive = weakref.ref(array)
    tensor = read(array.__dlpack__(max_version=version))
    del array
    gc.collect()
    assert alive() is not None
    del tensor
    gc.collect()
    assert alive() is None


@needs_native
def test_a_read_only_capsule_is_read_as_such():
    array = np.arange(3)
    array.flags.writeable = False
    assert read(array.__dlpack__(max_version=(1, 0))).read_only


# -- capsules of others ---------------------------------------------------------------------------------------------


class Foreign:
    """A versioned capsule of another producer, which counts the calls of its deleter."""

    def __init__(self, *, deleter=True, **fields):
        self.deleted = []
        self.callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.deleted.append)
        self.array = np.arange(6.0)
        self.managed = capsules.ManagedVersioned()
        self.managed.major = 1
        self.managed.tensor.data = self.array.ctypes.data
        self.managed.tensor.device_type = CPU
        self.managed.tensor.code, self.managed.tensor.bits, self.managed.tensor.lanes = (FLOAT, 64, 1)
        if deleter:
            self.managed.deleter = ctypes.cast(self.callback, ctypes.c_void_p).value
        for name, value in fields.items():
            setattr(self.managed if hasattr(self.managed, name) else self.managed.tensor, name, value)
        self.capsule = new_capsule(ctypes.addressof(self.managed), VERSIONED, None)


@needs_native
def test_the_deleter_is_called_once():
    foreign = Foreign(minor=7)
    tensor = read(foreign.capsule)
    assert tensor == (foreign.array.ctypes.data, (), None, DataType(FLOAT, 64, 1), CPU, 0, False, tensor.owner)
    owner = tensor.owner
    del tensor
    assert not foreign.deleted
    del owner
    assert foreign.deleted == [ctypes.addressof(foreign.managed)]
    gc.collect()
    assert len(foreign.deleted) == 1


@needs_native
def test_a_byte_offset_is_part_of_the_address():
    foreign = Foreign(byte_offset=24)
    assert read(foreign.capsule).address == foreign.array.ctypes.data + 24


@needs_native
def test_a_capsule_may_have_no_strides():
    shape = (ctypes.c_int64 * 2)(2, 3)
    foreign = Foreign(ndim=2, shape=ctypes.addressof(shape), flags=1)
    tensor = read(foreign.capsule)
    assert (tensor.shape, tensor.strides, tensor.read_only) == ((2, 3), None, True)
    np.testing.assert_array_equal(as_numpy(tensor, foreign.array.dtype), foreign.array.reshape(2, 3))


@needs_native
def test_a_capsule_may_have_no_deleter():
    assert read(Foreign(deleter=False).capsule).shape == ()


@needs_native
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"major": 2, "minor": 5}, "the capsule is of DLPack 2.5, and interop knows 1.x only"),
        ({"major": 0}, "DLPack 0.0"),
        ({"flags": 4, "bits": 4}, "padded"),
    ],
)
def test_a_refused_capsule_is_deleted_once(fields, text):
    foreign = Foreign(**fields)
    with pytest.raises(NotSupportedError, match=re.escape(text)) as caught:
        read(foreign.capsule)
    assert len(foreign.deleted) == 1
    del caught
    gc.collect()
    assert len(foreign.deleted) == 1
    assert name_of(foreign.capsule) == b"used_dltensor_versioned"


@needs_native
@VERSIONS
def test_a_consumed_capsule_is_refused(version):
    capsule = np.arange(3).__dlpack__(max_version=version)
    read(capsule)
    with pytest.raises(NotSupportedError, match="was consumed before, and can be only once: ask for a new one"):
        read(capsule)


@needs_native
@pytest.mark.parametrize("thing", [None, 1, "dltensor", np.zeros(1), __import__("datetime").datetime_CAPI])
def test_an_object_that_is_no_capsule_is_refused(thing):
    with pytest.raises(InteropError, match="expected a DLPack capsule"):
        read(thing)
