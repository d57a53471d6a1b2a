"""More hand-overs: JAX, types that need DLPack, two devices, and no leak."""

import contextlib
import functools
import gc
import time

import numpy as np
import pytest

import interop
from interop._arrays.handover import count_open
from interop.errors import NotSupportedError, ProducerUnknownError
from interop.testing import assert_ordered, gate
from tests.gpu.lab import call, native_stream, on_device, runtime
from tests.gpu.test_arrays import (
    AGAIN,
    CONSUMERS,
    PRODUCERS,
    STALE,
    WRITTEN,
    N,
    address_of,
    cupy_array,
    memset,
    reset,
)
from tests.threads import in_threads

pytestmark = pytest.mark.filterwarnings("ignore:.*Grid size")


@pytest.fixture
def streams():
    return interop.new_stream(), interop.new_stream()


@pytest.fixture(autouse=True)
def _needs(request, interop_need):
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    for library in {params.get("producer"), params.get("consumer")} & {*PRODUCERS, *CONSUMERS, "jax"}:
        interop_need("cupy" if library in ("interface", "dlpack", "buffer") else library)


# -- JAX -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def jitted(interop_need):
    interop_need("jax", "cupy")
    import jax

    return jax.jit(lambda array: array + np.uint8(0))


@pytest.mark.parametrize("producer", PRODUCERS)
def test_jax_takes_arrays_in_order(producer, streams, jitted):
    p, c = streams
    array = PRODUCERS[producer](p)

    def hand_over():
        view = interop.handoff(array, c, producer=p, into="jax")
        assert view.unsafe_buffer_pointer() == address_of(array), "copied"
        return jitted(view)

    np.asarray(hand_over())
    reset(array)
    with gate(p) as shut:
        memset(address_of(array), WRITTEN, p)
        read = hand_over()
        assert not shut.is_open, "the host was blocked"
    assert set(np.asarray(read)) == {WRITTEN}


def test_control_jax_reads_stale_without_the_producer(streams, jitted):
    p, c = streams
    array = cupy_array(p)
    np.asarray(jitted(interop.handoff(array, c, producer=p, into="jax")))
    reset(array)
    with gate(p):
        memset(address_of(array), WRITTEN, p)
        read = jitted(interop.handoff(array, c, producer=c, into="jax"))
        read.block_until_ready()
    assert set(np.asarray(read)) == {STALE}


def test_jax_keeps_the_source_until_it_has_read_it(streams, jitted):
    import weakref

    p, c = streams
    array = cupy_array(p)
    np.asarray(jitted(interop.handoff(array, c, producer=p, into="jax")))
    gc.collect()
    interop.release()
    alive = weakref.ref(array)
    with gate(c):
        view = interop.handoff(array, c, producer=p, into="jax")
        read = jitted(view)
        del view, array
        assert alive() is not None
    read.block_until_ready()
    del read
    c.synchronize()
    # JAX releases the source in a thread of its own.
    deadline = time.monotonic() + 20
    while alive() is not None and time.monotonic() < deadline:
        interop.release()
        gc.collect()
        time.sleep(0.01)
    assert alive() is None


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_an_array_that_jax_computes_is_handed_over_in_order(consumer, streams, jitted):
    p, c = streams
    array, library = cupy_array(p), CONSUMERS[consumer]()

    def hand_over():
        view = interop.handoff(jitted(interop.handoff(array, p, producer=p, into="jax")), c, into=consumer)
        library.read(view, c)
        return view

    hand_over()
    call(runtime.cudaDeviceSynchronize())
    reset(array)
    with gate(p) as shut:
        memset(address_of(array), WRITTEN, p)
        view = hand_over()
        assert not shut.is_open, "the host was blocked"
        assert not c.query()
    c.synchronize()
    assert set(library.seen()) == {WRITTEN}
    del view


def test_jax_cannot_borrow(streams, jitted):
    import jax.numpy as jnp

    p, c = streams
    with interop.borrow(jnp.zeros(4), consumer=c, into="cuda.core"):
        pass  # nothing writes to an array of JAX, so no way back is needed
    with pytest.raises(NotSupportedError, match="streams of its own"):
        interop.borrow(cupy_array(p), consumer=c, into="jax").__enter__()
    array = PRODUCERS["dlpack"](p)
    with pytest.raises(ProducerUnknownError, match="orders its consumers itself"):
        interop.borrow(array, consumer=c, into="cuda.core").__enter__()


# -- types ---------------------------------------------------------------------------------------------------------

