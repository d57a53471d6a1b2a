"""The exchange of tensors in C: what Handover offers, and what is read and made through another type's."""

import ctypes
import gc
import re
import sys
import threading
import weakref

import numpy as np
import pytest

import interop
from interop._native import native, why_not
from interop.adapters.tensor import BFLOAT16, CUDA, TYPES, DataType, Tensor
from interop.errors import InvalidArrayError, InvalidStreamError, NotSupportedError
from tests import capsules
from tests.native.test_native_handovers import world
from tests.native_stubs import C

pytestmark = pytest.mark.skipif(native is None, reason=why_not)
F4 = TYPES["<f4"]

__all__ = ["world"]


class Thing:
    """Can be watched."""


def ours():
    return capsules.exchange_api(interop.Handover)


def given(holder):
    """The managed tensor of a hand-over, as a consumer in C gets it."""
    out = ctypes.c_void_p()
    assert ours().call("from_object", ctypes.py_object(holder), ctypes.pointer(out)) == 0
    return capsules.ManagedVersioned.from_address(out.value)


def shown(holder):
    tensor = capsules.DLTensor()
    assert ours().call("view_of_object", ctypes.py_object(holder), ctypes.pointer(tensor)) == 0
    return tensor


def told():
    """The current work stream."""
    out = ctypes.c_void_p()
    assert ours().call("current_stream", ctypes.c_int32(CUDA), ctypes.c_int32(0), ctypes.pointer(out)) == 0
    return out.value


def numbers(address, count):
    return tuple((ctypes.c_int64 * count).from_address(address))


def end(managed):
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(managed.deleter)(ctypes.addressof(managed))


# -- Handover's -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strides", [None, (3, 1), (1, 2), (0, 1)])
@pytest.mark.parametrize("take", ["given", "shown"])
def test_a_handover_is_given_as_it_is(world, strides, take):
    made = world.handover(shape=(2, 3), strides=strides, dtype=BFLOAT16)
    managed = given(made) if take == "given" else None
    tensor = shown(made) if managed is None else managed.tensor
    assert (tensor.data, tensor.byte_offset, tensor.ndim) == (0x7F0000000000, 0, 2)
    assert (tensor.code, tensor.bits, tensor.lanes) == BFLOAT16
    assert (tensor.device_type, tensor.device_id) == (CUDA, 0)
    assert (numbers(tensor.shape, 2), numbers(tensor.strides, 2)) == ((2, 3), strides or (3, 1))
    assert told() == C
    if managed is not None:
        end(managed)


def test_a_tensor_that_was_given_keeps_the_handover_and_its_deleter_ends_it(world):
    thing = Thing()
    alive = weakref.ref(thing)
    made = world.handover(thing)
    managed = given(made)
    assert (managed.major, managed.flags) == (1, 0)
    del thing, made
    gc.collect()
    world.driver.reset()
    assert alive() is not None
    end(managed)
    assert [name for name, *_ in world.driver.made("cuEventRecord", "cuStreamWaitEvent")] == [
        "cuEventRecord",
        "cuStreamWaitEvent",
    ]
    assert interop.release() == 0
    assert alive() is None


def test_what_is_shown_keeps_nothing_and_its_numbers_stay(world):
    made = world.handover(shape=(2, 3))
    before = sys.getrefcount(made)
    first, second = shown(made), shown(made)
    assert first.shape == second.shape
    assert numbers(first.shape, 4) == (2, 3, 3, 1)
    assert sys.getrefcount(made) == before


def test_the_exchange_orders_nothing(world):
    made = world.handover()
    world.driver.reset()
    shown(made)
    end(given(made))
    assert world.driver.made("cuEventRecord", "cuStreamWaitEvent") == []
    assert world.driver.plain == []


