"""Hand-overs from every library to every library: both ways are ordered, and the host is not blocked."""

import gc
import importlib
import itertools

import numpy as np
import pytest

import interop
from interop._order import watchers
from interop.errors import InvalidArrayError, NotSupportedError, ProducerUnknownError
from interop.testing import gate
from tests.gpu.lab import STALE, WRITTEN, call, int_stream, native_stream, runtime

N = 4096
AGAIN = 3
pytestmark = pytest.mark.filterwarnings("ignore:.*Grid size")


class Plain:
    """An array of an unknown library, with one protocol."""

    def __init__(self, base):
        self.base = base


class PlainInterface(Plain):
    @property
    def __cuda_array_interface__(self):
        return {"version": 3, "shape": (N,), "typestr": "|u1", "data": (self.base.data.ptr, False), "stream": None}


class PlainDlpack(Plain):
    def __dlpack_device__(self):
        return self.base.__dlpack_device__()

    def __dlpack__(self, **options):
        return self.base.__dlpack__(**options)


def cupy_array(stream):
    import cupy

    return cupy.zeros(N, dtype="u1")


def numba_array(stream):
    from numba import cuda

    return cuda.to_device(np.zeros(N, dtype="u1"))


def numba_cuda_mlir_array(stream):
    from numba_cuda_mlir import cuda

    return cuda.to_device(np.zeros(N, dtype="u1"))


def torch_array(stream):
    import torch

    return torch.zeros(N, dtype=torch.uint8, device="cuda")


def core_array(stream):
    from cuda.core.utils import StridedMemoryView

    return StridedMemoryView.from_cuda_array_interface(cupy_array(stream), stream_ptr=-1)


def rmm_array(stream):
    import rmm

    return rmm.DeviceBuffer(size=N)


def warp_array(stream):
    import warp

    warp.config.quiet = True
    return warp.zeros(N, dtype=warp.uint8, device="cuda:0")


def tvm_ffi_array(stream):
    import tvm_ffi

    return tvm_ffi.from_dlpack(cupy_array(stream))


PRODUCERS = {
    "cupy": cupy_array,
    "numba": numba_array,
    "numba_cuda_mlir": numba_cuda_mlir_array,
    "torch": torch_array,
    "cuda.core": core_array,
    "rmm": rmm_array,
    "tvm_ffi": tvm_ffi_array,
    "warp": warp_array,
    "interface": lambda stream: PlainInterface(cupy_array(stream)),
    "dlpack": lambda stream: PlainDlpack(cupy_array(stream)),
}


def address_of(array):
    if isinstance(array, Plain):
        return array.base.data.ptr
    if hasattr(array, "__cuda_array_interface__"):
        return array.__cuda_array_interface__["data"][0]
    return int(array.data_ptr() if hasattr(array, "data_ptr") else array.ptr)


class Cupy:
    """CuPy reads and writes a view on a stream. The classes below do so with the other libraries."""

    def __init__(self):
        import cupy

        self.cupy = cupy
        self.out = cupy.zeros(N, dtype="u1")

    def read(self, view, stream):
        with stream.to("cupy"):
            self.cupy.copyto(self.out, view.view(self.out.dtype))  # views of buffers have signed bytes

    def write(self, view, stream, value):
        with stream.to("cupy"):
            view.fill(value)

    def seen(self):
        return self.out.get()


