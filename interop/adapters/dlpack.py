"""DLPack: capsules given and taken, and the exchange of tensors in C. All needs the extension in C."""

from typing import Any, Final

from interop._native import native, why_not
from interop.adapters.tensor import DataType, Tensor
from interop.errors import InvalidArrayError, NotSupportedError

CAPSULES: Final = native is not None
"""Whether the functions below work."""


def exchanges(kind: type) -> bool:
    """Whether arrays of a type can be read and made in C, by its ``__dlpack_c_exchange_api__``."""
    return CAPSULES and hasattr(kind, "__dlpack_c_exchange_api__")


def capsule(tensor: Tensor, owner: object, *, versioned: bool) -> object:
    """Make a capsule over *tensor*, which keeps *owner* alive until its consumer is done.

    Args:
        tensor: the memory.
        owner: the object that keeps the memory alive; the tensor's own owner is not used.
        versioned: whether the capsule is a versioned one, of DLPack 1.0. An unversioned one cannot say "read-only".

    Raises:
        NotSupportedError: interop was installed without its extension in C.
    """
    return _extension().make_capsule(tensor, owner, versioned)


def read(capsule: object) -> Tensor:
    """Take over a capsule of either kind, as its consumer: it can be consumed only once.

    Its managed tensor stays for as long as the :class:`Tensor`'s owner; then its deleter is called, once, in whichever
    thread frees the owner, with the GIL held. Only when the interpreter exits it is not called.

    Raises:
        InvalidArrayError: it states a number of dimensions that cannot be.
        NotSupportedError: this is no DLPack capsule, or a used one; its version is not 1.x; its elements, smaller than
            a byte, are padded; or interop was installed without its extension in C. Where it is a capsule, it has been
            consumed, and its deleter called.
    """
    tensor: Tensor = _extension().read_capsule(capsule)
    return tensor


def _extension(*_: object) -> Any:  # noqa: ANN401  (a module)
    if native is None:
        message = f"to give and take arrays by DLPack, interop needs its extension in C, which is missing: {why_not}"
        raise NotSupportedError(message)
    return native


if native is None:
    make_tensor = read_tensor = _extension
else:
    native.prepare_dlpack(Tensor, DataType, NotSupportedError, InvalidArrayError)
    make_tensor, read_tensor = native.make_tensor, native.read_tensor
