"""DLPack capsules, in and out."""

from typing import Final

from interop._arrays.tensor import Tensor, c_contiguous
from interop._native import native, why_not
from interop.errors import NotSupportedError

CAPSULES: Final = native is not None
"""Whether capsules can be made."""


def read(capsule: object) -> Tensor:
    """Take over a capsule of either kind, as its consumer: see :func:`interop._arrays.capsules.read`."""
    from interop._arrays import capsules  # noqa: PLC0415  (ctypes is slow to import)

    return capsules.read(capsule)


def capsule(tensor: Tensor, owner: object, *, versioned: bool) -> object:
    """A capsule over *tensor*, which keeps *owner* alive until its consumer is done.

    Args:
        tensor: the memory.
        owner: what keeps the memory alive; not the tensor's own owner.
        versioned: whether the capsule is of DLPack 1.0. The form from before versions cannot say "read-only".

    Raises:
        NotSupportedError: interop was installed without its extension in C.
    """
    if native is None:
        message = f"to give arrays away by DLPack, interop needs its extension in C, which is missing: {why_not}"
        raise NotSupportedError(message)
    address, shape, strides, dtype, device_type, device_id, read_only, _ = tensor
    if strides is None:
        strides = c_contiguous(shape)
    device = (device_type, device_id)
    return native.dlpack_capsule(owner, versioned, versioned and read_only, address, shape, strides, dtype, device)