class Numba:
    library = "numba"

    def __init__(self):
        cuda = importlib.import_module(f"{self.library}.cuda")

        @cuda.jit("void(uint8[::1], uint8[::1])")
        def copy(source, target):
            i = cuda.grid(1)
            if i < source.size:
                target[i] = source[i]

        @cuda.jit("void(uint8[::1], uint8)")
        def fill(target, value):
            i = cuda.grid(1)
            if i < target.size:
                target[i] = value

        self._copy, self._fill = copy, fill
        self.out = cuda.to_device(np.zeros(N, dtype="u1"))

    def read(self, view, stream):
        self._copy[N // 256, 256, stream.to(self.library)](view, self.out)

    def write(self, view, stream, value):
        self._fill[N // 256, 256, stream.to(self.library)](view, value)

    def seen(self):
        return self.out.copy_to_host()


class NumbaCudaMlir(Numba):
    library = "numba_cuda_mlir"


class Torch:
    def __init__(self):
        import torch

        self.torch = torch
        self.out = torch.zeros(N, dtype=torch.uint8, device="cuda")

    def read(self, view, stream):
        with self.torch.cuda.stream(stream.to("torch")):
            self.out.copy_(view)

    def write(self, view, stream, value):
        with self.torch.cuda.stream(stream.to("torch")):
            view.fill_(value)

    def seen(self):
        return self.out.cpu().numpy()


class Core:
    def __init__(self):
        self.out = int(call(runtime.cudaMalloc(N)))

    def read(self, view, stream):
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        call(runtime.cudaMemcpyAsync(self.out, address_of(view), N, kind, stream.cuda_stream))

    def write(self, view, stream, value):
        memset(address_of(view), value, stream)

    def seen(self):
        host = np.zeros(N, dtype="u1")
        call(runtime.cudaMemcpy(host.ctypes.data, self.out, N, runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost))
        return host


class Warp:
    def __init__(self):
        import warp

        warp.config.quiet = True
        self.warp = warp
        self.out = warp.zeros(N, dtype=warp.uint8, device="cuda:0")

    def read(self, view, stream):
        self.warp.copy(self.out, view, stream=stream.to("warp"))

    def write(self, view, stream, value):
        with self.warp.ScopedStream(stream.to("warp"), sync_enter=False):
            view.fill_(value)

    def seen(self):
        return self.out.numpy()


CONSUMERS = {
    "cupy": Cupy,
    "numba": Numba,
    "numba_cuda_mlir": NumbaCudaMlir,
    "torch": Torch,
    "cuda.core": Core,
    "tvm_ffi": Core,
    "warp": Warp,
}
pairs = pytest.mark.parametrize(("producer", "consumer"), list(itertools.product(PRODUCERS, CONSUMERS)))


@pytest.fixture(autouse=True)
def _needs(request):
    need = request.getfixturevalue("interop_need")
    for library in getattr(getattr(request.node, "callspec", None), "params", {}).values():
        if library in ("interface", "dlpack"):
            need("cupy")
        elif library in {*PRODUCERS, *CONSUMERS}:
            need(library, *["cupy"] * (library == "tvm_ffi"))


@pytest.fixture
def streams():
    """The producer's stream and the consumer's, both idle."""
    return interop.new_stream(), interop.new_stream()


def memset(address, value, stream):
    call(runtime.cudaMemsetAsync(address, value, N, stream.cuda_stream))


def reset(array):
    call(runtime.cudaMemset(address_of(array), STALE, N))
    call(runtime.cudaDeviceSynchronize())


@pairs
@pytest.mark.parametrize("inside", [True, False])
def test_handoff_makes_the_consumer_wait(producer, consumer, inside, streams):
    p, c = streams
    array, library = PRODUCERS[producer](p), CONSUMERS[consumer]()

    def hand_over():
        if inside:
            with interop.use(p):
                view = interop.handoff(array, c, producer=p, into=consumer)
        else:
            view = interop.handoff(array, c, producer=p, into=consumer)
        library.read(view, c)
        return view

    view = hand_over()  # loads and compiles everything
    del view
    gc.collect()
    reset(array)
    with gate(p) as shut:
        memset(address_of(array), WRITTEN, p)
        view = hand_over()
        assert not shut.is_open, "the host was blocked"
    c.synchronize()
    assert set(library.seen()) == {WRITTEN}
    del view


@pairs
def test_control_with_the_wrong_producer_the_consumer_reads_stale_data(producer, consumer, streams):
    p, c = streams
    array, library = PRODUCERS[producer](p), CONSUMERS[consumer]()
    library.read(interop.handoff(array, c, producer=c, into=consumer), c)
    c.synchronize()
    library.seen()
    reset(array)
    with gate(p):
        memset(address_of(array), WRITTEN, p)
        view = interop.handoff(array, c, producer=c, into=consumer)
        library.read(view, c)
        c.synchronize()  # nothing holds c up
        seen = set(library.seen())
    assert seen == {STALE}
    del view


@pairs
def test_borrow_orders_the_way_back(producer, consumer, streams):
    p, c = streams
    array, library = PRODUCERS[producer](p), CONSUMERS[consumer]()
    out = Core()

    def lend():
        with interop.borrow(array, consumer=c, producer=p, into=consumer) as view:
            library.write(view, c, WRITTEN)
            return view

    lend()
    call(runtime.cudaDeviceSynchronize())
    reset(array)
    with gate(c) as shut:
        view = lend()
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        call(runtime.cudaMemcpyAsync(out.out, address_of(array), N, kind, p.cuda_stream))
        memset(address_of(array), AGAIN, p)
        assert not shut.is_open, "the host was blocked"
    call(runtime.cudaDeviceSynchronize())
    assert set(out.seen()) == {WRITTEN}
    reader = Core()
    reader.read(type("View", (), {"ptr": address_of(array)}), p)
    call(runtime.cudaDeviceSynchronize())
    assert set(reader.seen()) == {AGAIN}
    del view


def test_the_end_of_the_last_view_orders_the_way_back(streams, interop_need):
    interop_need("cupy")
    p, c = streams
    array = cupy_array(p)
    reader = Core()
    view = interop.handoff(array, c, producer=p, into="cuda.core")
    reset(array)
    with gate(c):
        reader.read(view, c)
        del view
        memset(address_of(array), AGAIN, p)  # as the next owner of the block in the pool would
    call(runtime.cudaDeviceSynchronize())
    assert set(reader.seen()) == {STALE}


def test_control_a_living_view_does_not_order_the_way_back(streams, interop_need):
    interop_need("cupy")
    p, c = streams
    array = cupy_array(p)
    reader = Core()
    view = interop.handoff(array, c, producer=p, into="cuda.core")
    reset(array)
    with gate(c):
        reader.read(view, c)
        memset(address_of(array), AGAIN, p)
        p.synchronize()
    call(runtime.cudaDeviceSynchronize())
    assert set(reader.seen()) == {AGAIN}
    del view


@pytest.mark.parametrize("dropped", [True, False], ids=["dropped", "the control"])
@pytest.mark.parametrize("last_first", [True, False])
def test_the_first_producer_of_a_chain_waits_for_all_consumers(streams, interop_need, last_first, dropped):
    interop_need("cupy")
    interop_need("torch")
    p, c = streams
    d, array, reader = interop.new_stream(), cupy_array(p), Core()

    def hand_on():
        view = interop.handoff(array, c, producer=p, into="torch")
        return [view, interop.handoff(view, d, producer=c, into="cuda.core")]

    hand_on()  # loads everything
    call(runtime.cudaDeviceSynchronize())
    interop.release()
    reset(array)
    with gate(d) as shut:
        chain = hand_on()
        reader.read(chain[1], d)
        if last_first:
            chain.reverse()
        while dropped and chain:
            del chain[0]
        memset(address_of(array), AGAIN, p)  # as the next owner of the block in the pool would
        if not dropped:
            p.synchronize()
        assert not shut.is_open, "the host was blocked"
    call(runtime.cudaDeviceSynchronize())
    assert set(reader.seen()) == {STALE if dropped else AGAIN}


@pytest.mark.parametrize("library", ["cupy", "torch", "tvm_ffi", "warp"])
def test_the_current_stream_is_the_producer(library, interop_need):
    interop_need(library)
    p, c = interop.new_stream(), interop.as_stream(int_stream())
    array, reader = PRODUCERS[library](p), Core()
    reset(array)
    with interop.use(p), gate(p) as shut:
        memset(address_of(array), WRITTEN, p)
        view = interop.handoff(array, c, into="cuda.core")
        reader.read(view, c)
        assert not shut.is_open
    call(runtime.cudaDeviceSynchronize())
    assert set(reader.seen()) == {WRITTEN}


@pytest.mark.parametrize("producer", ["numba", "numba_cuda_mlir", "rmm", "cuda.core", "interface"])
def test_without_a_stated_stream_the_producer_is_unknown(producer, streams):
    with pytest.raises(ProducerUnknownError, match="producer="):
        interop.handoff(PRODUCERS[producer](None), streams[1], into="cuda.core")


def test_a_stated_stream_is_the_producer(streams, interop_need):
    interop_need("numba")
    p, c = streams
    array, reader = numba_array(p).bind(p.to("numba")), Core()
    reset(array)
    with gate(p):
        memset(address_of(array), WRITTEN, p)
        reader.read(interop.handoff(array, c, into="cuda.core"), c)
    call(runtime.cudaDeviceSynchronize())
    assert set(reader.seen()) == {WRITTEN}


def test_a_handover_states_the_consumer(streams, interop_need):
    interop_need("cupy")
    interop_need("cuda.core")
    from cuda.core.utils import StridedMemoryView

    p, c = streams
    array, reader, other = PlainInterface(cupy_array(p)), Core(), interop.new_stream()
    holder = interop.handoff(array, c.cuda_stream, producer=p)
    assert isinstance(holder, interop.Handover)
    assert holder.__cuda_array_interface__["stream"] == c.cuda_stream
    reset(array)
    with gate(p):
        memset(address_of(array), WRITTEN, p)
        holder = interop.handoff(array, c.cuda_stream, producer=p)
        view = StridedMemoryView.from_cuda_array_interface(holder, stream_ptr=other.cuda_stream)
        reader.read(view, other)
    other.synchronize()
    assert set(reader.seen()) == {WRITTEN}


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "complex64"])
@pytest.mark.parametrize("into", ["torch", "cupy", "numba", "cuda.core"])
def test_views_keep_types_shapes_and_strides(dtype, into, streams, interop_need):
    interop_need("torch", into)
    import torch

    p, c = streams
    base = torch.arange(24, device="cuda").reshape(2, 3, 4).to(getattr(torch, dtype))
    for tensor in (base, base[:, ::2], base.transpose(0, 2), base[0, 0, 0], base[:0]):
        torch.cuda.synchronize()
        view = interop.handoff(tensor, c, producer=p, into=into)
        assert tuple(view.shape) == tuple(tensor.shape)
        expected = tensor.cpu().numpy()
        if into == "torch":
            assert (view.dtype, view.device) == (tensor.dtype, tensor.device)
            assert (view.cpu().numpy() == expected).all()
        elif into == "cupy":
            assert view.dtype == expected.dtype
            assert (view.get() == expected).all()
        elif into == "numba" and tensor.numel() and tensor.is_contiguous():
            assert (view.copy_to_host() == expected).all()


