"""The DLPack capsules of the extension, over the CPU's memory. NumPy and PyTorch consume them."""

import ctypes
import gc
import re
import sys
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from interop._arrays.reading import from_typestr
from interop._native import native, why_not
from interop.adapters.dlpack import read
from interop.adapters.tensor import BFLOAT, DataType, Tensor
from tests import capsules
from tests.threads import in_thread, in_threads

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(native is None, reason=why_not)

CPU = 1
OLD, NEW = None, (1, 0)
VERSIONS = pytest.mark.parametrize("version", [OLD, NEW], ids=["old", "versioned"])
CONSUMERS = pytest.mark.parametrize("consume", [np.from_dlpack, torch.from_dlpack], ids=["numpy", "torch"])

NUMPY_TYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
TORCH_TYPES = [
    torch.bool,
    torch.int8,
    torch.uint8,
    torch.int64,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.complex32,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def make(tensor, max_version=None):
    return native.make_capsule(tensor, tensor.owner, max_version is not None)


class Owner:
    """Owns memory, and takes weak references."""

    def __init__(self):
        self.array = np.arange(6, dtype="i4")


class Handed:
    """An array with ``__dlpack__``. The capsule has *version*, or the version that the consumer asks for."""

    def __init__(self, tensor, version=()):
        self.tensor = tensor
        self.version = version

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return make(self.tensor, max_version if self.version == () else self.version)

    def __dlpack_device__(self):
        return (self.tensor.device_type, self.tensor.device_id)


def described(array, owner=None):
    """The :class:`Tensor` of a NumPy array."""
    return Tensor(
        address=array.__array_interface__["data"][0],
        shape=array.shape,
        strides=tuple(stride // array.itemsize for stride in array.strides),
        dtype=from_typestr(array.dtype.str),
        device_type=CPU,
        device_id=0,
        read_only=not array.flags.writeable,
        owner=array if owner is None else owner,
    )


def owned():
    """A tensor, and a weak reference to its owner."""
    owner = Owner()
    return described(owner.array, owner), weakref.ref(owner)


def name_of(capsule):
    return re.search('"(.*)"', repr(capsule))[1]


def assert_same_memory(got, array):
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    np.testing.assert_array_equal(got, array)
    if array.size:
        assert got.__array_interface__["data"][0] == array.__array_interface__["data"][0]
        moves = [axis for axis, length in enumerate(array.shape) if length > 1]
        assert [got.strides[axis] for axis in moves] == [array.strides[axis] for axis in moves]


@st.composite
def views(draw):
    """An array of NumPy and a view of it: sliced by any step, transposed, or broadcast."""
    dtype = np.dtype(draw(st.sampled_from(NUMPY_TYPES)))
    shape = draw(SHAPES)
    size = int(np.prod(shape))
    base = np.frombuffer(np.arange(1, size + 1, dtype="u1").repeat(dtype.itemsize).tobytes(), "u1")
    base = (base % 2 if dtype.kind == "b" else base).copy().view(dtype).reshape(shape)
    view = base.transpose(draw(st.permutations(range(base.ndim))))
    view = view[(..., *(draw(st.slices(length)) for length in view.shape))]
    return np.broadcast_to(view, (3, *view.shape)) if draw(st.booleans()) else view


@settings(max_examples=150, deadline=None)
@given(views(), st.sampled_from([OLD, NEW]))
def test_numpy_reads_a_capsule(view, version):
    if version is OLD and not view.flags.writeable:
        version = NEW
    got = np.from_dlpack(Handed(described(view), version))
    assert_same_memory(got, view)
    assert got.flags.writeable == (
        version is NEW and view.flags.writeable
    )  # NumPy takes a capsule of the old kind for read-only


@settings(max_examples=150, deadline=None)
@given(views(), st.sampled_from([OLD, NEW]), st.sampled_from([OLD, NEW]))
def test_a_capsule_goes_from_numpy_to_numpy(view, given_as, taken_as):
    if not view.flags.writeable:
        given_as = taken_as = NEW
    tensor = read(view.__dlpack__(max_version=given_as))
    assert tensor.read_only == (not view.flags.writeable)
    assert tensor[:2] == described(view)[:2]
    assert (tensor.device_type, tensor.device_id) == view.__dlpack_device__()
    assert_same_memory(np.from_dlpack(Handed(tensor, taken_as)), view)


def random_tensor(draw):
    dtype = draw(st.sampled_from(TORCH_TYPES))
    shape = draw(SHAPES)
    tensor = (torch.arange(int(np.prod(shape))) % 100).to(torch.float32).to(dtype).reshape(shape)
    tensor = tensor.permute(draw(st.permutations(range(tensor.dim()))))
    for axis, length in enumerate(tensor.shape):
        start, step = draw(st.integers(0, length)), draw(st.integers(1, 3))
        tensor = tensor[(slice(None),) * axis + (slice(start, None, step),)]
    return tensor.expand(3, *tensor.shape) if draw(st.booleans()) else tensor


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@settings(max_examples=150, deadline=None)
@given(st.composite(random_tensor)(), st.sampled_from([OLD, NEW]), st.sampled_from([OLD, NEW]))
def test_a_capsule_goes_from_torch_to_torch(original, given_as, taken_as):
    tensor = read(original.__dlpack__(max_version=given_as))
    assert tensor.shape == tuple(original.shape)
    assert tensor.strides == (tuple(original.stride()) or None)
    got = torch.from_dlpack(Handed(tensor, taken_as))
    assert (got.dtype, got.shape, got.stride()) == (original.dtype, original.shape, original.stride())
    assert got.data_ptr() == original.data_ptr()
    assert got.tolist() == original.tolist()


@VERSIONS
@CONSUMERS
def test_interop_reads_its_own_capsule(version, consume):
    tensor, owner = owned()
    again = read(make(tensor, version))
    assert again._replace(owner=None) == tensor._replace(owner=None)
    got = consume(Handed(again))
    del tensor, again
    assert got.tolist() == [0, 1, 2, 3, 4, 5]
    del got
    assert owner() is None


@VERSIONS
@CONSUMERS
@pytest.mark.parametrize("shape", [(), (0,), (6,), (2, 3), (2, 0, 3), (3, 1, 2)])
def test_without_strides_a_tensor_is_c_contiguous(version, consume, shape):
    owner = Owner()
    tensor = described(owner.array, owner)._replace(shape=shape, strides=None)
    got = consume(Handed(tensor, version))
    assert tuple(got.shape) == shape
    size = int(np.prod(shape))
    np.testing.assert_array_equal(np.asarray(got), owner.array[:size].reshape(shape))
    strides = read(make(tensor, version)).strides
    assert strides == (torch.empty(shape).stride() or None)


def test_an_empty_tensor_needs_no_memory():
    tensor = described(np.empty((0, 2)))._replace(address=0)
    assert np.from_dlpack(Handed(tensor, NEW)).shape == (0, 2)
    assert read(make(tensor)).address == 0


@VERSIONS
def test_a_capsule_shares_the_memory(version):
    owner = Owner()
    got = torch.from_dlpack(Handed(described(owner.array, owner), version))
    got[0] = 7
    assert owner.array[0] == 7


# -- lifetimes ------------------------------------------------------------------------------------------------------


@VERSIONS
@CONSUMERS
def test_the_owner_lives_as_long_as_the_consumer(version, consume):
    tensor, owner = owned()
    got = consume(Handed(tensor, version))
    view = got[2:]
    del tensor, got
    gc.collect()
    assert owner() is not None
    assert view.tolist() == [2, 3, 4, 5]
    del view
    assert owner() is None


@VERSIONS
def test_an_unconsumed_capsule_releases_its_owner(version):
    tensor, owner = owned()
    capsule = make(tensor, version)
    del tensor
    gc.collect()
    assert owner() is not None
    del capsule
    assert owner() is None


@VERSIONS
def test_a_used_capsule_may_outlive_its_consumer(version):
    tensor, owner = owned()
    capsule = make(tensor, version)
    taken = read(capsule)
    del tensor, taken
    assert owner() is None
    del capsule


@VERSIONS
def test_each_capsule_of_a_tensor_keeps_the_owner(version):
    tensor, owner = owned()
    consumers = [torch.from_dlpack(Handed(tensor, version)) for _ in range(3)]
    del tensor
    while consumers:
        assert owner() is not None
        consumers.pop()
    assert owner() is None


@VERSIONS
@pytest.mark.parametrize("use", [lambda _: None, read, np.from_dlpack], ids=["dropped", "read", "numpy"])
def test_exports_do_not_leak(version, use):
    owners = weakref.WeakSet()

    def once():
        owner = Owner()
        owners.add(owner)
        handed = Handed(described(owner.array, owner), version)
        use(handed if use is np.from_dlpack else handed.__dlpack__())

    once()
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(10_000):
        once()
        assert not owners
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 200


@VERSIONS
def test_a_consumer_may_end_in_another_thread(version):
    tensor, owner = owned()
    got = [torch.from_dlpack(Handed(tensor, version))]
    del tensor
    in_thread(got.clear)
    assert owner() is None


class Managed:
    """A capsule of interop after a C library has consumed it: its address and its deleter."""

    def __init__(self, tensor, version=NEW):
        capsule = make(tensor, version)
        kind = capsules.OLD if version is OLD else capsules.VERSIONED
        self.address = capsules.capsule_pointer(capsule, kind.name)
        capsules.capsule_set_name(capsule, kind.used)
        self.deleter = kind.layout.from_address(self.address).deleter


@VERSIONS
def test_a_deleter_may_run_in_a_thread_without_python(version):
    tensor, owner = owned()
    managed = Managed(tensor, version)
    del tensor
    assert owner() is not None
    libc = ctypes.CDLL(None)
    thread = ctypes.c_void_p()
    arguments = (ctypes.c_void_p(managed.deleter), ctypes.c_void_p(managed.address))
    assert libc.pthread_create(ctypes.byref(thread), None, *arguments) == 0
    assert libc.pthread_join(thread, None) == 0
    assert owner() is None


def test_a_deleter_may_run_without_the_gil():
    tensor, owner = owned()
    managed = Managed(tensor)
    del tensor
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(managed.deleter)(managed.address)
    assert owner() is None


def test_many_threads_may_export_at_once():
    owners = weakref.WeakSet()

    def work():
        for _ in range(300):
            owner = Owner()
            owners.add(owner)
            torch.from_dlpack(Handed(described(owner.array, owner)))
            make(described(owner.array, owner))

    in_threads(*[work] * 4)
    assert not owners


@VERSIONS
def test_a_deleter_keeps_the_exception_in_flight(version):
    # Each call drops the consumer's array or the capsule while an exception is set.
    tensor, owner = owned()
    handed = Handed(tensor, version)
    for consume in (np.from_dlpack, torch.from_dlpack, lambda handed: read(handed.__dlpack__())):
        with pytest.raises(ZeroDivisionError, match="zero"):
            max(consume(handed), 1 / 0)
        with pytest.raises(TypeError, match="argument"):
            abs(consume(handed), 3)
    with pytest.raises(ZeroDivisionError, match="zero"):
        max(make(tensor, version), 1 / 0)
    strange = tensor._replace(dtype=DataType(BFLOAT, 16, 1))
    with pytest.raises(RuntimeError, match="Unsupported dtype"):
        np.from_dlpack(Handed(strange, version))
    del handed, strange, tensor
    gc.collect()
    assert owner() is None


def test_an_error_in_the_finaliser_of_an_owner_is_reported(monkeypatch):
    class Fails(Owner):
        def __del__(self):
            message = "sorry"
            raise OSError(message)

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(str(unraisable.exc_value)))
    owner = Fails()
    handed = Handed(described(owner.array, owner))
    del owner
    got = np.from_dlpack(handed)
    del handed, got
    assert seen == ["sorry"]


def test_an_owner_in_a_cycle_is_collected():
    tensor, owner = owned()
    owner().me = owner()
    got = np.from_dlpack(Handed(tensor))
    del tensor
    gc.collect()
    assert owner() is not None
    assert got.tolist() == [0, 1, 2, 3, 4, 5]
    del got
    assert owner() is not None
    gc.collect()
    assert owner() is None


# -- the end of the process -----------------------------------------------------------------------------------

SETUP = """
import ctypes, sys, threading
import numpy as np
from interop._native import native, why_not
from interop.adapters.dlpack import read
from interop.adapters.tensor import Tensor, DataType
from tests import capsules

def make(tensor, max_version=None):
    return native.make_capsule(tensor, tensor.owner, max_version is not None)

class Owner:
    def __init__(self):
        self.array = np.arange(1000.)
    def __dlpack__(self, max_version=None, **_):
        return make(self.tensor(), max_version)
    def __dlpack_device__(self):
        return (1, 0)
    def tensor(self):
        return Tensor(self.array.ctypes.data, (1000,), None, DataType(2, 64, 1), 1, 0, False, self)

def consumed(tensor):
    kind = capsules.VERSIONED
    capsule = make(tensor, (1, 0))
    address = capsules.capsule_pointer(capsule, kind.name)
    capsules.capsule_set_name(capsule, kind.used)
    return kind.layout.from_address(address).deleter, address
print("[]", flush=True)
"""
EXITS = {
    "a consumer in a module": "kept = np.from_dlpack(Owner())",
    "a consumer in a builtin module": "sys.kept = np.from_dlpack(Owner())",
    "a consumer of PyTorch": "import torch; kept = torch.from_dlpack(Owner())",
    "a capsule": "sys.kept = kept = make(Owner().tensor()), make(Owner().tensor(), (1, 0))",
    "a taken capsule": "sys.kept = kept = read(np.arange(9.).__dlpack__()), read(make(Owner().tensor()))",
    "a cycle": "kept = Owner(); kept.me = np.from_dlpack(kept)",
    "a threaded consumer": """
def work():
    while True:
        np.from_dlpack(Owner())
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
import time; time.sleep(0.05)
""",
    # A static destructor of a C library: exit() runs it after the interpreter has ended.
    "a deleter after the end": """
deleter, address = consumed(Owner().tensor())
done = ctypes.CDLL(None).__cxa_atexit
done.argtypes = [ctypes.c_void_p] * 3
assert done(deleter, address, None) == 0
""",
    # The deleter of this producer would abort the process: it must not be called.
    "a producer that is torn down": """
new_capsule = capsules.of_python(
    "PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)
managed = capsules.ManagedVersioned()
managed.major = 1
managed.deleter = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
capsule = new_capsule(ctypes.addressof(managed), capsules.VERSIONED.name, None)
sys.kept = read(capsule), managed
""",
    "a deleter of a module at the end": """
deleter, address = consumed(Owner().tensor())
class Late:
    def __del__(self, call=ctypes.CFUNCTYPE(None, ctypes.c_void_p)(deleter), address=address):
        call(address)
sys.late = Late()
""",
}


@pytest.mark.parametrize("code", EXITS.values(), ids=EXITS.keys())
def test_capsules_may_live_until_the_process_ends(python, code, tmp_path):
    errors = tmp_path / "errors"
    redirect = f"import os; os.dup2(os.open({str(errors)!r}, os.O_CREAT | os.O_WRONLY), 2)\n"
    assert python(redirect + SETUP + code, PYTHONWARNINGS="error") == []
    assert errors.read_text() == ""
