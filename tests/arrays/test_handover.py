"""A Handover as an array for libraries that interop does not know, by both array protocols."""

import gc
import re
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import interop
from interop import _cuda, sim
from interop._arrays.handover import Handover
from interop._arrays.reading import from_typestr
from interop._native import native, why_not
from interop.adapters import dlpack
from interop.adapters.tensor import BFLOAT16, Tensor, c_contiguous
from interop.errors import InvalidStreamError, NotSupportedError, RaceError
from tests.arrays.test_arrays import Owner, touch

needs_native = pytest.mark.skipif(native is None, reason=why_not)

CUDA = 2
NUMPY_TYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]


@pytest.fixture
def gpu(monkeypatch):
    with sim.simulate(devices=2) as gpu:
        monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (CUDA, 0))
        yield gpu
        interop.release()


class Capsules:
    """An array of an unknown library with DLPack, versioned or older. It notes the stream of each call."""

    def __init__(self, values, *, versioned=True):
        self.values = values
        self.asked = []
        if not versioned:
            self.__class__ = OldCapsules

    def capsule(self, *, versioned):
        values = self.values
        tensor = Tensor(
            address=values.__array_interface__["data"][0],
            shape=values.shape,
            strides=tuple(stride // values.itemsize for stride in values.strides),
            dtype=from_typestr(values.dtype.str),
            device_type=CUDA,
            device_id=0,
            read_only=not values.flags.writeable,
            owner=self,
        )
        return dlpack.capsule(tensor, self, versioned=versioned)

    def __dlpack__(self, *, stream=None, max_version=None):
        self.asked.append(stream)
        return self.capsule(versioned=max_version is not None)

    def __dlpack_device__(self):
        return (CUDA, 0)


class OldCapsules(Capsules):
    def __dlpack__(self, *, stream=None):
        self.asked.append(stream)
        return self.capsule(versioned=False)


def holder(gpu, values=None, **tensor):
    p, c = interop.new_stream(), interop.new_stream()
    made = interop.handoff(Owner(np.arange(6.0) if values is None else values), c, producer=p)
    return Handover(made._tensor._replace(**tensor), p, c, is_neutral=True) if tensor else made, c


# -- the array interface -------------------------------------------------------------------------------------------


def test_a_type_without_a_typestr_has_no_array_interface(gpu):
    made, _ = holder(gpu, dtype=BFLOAT16)
    assert not hasattr(made, "__cuda_array_interface__")


def test_a_handover_can_be_handed_on(gpu):
    source = Owner(np.arange(6.0))
    alive, c = weakref.ref(source), interop.new_stream()
    made = interop.handoff(source, c, producer=interop.new_stream())
    del source
    memory = gpu.array([0])
    touch(gpu, c, memory)
    later = interop.new_stream()
    again = interop.handoff(made, later)
    touch(gpu, later, memory)
    assert again.__cuda_array_interface__["stream"] == later.cuda_stream
    del made
    assert alive() is not None


# -- DLPack --------------------------------------------------------------------------------------------------------


@needs_native
def test_dlpack_makes_the_named_stream_wait(gpu):
    made, c = holder(gpu)
    asks = interop.new_stream()
    memory = gpu.array([0])
    touch(gpu, c, memory)
    made.__dlpack__(stream=asks.cuda_stream)
    touch(gpu, asks, memory)


@needs_native
@pytest.mark.parametrize("stream", [None, 1], ids=["None", "1"])
def test_dlpack_without_a_stream_means_the_legacy_stream(gpu, stream):
    made, c = holder(gpu)
    memory = gpu.array([0])
    touch(gpu, c, memory)
    made.__dlpack__(stream=stream)
    touch(gpu, interop.as_stream(1, 0), memory)


@needs_native
def test_a_default_stream_for_dlpack_is_of_the_device_of_the_memory(gpu):
    made, c = holder(gpu, device_id=1)
    memory = gpu.array([0])
    touch(gpu, c, memory)
    made.__dlpack__(stream=2)
    touch(gpu, interop.as_stream(2, 1), memory)


@needs_native
def test_a_default_stream_for_pinned_memory_is_of_the_current_device(gpu, monkeypatch):
    monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (3, 0))
    p, c = interop.new_stream(0), interop.new_stream(1)
    holder, memory = interop.handoff(Owner(np.ones(3)), c, producer=p), gpu.array([0])
    gpu.launch(c, lambda _: None, writes=[memory])
    gpu.runtime.cudaSetDevice(1)
    holder.__dlpack__(stream=1, max_version=(1, 0))
    gpu.launch(interop.ExternalStream(1, 1), lambda _: None, writes=[memory])