def test_a_read_only_array_is_refused_unless_allowed(streams, interop_need):
    interop_need("cupy")
    interop_need("cuda.core")

    class ReadOnly(PlainInterface):
        @property
        def __cuda_array_interface__(self):
            return {**super().__cuda_array_interface__, "data": (self.base.data.ptr, True)}

    p, c = streams
    array = ReadOnly(cupy_array(p))
    assert interop.handoff(array, c, producer=p, into="cuda.core").readonly is True
    with pytest.raises(NotSupportedError, match="read-only"):
        interop.handoff(array, c, producer=p, into="cupy")
    assert interop.handoff(array, c, producer=p, into="cupy", read_only="allow").data.ptr == address_of(array)


def test_torch_tensors_that_are_more_than_memory_are_refused(streams, interop_need):
    interop_need("torch")
    import torch

    x = torch.zeros(4, dtype=torch.complex64, device="cuda")
    for tensor in (x.conj(), x.conj().imag, torch.zeros(4, device="cuda", requires_grad=True)):
        with pytest.raises(InvalidArrayError, match="hand over tensor"):
            interop.handoff(tensor, streams[1], into="torch")


def test_the_library_of_the_view_follows_the_consumer_then_the_array(interop_need):
    interop_need("cupy", "torch", "numba")
    import cupy
    import torch

    array = cupy_array(None)
    assert isinstance(interop.handoff(array, torch.cuda.Stream()), torch.Tensor)
    assert isinstance(interop.handoff(array, interop.new_stream()), cupy.ndarray)
    assert type(interop.handoff(array, native_stream("numba", 0, 0))).__name__ == "DeviceNDArray"


