"""``use`` makes one stream current in the real libraries, and restores the streams that were current before."""

import subprocess
import sys
import threading
import warnings

import pytest

import interop
from interop.errors import NotSupportedError
from interop.testing import assert_not_ordered, assert_ordered
from tests.gpu.lab import STREAMS, call, device_count, native_stream, on_device, pair, runtime
from tests.threads import in_threads

LIBRARIES = [library for library in STREAMS if library != "int"]


@pytest.fixture
def both(interop_need):
    interop_need("cupy")
    interop_need("torch")
    import cupy
    import torch

    return cupy, torch


def currents(both):
    cupy, torch = both
    found = []
    for device in range(device_count()):
        with on_device(device):
            found += [cupy.cuda.get_current_stream(), torch.cuda.current_stream()]
    return found, call(runtime.cudaGetDevice())


def handles(both):
    cupy, torch = both
    return cupy.cuda.get_current_stream().ptr, torch.cuda.current_stream().cuda_stream


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("library", STREAMS)
def test_use_makes_a_stream_current(both, library, device, interop_need):
    if device:
        interop_need("gpu2")
    if library != "int":
        interop_need(library)
    before = currents(both)
    native = native_stream(library, device, 0)
    with interop.use(native) as stream:
        assert handles(both) == (stream.cuda_stream,) * 2
        assert call(runtime.cudaGetDevice()) == device
        assert interop.current_stream("cupy") == interop.current_stream("torch") == stream
    assert currents(both) == before


def test_with_stream_does_the_same_as_use(both):
    before = currents(both)
    stream = interop.new_stream()
    with stream as entered:
        assert entered is stream
        assert handles(both) == (stream.cuda_stream,) * 2
    assert currents(both) == before


@pytest.mark.parametrize("library", ["cupy", "torch", "tvm_ffi", "warp"])
def test_a_reused_address_is_not_taken_for_the_old_stream(library, interop_need):
    interop_need(library)
    streams = [interop.new_stream() for _ in range(8)]
    for stream in streams * 8:
        with interop.use(stream, library):
            assert interop.current_stream(library) == stream  # the library may return a new object each time
    for stream in streams * 8:
        assert interop.as_stream(stream.to(library)) == stream
        assert interop.as_stream(native_stream(library, 0, 0)) != stream


# In a process of its own: a weak reference to an object that does not clear it crashes the end of the interpreter.
TORCH = """
import torch
import interop
from interop.ordering import check
for _ in range(100):
    with check(eye="libraries") as ledger, interop.use(interop.new_stream(), "torch"):
        event = torch.cuda.Event()
        event.record()
        interop.new_stream().wait_event(event)
        interop.as_stream(torch.cuda.Stream()).wait_stream(torch.cuda.current_stream())
    del event
print("done")
"""


