"""Kernels of CuPy, Numba and PyTorch on the libraries' own streams are ordered."""

import pytest

import interop
from interop.testing import gate

N = 1 << 16


@pytest.fixture
def libraries(interop_need):
    for name in ("cupy", "numba", "torch"):
        interop_need(name)
    import cupy
    import torch
    from numba import cuda

    @cuda.jit("void(float64[::1], float64[::1])")
    def double(source, target):
        i = cuda.grid(1)
        if i < source.size:
            target[i] = 2 * source[i]

    return cupy, cuda, torch, double


def run(libraries, *, ordered):
    """CuPy writes 1, Numba doubles it, PyTorch adds 1, each on its own stream; returns the extremes of the result."""
    cupy, cuda, torch, double = libraries
    a, b = cupy.zeros(N), cupy.zeros(N)
    c = torch.zeros(N, dtype=torch.float64, device="cuda")
    streams = cupy.cuda.Stream(non_blocking=True), cuda.stream(), torch.cuda.Stream()
    writer, doubler, adder = map(interop.as_stream, streams)
    tensor = torch.as_tensor(b, device="cuda")
    source, target = (cuda.as_cuda_array(x, sync=False) for x in (a, b))

    def work():
        with streams[0]:
            a.fill(1.0)
        if ordered:
            doubler.wait_stream(streams[0])
        double[N // 256, 256, streams[1]](source, target)
        if ordered:
            adder.wait_stream(streams[1])
        with torch.cuda.stream(streams[2]):
            torch.add(tensor, 1.0, out=c)

    work()  # loads and compiles everything
    for stream in (writer, doubler, adder):
        stream.synchronize()
    a.fill(0.0)
    b.fill(0.0)
    cupy.cuda.get_current_stream().synchronize()
    with gate(writer) as shut:
        work()
        assert not shut.is_open, "the host was blocked"
        if not ordered:
            doubler.synchronize()
            adder.synchronize()
    for stream in (writer, doubler, adder):
        stream.synchronize()
    return float(c.min()), float(c.max())


def test_waits_order_three_libraries_on_three_streams(libraries):
    assert run(libraries, ordered=True) == (3.0, 3.0)


def test_control_without_waits_three_libraries_are_not_ordered(libraries):
    assert run(libraries, ordered=False) == (1.0, 1.0)


def test_three_libraries_can_share_one_stream(libraries):
    cupy, cuda, torch, double = libraries
    a, b = cupy.zeros(N), cupy.zeros(N)
    cupy.cuda.get_current_stream().synchronize()
    stream = interop.new_stream()
    tensor = torch.as_tensor(b, device="cuda")

    def work():
        with interop.use(stream):
            a.fill(1.0)
            double[N // 256, 256, stream.to("numba")](*(cuda.as_cuda_array(x, sync=False) for x in (a, b)))
            b[...] += 1.0
            tensor.mul_(2.0)

    work()  # loads and compiles everything
    stream.synchronize()
    b.fill(0.0)
    cupy.cuda.get_current_stream().synchronize()
    with gate(stream) as shut:
        work()
        assert not shut.is_open, "the host was blocked"
    stream.synchronize()
    assert (float(b.min()), float(b.max())) == (6.0, 6.0)