TYPES = [
    ("bfloat16", "torch"),
    ("bfloat16", "jax"),
    ("bfloat16", "cupy"),
    ("float8_e4m3fn", "torch"),
    ("float8_e4m3fn", "jax"),
    ("float8_e5m2", "torch"),
    ("float8_e5m2", "jax"),
]


@pytest.mark.parametrize(("dtype", "consumer"), TYPES)
def test_types_without_a_typestr_are_handed_over(dtype, consumer, streams, interop_need):
    interop_need("torch")
    import torch

    p, c = streams
    tensor = torch.arange(6, device="cuda").reshape(2, 3).to(getattr(torch, dtype))
    torch.cuda.synchronize()
    view = interop.handoff(tensor, c, producer=p, into=consumer)
    assert dtype in str(view.dtype)
    assert tuple(view.shape) == (2, 3)
    if consumer == "cupy":
        assert view.data.ptr == tensor.data_ptr()
    elif consumer == "jax":
        assert view.unsafe_buffer_pointer() == tensor.data_ptr()
        assert np.asarray(view).astype("f4").tolist() == [[0, 1, 2], [3, 4, 5]]
    else:
        assert view.data_ptr() == tensor.data_ptr()
        assert view.float().tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("consumer", ["numba", "warp"])
def test_types_that_a_library_does_not_know_are_refused(consumer, streams, interop_need):
    interop_need("torch")
    import torch

    with pytest.raises(NotSupportedError, match="of numbers of type bfloat16"):
        interop.handoff(torch.zeros(4, dtype=torch.bfloat16, device="cuda"), streams[1], into=consumer)


def test_structured_types_are_refused(streams, interop_need):
    interop_need("cupy")
    import cupy

    p, c = streams
    array = cupy.zeros(4, dtype=np.dtype([("a", "f4"), ("b", "i4")]))
    with pytest.raises(NotSupportedError, match="structured"):
        interop.handoff(array, c, producer=p, into="numba")


@pytest.mark.parametrize("dtype", ["bool", "int32", "float16", "float32", "complex64"])
def test_jax_takes_types_and_shapes(dtype, streams, jitted, interop_need):
    interop_need("torch")
    import torch

    p, c = streams
    base = torch.arange(24, device="cuda").reshape(2, 3, 4).to(getattr(torch, dtype))
    for tensor in (base, base.transpose(0, 2), base[0, 0, 0], base[:0]):
        torch.cuda.synchronize()
        view = interop.handoff(tensor, c, producer=p, into="jax")
        assert (np.asarray(view) == tensor.cpu().numpy()).all()
    with pytest.raises(NotSupportedError, match="jax takes no array"):
        interop.handoff(base[:, ::2], c, producer=p, into="jax")


# -- two devices -----------------------------------------------------------------------------------------------------


def pool_buffer(stream):
    """A buffer of cuda.core, from the device's memory pool: the pool says which devices can access it."""
    from cuda.core import Device

    device = Device(call(runtime.cudaGetDevice()))
    device.set_current()
    own = device.create_stream()
    buffer = device.allocate(N, stream=own)
    own.sync()
    return buffer


FAR = {**PRODUCERS, "buffer": pool_buffer}


def place(array):
    return int(array.handle) if hasattr(array, "handle") else address_of(array)


def settle():
    for device in (0, 1):
        with on_device(device):
            call(runtime.cudaDeviceSynchronize())


class TwoDevices:
    """An array on one device, and a library that reads it on the other one."""

    def __init__(self, producer, consumer, devices):
        self.into, self.devices = consumer, devices
        self.p, self.c = (interop.as_stream(native_stream("int", device, i)) for i, device in enumerate(devices))
        with on_device(devices[0]):
            self.array = FAR[producer](self.p)
        with on_device(devices[1]):
            self.library = CONSUMERS[consumer]()

    def reset(self):
        settle()
        with on_device(self.devices[0]):
            call(runtime.cudaMemset(place(self.array), STALE, N))
        settle()

    def write(self, value):
        with on_device(self.devices[0]):
            memset(place(self.array), value, self.p)

    def hand_over(self, *, producer, inside=False):
        """Hand over the array, and let the library read the view; returns the view."""
        with interop.use(self.p) if inside else contextlib.nullcontext(), on_device(self.devices[1]):
            view = interop.handoff(self.array, self.c, producer=producer, into=self.into)
        with on_device(self.devices[1]):
            self.library.read(view, self.c)
        return view

    def seen(self):
        settle()
        with on_device(self.devices[1]):
            return set(self.library.seen())