def test_the_array_interface_states_no_default_stream_of_another_device(gpu, monkeypatch):
    monkeypatch.setattr(_cuda.memory, "peer_access", lambda *_: True)
    p, c, d = interop.new_stream(0), interop.ExternalStream(1, 1), interop.new_stream(0)
    holder, memory = interop.handoff(Owner(np.ones(3)), c, producer=p), gpu.array([0])
    gpu.launch(c, lambda _: None, writes=[memory])
    stated = holder.__cuda_array_interface__["stream"]
    assert stated > 2
    assert holder.__cuda_array_interface__["stream"] == stated
    d.wait_stream(stated)
    gpu.launch(d, lambda _: None, writes=[memory])


def test_the_array_interface_states_a_per_thread_stream_in_its_thread_only(gpu):
    holder = interop.handoff(Owner(np.ones(3)), 2, producer=interop.new_stream())
    assert holder.__cuda_array_interface__["stream"] == 2
    with ThreadPoolExecutor(1) as pool, pytest.raises(InvalidStreamError, match="another thread"):
        pool.submit(lambda: holder.__cuda_array_interface__).result()


@needs_native
def test_control_stream_minus_one_orders_nothing(gpu):
    made, c = holder(gpu)
    memory = gpu.array([0])
    touch(gpu, c, memory)
    made.__dlpack__(stream=-1)
    with pytest.raises(RaceError):
        touch(gpu, interop.as_stream(1, 0), memory)


@needs_native
@pytest.mark.parametrize("stream", [0, -2, True, "1", 1.0])
def test_dlpack_refuses_a_wrong_stream(gpu, stream):
    made, _ = holder(gpu)
    with pytest.raises(InvalidStreamError, match="names its stream to DLPack by its handle"):
        made.__dlpack__(stream=stream)


@needs_native
def test_dlpack_refuses_to_copy(gpu):
    made, _ = holder(gpu)
    for asked in ({"copy": True}, {"dl_device": (1, 0)}, {"dl_device": (CUDA, 1)}):
        with pytest.raises(BufferError, match="no copy"):
            made.__dlpack__(stream=-1, **asked)
    made.__dlpack__(stream=-1, copy=False, dl_device=(CUDA, 0))


@needs_native
@pytest.mark.parametrize("version", [None, (0, 8)])
def test_read_only_memory_needs_a_versioned_capsule(gpu, version):
    made, _ = holder(gpu, read_only=True)
    assert dlpack.read(made.__dlpack__(stream=-1, max_version=(1, 0))).read_only
    message = f"read-only, which DLPack can say since version 1.0, and max_version={version}"
    with pytest.raises(BufferError, match=re.escape(message)):
        made.__dlpack__(stream=-1, max_version=version)


@needs_native
@pytest.mark.parametrize(
    ("version", "name"), [(None, "dltensor"), ((0, 8), "dltensor"), ((1, 3), "dltensor_versioned")]
)
def test_a_capsule_has_the_version_that_was_asked_for(gpu, version, name):
    made, _ = holder(gpu)
    assert f'"{name}"' in repr(made.__dlpack__(stream=-1, max_version=version))


