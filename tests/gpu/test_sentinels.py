"""The default streams 0, 1 and 2, borrowed from every library and given to every library, stay the same streams."""

import os
import subprocess
import sys

import pytest

import interop
from interop.errors import NotSupportedError
from tests.gpu.lab import call, handle_of, on_device, runtime

LEGACY, PER_THREAD = 1, 2


def identity(handle):
    """The id that CUDA gives the stream of a handle."""
    return call(runtime.cudaStreamGetId(handle))


def cupy_null():
    import cupy

    return cupy.cuda.Stream.null


def cupy_ptds():
    import cupy

    return cupy.cuda.Stream.ptds


def numba(name):
    from numba import cuda

    return getattr(cuda, name)()


def core(name):
    import cuda.core

    return getattr(cuda.core, name)


def rmm(name):
    from rmm.pylibrmm import stream

    return getattr(stream, name)


def torch_default():
    import torch

    return torch.cuda.default_stream()


def warp_null():
    import warp

    warp.config.quiet = True
    return warp.get_device("cuda:0").null_stream


IN = {
    "int 0": (None, lambda: 0, LEGACY),
    "int 1": (None, lambda: 1, LEGACY),
    "int 2": (None, lambda: 2, PER_THREAD),
    "cupy null": ("cupy", cupy_null, LEGACY),
    "cupy ptds": ("cupy", cupy_ptds, PER_THREAD),
    "numba default": ("numba", lambda: numba("default_stream"), LEGACY),
    "numba legacy": ("numba", lambda: numba("legacy_default_stream"), LEGACY),
    "numba per-thread": ("numba", lambda: numba("per_thread_default_stream"), PER_THREAD),
    "torch default": ("torch", torch_default, LEGACY),
    "cuda.core legacy": ("cuda.core", lambda: core("LEGACY_DEFAULT_STREAM"), LEGACY),
    "cuda.core per-thread": ("cuda.core", lambda: core("PER_THREAD_DEFAULT_STREAM"), PER_THREAD),
    "warp null": ("warp", warp_null, LEGACY),
    "rmm default": ("rmm", lambda: rmm("DEFAULT_STREAM"), LEGACY),
    "rmm legacy": ("rmm", lambda: rmm("LEGACY_DEFAULT_STREAM"), LEGACY),
    "rmm per-thread": ("rmm", lambda: rmm("PER_THREAD_DEFAULT_STREAM"), PER_THREAD),
}


@pytest.mark.parametrize("name", IN)
def test_a_default_stream_is_borrowed_from_each_library(name, interop_need):
    library, make, handle = IN[name]
    if library:
        interop_need(library)
    stream = interop.as_stream(make())
    assert stream.cuda_stream == handle
    assert stream.stream_id == identity(handle)
    assert stream == interop.ExternalStream(handle)


@pytest.mark.parametrize("handle", [LEGACY, PER_THREAD])
@pytest.mark.parametrize(
    "library", ["cupy", "numba", "numba_cuda_mlir", "torch", "cuda.core", "rmm", "tvm_ffi", "warp"]
)
def test_a_default_stream_is_given_to_each_library(library, handle, interop_need):
    interop_need(library)
    native = interop.ExternalStream(handle).to(library)
    assert identity(handle_of(native)) == identity(handle)
    assert interop.as_stream(native) == interop.ExternalStream(handle)


@pytest.mark.parametrize("handle", [LEGACY, PER_THREAD])
@pytest.mark.parametrize(
    "library", ["cupy", "numba", "numba_cuda_mlir", "torch", "cuda.core", "rmm", "tvm_ffi", "warp"]
)
def test_a_default_stream_of_another_device_is_given_or_refused(library, handle, interop_need):
    interop_need(library)
    interop_need("gpu2")
    for current in (0, 1):
        other = interop.ExternalStream(handle, 1 - current)
        with on_device(current):
            if library in ("torch", "tvm_ffi", "warp"):
                native = other.to(library)
                assert interop.as_stream(native).device == 1 - current
            else:
                with pytest.raises(NotSupportedError, match="while another device is current"):
                    other.to(library)
            with other:
                native = other.to(library)
                assert identity(handle_of(native)) == other.stream_id


@pytest.mark.parametrize("library", ["cupy", "torch", "tvm_ffi", "warp"])
@pytest.mark.parametrize("handle", [LEGACY, PER_THREAD])
def test_a_default_stream_can_be_made_current(library, handle, interop_need):
    interop_need(library)
    with interop.use(handle):
        assert interop.current_stream(library) == interop.ExternalStream(handle)


def test_the_default_stream_of_torch_on_another_device_is_borrowed(interop_need):
    interop_need("torch")
    interop_need("gpu2")
    import torch

    for current in (0, 1):
        with on_device(current):
            stream = interop.as_stream(torch.cuda.default_stream(1))
            assert stream.device == 1
            assert stream == interop.ExternalStream(1, 1)
            assert stream.to("torch") == torch.cuda.default_stream(1)


# cuda.bindings reads the variable when it is imported, so this runs in a process of its own. The gate on a blocking
# stream holds up the legacy default stream, and not the per-thread one. So it shows which one a library uses.
PER_THREAD_PROCESS = """
import warnings; warnings.simplefilter("ignore")
import numpy as np
from numba import cuda
import interop
from interop.testing import gate

@cuda.jit("void(float64[::1])")
def write(a):
    a[0] = 7.0

a = cuda.to_device(np.zeros(1))
default = cuda.default_stream()
write[1, 1, default](a)
cuda.synchronize()
borrowed = interop.as_stream(default)
print(borrowed.cuda_stream, interop.as_stream(0).cuda_stream)
blocking = interop.new_stream(non_blocking=False)
with gate(blocking):
    write[1, 1, default](a)
    event = cuda.event(timing=False)
    event.record(default)
    try:
        borrowed.synchronize(timeout=1)
        ours = True
    except TimeoutError:
        ours = False
    print("free" if event.query() else "held", "free" if ours else "held")
"""


@pytest.mark.parametrize(("per_thread", "handle", "state"), [("0", 1, "held"), ("1", 2, "free")])
def test_the_environment_chooses_the_default_stream_of_a_library(per_thread, handle, state, interop_need):
    interop_need("numba")
    environment = {**os.environ, "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM": per_thread}
    result = subprocess.run(
        [sys.executable, "-c", PER_THREAD_PROCESS], capture_output=True, text=True, timeout=100, env=environment
    )
    assert result.stdout == f"{handle} {handle}\n{state} {state}\n", result.stderr
