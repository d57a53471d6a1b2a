"""Where the elements of an array of any library lie. Nothing is ordered, copied, or waited for."""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from interop import _handles
from interop.errors import InteropError, InvalidArrayError
from interop.ledger.memory import Layout

if TYPE_CHECKING:
    from interop._tensor import Tensor


def described(array: object) -> str:
    """An array in a report, without touching its elements."""
    name = f"{type(array).__module__.partition('.')[0]}.{type(array).__qualname__}"
    if _is_simulated(array):
        return str(array.name)  # type: ignore[attr-defined]
    with contextlib.suppress(Exception):  # whatever a library's properties raise, the report goes on
        shape, dtype = array.shape, array.dtype  # type: ignore[attr-defined]
        return f"{name} {tuple(shape)} {dtype}"
    return name


def layout_of(array: Any) -> Layout:  # noqa: ANN401  (any library's)
    """Where *array* lies.

    Raises:
        InvalidArrayError: it does not say.
    """
    if _is_simulated(array):
        return Layout.of(0, array.shape, None, array.dtype.itemsize, space=array)
    if getattr(array, "requires_grad", False):
        array = array.detach()  # PyTorch refuses to export it otherwise
    try:
        with contextlib.suppress(AttributeError, TypeError):  # there is none, or none for bfloat16 and the like
            return of_interface(array.__cuda_array_interface__)
        from interop import _tensor  # noqa: PLC0415  (ctypes is slow to import)

        try:
            capsule = array.__dlpack__(stream=-1, max_version=(1, 0))
        except TypeError:  # a producer from before versions
            capsule = array.__dlpack__(stream=-1)
        return of_tensor(_tensor.read(capsule))
    except Exception as error:
        if isinstance(error, InteropError):
            raise
        message = f"expected an array on a GPU, or a simulated one; got {_handles.described(array)} ({error})"
        raise InvalidArrayError(message) from error


def of_interface(interface: dict[str, Any]) -> Layout:
    """The layout that a CUDA array interface states."""
    return Layout.of(
        interface["data"][0], tuple(interface["shape"]), interface.get("strides"), int(interface["typestr"][2:])
    )


def of_tensor(tensor: "Tensor") -> Layout:
    """The layout of a tensor."""
    itemsize = max(1, tensor.dtype.bits * tensor.dtype.lanes // 8)
    strides = None if tensor.strides is None else tuple(itemsize * step for step in tensor.strides)
    return Layout.of(tensor.address, tensor.shape, strides, itemsize)


def _is_simulated(array: object) -> bool:
    simulator = sys.modules.get("interop.sim")
    return simulator is not None and isinstance(array, simulator.SimulatedArray)