@needs_native
def test_the_end_of_a_capsule_orders_the_way_back(gpu):
    p, c = interop.new_stream(), interop.new_stream()
    memory = gpu.array([0])
    source = Owner(np.arange(6.0))
    alive = weakref.ref(source)
    made = interop.handoff(source, c, producer=p)
    taken = dlpack.read(made.__dlpack__(stream=-1))
    del made, source
    touch(gpu, c, memory)
    with pytest.raises(RaceError):
        touch(gpu, p, memory)
    assert alive() is not None
    del taken
    touch(gpu, p, memory)
    gpu.synchronize()
    interop.release()
    gc.collect()
    assert alive() is None


def test_dlpack_needs_the_extension(gpu, monkeypatch):
    made, _ = holder(gpu)
    monkeypatch.setattr("interop.adapters.dlpack.native", None)
    monkeypatch.setattr("interop.adapters.dlpack.why_not", "no such luck")
    with pytest.raises(NotSupportedError, match="needs its extension in C, which is missing: no such luck"):
        made.__dlpack__(stream=-1)
    with pytest.raises(NotSupportedError, match="to give and take arrays by DLPack"):
        interop.handoff(Capsules(np.arange(3.0)), made._consumer, producer=made._producer)
    assert made.__cuda_array_interface__


# -- there and back ------------------------------------------------------------------------------------------------


@st.composite
def views(draw):
    """A view of an array of NumPy: sliced by any step, transposed, or broadcast."""
    dtype = np.dtype(draw(st.sampled_from(NUMPY_TYPES)))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    base = np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
    view = base.transpose(draw(st.permutations(range(base.ndim))))
    view = view[(..., *(draw(st.slices(length)) for length in view.shape))]
    return np.broadcast_to(view, (3, *view.shape)) if draw(st.booleans()) else view


def runs_backwards(view):
    return view.size > 0 and any(step < 0 and n > 1 for step, n in zip(view.strides, view.shape, strict=True))


TAKE = {
    "interface": lambda made: made,
    "old capsule": lambda made: made.__dlpack__(stream=-1),
    "capsule": lambda made: made.__dlpack__(stream=-1, max_version=(1, 0)),
}
GIVE = {"interface": Owner, "old capsule": lambda v: Capsules(v, versioned=False), "capsule": Capsules}


@needs_native
@settings(max_examples=60, deadline=None)
@given(view=views())
@pytest.mark.parametrize("taken_as", TAKE)
@pytest.mark.parametrize("given_as", GIVE)
def test_an_array_passes_from_each_protocol_to_each(given_as, taken_as, view):
    read_only = not view.flags.writeable
    if read_only and "old" in given_as + taken_as:
        return
    with sim.simulate(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cuda.memory, "pointer_place", lambda *_: (CUDA, 0))
        p, c = interop.new_stream(), interop.new_stream()
        source = GIVE[given_as](view)
        made = interop.handoff(source, c, producer=p)
        if isinstance(source, Capsules):
            assert source.asked == [c.cuda_stream]
        if taken_as != "interface" and runs_backwards(view):
            with pytest.raises(NotSupportedError, match="negative strides"):
                TAKE[taken_as](made)
            return
        taken = TAKE[taken_as](made)
        if taken is made:
            said = made.__cuda_array_interface__
            assert said["data"][1] == read_only
            again = np.asarray(type("Again", (), {"__array_interface__": said}))
        else:
            tensor = dlpack.read(taken)
            assert tensor.read_only == read_only
            assert (tensor.device_type, tensor.device_id) == (CUDA, 0)
            # NumPy reads memory of the CPU only, so the tensor is said to be there.
            again = np.from_dlpack(Handover(tensor._replace(device_type=1), None, c, is_neutral=False))
        assert again.dtype == view.dtype
        assert again.shape == view.shape
        np.testing.assert_array_equal(again, view)
        if view.size:
            assert again.__array_interface__["data"][0] == view.__array_interface__["data"][0]
            moves = [axis for axis, length in enumerate(view.shape) if length > 1]
            assert [again.strides[axis] for axis in moves] == [view.strides[axis] for axis in moves]
        del again, taken, made
        interop.release()


@given(arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))
def test_c_contiguous_strides_are_those_of_numpy(shape):
    assert c_contiguous(shape) == tuple(stride // 8 for stride in np.empty([max(n, 1) for n in shape]).strides)