def test_borrow_makes_one_wait_for_each_distinct_producer(streams, interop_need):
    interop_need("cupy")
    p, c = streams
    arrays = [cupy_array(p) for _ in range(4)]
    interop.handoff(arrays[0], c, producer=p)
    there, back = [(interop.as_stream(one), interop.as_stream(other)) for one, other in ((c, p), (p, c))]
    joins = []

    class Joins(watchers.Watcher):
        def joined(self, consumer, producer):
            joins.append((consumer, producer))

    watcher = Joins()
    watchers.watch(watcher)
    try:
        with interop.borrow(*arrays, consumer=c, producer=p, into="cupy") as views:
            assert len(views) == 4
            assert joins == [there]
    finally:
        watchers.unwatch(watcher)
    assert joins == [there, back]


def test_the_way_back_is_ordered_after_an_exception(streams, interop_need):
    interop_need("cupy")
    p, c = streams
    array = cupy_array(p)
    with gate(c):
        with pytest.raises(KeyError), interop.borrow(array, consumer=c, producer=p):
            raise KeyError
        assert not p.query()


def test_an_object_that_is_no_array_on_a_gpu_is_refused(streams):
    import torch

    for wrong in (np.zeros(3), [1, 2], None, torch.zeros(3)):
        with pytest.raises(InvalidArrayError):
            interop.handoff(wrong, streams[1], producer=streams[0])


