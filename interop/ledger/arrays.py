"""Where the elements of an array of any library lie. Nothing is ordered, copied, or waited for."""

import contextlib
import sys
import weakref
from typing import TYPE_CHECKING, Any

from interop._arrays import reading
from interop.ledger.memory import Layout

if TYPE_CHECKING:
    from interop.adapters.tensor import Tensor


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
        NotSupportedError: it has a type or strides that interop does not know.
    """
    if _is_simulated(array):
        return Layout.of(0, array.shape, None, array.dtype.itemsize, space=weakref.ref(array))
    return of_tensor(reading.locate(array))


def of_tensor(tensor: "Tensor") -> Layout:
    """The layout of a tensor."""
    itemsize = max(1, tensor.dtype.bits * tensor.dtype.lanes // 8)
    strides = None if tensor.strides is None else tuple(itemsize * step for step in tensor.strides)
    return Layout.of(tensor.address, tensor.shape, strides, itemsize)


def _is_simulated(array: object) -> bool:
    simulator = sys.modules.get("interop.sim")
    return simulator is not None and isinstance(array, simulator.SimulatedArray)
