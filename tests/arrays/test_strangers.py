"""The descriptions that arrays of unknown libraries give, by either protocol, are checked."""

import ctypes

import numpy as np
import pytest

import interop
from interop import _cuda, sim
from interop._native import native, why_not
from interop.adapters.tensor import CUDA
from interop.errors import InvalidArrayError, NotSupportedError
from tests import capsules

new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)


@pytest.fixture
def streams(monkeypatch):
    with sim.simulate():
        monkeypatch.setattr(_cuda.memory, "pointer_place", lambda _, address: (CUDA if address >= 4096 else 0, 0))
        yield interop.new_stream(), interop.new_stream()
        interop.release()


class Capsule:
    """An array of eight numbers, whose DLPack capsule says what the test wants."""

    def __init__(self, *, device=(CUDA, 0), **said):
        self.device = device
        self.values = np.arange(8.0, dtype="f4")
        truth = {"data": self.values.ctypes.data, "device_type": CUDA, "device_id": 0, "ndim": 1, "byte_offset": 0}
        fields = {**truth, "code": 2, "bits": 32, "lanes": 1, "shape": (8,), "strides": (1,), **said}
        self.shape = (ctypes.c_int64 * len(fields["shape"]))(*fields["shape"])
        self.strides = (ctypes.c_int64 * len(fields["strides"]))(*fields["strides"])
        fields["shape"], fields["strides"] = ctypes.addressof(self.shape), ctypes.addressof(self.strides)
        self.managed = capsules.ManagedVersioned()
        self.managed.major = 1
        for name, value in fields.items():
            setattr(self.managed.tensor, name, value)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **_):
        if native is None:
            pytest.skip(why_not)
        return new_capsule(ctypes.addressof(self.managed), capsules.VERSIONED.name, None)


class Interface:
    """An array of eight numbers, whose array interface says what the test wants."""

    def __init__(self, **said):
        self.values = np.arange(8.0, dtype="f4")
        self.__cuda_array_interface__ = {**self.values.__array_interface__, "version": 3, "stream": 1, **said}


@pytest.mark.parametrize("stranger", [Capsule(), Interface()], ids=["capsule", "interface"])
def test_control_a_right_description_is_accepted(streams, stranger):
    p, c = streams
    made = interop.handoff(stranger, c, producer=p)
    said = made.__cuda_array_interface__
    assert (said["data"], said["shape"]) == ((stranger.values.ctypes.data, False), (8,))


WRONG = {
    "memory of the CPU": Capsule(device_type=1),
    "an unknown type of device": Capsule(device_type=99),
    "memory of the CPU, by __dlpack_device__": Capsule(device=(1, 0)),
    "an unknown type of device, by __dlpack_device__": Capsule(device=(99, 0)),
    "device -1": Capsule(device_id=-1),
    "a negative count": Capsule(shape=(-3,)),
    "elements at a null pointer": Capsule(data=0),
    "elements at a null pointer, by the interface": Interface(data=(0, False)),
    "an address that is no memory of a GPU": Capsule(data=64),
    "an address that is no memory of a GPU, by the interface": Interface(data=(64, False)),
    "an address past the end of all memory": Capsule(byte_offset=2**64 - 64),
    "0 bits": Capsule(bits=0),
    "0 lanes": Capsule(lanes=0),
    "an unknown type of element": Capsule(code=200),
    "an end past the end of all memory": Capsule(shape=(2**62,), strides=(2**2,)),
    "an end past the end of all memory, by the interface": Interface(shape=(2**61,), strides=(2**5,)),
    "a beginning before address 0": Capsule(shape=(2**40,), strides=(-(2**20),)),
    "a beginning before address 0, by the interface": Interface(shape=(2**40,), strides=(-(2**22),)),
    "-1 dimensions": Capsule(ndim=-1),
    "2**31 - 1 dimensions": Capsule(ndim=2**31 - 1),
    "no elements, and another device than __dlpack_device__ says": Capsule(shape=(0,), device_id=7),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("into", [None, "cuda.core"])
def test_an_impossible_description_is_refused(streams, case, into, monkeypatch):
    p, c = streams
    monkeypatch.setattr(interop.ExternalStream, "_wait_for", lambda *_: pytest.fail("ordered"))
    with pytest.raises(InvalidArrayError):
        interop.handoff(WRONG[case], c, producer=p, into=into)


class FailingAttributes:
    def __getattr__(self, name):
        raise RuntimeError(name)


class FailingProxy:
    """A lazy proxy that is not bound to an object."""

    @property
    def __class__(self):
        raise RuntimeError("unbound")


@pytest.mark.parametrize("stranger", [FailingAttributes, FailingProxy])
def test_an_object_whose_attributes_raise_is_no_array(streams, stranger):
    p, c = streams
    with pytest.raises(InvalidArrayError):
        interop.handoff(stranger(), c, producer=p)


@pytest.mark.parametrize(
    "stranger", [Capsule(shape=(0,)), Capsule(shape=(0,), data=0), Interface(shape=(0,), data=(0, False))]
)
def test_the_address_of_an_empty_array_is_not_checked(streams, stranger):
    p, c = streams
    made = interop.handoff(stranger, c, producer=p)
    assert made.__cuda_array_interface__["shape"] == (0,)


def test_the_stride_of_a_dimension_of_one_is_not_checked(streams):
    p, c = streams
    made = interop.handoff(Interface(shape=(1, 8), strides=(7, 4)), c, producer=p)
    assert made.__cuda_array_interface__["shape"] == (1, 8)
    with pytest.raises(NotSupportedError, match="no multiples"):
        interop.handoff(Interface(shape=(2, 4), strides=(7, 4)), c, producer=p)


def test_the_type_of_device_is_the_one_that_cuda_reports(streams, monkeypatch):
    p, c = streams
    monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (13, 0))
    assert interop.handoff(Capsule(), c, producer=p).__dlpack_device__() == (13, 0)
