"""jax_call: work of other libraries on XLA's stream, in order with XLA's own work, with the host free."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

import interop
from interop.testing import gate
from tests.gpu.lab import call, runtime

N = 4096
COPY = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
pytestmark = pytest.mark.filterwarnings("ignore:.*Grid size")


@pytest.fixture(autouse=True)
def jax(interop_need):
    interop_need("jax", "cupy")
    import jax

    return jax


def cupy_doubles():
    import cupy

    def function(_, out, x):
        cupy.multiply(x, 2, out=out)

    return function


def torch_doubles():
    import torch

    def function(_, out, x):
        torch.mul(x, 2, out=out)

    return function


def numba_doubles():
    from numba import cuda

    @cuda.jit("void(float32[::1], float32[::1])")
    def double(source, target):
        i = cuda.grid(1)
        if i < source.size:
            target[i] = 2 * source[i]

    def function(stream, out, x):
        double[N // 256, 256, stream.to("numba")](x, out)

    return function


def core_copies():
    def function(stream, out, x):
        assert (out.readonly, x.readonly) == (False, True)
        call(runtime.cudaMemcpyAsync(out.ptr, x.ptr, 4 * N, COPY, int(stream)))

    return function


WORK = {
    "cupy": (cupy_doubles, 2),
    "torch": (torch_doubles, 2),
    "numba": (numba_doubles, 2),
    "cuda.core": (core_copies, 1),
}


def doubling(jax, function=None, **options):
    return interop.jax_call(function or cupy_doubles(), jax.ShapeDtypeStruct((N,), "f4"), into="cupy", **options)


def values(array):
    return set(np.asarray(array).flat)


def until(condition):
    """Wait for what XLA does in a thread of its own."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


@pytest.mark.parametrize("into", WORK)
def test_a_function_works_inside_jit_and_outside(into, jax, interop_need):
    interop_need(into)
    make, factor = WORK[into]
    work = interop.jax_call(make(), jax.ShapeDtypeStruct((N,), "f4"), into=into)
    jitted = jax.jit(lambda x: work(x + 1) - 1)
    for value in (3.0, 5.0):
        x = jax.numpy.full(N, value, "f4")
        assert values(jitted(x)) == {factor * (value + 1) - 1}
        assert values(work(x)) == {factor * value}


def on_another_stream(how, other):
    """A function that works on *other*: joined by waits, or by borrow; or not at all."""
    import cupy

    def waits(stream, out, x):
        other.wait_stream(stream)
        with other:
            cupy.multiply(x, 2, out=out)
        stream.wait_stream(other)

    def borrow(_, out, x):
        with interop.borrow(out, x, consumer=other, into="cupy") as (to, source), other:
            cupy.multiply(source, 2, out=to)

    def control(_, out, x):
        with other:
            cupy.multiply(x, 2, out=out)
        other.synchronize()  # nothing holds it up

    return {"waits": waits, "borrow": borrow, "control": control}[how]


@pytest.mark.parametrize("how", ["cupy", "torch", "numba", "waits", "borrow", "control"])
def test_the_work_is_in_order_and_the_host_is_free(how, jax, interop_need):
    import cupy

    into = how if how in WORK else "cupy"
    interop_need(into)
    function = WORK[how][0]() if how in WORK else on_another_stream(how, interop.new_stream())
    shut, were_shut = [], []

    def hold(stream, out, x):
        if armed:
            shut.append(gate(stream))
        cupy.copyto(out, x)

    def work(*given):
        function(*given)
        were_shut.extend([not one.is_open for one in shut])

    held = doubling(jax, hold)
    doubled = interop.jax_call(work, jax.ShapeDtypeStruct((N,), "f4"), into=into)
    jitted = jax.jit(lambda x: doubled(held(x) + 1) - 1)
    armed = False
    assert how == "control" or values(jitted(jax.numpy.zeros(N, "f4"))) == {1}
    jitted(jax.numpy.zeros(N, "f4")).block_until_ready()
    value = 10.0 + [*WORK, "waits", "borrow", "control"].index(how)
    x = jax.numpy.full(N, value, "f4").block_until_ready()
    armed = True
    result = jitted(x)
    until(lambda: were_shut)
    assert were_shut == [True]
    assert not result.is_ready()
    assert not shut[0].is_open, "the host was blocked"
    shut[0].open()
    assert (values(result) == {2 * (value + 1) - 1}) == (how != "control")


@pytest.mark.parametrize("method", ["broadcast_all", "expand_dims", "sequential"])
def test_vmap_by_each_method_of_jax(method, jax):
    shapes = []
    double = cupy_doubles()

    def function(stream, out, x):
        shapes.append(x.shape)
        double(stream, out, x)

    many = np.arange(3 * N, dtype="f4").reshape(3, N)
    call = doubling(jax, function, vmap_method=method)
    assert np.array_equal(jax.jit(jax.vmap(call))(many), 2 * many)
    assert {*shapes} == {(N,) if method == "sequential" else (3, N)}


@pytest.mark.parametrize("into", ["cupy", "torch"])
@pytest.mark.parametrize("compatible", [True, False])
def test_with_and_without_command_buffers(compatible, into, jax, interop_need):
    interop_need(into)
    make, calls = WORK[into][0](), []

    def function(stream, out, x):
        calls.append(stream.is_capturing())
        make(stream, out, x)

    shape = jax.ShapeDtypeStruct((N,), "f4")
    work = interop.jax_call(function, shape, into=into, command_buffer_compatible=compatible)

    def six(x):  # XLA makes no graph of fewer than five
        for _ in range(6):
            x = work(x)
        return x

    jitted = jax.jit(six)
    for value in (3.0, 4.0, 5.0, 6.0):  # once without a capture, then captured, then replayed
        assert values(jitted(jax.numpy.full(N, value, "f4"))) == {64 * value}
    assert any(calls) == compatible
    assert (len(calls) < 6 * 4) == compatible


def test_an_error_of_the_function_is_told_by_jax(jax):
    def function(_, out, x):
        if failing:
            message = "the spoon is bent"
            raise LookupError(message)
        double(_, out, x)

    double = cupy_doubles()
    failing = True
    jitted = jax.jit(doubling(jax, function))
    x = jax.numpy.ones(N, "f4")
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"(?s)in function.*LookupError: the spoon is bent"):
        jitted(x).block_until_ready()
    failing = False
    assert values(jitted(x)) == {2}
    with pytest.raises(jax.errors.JaxRuntimeError, match="NotSupportedError: jax_call works on a GPU's stream"):
        jitted(jax.device_put(x, jax.devices("cpu")[0])).block_until_ready()


def test_ten_thousand_calls_leave_nothing(jax):
    jitted = jax.jit(doubling(jax))
    x = jax.numpy.ones(N, "f4")

    def left_after(count):
        for _ in range(count):
            result = jitted(x)
        result.block_until_ready()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return np.array([sys.getallocatedblocks(), pages * 4096, -call(runtime.cudaMemGetInfo())])

    before = left_after(2000)
    blocks, resident, device = left_after(10_000) - before
    assert blocks < 1000
    assert resident < 20e6
    assert device <= 0
