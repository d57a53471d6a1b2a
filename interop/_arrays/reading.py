"""Where the memory of a stranger's array is: read from what the array says of itself, by either protocol, and checked.

A stranger is an array whose library has no adapter, or whose adapter does not read it. Nothing here orders or converts
anything; except that an array that is known by DLPack only can be asked to order its consumer itself.
"""

import operator
import reprlib
from collections.abc import Callable
from typing import Any, Final

from interop import _cuda
from interop._cuda import memory
from interop._cuda.addresses import exact_int
from interop._show.text import described
from interop.adapters import adapters_of, dlpack
from interop.adapters.tensor import CUDA, CUDA_HOST, CUDA_MANAGED, FLOAT4_E2M1FN, TYPES, DataType, Tensor
from interop.errors import InteropError, InvalidArrayError, InvalidStreamError, NotSupportedError
from interop.stream import ExternalStream, new_stream

ON_GPU: Final = frozenset({CUDA, CUDA_HOST, CUDA_MANAGED})
_ADDRESSES: Final = 2**64
_COUNTS: Final = 2**63
"""The first that is no number of elements for DLPack, and no distance between them."""


def locate(array: Any, cuda: _cuda.Cuda | None = None, device: int = 0) -> Tensor:  # noqa: ANN401
    """The memory of any array, by its library's adapter or by the protocols. Nothing is ordered.

    Args:
        array: any object.
        cuda: what knows the memory of a stranger; None to believe what that says.
        device: where memory is of which a stranger does not say it, and CUDA is not asked.

    Raises:
        InvalidArrayError: it has no protocol, or what it says cannot be, or is not about memory that a GPU can use.
        NotSupportedError: it has a type, a mask or strides that no other library understands.
    """
    if getattr(array, "requires_grad", False):
        array = array.detach()  # PyTorch refuses to export it otherwise
    for adapter in adapters_of(array):
        tensor = adapter.read(array)
        if tensor is not None:
            return tensor
    found = by_interface(array, cuda, device)
    return by_dlpack(array, cuda, None) if found is None else found[0]


# -- the CUDA Array Interface ---------------------------------------------------------------------------------------


def by_interface(
    array: Any,  # noqa: ANN401
    cuda: _cuda.Cuda | None,
    device: int,
) -> tuple[Tensor, object] | None:
    """The memory by ``__cuda_array_interface__``, and the stream that it states, whatever that is.

    Args:
        array: any object.
        cuda: what knows the memory.
        device: where an array without elements is taken to be.

    Returns:
        None if there is no interface, or if DLPack can say more.

    Raises:
        InvalidArrayError: what it says cannot be, or is not about memory that a GPU can use.
        NotSupportedError: it has a type, a mask or strides that no other library understands.
    """
    has_dlpack = _has_dlpack(array)
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
        if has_dlpack and isinstance(typestr, str) and typestr[1:2] == "V" and not has_fields:
            return None  # bfloat16, for one
        return _stated_tensor(array, interface, cuda, device), interface.get("stream")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InteropError):
            raise
        raise _malformed(array, interface) from error