def test_a_process_that_used_torch_streams_and_events_ends_cleanly(interop_need):
    interop_need("torch")
    done = subprocess.run([sys.executable, "-c", TORCH], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_use_switches_only_the_named_libraries(both):
    cupy, torch = both
    stream, torch_before = interop.new_stream(), torch.cuda.current_stream()
    with interop.use(stream, "cupy"):
        assert cupy.cuda.get_current_stream().ptr == stream.cuda_stream
        assert torch.cuda.current_stream() == torch_before


def test_use_restores_after_an_exception(both):
    before = currents(both)
    with pytest.raises(KeyError), interop.use(interop.new_stream()):
        raise KeyError
    assert currents(both) == before


def test_blocks_may_be_nested(both):
    before = currents(both)
    a, b = interop.new_stream(), interop.new_stream()
    manager = interop.use(a)
    with manager:
        with b, a, manager:
            assert handles(both) == (a.cuda_stream,) * 2
        assert handles(both) == (a.cuda_stream,) * 2
    assert currents(both) == before


def test_a_librarys_own_block_inside_use_returns_to_the_stream(both):
    cupy, torch = both
    stream = interop.new_stream()
    with interop.use(stream):
        with cupy.cuda.Stream(), torch.cuda.stream(torch.cuda.Stream()):
            assert stream.cuda_stream not in handles(both)
        assert handles(both) == (stream.cuda_stream,) * 2


def test_streams_set_inside_the_block_are_undone(both):
    cupy, torch = both
    before = currents(both)
    with interop.use(interop.new_stream()):
        cupy.cuda.Stream().use()
        torch.cuda.set_stream(torch.cuda.Stream())
        if device_count() > 1:
            runtime.cudaSetDevice(1)
    assert currents(both) == before


def test_a_stream_set_before_the_block_is_restored(both):
    cupy, torch = both
    cupy_before, torch_before = cupy.cuda.get_current_stream(), torch.cuda.current_stream()
    sticky, torch_sticky = cupy.cuda.Stream(), torch.cuda.Stream()
    try:
        sticky.use()
        torch.cuda.set_stream(torch_sticky)
        with interop.use(interop.new_stream()):
            assert cupy.cuda.get_current_stream() is not sticky
        assert cupy.cuda.get_current_stream() is sticky
        assert torch.cuda.current_stream() == torch_sticky
        with interop.use(interop.new_stream()), sticky:
            pass
        assert cupy.cuda.get_current_stream() is sticky
    finally:
        cupy_before.use()
        torch.cuda.set_stream(torch_before)


def test_two_threads_may_use_one_manager_at_once(both):
    shared = interop.new_stream()
    barrier = threading.Barrier(2, timeout=30)
    manager = interop.use(shared)

    def work():
        try:
            own = interop.new_stream()
            before = handles(both)
            for _ in range(20):
                barrier.wait()
                with manager:
                    barrier.wait()
                    with own:
                        barrier.wait()
                        assert handles(both) == (own.cuda_stream,) * 2
                    assert handles(both) == (shared.cuda_stream,) * 2
                assert handles(both) == before
        except BaseException:
            barrier.abort()
            raise

    in_threads(*[work] * 2)


def test_use_switches_the_stream_and_device_of_warp(interop_need):
    interop_need("warp")
    interop_need("gpu2")
    import warp

    warp.config.quiet = True
    before = [warp.get_stream(f"cuda:{device}") for device in (0, 1)], warp.get_device()
    stream = interop.new_stream(1)
    with interop.use(stream, "warp"):
        assert warp.get_stream().cuda_stream == stream.cuda_stream
        assert warp.get_device().ordinal == 1
        assert interop.current_stream("warp") == stream
        with warp.ScopedStream(warp.Stream("cuda:1")):
            pass
        assert interop.current_stream("warp") == stream
    assert ([warp.get_stream(f"cuda:{device}") for device in (0, 1)], warp.get_device()) == before


def test_warp_is_restored_when_threads_leave_in_the_order_they_came(interop_need):
    interop_need("warp")
    import warp

    warp.config.quiet = True
    before = warp.get_stream("cuda:0"), warp.get_device()
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first():
        with interop.use(interop.new_stream(), "warp"):
            first_in.set()
            second_in.wait(30)
        first_out.set()

    def second():
        first_in.wait(30)
        with interop.use(interop.new_stream(), "warp") as stream:
            second_in.set()
            first_out.wait(30)
            seen.append(warp.get_stream("cuda:0").cuda_stream == stream.cuda_stream)

    seen = []
    in_threads(first, second)
    assert seen == [True]
    assert (warp.get_stream("cuda:0"), warp.get_device()) == before


def test_to_warp_returns_warps_own_stream(interop_need):
    interop_need("warp")
    interop_need("cupy")
    own = STREAMS["warp"]()
    assert interop.as_stream(interop.as_stream(own).to("cupy")).to("warp") is own


def test_to_warp_makes_one_stream_object_for_each_handle(interop_need):
    interop_need("warp")
    handle = native_stream("int", 0, 0)
    one, two = interop.as_stream(handle), interop.as_stream(handle)
    assert one.to("warp") is two.to("warp")


@pytest.mark.parametrize("library", ["numba", "numba_cuda_mlir", "cuda.core", "rmm", "jax"])
def test_a_library_without_a_current_stream_is_refused(library, interop_need):
    interop_need(library)
    for ask in (lambda: interop.use(interop.new_stream(), library), lambda: interop.current_stream(library)):
        with pytest.raises(NotSupportedError, match="no current stream"):
            ask()


# -- to ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("source", STREAMS)
def test_to_makes_the_same_stream_in_each_library(library, device, source, interop_need):
    for name in {library, source} - {"int"}:
        interop_need(name)
    if device:
        interop_need("gpu2")
    native = native_stream(source, device, 0)
    stream = interop.as_stream(native)
    for current in range(device_count()):
        with on_device(current), warnings.catch_warnings():
            warnings.simplefilter("error")
            made = stream.to(library)
            again = interop.as_stream(made)
            assert again == stream
            assert again.device == device
            assert stream.to(library) is made
            assert (made is native) is (library == source)
            assert call(runtime.cudaGetDevice()) == current


@pytest.mark.parametrize("library", LIBRARIES)
def test_to_keeps_the_owner_alive(library, interop_need):
    interop_need(library)
    import gc
    import weakref

    class Owner:
        def __init__(self, handle):
            self.handle = handle

        def __cuda_stream__(self):
            return (0, self.handle)

    owner = Owner(native_stream("int", 0, 0))
    alive = weakref.ref(owner)
    native = interop.as_stream(owner).to(library)
    del owner
    gc.collect()
    assert alive() is not None
    del native
    interop.new_stream().to(library)  # cuda.bindings lets go of an owner only now
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_object_made_by_to_does_not_destroy_the_stream(library, interop_need):
    interop_need(library)
    import gc

    handle = STREAMS["int"]()
    before = call(runtime.cudaStreamGetId(handle))
    native = interop.as_stream(handle).to(library)
    del native
    gc.collect()
    fresh = STREAMS["int"]()
    assert fresh != handle
    assert call(runtime.cudaStreamGetId(handle)) == before


@pytest.mark.filterwarnings("ignore:.*Grid size")
def test_numba_launches_on_its_own_stream_objects_only(interop_need):
    interop_need("numba")
    import numpy as np
    from numba import cuda

    @cuda.jit("void(float64[::1])")
    def write(a):
        a[0] = 7.0

    a = cuda.to_device(np.zeros(1))
    stream = interop.new_stream()
    write[1, 1, stream.to("numba")](a)
    stream.synchronize()
    assert a.copy_to_host()[0] == 7.0
    with pytest.raises(TypeError):
        write[1, 1, stream](a)


def test_to_jax_is_refused_and_says_what_to_do(interop_need):
    interop_need("jax")
    with pytest.raises(NotSupportedError, match=r"interop\.handoff\(array, stream, into=\"jax\"\)"):
        interop.new_stream().to("jax")


def test_other_libraries_borrow_an_interop_stream(interop_need):
    interop_need("cupy")
    import cupy

    stream = interop.as_stream(pair("int", "int")[0])
    assert cupy.cuda.Stream.from_external(stream).ptr == stream.cuda_stream


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_a_block_is_ordered_between_the_current_streams(library, interop_need):
    interop_need(library)
    theirs, stream = interop.new_stream(), interop.new_stream()
    stream.to(library)  # what is made at the first use is made before the gates

    def block(**order):
        with interop.use(stream, library, **order):
            pass

    with interop.use(theirs, library):
        with assert_not_ordered(theirs, stream, by="gate"):
            block(before="current")
        with assert_ordered(theirs, stream, by="gate"):
            block(after="current")
        with assert_not_ordered(stream, theirs, by="gate"):
            block(after="current")
        with assert_ordered(stream, theirs, by="gate"):
            block(before="current")
