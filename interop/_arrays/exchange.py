"""The act of a hand-over: who produced, what is refused, the order, and the consumer's array over a holder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interop import _cuda
from interop._arrays import reading
from interop._arrays.handover import Handover, find
from interop._arrays.limits import ReadOnly, refusal
from interop._core.created import CreatedStream
from interop._core.switching import streams_in_use
from interop._cuda import memory
from interop._order import watchers
from interop._show.text import described, exact_str
from interop.adapters import adapter_named, adapters_of
from interop.adapters.base import Adapter
from interop.adapters.tensor import CUDA, Tensor
from interop.errors import (
    DeviceMismatchError,
    InteropError,
    InvalidArrayError,
    NotSupportedError,
    ProducerUnknownError,
)
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop._arrays.holder import OpenHandover


Source = tuple[Any, Tensor, Adapter | None, Adapter | None, ExternalStream | None, "OpenHandover | None"]
"""What is to be handed over: the array; its memory; the adapter of its library, or None if interop does not know that;
the adapter of the library whose array to return, or None for the neutral holder; the stream that wrote it, or None if
the array has ordered the consumer itself; and the hand-over that the array came from, or None if none is known."""


def resolve(
    array: Any,  # noqa: ANN401
    stream: ExternalStream,
    producer: ExternalStream | None,
    consumer: object,
    into: str | None,
    read_only: ReadOnly,
) -> Source:
    """Where the array's memory is, and which stream wrote it, by default *producer*. Nothing is ordered.

    Except that an array that is known by DLPack only is asked to order *stream*, which is *consumer*, itself.

    Raises:
        InteropError: the array cannot be handed over.
    """
    adapter, tensor, stated = None, None, None
    for candidate in adapters_of(array):
        tensor = candidate.read(array)
        if tensor is not None or candidate.is_array(array):
            adapter = candidate
            break
    into_adapter = into_adapter_of(into, consumer, adapter)
    is_ordered = False
    if tensor is None:
        tensor, stated, is_ordered = _ask(array, adapter, stream)
    elif tensor.device_id < 0:
        tensor = _located(tensor, stream)
    check(tensor, into_adapter, stream, read_only)
    parent = find(tensor.address, producer)
    link = _link_of(array, adapter, tensor, parent)
    if producer is None and not is_ordered:
        producer = _producer(array, adapter, tensor, stated) if link is None else link.consumer
        if link is None and parent is not None:
            parent = find(tensor.address, producer)
    return array, tensor, adapter, into_adapter, producer, parent if link is None else link


def _link_of(
    array: Any,  # noqa: ANN401
    adapter: Adapter | None,
    tensor: Tensor,
    near: "OpenHandover | None",
) -> "OpenHandover | None":
    """The hand-over that made the array, or the array that it is a view of; None if none is known.

    *near* is any hand-over of that memory.
    """
    holder = array if adapter is None else adapter.holder_of(array)
    if isinstance(holder, Handover):
        return holder._link
    mark = 0 if adapter is None or near is None else adapter.mark_of(array)
    return find(tensor.address, None, mark) if mark else None


def make(source: Source, stream: ExternalStream, kind: type[Handover] | None = None) -> tuple[Any, Handover]:
    """The array to return, after everything is ordered, and its holder, a :class:`.Handover` or of the class *kind*."""
    array, tensor, _, adapter, producer, parent = source
    kept = kept_alive(producer)
    if kept is None and parent is not None and parent.consumer == producer:
        # The producer was the consumer of the parent. Its user keeps it alive as long as the array of the parent lives,
        # and that array lives as long as this holder.
        kept = None if parent.consumer._handle == _cuda.PER_THREAD else parent.consumer
    holder = (kind or Handover)(tensor, kept, stream, parent, is_neutral=adapter is None)
    result: Any = holder
    if adapter is not None:
        result = _wrapped(tensor, holder, adapter)
        holder._mark = adapter.mark_of(result)
    for watcher in watchers.active:
        watcher.handed_over(array, tensor, producer, stream)
    return result, holder


def _wrapped(tensor: Tensor, holder: Handover, adapter: Adapter) -> Any:  # noqa: ANN401
    """The array of the adapter's library over what *holder* holds.

    Raises:
        NotSupportedError: the library refuses.
    """
    try:
        if not adapter.needs_device:
            return adapter.make_array(tensor, holder)
        cuda = holder._consumer._cuda
        return cuda.within(cuda.primary_context(tensor.device_id), adapter.make_array, tensor, holder)
    except Exception as error:
        if isinstance(error, InteropError):
            raise
        message = f"{adapter.library} takes no array of {tensor.shape} {tensor.dtype}: {type(error).__name__}: {error}"
        raise NotSupportedError(message) from error


def array_maker(library: str) -> Adapter:
    """The adapter of *library*, which must make arrays over foreign memory.

    Raises:
        NotSupportedError: it makes none.
        LibraryNotFoundError: it is not installed, or not known.
    """
    adapter = adapter_named(library)
    if not adapter.makes_arrays:
        message = f"{library} makes no arrays over foreign memory that interop can offer"
        raise NotSupportedError(message)
    return adapter


def into_adapter_of(into: str | None, consumer: object, from_adapter: Adapter | None) -> Adapter | None:
    """The adapter that makes the array to return; None for the neutral holder."""
    if into is not None:
        return array_maker(into)
    for adapter in adapters_of(consumer):
        if adapter.makes_arrays and adapter.stream_handle(consumer) is not None:
            return adapter
    return from_adapter if from_adapter is not None and from_adapter.makes_arrays else None


def _ask(array: Any, adapter: Adapter | None, stream: ExternalStream) -> tuple[Tensor, object, bool]:  # noqa: ANN401
    """The memory of an array that no adapter reads; the stream that it states; whether it has ordered *stream*."""
    if issubclass(type(array), Handover):  # `isinstance` would ask a lazy proxy for what it stands for
        address, shape, strides, dtype, kind, device, read_only, _ = array._tensor
        return Tensor(address, shape, strides, dtype, kind, device, read_only, array), None, False
    if adapter is not None and (problem := adapter.problem(array)):
        message = f"{described(array)} cannot be handed over: {problem}"
        raise InvalidArrayError(message)
    cuda = stream._cuda
    orders_itself = adapter is not None and adapter.orders_itself
    found = None if orders_itself else reading.by_interface(array, cuda, stream.device)
    if found is not None:
        return *found, False
    orders_itself = orders_itself or adapter is None
    return reading.by_dlpack(array, cuda, stream if orders_itself else None), None, orders_itself


def _located(tensor: Tensor, stream: ExternalStream) -> Tensor:
    """The same, on the device that CUDA knows the memory to be on; without elements, on the stream's."""
    address, shape, strides, dtype, kind, device, read_only, owner = tensor
    if 0 in shape:
        device = stream.device
    else:
        kind, device = memory.pointer_place(stream._cuda, address)
    return Tensor(address, shape, strides, dtype, kind, device, read_only, owner)


