"""What a library cannot take, known before it is asked: some libraries abort the process instead of raising."""

from typing import Final, Literal

from interop._native import why_not as no_extension
from interop.adapters.base import Adapter, Takes
from interop.adapters.dlpack import CAPSULES
from interop.adapters.tensor import TYPESTRS, Tensor

ReadOnly = Literal["allow"] | None

_CONTIGUOUS: Final = "make a contiguous copy first, on the producer's stream"
_STRANGERS: Final = Takes(negative_strides=False)
"""The layouts that every consumer of DLPack takes or refuses. A negative stride makes PyTorch abort the process."""


def refusal(tensor: Tensor, adapter: Adapter | None, read_only: ReadOnly) -> str:
    """Why the library of *adapter* cannot take *tensor*, and what to do; empty if it can.

    Args:
        tensor: the memory.
        adapter: None for the neutral holder.
        read_only: whether the caller takes it on himself that nobody writes to a read-only array.
    """
    if not CAPSULES and (tensor.dtype not in TYPESTRS or (adapter is not None and adapter.needs_extension)):
        return f"this needs DLPack, for which interop needs its extension in C, which is missing: {no_extension}"
    if adapter is None:
        return ""
    takes = adapter.takes
    reason = _of_memory(tensor, takes) or (tensor.strides is not None and _of_layout(tensor, takes))
    if reason:
        return f"{adapter.library} takes no array {reason}"
    if tensor.read_only and not takes.read_only and read_only is None:
        return (
            f"the array is read-only, and {adapter.library} has no read-only arrays: name a library that has, such as "
            'into="cuda.core" or into="jax"; or say read_only="allow", and make sure that nothing writes to the array '
            "that is returned: its memory is taken for constant by others"
        )
    return ""


def refused_to_strangers(tensor: Tensor) -> str:
    """Why *tensor* is given by DLPack to no library that interop does not know, and what to do; empty if it is."""
    reason = _of_layout(tensor, _STRANGERS)
    return reason and (
        f'{reason}; or hand it to a library that takes such arrays, as handoff(array, consumer, into="cupy") does; or '
        "let CuPy or Numba read __cuda_array_interface__"
    )


def _of_memory(tensor: Tensor, takes: Takes) -> str:
    """What is wrong with the type, the dimensions or the address."""
    address, shape, _, dtype, *_ = tensor
    fewest, most = takes.dimensions
    if takes.types is not None and dtype not in takes.types:
        return f"of numbers of type {dtype}: convert it first, hand over a view as integers, or name another into="
    if not fewest <= len(shape) <= most:
        return f"of {len(shape)} dimensions, only of {fewest} to {most}: reshape it first"
    size = dtype.bits // 8
    if size > 1 and not takes.unaligned and address % size and 0 not in shape:
        return (
            f"at {address:#x}, which is no multiple of the {size} bytes of an element: its kernels would fail. "
            "Copy it to an aligned address first, or hand over its bytes"
        )
    return ""


def _of_layout(tensor: Tensor, takes: Takes) -> str:  # noqa: PLR0911  (one a reason)
    """What is wrong with the strides."""
    if tensor.strides is None or 0 in tensor.shape:
        return ""
    moving = sorted((abs(s), s, n) for s, n in zip(tensor.strides, tensor.shape, strict=True) if n > 1)
    size = max(1, tensor.dtype.bits * tensor.dtype.lanes // 8)
    if not takes.negative_strides and any(stride < 0 for _, stride, _ in moving):
        return f"with negative strides, {tensor.strides} elements: {_CONTIGUOUS}"
    if not takes.zero_strides and any(stride == 0 for _, stride, _ in moving):
        return f"with strides of 0, {tensor.strides} elements, as after a broadcast: {_CONTIGUOUS}"
    if not takes.overlapping and _overlaps(moving):
        return f"whose elements overlap, with strides of {tensor.strides} elements: {_CONTIGUOUS}"
    if not takes.gaps and not tensor.is_dense():
        return f"with gaps between its elements, with strides of {tensor.strides} elements: {_CONTIGUOUS}"
    if moving and moving[-1][0] * size > takes.largest_stride:
        return f"with a stride of {moving[-1][0] * size} bytes, more than {takes.largest_stride}: {_CONTIGUOUS}"
    return ""


def _overlaps(moving: list[tuple[int, int, int]]) -> bool:
    """Whether a step in one dimension is shorter than what the dimensions with shorter steps take."""
    reach = 1
    for step, _, count in moving:
        if 0 < step < reach:
            return True
        reach += step * (count - 1)
    return False