def test_hold_keeps_an_object_until_the_stream_is_done(streams):
    import weakref

    class Thing:
        pass

    _, c = streams
    thing = Thing()
    alive = weakref.ref(thing)
    with gate(c) as shut:
        interop.hold(c, thing)
        del thing  # no gc.collect() here: it may free device memory, which waits for the device
        interop.release()
        assert not shut.is_open
        assert alive() is not None
    c.synchronize()
    interop.release()
    assert alive() is None


@pytest.mark.parametrize("way", ["handoff", "borrow"])
def test_hand_overs_can_be_captured(interop_need, way):
    interop_need("cupy")
    interop_need("numba")
    import cupy
    from numba import cuda

    @cuda.jit("void(float64[::1])")
    def add_one(x):
        i = cuda.grid(1)
        if i < x.size:
            x[i] += 1

    a = cupy.zeros(256)
    stream, other = cupy.cuda.Stream(non_blocking=True), interop.new_stream()
    with stream:
        a *= 2
    add_one[1, 256, other.to("numba")](cuda.as_cuda_array(a, sync=False))
    cupy.cuda.Device().synchronize()
    a.fill(0)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        for _ in range(2):
            a *= 2
            back = None
            if way == "borrow":
                with interop.borrow(a, consumer=other, into="numba") as view:
                    add_one[1, 256, other.to("numba")](view)
            else:
                view = interop.handoff(a, other, into="numba")
                add_one[1, 256, other.to("numba")](view)
                back = interop.handoff(view, stream)
        graph = stream.end_capture()
    for _ in range(3):
        graph.launch(stream)
    stream.synchronize()
    # 0 -> 0*2+1=1 -> 1*2+1=3 -> 7 -> 15 -> 31 -> 63
    assert set(a.get()) == {63.0}
    del view, back
    gc.collect()
    stream.synchronize()
    other.synchronize()
    interop.release()


def stress(library, iterations=2000, size=1 << 16, shown=64, *, third=False, into="cuda.core"):
    """Allocate, hand over and free, with a slow consumer. Returns how many consumers read wrong values."""
    import cupy
    import torch

    p, c = (interop.as_stream(native_stream("int", 0, number)) for number in (0, 1))
    slow = int(call(runtime.cudaMalloc(1 << 28)))
    out = int(call(runtime.cudaMalloc(iterations * shown)))
    expected = np.zeros((iterations, shown), dtype="u1")
    kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
    call(runtime.cudaDeviceSynchronize())
    # With *third*, the memory is allocated on, and returns to the pool of, a third stream.
    allocator, producer = interop.new_stream(), p
    if not third:
        allocator = producer
    with interop.use(allocator, "cupy", "torch"):
        for i in range(iterations):
            value = 1 + i % 250
            expected[i] = value
            if library == "cupy":
                array = cupy.full(size, value, dtype="u1")
            else:
                array = torch.full((size,), value, dtype=torch.uint8, device="cuda")
            producer.wait_stream(allocator)
            view = interop.handoff(array, c, producer=producer, into=into)
            call(runtime.cudaMemsetAsync(slow, 0, 1 << 28, c.cuda_stream))
            address = view.ptr if into == "cuda.core" else view.data_ptr()
            call(runtime.cudaMemcpyAsync(out + i * shown, address, shown, kind, c.cuda_stream))
            del array, view
    call(runtime.cudaDeviceSynchronize())
    seen = np.zeros_like(expected)
    call(runtime.cudaMemcpy(seen.ctypes.data, out, seen.nbytes, runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost))
    call(runtime.cudaFree(slow))
    call(runtime.cudaFree(out))
    return int((seen != expected).any(axis=1).sum())


POOLS = pytest.mark.parametrize(
    ("library", "third", "into"),
    [
        *((library, third, "cuda.core") for library in ("cupy", "torch") for third in (False, True)),
        ("cupy", True, "torch"),
    ],
)
"""PyTorch frees the array without the GIL, and cuda.core with it."""


@POOLS
def test_pools_reuse_memory_in_order(library, third, into, interop_need):
    interop_need("cupy", "torch", "cuda.core")
    assert stress(library, third=third, into=into) == 0


@POOLS
def test_control_without_the_way_back_pools_corrupt(library, third, into, interop_need, monkeypatch):
    interop_need("cupy", "torch", "cuda.core")
    from interop._arrays.keepalive import KeepAlive

    monkeypatch.setattr(KeepAlive, "put", lambda *_: None)
    watcher = watchers.Watcher()  # under a watcher, the way back falls back to Python
    watchers.watch(watcher)
    try:
        assert stress(library, third=third, into=into) > 100
    finally:
        watchers.unwatch(watcher)