def check(tensor: Tensor, adapter: Adapter | None, stream: ExternalStream, read_only: ReadOnly) -> None:
    """Make sure that the memory can be handed over, before anything is ordered."""
    if read_only is not None and exact_str(read_only) != "allow":
        message = f'read_only is None, or "allow" to hand a read-only array to any library; got {described(read_only)}'
        raise ValueError(message)
    reason = refusal(tensor, adapter, read_only)
    if reason:
        raise NotSupportedError(reason)
    device = tensor.device_id
    if device == (stream.device if stream._device is None else stream._device):
        return
    if tensor.device_type != CUDA or 0 in tensor.shape:
        return
    cuda = stream._cuda
    if memory.pointer_place(cuda, tensor.address)[0] == CUDA and not memory.peer_access(
        cuda, stream.device, device, tensor.address
    ):
        message = (
            f"the array is on device {device}, and device {stream.device}, of {stream!r}, has no peer access to it: "
            "copy the array there first"
        )
        raise DeviceMismatchError(message)


def _producer(array: object, adapter: Adapter | None, tensor: Tensor, stated: object) -> ExternalStream:
    """The current stream of the array's library on its device, or the stream that the array states."""
    # The library's own object, and not the number that the array states: it keeps the stream alive; and CuPy states the
    # current stream of the current device, wherever the array is.
    native_stream = None if adapter is None else adapter.array_stream(array)
    if native_stream is None:
        stream = reading.stated_stream(stated, tensor)
        if stream is None:
            message = (
                f"nothing says which stream wrote {described(array)}: it states none, and its library has no current "
                "stream. That need not mean that it is ready. Say producer=, the stream that it was last written on"
            )
            raise ProducerUnknownError(message)
        return stream
    stream = as_stream(native_stream)
    if stream._handle > _cuda.PER_THREAD:
        return stream
    cuda = _cuda.active()
    return cuda.within(cuda.primary_context(tensor.device_id), as_stream, native_stream)  # of that context, then


def kept_alive(stream: ExternalStream | None) -> ExternalStream | None:
    """The same stream, by an object that keeps it alive; None if there is none.

    A stream that nothing keeps alive may be gone when the last array over the memory is freed, and its address then
    crashes CUDA. The source is then kept until the consumer is done, which needs no stream of the producer's.
    """
    if stream is None or stream._handle == _cuda.PER_THREAD:
        return None  # the last array may be freed in another thread
    if stream._handle == _cuda.LEGACY:
        return stream
    owner, adapter = stream.owner, stream._adapter
    if type(owner) is CreatedStream:  # a stream of interop's own
        return stream
    if owner is not None and (adapter is None or adapter.keeps_alive(owner)):
        return stream
    # As its library's current stream it may be known to the library by its address only.
    return next((used for used in streams_in_use() if used == stream and used.owner is not None), None)


def refuse_to_borrow(sources: Sequence[Source]) -> None:
    """Refuse what cannot be given back at the end of a block.

    Raises:
        NotSupportedError: the consumer's library works on streams of its own.
        ProducerUnknownError: an array has ordered its consumer itself, and something may still write to it.
    """
    for array, _, from_adapter, adapter, producer, _ in sources:
        if adapter is not None and adapter.orders_itself:
            message = (
                f"{adapter.library} works on streams of its own, which nobody can wait for on the way back: use "
                "handoff, and hand its result back"
            )
            raise NotSupportedError(message)
        if producer is None and not (from_adapter and from_adapter.immutable):
            message = (
                f"{described(array)} orders its consumers itself, and cannot be lent: no stream of its library "
                "is known that could wait on the way back. Use handoff, and do not write to it; or say producer="
            )
            raise ProducerUnknownError(message)
