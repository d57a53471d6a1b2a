"""DLPack capsules that interop gives away."""

from typing import Final

from interop._native import native, why_not
from interop.adapters.tensor import Tensor
from interop.errors import NotSupportedError

CAPSULES: Final = native is not None
"""Whether :func:`capsule` can make capsules."""


def capsule(tensor: Tensor, owner: object, *, versioned: bool) -> object:
    """Make a capsule over *tensor*, which keeps *owner* alive until its consumer is done.

    Args:
        tensor: the memory.
        owner: the object that keeps the memory alive; the tensor's own owner is not used.
        versioned: whether the capsule is a versioned one, of DLPack 1.0. An unversioned one cannot say "read-only".

    Raises:
        NotSupportedError: interop was installed without its extension in C.
    """
    if native is None:
        message = f"to give arrays away by DLPack, interop needs its extension in C, which is missing: {why_not}"
        raise NotSupportedError(message)
    address, shape, strides, dtype, device_type, device_id, read_only, _ = tensor
    device = (device_type, device_id)
    return native.dlpack_capsule(owner, versioned, versioned and read_only, address, shape, strides, dtype, device)