@pytest.fixture
def two_devices(producer, consumer, devices):
    far = TwoDevices(producer, consumer, devices)
    for inside in (True, False):  # loads and compiles everything
        far.hand_over(producer=far.p, inside=inside)
    far.reset()
    return far


two_device_pairs = pytest.mark.parametrize(
    ("producer", "consumer", "devices"),
    [
        (producer, consumer, devices)
        for producer in FAR
        for consumer in ("cupy", "numba", "torch", "cuda.core")
        for devices in ((0, 1), (1, 0))
        if producer != "warp"
    ],
)


@pytest.mark.needs("gpu2", "cuda.core")
@pytest.mark.parametrize("inside", [True, False])
@two_device_pairs
def test_a_handoff_orders_streams_of_two_devices(two_devices, inside):
    far = two_devices
    with gate(far.p) as shut:
        far.write(WRITTEN)
        view = far.hand_over(producer=far.p, inside=inside)
        assert not shut.is_open, "the host was blocked"
    assert far.seen() == {WRITTEN}
    del view


@pytest.mark.needs("gpu2", "cuda.core")
@pytest.mark.parametrize("inside", [True, False])
@two_device_pairs
def test_control_with_the_wrong_producer_two_devices_are_not_ordered(two_devices, producer, inside):
    far, inside = two_devices, inside and producer != "dlpack"  # inside, its own __dlpack__ orders the work
    with gate(far.p):
        far.write(WRITTEN)
        view = far.hand_over(producer=far.c, inside=inside)
        far.c.synchronize()  # nothing holds c up
    assert far.seen() == {STALE}
    del view


@pytest.mark.needs("gpu2", "cuda.core")
@two_device_pairs
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "the control"])
def test_the_way_back_orders_streams_of_two_devices(two_devices, ordered):
    far = two_devices

    def lend(producer):
        with interop.borrow(far.array, consumer=far.c, producer=producer, into="cuda.core") as lent:
            call(runtime.cudaMemsetAsync(lent.ptr, WRITTEN, N, far.c.cuda_stream))

    lend(far.p)
    far.reset()
    with on_device(far.devices[0]), gate(far.c) as shut:
        lend(far.p if ordered else far.c)
        far.write(AGAIN)
        if not ordered:
            far.p.synchronize()  # nothing holds p up
        assert not shut.is_open, "the host was blocked"
    view = far.hand_over(producer=far.p)
    assert far.seen() == {AGAIN if ordered else WRITTEN}
    del view


@pytest.mark.needs("gpu2", "cupy")
def test_the_producer_is_the_current_stream_of_the_arrays_device():
    import cupy

    consumer, here, there = interop.new_stream(), native_stream("cupy", 0, 0), native_stream("cupy", 1, 0)
    with cupy.cuda.Device(1):
        array = cupy.zeros(4)
    try:
        with cupy.cuda.Device(1):
            there.use()
        with here:
            # The control: CuPy states the other stream.
            assert array.__cuda_array_interface__["stream"] == here.ptr
            with assert_ordered(there, consumer):
                view = interop.handoff(array, consumer)
    finally:
        with cupy.cuda.Device(1):
            cupy.cuda.Stream.null.use()
    del view


@pytest.mark.needs("gpu2", "cuda.core")
@pytest.mark.parametrize("devices", [(0, 1), (1, 0)])
@pytest.mark.parametrize("producer", [name for name in FAR if name != "warp"])
def test_jax_takes_arrays_of_either_device(producer, devices, jitted):
    p, c = (interop.as_stream(native_stream("int", device, number)) for number, device in enumerate(devices))
    with on_device(devices[0]):
        array = FAR[producer](p)
    with on_device(0):  # JAX may leave another device current
        np.asarray(jitted(interop.handoff(array, c, producer=p, into="jax")))
    settle()
    with on_device(devices[0]):
        call(runtime.cudaMemset(place(array), STALE, N))
    settle()
    with on_device(0), gate(p) as shut:
        with on_device(devices[0]):
            memset(place(array), WRITTEN, p)
        read = jitted(interop.handoff(array, c, producer=p, into="jax"))
        assert not shut.is_open, "the host was blocked"
    assert set(np.asarray(read)) == {WRITTEN}