def refused(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


@pytest.mark.parametrize("take", [given, shown])
def test_negative_strides_are_refused_as_by_dlpack(world, take):
    tensor = world.handover(strides=(-1,))._tensor
    made = interop.Handover(tensor, world.p, world.c, is_neutral=True)
    refused(lambda: made.__dlpack__(stream=-1), NotSupportedError, "negative strides")
    refused(lambda: take(made), NotSupportedError, "negative strides")


@pytest.mark.parametrize("read_only", [True, np.True_, 1])  # as another package's adapter may say it
def test_read_only_is_said_or_refused(world, read_only):
    tensor = world.handover()._tensor._replace(read_only=read_only)
    made = interop.Handover(tensor, world.p, world.c, is_neutral=True)
    managed = given(made)
    assert managed.flags == 1
    end(managed)
    refused(lambda: shown(made), BufferError, "read-only")


@pytest.mark.parametrize("take", [given, shown])
@pytest.mark.parametrize("thing", [None, 1, Thing()])
def test_another_object_is_refused(world, take, thing):
    refused(lambda: take(thing), TypeError, "expected a Handover")


def test_no_handover_is_made_by_others(world):
    managed, out = given(world.handover()), ctypes.c_void_p(1)
    refused(
        lambda: ours().call("to_object", ctypes.pointer(managed), ctypes.pointer(out)),
        NotImplementedError,
        "only made by interop.handoff",
    )
    assert out.value is None
    end(managed)
    said = []
    note = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)(lambda *args: said.append(args[1]))
    assert ours().call("allocate", ctypes.c_void_p(), ctypes.pointer(out), ctypes.c_void_p(), note) == -1
    assert said == [b"NotImplementedError"]


def in_thread(work):
    results = []

    def run():
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def test_a_thread_that_was_given_nothing_is_told_no_stream(world):
    shown(world.handover())
    assert isinstance(in_thread(told), RuntimeError)
    assert told() == C


def test_each_thread_is_told_the_stream_of_what_it_was_given_last(world):
    made = world.handover(consumer="p")
    shown(world.handover())
    assert in_thread(lambda: (shown(made), told())[1]) == world.p.cuda_stream
    assert told() == C


def test_the_per_thread_stream_of_another_thread_is_refused(world):
    world.mine = interop.ExternalStream(2, 0)
    made = world.handover(consumer="mine")
    assert isinstance(in_thread(lambda: shown(made)), InvalidStreamError)


# -- other types' ---------------------------------------------------------------------------------------------------


