"""Streams and events where an address is wanted: as an int, as an argument of ctypes, as an object of cuda.bindings."""

import ctypes
import gc
import operator
import weakref

import pytest
from cuda.bindings import driver, runtime

import interop
from interop import sim
from interop.adapters import cuda_bindings
from interop.errors import UnrecordedEventError

KINDS = {"stream": interop.new_stream, "event": lambda: interop.new_stream().record_event()}


@pytest.fixture
def gpu():
    with sim.simulate() as gpu:
        yield gpu


@pytest.fixture(params=KINDS)
def thing(gpu, request):
    return KINDS[request.param]()


def test_it_is_an_int_where_an_int_is_wanted(thing):
    assert int(thing) == thing.ptr > 2
    assert type(int(thing)) is int


@pytest.mark.parametrize("arguments", [[ctypes.c_void_p], None], ids=["declared", "undeclared"])
def test_ctypes_takes_it_in_full(thing, arguments):
    function = ctypes.CDLL(None).labs  # returns its argument
    function.restype, function.argtypes = ctypes.c_long, arguments
    assert function(thing) == thing.ptr > 2**32


def test_cuda_bindings_take_it(gpu):
    stream = interop.new_stream()
    event = stream.record_event()
    for cls in (runtime.cudaStream_t, driver.CUstream):
        assert int(cls(stream)) == stream.cuda_stream
    for cls in (runtime.cudaEvent_t, driver.CUevent):
        assert int(cls(event)) == event.cuda_event
    assert not gpu.runtime.cudaEventRecord(event, stream)[0]
    assert not gpu.runtime.cudaStreamWaitEvent(stream, event, 0)[0]


@pytest.mark.parametrize(
    "use", [operator.index, range, bytes, [1, 2, 3].__getitem__, float, lambda thing: interop.new_stream(device=thing)]
)
def test_it_is_no_index_no_size_and_no_device(thing, use):
    with pytest.raises((TypeError, interop.errors.InvalidDeviceError)):
        use(thing)


def test_the_int_of_an_event_that_was_never_recorded_creates_it(gpu):
    event = interop.Event()
    with pytest.raises(UnrecordedEventError):
        event.query()
    assert int(event) == event.cuda_event > 2
    assert event.query()  # as in CUDA: anybody may have recorded it by its address


# -- to("cuda.bindings") ---------------------------------------------------------------------------------------------


class Owner:
    """A stream of a library, which destroys it at the end."""

    def __init__(self, stream):
        self.stream = stream

    def __cuda_stream__(self):
        return (0, self.stream.cuda_stream)


def made(owner):
    """The object for a stream that only *owner* keeps alive. The ExternalStream is gone."""
    return interop.as_stream(owner).to("cuda.bindings")


def test_to_gives_exactly_the_type_of_the_driver(gpu):
    stream = interop.new_stream()
    native = stream.to("cuda.bindings")
    assert type(native) is driver.CUstream
    assert int(native) == stream.cuda_stream
    assert stream.to("cuda.bindings") is native
    assert interop.as_stream(native) == stream
    for handle in (1, 2):
        assert int(interop.ExternalStream(handle).to("cuda.bindings")) == handle


def test_the_owner_lives_as_long_as_the_object(gpu):
    owners = [Owner(interop.new_stream()) for _ in range(3)]
    alive = [weakref.ref(owner) for owner in owners]
    natives = [made(owner) for owner in owners]
    del owners
    for _ in range(3):
        interop.new_stream().to("cuda.bindings")
        gc.collect()
        assert all(owner() is not None for owner in alive)
    other = natives.pop(0)
    del natives
    interop.new_stream().to("cuda.bindings")
    assert [owner() is not None for owner in alive] == [True, False, False]
    assert interop.as_stream(other).owner is other
    adapter = cuda_bindings.ADAPTER
    assert adapter.keeps_alive(other)
    assert not adapter.keeps_alive(driver.CUstream(int(other)))  # which somebody else has made


def test_what_is_kept_does_not_grow(gpu):
    for _ in range(100):
        made(Owner(interop.new_stream()))
    assert len(cuda_bindings._kept) < 5


def test_the_end_of_an_owner_may_make_another_object(gpu):
    """Its finaliser runs in the next call of ``to``."""
    ended = []

    class Talking(Owner):
        def __del__(self):
            ended.append(made(Owner(interop.new_stream())))

    made(Talking(interop.new_stream()))
    last = made(Owner(interop.new_stream()))
    assert len(ended) == 1
    assert cuda_bindings.ADAPTER.keeps_alive(ended[0])
    assert cuda_bindings.ADAPTER.keeps_alive(last)