@pytest.mark.needs("gpu2")
@pytest.mark.parametrize("devices", [(0, 1), (1, 0)])
@pytest.mark.parametrize("consumer", ["cupy", "numba", "torch", "cuda.core"])
def test_an_array_that_jax_computes_is_handed_to_another_device_in_order(consumer, devices, jitted):
    p, c = (interop.as_stream(native_stream("int", device, number)) for number, device in enumerate(devices))
    with on_device(devices[0]):
        array = cupy_array(p)
    with on_device(devices[1]):
        library = CONSUMERS[consumer]()

    def hand_over():
        with on_device(0):
            computed = jitted(interop.handoff(array, p, producer=p, into="jax"))
        with on_device(devices[1]):
            view = interop.handoff(computed, c, into=consumer)
            library.read(view, c)
        return view

    hand_over()
    settle()
    with on_device(devices[0]):
        reset(array)
    settle()
    with gate(p) as shut:
        with on_device(devices[0]):
            memset(address_of(array), WRITTEN, p)
        view = hand_over()
        assert not shut.is_open, "the host was blocked"
    settle()
    with on_device(devices[1]):
        assert set(library.seen()) == {WRITTEN}
    del view


# -- repeated hand-overs -------------------------------------------------------------------------------------------


@pytest.mark.needs("cupy", "numba", "torch")
@pytest.mark.parametrize("consumer", ["cupy", "numba", "torch"])
@pytest.mark.parametrize("producer", ["cupy", "numba", "torch"])
def test_repeated_handovers_are_ordered_both_ways(producer, consumer, streams):
    p, c = streams
    array, library = PRODUCERS[producer](p), CONSUMERS[consumer]()
    for _ in range(2):
        view = interop.handoff(array, c, producer=p, into=consumer)
        library.read(view, c)
        call(runtime.cudaDeviceSynchronize())
        reset(array)
        with gate(p) as shut:
            memset(address_of(array), WRITTEN, p)
            view = interop.handoff(array, c, producer=p, into=consumer)
            library.read(view, c)
            assert not shut.is_open
        c.synchronize()
        assert set(library.seen()) == {WRITTEN}
        with gate(c):
            back = interop.handoff(view, p, into=producer)  # its producer is c, which the view was handed to
            assert not p.query()
        assert address_of(back) == address_of(array)


@pytest.mark.needs("cupy", "torch")
def test_a_source_that_was_resized_is_read_again(streams):
    import torch

    p, c = streams
    array = cupy_array(p)
    view = interop.handoff(array, c, producer=p, into="torch")
    array.shape = (64, N // 64)
    assert tuple(interop.handoff(array, c, producer=p, into="torch").shape) == (64, N // 64)
    tensor = torch.zeros(64, device="cuda")
    view = interop.handoff(tensor, c, producer=p, into="cupy")
    tensor.resize_(8, 8)
    assert interop.handoff(tensor, c, producer=p, into="cupy").shape == (8, 8)
    del view


# -- no leak -------------------------------------------------------------------------------------------------------


@pytest.mark.needs("cupy", "numba", "torch")
@pytest.mark.parametrize("threads", [1, 8])
def test_ten_thousand_handoffs_do_not_leak(threads, monkeypatch):
    import cupy

    gc.collect()
    before = count_open()
    free, events = [], []
    alive = 0
    create, destroy = interop._cuda.Cuda.event_create, interop._cuda.Cuda.event_destroy

    def count(change, real, *arguments):
        nonlocal alive
        alive += change
        return real(*arguments)

    monkeypatch.setattr(interop._cuda.Cuda, "event_create", lambda *a: count(1, create, *a))
    monkeypatch.setattr(interop._cuda.Cuda, "event_destroy", lambda *a: count(-1, destroy, *a))

    def work(rounds):
        p, c = interop.new_stream(), interop.new_stream()
        arrays = [make(p) for make in (PRODUCERS["cupy"], PRODUCERS["torch"], PRODUCERS["numba"])]
        for i in range(rounds):
            view = interop.handoff(arrays[i % 3], c, producer=p, into=("torch", "numba", "cupy")[i % 3])
            if i % 5 == 0:
                interop.handoff(view, p, into=("cupy", "torch", "numba")[i % 3])
            del view
        p.synchronize()
        c.synchronize()

    for _ in range(4):
        in_threads(*[functools.partial(work, 2500 // threads)] * threads)
        call(runtime.cudaDeviceSynchronize())
        gc.collect()
        interop.release()
        cupy.get_default_memory_pool().free_all_blocks()
        free.append(call_two(runtime.cudaMemGetInfo())[0])
        events.append(alive)
    assert interop.release() == 0
    assert count_open() == before
    assert free[-1] >= free[1], "device memory grows"
    assert events[-1] <= events[1] + threads, "events are left behind"


def call_two(result):
    assert not result[0], result
    return result[1:]
