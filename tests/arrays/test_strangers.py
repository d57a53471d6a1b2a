"""What arrays of unknown libraries say of themselves is checked, by one check for both protocols."""

import ctypes

import numpy as np
import pytest

import interop
from interop import _cuda, sim
from interop._arrays import capsules
from interop.adapters.tensor import CUDA
from interop.errors import InvalidArrayError, NotSupportedError

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
    """Says by DLPack whatever it is told to say; the memory is that of eight numbers."""

    def __init__(self, *, device=(CUDA, 0), **said):
        self.device = device
        self.values = np.arange(8.0, dtype="f4")
        truth = {"data": self.values.ctypes.data, "device_type": CUDA, "device_id": 0, "ndim": 1, "byte_offset": 0}
        fields = {**truth, "code": 2, "bits": 32, "lanes": 1, "shape": (8,), "strides": (1,), **said}
        self.shape = (ctypes.c_int64 * len(fields["shape"]))(*fields["shape"])
        self.strides = (ctypes.c_int64 * len(fields["strides"]))(*fields["strides"])
        fields["shape"], fields["strides"] = ctypes.addressof(self.shape), ctypes.addressof(self.strides)
        self.managed = capsules._ManagedVersioned()
        self.managed.major = 1
        for name, value in fields.items():
            setattr(self.managed.tensor, name, value)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **_):
        return new_capsule(ctypes.addressof(self.managed), capsules._VERSIONED.name, None)


class Interface:
    """Says by the array interface whatever it is told to say."""

    def __init__(self, **said):
        self.values = np.arange(8.0, dtype="f4")
        self.__cuda_array_interface__ = {**self.values.__array_interface__, "version": 3, "stream": 1, **said}


def test_control_the_truth_is_taken(streams):
    p, c = streams
    for stranger in (Capsule(), Interface()):
        made = interop.handoff(stranger, c, producer=p)
        said = made.__cuda_array_interface__
        assert (said["data"], said["shape"]) == ((stranger.values.ctypes.data, False), (8,))


FALSE = {
    "memory of the CPU": Capsule(device_type=1),
    "a type of device that nobody knows": Capsule(device_type=99),
    "memory of the CPU, said at once": Capsule(device=(1, 0)),
    "a type of device that nobody knows, said at once": Capsule(device=(99, 0)),
    "device -1": Capsule(device_id=-1),
    "a negative count": Capsule(shape=(-3,)),
    "no memory, and elements": Capsule(data=0),
    "no memory, and elements, by the interface": Interface(data=(0, False)),
    "memory that is no GPU's": Capsule(data=64),
    "memory that is no GPU's, by the interface": Interface(data=(64, False)),
    "an address beyond all": Capsule(byte_offset=2**64 - 64),
    "0 bits": Capsule(bits=0),
    "0 lanes": Capsule(lanes=0),
    "a type without a name": Capsule(code=200),
    "an end beyond all": Capsule(shape=(2**62,), strides=(2**2,)),
    "an end beyond all, by the interface": Interface(shape=(2**61,), strides=(2**5,)),
    "a beginning before all": Capsule(shape=(2**40,), strides=(-(2**20),)),
    "a beginning before all, by the interface": Interface(shape=(2**40,), strides=(-(2**22),)),
    "negative dimensions": Capsule(ndim=-1),
    "dimensions without end": Capsule(ndim=2**31 - 1),
    "no elements, on another device than it says first": Capsule(shape=(0,), device_id=7),
}


@pytest.mark.parametrize("case", FALSE)
@pytest.mark.parametrize("into", [None, "cuda.core"])
def test_what_cannot_be_is_refused(streams, case, into, monkeypatch):
    p, c = streams
    monkeypatch.setattr(c._cuda, "order", lambda *_: pytest.fail("ordered"))
    with pytest.raises(InvalidArrayError):
        interop.handoff(FALSE[case], c, producer=p, into=into)


class FailingAttributes:
    def __getattr__(self, name):
        raise RuntimeError(name)


class FailingProxy:
    """A lazy proxy that stands for nothing yet."""

    @property
    def __class__(self):
        raise RuntimeError("unbound")


@pytest.mark.parametrize("stranger", [FailingAttributes, FailingProxy])
def test_an_object_that_fails_when_it_is_asked_is_no_array(streams, stranger):
    p, c = streams
    with pytest.raises(InvalidArrayError):
        interop.handoff(stranger(), c, producer=p)


@pytest.mark.parametrize(
    "stranger", [Capsule(shape=(0,)), Capsule(shape=(0,), data=0), Interface(shape=(0,), data=(0, False))]
)
def test_without_elements_an_address_means_nothing(streams, stranger):
    p, c = streams
    made = interop.handoff(stranger, c, producer=p)
    assert made.__cuda_array_interface__["shape"] == (0,)


def test_strides_of_dimensions_with_one_element_mean_nothing(streams):
    p, c = streams
    made = interop.handoff(Interface(shape=(1, 8), strides=(7, 4)), c, producer=p)
    assert made.__cuda_array_interface__["shape"] == (1, 8)
    with pytest.raises(NotSupportedError, match="no multiples"):
        interop.handoff(Interface(shape=(2, 4), strides=(7, 4)), c, producer=p)


def test_the_device_is_the_one_that_cuda_knows(streams, monkeypatch):
    p, c = streams
    monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (13, 0))
    assert interop.handoff(Capsule(), c, producer=p).__dlpack_device__() == (13, 0)