def _stated_tensor(array: object, interface: dict[str, Any], cuda: _cuda.Cuda | None, device: int) -> Tensor:
    address, read_only = interface["data"]
    shape = tuple(map(operator.index, interface["shape"]))
    strides = interface.get("strides")
    strides = None if strides is None else tuple(map(operator.index, strides))
    if strides is not None and len(strides) != len(shape):
        raise _malformed(array, interface)
    dtype = from_typestr(interface["typestr"])
    if interface.get("mask") is not None:
        message = f"{described(array)} has a mask, which no other library understands; hand over its data instead"
        raise NotSupportedError(message)
    size = dtype.bits // 8
    if strides is not None:
        if any(stride % size for stride, count in zip(strides, shape, strict=True) if count > 1):
            message = f"the strides of {described(array)}, {strides} bytes, are no multiples of its items, {size} bytes"
            raise NotSupportedError(message)
        strides = tuple(stride // size for stride in strides)
    tensor = Tensor(operator.index(address), shape, strides, dtype, CUDA, device, bool(read_only), array)
    return checked(tensor, array, cuda, lambda: _malformed(array, interface))


def _malformed(array: object, interface: object) -> InvalidArrayError:
    said = reprlib.repr(interface)
    return InvalidArrayError(f"what {described(array)} says of itself is no CUDA array interface: {said}")


def from_typestr(typestr: object) -> DataType:
    """The DLPack type of a typestr such as ``"<f4"``.

    Raises:
        NotSupportedError: the type is big-endian, or not one of NumPy's booleans and numbers of up to 8 bytes (complex:
            16), or this is no typestr at all.
    """
    order, name = (typestr[:1], typestr[1:]) if isinstance(typestr, str) else ("", "")
    native_name = f"|{name}" if name in ("b1", "i1", "u1") else f"<{name}"
    dtype = TYPES.get(native_name)
    if dtype is not None and (order in ("<", "=", "|") or (order == ">" and native_name[0] == "|")):
        return dtype
    if dtype is not None and order == ">":
        way_out = f"is big-endian, which no GPU computes with: convert the array first, with astype({native_name!r})"
    elif name.startswith("V"):
        way_out = (
            "is structured, or a type of another library such as bfloat16, which the array interface cannot say: hand "
            "over its fields one by one, or a view as integers of the same size; or say bfloat16 and float8 by DLPack"
        )
    elif name[:1] in ("O", "S", "U", "M", "m", "t", "a"):
        way_out = "holds no numbers; hand over a view or a conversion to integers, if there is one"
    else:
        way_out = f"is unknown to interop: convert the array first, to one of {', '.join(TYPES)}"
    message = f"the type {typestr!r} {way_out}" if isinstance(typestr, str) else f"{described(typestr)} {way_out}"
    raise NotSupportedError(message)


def stated_stream(stream: object, tensor: Tensor) -> ExternalStream | None:
    """The stream that an array states by its interface; None if it states none.

    Raises:
        InvalidStreamError: the array states something that is not a handle.
    """
    if stream is None:
        return None
    handle = exact_int(stream)
    if not handle:
        message = (
            f"the array states stream {described(stream)}: the CUDA Array Interface has handles, 1 for the legacy "
            "default stream, 2 for the per-thread one, and forbids 0"
        )
        raise InvalidStreamError(message)
    return ExternalStream(handle, tensor.device_id if handle <= _cuda.PER_THREAD else None)


# -- DLPack ---------------------------------------------------------------------------------------------------------


def by_dlpack(
    array: Any,  # noqa: ANN401
    cuda: _cuda.Cuda | None,
    consumer: ExternalStream | None,
) -> Tensor:
    """The memory by DLPack.

    Args:
        array: any object.
        cuda: what knows the memory.
        consumer: the stream that the array orders itself, as the protocol demands; None to order nothing.

    Raises:
        InvalidArrayError: it has no DLPack, or refuses; or what it says cannot be, or is not about memory that a GPU
            can use.
        NotSupportedError: its version or type of DLPack is unknown.
    """
    if not _has_dlpack(array):
        message = (
            "expected an array on a GPU: one of CuPy, Numba, PyTorch, JAX or Warp, or an object with "
            f"__cuda_array_interface__ or __dlpack__; got {described(array)}"
        )
        raise InvalidArrayError(message)
    try:
        kind, device = array.__dlpack_device__()
        kind, device = operator.index(kind), operator.index(device)
        if kind not in ON_GPU:
            message = f"{described(array)} is not on a GPU (DLPack device type {kind}); copy it there first"
            raise InvalidArrayError(message)  # noqa: TRY301  (as it is)
        asks = consumer
        if consumer is not None and consumer.cuda_stream <= _cuda.PER_THREAD and consumer.device != device:
            asks = new_stream(device)  # a default stream is told by a number, and would be taken for that of *device*
        tensor = dlpack.read(_capsule_of(array, cuda, device, -1 if asks is None else asks.cuda_stream))
    except InteropError:
        raise
    except Exception as error:  # whatever a library makes of it
        message = f"{described(array)} cannot be handed over: {type(error).__name__}: {error}"
        raise InvalidArrayError(message) from error
    if consumer is not None and asks is not None:
        consumer.capture_id()  # an error if what the array has done there has broken a capture
        consumer.wait_stream(asks)

    def impossible() -> InvalidArrayError:
        said = ", ".join(f"{name} {value}" for name, value in zip(tensor._fields[:6], tensor, strict=False))
        return InvalidArrayError(f"what {described(array)} says of itself by DLPack cannot be: {said}")

    # CUDA knows the device of memory; without elements there is none to ask about.
    if tensor.device_type not in ON_GPU or tensor.device_id < 0 or (0 in tensor.shape and tensor.device_id != device):
        raise impossible()
    return checked(tensor, array, cuda, impossible)


def _has_dlpack(array: object) -> bool:
    """Whether an object has DLPack; False if the question makes it raise an error."""
    try:
        return hasattr(array, "__dlpack__")
    except Exception:  # noqa: BLE001  (an object may raise any error when it is asked for an attribute)
        return False


def _capsule_of(array: Any, cuda: _cuda.Cuda | None, device: int, stream: int) -> object:  # noqa: ANN401
    def ask() -> object:
        try:
            return array.__dlpack__(stream=stream, max_version=(1, 0))
        except TypeError:  # a producer from before versions, which cannot say that it is read-only either
            return array.__dlpack__(stream=stream)

    # PyTorch gives a tensor away only while its device is current.
    return ask() if cuda is None else cuda.within(cuda.primary_context(device), ask)


# -- the one check --------------------------------------------------------------------------------------------------


def checked(
    tensor: Tensor, array: object, cuda: _cuda.Cuda | None, impossible: Callable[[], InvalidArrayError]
) -> Tensor:
    """*tensor* as it is in truth: on the device that CUDA knows its memory to be on.

    Args:
        tensor: what a stranger says.
        array: the stranger, for a message.
        cuda: what knows the memory; None to believe the stranger.
        impossible: makes the error to raise if that cannot be.

    Raises:
        InvalidArrayError: an address, a count, a stride, a type or the extent cannot be; or a GPU cannot use the
            memory.
    """
    address, shape, strides, dtype, _, device, read_only, owner = tensor
    if not (
        0 <= address < _ADDRESSES
        and all(0 <= count < _COUNTS for count in shape)
        and all(-_COUNTS < stride < _COUNTS for stride in strides or ())
        and dtype.bits > 0
        and dtype.lanes > 0
        and 0 <= dtype.code <= FLOAT4_E2M1FN
    ):
        raise impossible()
    start, stop = tensor.extent()
    if not 0 <= start <= stop <= _ADDRESSES:
        raise impossible()
    if 0 in shape or cuda is None:
        return tensor
    kind, device = memory.pointer_place(cuda, address) if address else (0, 0)
    if not kind:
        message = f"a GPU cannot use the memory of {described(array)}, at {address:#x}: it is not CUDA's"
        raise InvalidArrayError(message)
    return Tensor(address, shape, strides, dtype, kind, device, read_only, owner)
