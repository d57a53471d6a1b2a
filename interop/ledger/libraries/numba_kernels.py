"""Which of its arrays a kernel of Numba reads, and which it writes: by the kernel's PTX."""

import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Final

from numba.cuda.dispatcher import types  # those that a launch compares with

from interop._order.findings import Kind
from interop.ledger.kernels.ptx import accesses
from interop.ledger.kernels.values import Access

_DATA: Final = 4
"""An array is passed as several parameters: meminfo, parent, nitems, itemsize, data, shape[], strides[]."""

_KNOWN: "weakref.WeakKeyDictionary[Any, Access | None]" = weakref.WeakKeyDictionary()
"""What each compiled kernel does: it is analysed once."""


def touched_by(kernel: Any, args: Sequence[Any]) -> Iterator[tuple[Any, Kind]]:
    """The device arrays among the arguments of a compiled kernel, and what the kernel does to each.

    An array that the kernel does not use is left out. With link-time optimization, which is Numba's default, a launch
    leaves no PTX behind. It is then made from Numba's LLVM code, once for a compiled kernel.
    """
    access = _access(kernel)
    first = 0
    for kind, arg in zip(kernel.argument_types, args, strict=True):
        for inner, value in _flattened(kind, arg):
            if hasattr(value, "__cuda_array_interface__"):
                at = first + (_DATA if isinstance(inner, types.Array) else 0)
                does = Kind.MAYBE if access is None else access.of(access.parameters[at])
                if does is not None:
                    yield value, does
            first += _parameters(inner)


def _access(kernel: Any) -> Access | None:
    """What a kernel does; ``None`` if Numba passes its arguments in a way that is not known."""
    if kernel not in _KNOWN:
        access = accesses(kernel.inspect_asm(None))[kernel.entry_name]
        count = sum(_parameters(inner) for kind in kernel.argument_types for inner, _ in _flattened(kind, None))
        # An extension may turn an argument into another one.
        known = not kernel.extensions and count == len(access.parameters)
        _KNOWN[kernel] = access if known else None
    return _KNOWN[kernel]


def _flattened(kind: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    """The type and value of an argument; of a tuple, those of its elements."""
    if isinstance(kind, types.BaseTuple):
        for i, inner in enumerate(kind):
            yield from _flattened(inner, None if value is None else value[i])
    else:
        yield kind, value


def _parameters(kind: Any) -> int:
    """How many parameters a value of this type takes."""
    if isinstance(kind, types.Array):
        return _DATA + 1 + 2 * int(kind.ndim)
    return 2 if isinstance(kind, types.Complex) else 1
