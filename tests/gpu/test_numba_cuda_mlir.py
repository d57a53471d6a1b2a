"""numba-cuda-mlir: where a launch that names no stream goes, which numba-cuda has otherwise."""

import contextlib

import numpy as np
import pytest

import interop
from interop.testing import gate

N = 256
pytestmark = [pytest.mark.needs("numba_cuda_mlir"), pytest.mark.filterwarnings("ignore:.*Grid size")]


@pytest.fixture
def fill():
    from numba_cuda_mlir import cuda

    @cuda.jit
    def fill(target, value):
        i = cuda.grid(1)
        if i < target.size:
            target[i] = value

    return fill


@pytest.mark.needs("cupy")
@pytest.mark.parametrize("inside", [True, False], ids=["inside use", "the control"])
def test_a_launch_with_an_array_of_cupy_blocks_the_host_inside_of_use(fill, inside):
    """CuPy states its current stream, for which the launch waits on the host."""
    import cupy

    x, stream = cupy.zeros(N), interop.new_stream()
    fill[1, N](x, 0)  # compiles and loads
    cupy.cuda.Device().synchronize()
    with contextlib.suppress(AssertionError), gate(stream, timeout=0.3) as shut:  # the gate says that it opened itself
        with interop.use(stream, "cupy") if inside else contextlib.nullcontext():
            fill[1, N](x, 7)
        blocked = shut.is_open
    cupy.cuda.Device().synchronize()
    assert blocked is inside
    assert float(x.sum()) == 7 * N


def test_a_launch_with_its_own_array_goes_to_the_legacy_stream(fill):
    from numba_cuda_mlir import cuda

    x, stream = cuda.to_device(np.zeros(N, "f4")), interop.new_stream()
    fill[1, N](x, 0)
    legacy = interop.as_stream(cuda.default_stream())
    assert legacy.cuda_stream == 1
    legacy.synchronize()
    with interop.use(stream), gate(stream):
        fill[1, N](x, 7)
        legacy.synchronize()  # does not end before the gate opens, if the kernel is behind it
    assert set(x.copy_to_host()) == {7}


def test_a_launch_takes_what_to_makes_and_an_address(fill):
    from numba_cuda_mlir import cuda

    x, stream = cuda.to_device(np.zeros(N, "f4")), interop.new_stream()
    for value, launched_on in [(1, stream.to("numba_cuda_mlir")), (2, stream.cuda_stream)]:
        fill[1, N, launched_on](x, 0)
        stream.synchronize()
        with gate(stream):
            fill[1, N, launched_on](x, value)
            assert not stream.query()
        stream.synchronize()
        assert set(x.copy_to_host()) == {value}
    with pytest.raises(TypeError):
        fill[1, N, stream](x, 3)
