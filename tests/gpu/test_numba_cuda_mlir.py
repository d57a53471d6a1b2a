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


@pytest.mark.needs("torch")
@pytest.mark.parametrize("inside", [True, False], ids=["inside use", "the control"])
def test_a_launch_with_a_tensor_goes_to_pytorchs_current_stream(fill, inside):
    import torch

    x, stream = torch.zeros(N, device="cuda"), interop.new_stream()
    fill[1, N](x, 0)  # compiles and loads
    torch.cuda.synchronize()
    with gate(stream) as shut:
        with interop.use(stream, "torch") if inside else contextlib.nullcontext():
            fill[1, N](x, 7)
        assert not shut.is_open, "the host was blocked"
        torch.cuda.default_stream().synchronize()  # with which the gated stream has nothing to do
        seen = float(x.sum())
    stream.synchronize()
    assert seen == (0 if inside else 7 * N)
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
