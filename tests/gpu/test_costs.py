"""Thousands of hand-overs leave nothing allocated, also in the libraries, and leave users' arrays as they were."""

import time

import numpy as np
import pytest

import interop
from interop._arrays.handover import count_open
from interop.errors import NotSupportedError
from tests.gpu.lab import call, runtime
from tests.gpu.test_arrays import CONSUMERS, PRODUCERS, address_of, cupy_array, torch_array
from tests.leaks import bytes_left_by

pytestmark = pytest.mark.filterwarnings("ignore:.*Grid size")


def left_by(work):
    before = count_open()

    def settle():
        # A library may free an array in another thread, after the call.
        deadline = time.monotonic() + 5
        call(runtime.cudaDeviceSynchronize())
        while (interop.release() or count_open() > before) and time.monotonic() < deadline:
            time.sleep(0.01)

    return bytes_left_by(work, settle)


@pytest.mark.parametrize("consumer", [*CONSUMERS, "jax"])
@pytest.mark.parametrize("producer", ["cupy", "numba", "torch", "warp"])
def test_handoffs_leak_nothing(producer, consumer, interop_need):
    interop_need("cupy", producer, consumer)
    p, c = interop.new_stream(), interop.new_stream()
    array = PRODUCERS[producer](p)
    assert left_by(lambda: interop.handoff(array, c, producer=p, into=consumer)) <= 0.2


def test_control_torch_leaks_for_each_array_interface(interop_need):
    """PyTorch leaks for each array interface that it reads, so interop uses DLPack."""
    interop_need("cupy", "torch")
    import torch

    array = cupy_array(None)
    if left_by(lambda: torch.as_tensor(array, device="cuda")) < 100:
        pytest.xfail("this PyTorch leaves nothing")


def test_tensors_can_be_swapped_while_they_are_handed_over(interop_need):
    interop_need("torch", "cupy")
    import torch

    p, c = interop.new_stream(), interop.new_stream()
    tensor, other = torch_array(p), torch_array(p)
    address = tensor.data_ptr()
    view = interop.handoff(tensor, c, producer=p, into="cupy")
    torch.utils.swap_tensors(tensor, other)
    assert view.data.ptr == address
    made = interop.handoff(cupy_array(p), c, producer=p, into="torch")
    torch.utils.swap_tensors(made, other)


def test_a_tensor_of_torch_can_be_given_other_memory_while_it_is_handed_over(interop_need):
    interop_need("torch", "cupy")
    import torch

    p, c = interop.new_stream(), interop.new_stream()
    tensor = torch_array(p)
    address = tensor.data_ptr()
    view = interop.handoff(tensor, c, producer=p, into="cupy")
    tensor.data = torch.zeros(3, device="cuda")
    taken = [torch.empty_like(torch_array(p)) for _ in range(50)]
    assert address not in {one.data_ptr() for one in taken}, "the memory was given again"
    assert view.data.ptr == address


@pytest.mark.parametrize("consumer", ["cupy", "numba", "torch"])
def test_an_array_of_jax_is_read_only(consumer, interop_need):
    interop_need("jax", consumer)
    import jax.numpy as jnp

    c, array = interop.new_stream(), jnp.arange(12, dtype="f4")
    assert address_of(interop.handoff(array, c, into="cuda.core")) == array.unsafe_buffer_pointer()
    try:
        view = interop.handoff(array, c, into=consumer)
    except NotSupportedError as error:
        assert 'read_only="allow"' in str(error)  # noqa: PT017  (this JAX says that its arrays are read-only)
        view = interop.handoff(array, c, into=consumer, read_only="allow")
    assert address_of(view) == array.unsafe_buffer_pointer()


def test_a_read_only_array_goes_to_jax(interop_need):
    interop_need("jax", "cupy")
    p, c = interop.new_stream(), interop.new_stream()
    array = cupy_array(p)
    holder = type("ReadOnly", (), {})()
    holder.__cuda_array_interface__ = {**array.__cuda_array_interface__, "data": (array.data.ptr, True), "stream": None}
    view = interop.handoff(holder, c, producer=p, into="jax")
    assert view.unsafe_buffer_pointer() == array.data.ptr


EMPTY = ["cupy", "numba", "torch", "jax"]


@pytest.mark.parametrize("consumer", [*EMPTY, "cuda.core"])
@pytest.mark.parametrize("producer", [*EMPTY, "null pointer"])
def test_empty_arrays_can_be_handed_over(producer, consumer, interop_need):
    interop_need("cupy", *[name for name in (producer, consumer) if name != "null pointer"])
    p, c = interop.new_stream(), interop.new_stream()
    if producer == "jax":
        import jax.numpy as jnp

        array = jnp.zeros((0, 3), dtype="f4")
    elif producer == "null pointer":
        array = type("Null", (), {})()
        array.__cuda_array_interface__ = {"version": 3, "shape": (0, 3), "typestr": "<f4", "data": (0, False)}
    else:
        array = PRODUCERS[producer](p)[:0]
    view = interop.handoff(array, c, producer=p, into=consumer, read_only="allow")
    assert 0 in tuple(view.shape)
    assert np.prod(view.shape) == 0