def stand_in(show=None, *, name=capsules.EXCHANGE, **fields):
    """A type that shows itself as *show* does, by an API with those fields."""
    function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(capsules.DLTensor))(
        show or (lambda *_: 0)
    )
    api = capsules.ExchangeAPI(major=1, minor=3, view_of_object=ctypes.cast(function, ctypes.c_void_p).value)
    for field, value in fields.items():
        setattr(api, field, value)
    make = capsules.of_python("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    capsule = make(ctypes.addressof(api), name, None)
    return type("StandIn", (), {"__dlpack_c_exchange_api__": capsule, "kept": (api, function)})


VALUES = np.arange(24.0, dtype="<f4").reshape(2, 3, 4)


def showing(array=VALUES, **fields):
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    strides = (ctypes.c_int64 * array.ndim)(*(stride // array.itemsize for stride in array.strides))

    def show(_, out):
        out[0] = capsules.DLTensor(
            **{
                "data": array.ctypes.data,
                "device_type": CUDA,
                "ndim": array.ndim,
                "code": F4.code,
                "bits": F4.bits,
                "lanes": F4.lanes,
                "shape": ctypes.addressof(shape),
                "strides": ctypes.addressof(strides),
                **fields,
            }
        )
        return 0

    return show


@pytest.mark.parametrize(
    ("index", "strides"), [(..., None), ((slice(None), 1), (12, 1)), ((0, slice(1)), None), ((slice(0),), None)]
)
def test_an_array_is_read_as_it_is_shown(index, strides):
    array = VALUES[index]
    one = stand_in(showing(array))()
    found = native.read_tensor(one, False)  # noqa: FBT003
    assert type(found) is Tensor
    assert type(found.dtype) is DataType
    assert found == (array.ctypes.data, array.shape, strides, F4, CUDA, 0, False, one)
    assert native.read_tensor(one, True).read_only  # noqa: FBT003


def test_an_older_api_is_found_behind_a_newer_one():
    known = stand_in(showing())
    newer = stand_in(major=2, older=ctypes.addressof(known.kept[0]))
    assert native.read_tensor(newer(), False).shape == VALUES.shape  # noqa: FBT003


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (lambda: object, AttributeError),
        (lambda: stand_in(name=capsules.OLD.name), ValueError),
        (lambda: stand_in(major=2), BufferError),
        (lambda: stand_in(view_of_object=None), BufferError),
        (lambda: stand_in(showing(ndim=-1)), InvalidArrayError),
        (lambda: stand_in(showing(ndim=65)), InvalidArrayError),
        (lambda: stand_in(showing(shape=None)), InvalidArrayError),
        (lambda: stand_in(showing(data=2**64 - 8, byte_offset=8)), InvalidArrayError),
    ],
)
def test_what_cannot_be_read_is_an_error(kind, error):
    one = kind()()
    before = sys.getrefcount(one)
    with pytest.raises(error) as caught:
        native.read_tensor(one, False)  # noqa: FBT003
    del caught
    assert sys.getrefcount(one) == before


def test_a_tensor_of_torch_that_is_refused_keeps_nothing():
    torch = pytest.importorskip("torch")
    thing = Thing()
    alive = weakref.ref(thing)
    wrong = Tensor(VALUES.ctypes.data, (4,), None, DataType(2, 32, 4), 1, 0, read_only=False, owner=None)
    with pytest.raises(RuntimeError, match="lanes") as caught:
        native.make_tensor(torch.Tensor, wrong, thing)
    del thing, caught
    assert alive() is None
    with pytest.raises(AttributeError):
        native.make_tensor(int, wrong, None)


@pytest.mark.parametrize("calls_the_deleter", [False, True])
def test_a_library_that_refuses_may_have_called_the_deleter(calls_the_deleter):
    def refuse(managed, _):
        if calls_the_deleter:
            end(capsules.ManagedVersioned.from_address(managed))
        return -1

    function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(refuse)
    kind = stand_in(to_object=ctypes.cast(function, ctypes.c_void_p).value)
    thing = Thing()
    before = sys.getrefcount(thing)
    for _ in range(3):
        with pytest.raises(BufferError, match="does not say why"):
            native.make_tensor(kind, Tensor(4096, (4,), None, F4, CUDA, 0, read_only=False, owner=None), thing)
    assert sys.getrefcount(thing) == before


def test_a_view_of_cuda_core_that_is_refused_keeps_nothing():
    """cuda.core calls the deleter, and PyTorch does not."""
    utils = pytest.importorskip("cuda.core.utils")
    thing, vulkan = Thing(), 7
    before = sys.getrefcount(thing)
    with pytest.raises(BufferError):
        native.make_tensor(
            utils.StridedMemoryView, Tensor(4096, (4,), None, F4, vulkan, 0, read_only=False, owner=None), thing
        )
    assert sys.getrefcount(thing) == before


@pytest.mark.parametrize("layout", [(..., None), ((slice(None), slice(None), slice(1, 3)), (12, 4, 1))])
def test_a_tensor_of_torch_is_made_and_keeps_its_owner(layout):
    torch = pytest.importorskip("torch")
    thing, (index, strides) = Thing(), layout
    alive = weakref.ref(thing)
    array = VALUES[index]
    tensor = Tensor(array.ctypes.data, array.shape, strides, F4, 1, 0, read_only=False, owner=None)
    made = native.make_tensor(torch.Tensor, tensor, thing)
    del thing
    assert made.data_ptr() == array.ctypes.data
    assert made.tolist() == array.tolist()
    part = made[0]
    del made
    assert alive() is not None
    del part
    assert alive() is None


def test_a_tensor_of_torch_that_is_given_other_memory_is_read_with_an_owner_that_is_not():
    """The exchange's own tensor would follow."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("interop.adapters.torch")
    values = torch.arange(4.0)
    found = module.described(values)
    values.data = torch.zeros(3)
    assert found.owner.tolist() == [0, 1, 2, 3]
    assert found.address == found.owner.data_ptr() != values.data_ptr()
