"""Where an array's memory is, and which stream it states: read from what the array says of itself, whatever it is.

Nothing here orders or converts anything; except that an array that is known by DLPack only is asked to order its
consumer itself, as that protocol has it.
"""

import operator
import reprlib
from typing import TYPE_CHECKING, Any, Final

from interop import _cudart
from interop._handles import described
from interop.errors import InteropError, InvalidArrayError, InvalidStreamError, NotSupportedError
from interop.stream import ExternalStream, new_stream

if TYPE_CHECKING:
    from interop._tensor import Tensor

CUDA: Final = 2
CUDA_HOST, _CUDA_MANAGED = 3, 13
"""DLPack's device types for memory that a GPU can use."""
_ADDRESSES: Final = 2**64
_COUNTS: Final = 2**63
"""The first that is no number of elements for DLPack, and no distance between them."""


def by_interface(array: Any, cuda: _cudart.Cuda, device: int) -> "tuple[Tensor, dict[str, Any]] | None":  # noqa: ANN401
    """The memory by ``__cuda_array_interface__``, and all that it says; None if there is none, or DLPack can say more.

    Args:
        array: any object.
        cuda: what knows the memory.
        device: where an array without elements is taken to be.

    Raises:
        InvalidArrayError: what it says cannot be, or is not about memory that a GPU can use.
        NotSupportedError: it has a type, a mask or strides that no other library understands.
    """
    has_dlpack = hasattr(array, "__dlpack__")
    try:
        interface = array.__cuda_array_interface__
    except AttributeError:
        return None
    except Exception as error:
        if has_dlpack:  # PyTorch for float8, which has no typestr
            return None
        message = f"{described(array)} cannot be handed over: {type(error).__name__}: {error}"
        raise InvalidArrayError(message) from error
    try:
        typestr, descr = interface["typestr"], interface.get("descr") or ()
        has_fields = any(name for name, *_ in descr)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _malformed(array, interface) from error
    if has_dlpack and isinstance(typestr, str) and typestr[1:2] == "V" and not has_fields:
        return None  # bfloat16, for one
    return _tensor_of(array, interface, cuda, device), interface


def _tensor_of(array: object, interface: dict[str, Any], cuda: _cudart.Cuda, device: int) -> "Tensor":
    from interop import _tensor  # noqa: PLC0415  (ctypes is slow to import)

    try:
        address, read_only = interface["data"]
        address = operator.index(address)
        shape = tuple(map(operator.index, interface["shape"]))
        strides = interface.get("strides")
        strides = None if strides is None else tuple(map(operator.index, strides))
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(array, interface) from error
    if strides is not None and len(strides) != len(shape):
        raise _malformed(array, interface)
    if not (
        0 <= address < _ADDRESSES
        and all(0 <= count < _COUNTS for count in shape)
        and all(-_COUNTS < stride < _COUNTS for stride in strides or ())
    ):
        raise _malformed(array, interface)
    dtype = _tensor.from_typestr(interface["typestr"])
    if interface.get("mask") is not None:
        message = f"{described(array)} has a mask, which no other library understands; hand over its data instead"
        raise NotSupportedError(message)
    size = dtype.bits // 8
    if strides is not None and any(stride % size for stride in strides):
        message = f"the strides of {described(array)}, {strides} bytes, are no multiples of its items, {size} bytes"
        raise NotSupportedError(message)
    kind = CUDA
    if 0 not in shape:
        kind, device = cuda.pointer_place(address)
        if not kind:
            message = f"the memory of {described(array)}, at {address:#x}, is none that a GPU can use"
            raise InvalidArrayError(message)
    return _tensor.Tensor(
        address=address,
        shape=shape,
        strides=None if strides is None else tuple(stride // size for stride in strides),
        dtype=dtype,
        device_type=kind,
        device_id=device,
        read_only=bool(read_only),
        owner=array,
    )


def _malformed(array: object, interface: object) -> InvalidArrayError:
    said = reprlib.repr(interface)
    return InvalidArrayError(f"what {described(array)} says of itself is no CUDA array interface: {said}")


def stated_stream(interface: dict[str, Any], tensor: "Tensor") -> ExternalStream | None:
    """The stream that the interface states; None if it states none.

    Raises:
        InvalidStreamError: it is no handle.
    """
    stream = interface.get("stream")
    if stream is None:
        return None
    if not isinstance(stream, int) or isinstance(stream, bool) or stream == 0:
        message = (
            f"the array states stream {stream!r}: the CUDA Array Interface has handles, 1 for the legacy default "
            "stream, 2 for the per-thread one, and forbids 0"
        )
        raise InvalidStreamError(message)
    return ExternalStream(stream, tensor.device_id if stream <= _cudart.PER_THREAD else None)


def by_dlpack(array: Any, reader: ExternalStream | None) -> "Tensor":  # noqa: ANN401
    """The memory by DLPack. With a *reader*, the array orders that stream itself, as the protocol demands.

    Raises:
        InvalidArrayError: it is not on a GPU, or refuses.
        NotSupportedError: its version or type of DLPack is unknown.
    """
    from interop import _tensor  # noqa: PLC0415  (ctypes is slow to import)

    try:
        kind, device = array.__dlpack_device__()
        is_on_gpu = kind in (CUDA, CUDA_HOST, _CUDA_MANAGED)
        asks = reader
        if is_on_gpu and reader is not None and reader.cuda_stream <= _cudart.PER_THREAD and reader.device != device:
            asks = new_stream(device)  # a default stream is told by a number, and would be taken for that of *device*
        tensor = _tensor.read(_capsule(array, device, -1 if asks is None else asks.cuda_stream)) if is_on_gpu else None
    except InteropError:
        raise
    except Exception as error:  # whatever a library makes of it
        message = f"{described(array)} cannot be handed over: {type(error).__name__}: {error}"
        raise InvalidArrayError(message) from error
    if tensor is None:
        message = f"{described(array)} is not on a GPU (DLPack device type {int(kind)}); copy it there first"
        raise InvalidArrayError(message)
    if reader is not None and asks is not None:
        reader.capture_id()  # an error if what the array has done there has broken a capture
        reader.wait_stream(asks)
    return tensor


def _capsule(array: Any, device: int, stream: int) -> object:  # noqa: ANN401
    cuda = _cudart.active()
    # PyTorch gives a tensor away only while its device is current.
    with cuda.context(cuda.primary_context(device)):
        try:
            return array.__dlpack__(stream=stream, max_version=(1, 0))
        except TypeError:  # a producer from before versions, which cannot say that it is read-only either
            return array.__dlpack__(stream=stream)
