"""Arrays, handed from one stream and library to another: in order, on the device, without a copy.

Two things are kept apart. First the order: the consumer's stream is made to wait for the producer's, by an event. Then
the conversion, of metadata only: the consumer's library is given a holder that says that there is nothing to wait for.
The holder is what the new array keeps alive. When the last array over it goes, the way back is ordered too, and only
then the source is let go: so a memory pool cannot give the block to somebody else while the consumer still works on it.
"""

import atexit
import contextlib
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from interop import _cudart
from interop._handles import described
from interop.adapters import adapter_named, adapters_of
from interop.adapters.base import Adapter
from interop.current import streams_in_use
from interop.errors import (
    CaptureError,
    DeviceMismatchError,
    InteropError,
    InvalidArrayError,
    InvalidStreamError,
    NotSupportedError,
    ProducerUnknownError,
)
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop._tensor import Tensor
    from interop.event import Event

_CUDA, _CUDA_HOST, _CUDA_MANAGED = 2, 3, 13
"""DLPack's device types for memory that a GPU can use."""

_PAUSE: Final = 1e-3


class Handover:
    """The same memory, for the consumer's library: what the consumer's array keeps alive.

    Returned as it is by :func:`handoff` where no library is asked for: its ``__cuda_array_interface__`` states the
    stream that the memory is ready on, so that a library that interop does not know can wait for it.
    """

    def __init__(
        self, tensor: "Tensor", producer: ExternalStream | None, consumer: ExternalStream, *, states: bool
    ) -> None:
        """Hold *tensor*, and through it the source.

        Args:
            tensor: the memory.
            producer: the stream that wrote it; None if the source has ordered the consumer itself, or if nothing keeps
                that stream alive.
            consumer: the stream that it is handed to, and that waits for the producer already.
            states: whether the interface states *consumer*; not for a library that would wait for it once more.
        """
        self._tensor = tensor
        self._producer = producer
        self._consumer = consumer
        self._states = states
        # Not __del__: in a cycle of garbage, that may run after the finalisers of the very streams that it needs. What
        # a weakref.finalize is given is outside of all cycles, and so whole. (Hence the one way to a leak: an array
        # that is stored in an attribute of its own source.)
        finalizer = weakref.finalize(self, _held.give_back, producer, consumer, tensor)
        finalizer.atexit = False  # then the whole device is waited for

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        """Version 3 of the CUDA Array Interface.

        https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
        """
        from interop._tensor import typestr_of  # noqa: PLC0415  (ctypes is slow to import)

        tensor = self._tensor
        size = tensor.dtype.bits // 8
        return {
            "version": 3,
            "shape": tensor.shape,
            "typestr": typestr_of(tensor.dtype),
            "data": (tensor.address, tensor.read_only),
            "strides": None if tensor.strides is None else tuple(size * stride for stride in tensor.strides),
            "stream": self._consumer.cuda_stream if self._states else None,
        }

    def __repr__(self) -> str:
        """Shape, type, and the streams."""
        tensor = self._tensor
        return f"<interop.Handover of {tensor.shape} {tensor.dtype}, {self._producer!r} -> {self._consumer!r}>"


class _Held:
    """What is kept until the device is done with it.

    Entries are only ever appended to, and popped from, a deque, both of which are atomic: finalisers come here from
    any thread, and in the middle of any call, so there is no lock to be held twice.
    """

    def __init__(self) -> None:
        self._entries: deque[tuple[Callable[[], bool], object]] = deque()

    def keep(self, done: Callable[[], bool], objects: object) -> None:
        """Keep *objects* until *done* says True."""
        self._entries.append((done, objects))

    def release(self) -> int:
        """Let go of what is done; how many entries are kept."""
        for _ in range(len(self._entries)):
            try:
                entry = self._entries.popleft()
            except IndexError:  # another thread was faster
                break
            if not entry[0]():
                self._entries.append(entry)
        return len(self._entries)

    def give_back(self, producer: ExternalStream | None, consumer: ExternalStream, source: object) -> None:
        """Make *producer*'s later work wait for *consumer*, and let go of *source*; or keep it until that can be."""
        back = _Back(producer, consumer)
        if not back():
            self.keep(back, source)
        self.release()

    def drain(self) -> None:
        """Wait for the device, at the end of the process, so that nothing is freed under its hands."""
        with contextlib.suppress(InteropError):
            while self.release():
                time.sleep(_PAUSE)


_held: Final = _Held()
atexit.register(_held.drain)


class _Back:
    """The way back of one hand-over; called again and again until it is ordered, or everything is done."""

    def __init__(self, producer: ExternalStream | None, consumer: ExternalStream) -> None:
        self._producer = producer
        self._consumer = consumer
        self._event: Event | None = None

    def __call__(self) -> bool:
        try:
            if self._event is None:
                if self._consumer.is_capturing() or (self._producer is not None and self._producer.is_capturing()):
                    return False
                if self._producer is not None:
                    self._producer.wait_stream(self._consumer)
                    return True
                # No stream of the source's is known that could wait: it has to itself.
                self._event = self._consumer.record_event()
            return self._event.query()
        except (CaptureError, InvalidStreamError):
            # A capture has begun meanwhile; or a per-thread stream, and this is another thread. Later.
            return False


def hold(stream: object, *objects: object) -> None:
    """Keep objects alive until the work submitted to a stream so far is done; returns at once.

    They are let go by later calls of interop's array functions, or by :func:`release`; at the end of the process, the
    device is waited for. No host callback is used.

    Args:
        stream: anything that :func:`interop.as_stream` takes. If it captures a graph, the objects are kept until the
            work that follows the capture's end is done.
        objects: what its work uses.

    Raises:
        InvalidStreamError: *stream* is no stream.
    """
    _held.give_back(None, as_stream(stream), objects)


def release() -> int:
    """Let go of what :func:`hold`, and arrays that were handed over, kept for the device, as far as it is done.

    Returns:
        How many are still kept.
    """
    return _held.release()


def handoff(array: Any, consumer: object, *, producer: object = None, into: str | None = None) -> Any:  # noqa: ANN401
    """Hand an array to a stream, and to a library: the same memory, in order. Blocks nothing, copies nothing.

    All work that is later submitted to *consumer* sees what was submitted to the producer's stream before the call. The
    array that is returned keeps *array* alive. When the last array over the memory goes, the producer's stream waits
    for what the consumer's was given until then; so the memory may be written again, and reused by a pool, in order.

    Args:
        array: an array of CuPy, Numba, PyTorch, JAX, Warp, a buffer of RMM, a view of cuda.core, or any object with
            ``__cuda_array_interface__`` or ``__dlpack__``.
        consumer: the stream that will use it: anything that :func:`interop.as_stream` takes. If it is a bare address,
            keep the stream alive for as long as the array that is returned.
        producer: the stream that wrote it, likewise. By default the stream that the array states; else the current
            stream of its library; else, if it has ``__dlpack__`` only, it is asked to order the consumer itself.
        into: import path of the library whose array to return: ``"cupy"``, ``"numba"``, ``"torch"``, ``"cuda.core"`` or
            ``"warp"``. By default the library of *consumer*, if that is a library's stream, else that of *array*; if
            neither is known, the :class:`Handover` itself.

    Raises:
        InvalidArrayError: *array* is no array on a GPU.
        ProducerUnknownError: nothing says which stream wrote it; say ``producer=``.
        NotSupportedError: the library has no such type, or cannot say that the memory is read-only.
        DeviceMismatchError: the array is on a device that the consumer's cannot reach.
        CaptureError: one of the streams captures a graph, and the other one not that.
    """
    views, _ = _lend([array], consumer, producer, into)
    return views[0]


@contextlib.contextmanager
def borrow(
    *arrays: Any,  # noqa: ANN401
    consumer: object,
    producer: object = None,
    into: str | None = None,
) -> Iterator[Any]:
    """Lend arrays to a stream for the length of a ``with`` block: ordered there on entry, and back on exit.

    As :func:`handoff`, for several arrays at once, with one wait for each distinct producer. On exit, also by an
    exception, the producers' streams wait for what the consumer's was given in the block; the host waits for nothing.

    Args:
        arrays: as for :func:`handoff`.
        consumer: as for :func:`handoff`.
        producer: of all of them; by default each array's own.
        into: as for :func:`handoff`.

    Yields:
        The array, or a tuple of them if there are several.

    Raises:
        InteropError: as :func:`handoff`. Then nothing was lent.
    """
    views, producers = _lend(arrays, consumer, producer, into)
    try:
        yield views[0] if len(views) == 1 else tuple(views)
    finally:
        reader = as_stream(consumer)
        for writer in producers:
            writer.wait_stream(reader)


def _lend(
    arrays: Sequence[Any], consumer: object, producer: object, into: str | None
) -> tuple[list[Any], list[ExternalStream]]:
    """Order *consumer* after what wrote the arrays; arrays over the same memory, and the distinct producers."""
    _held.release()
    reader = as_stream(consumer)
    adapters = [_target(array, consumer, into) for array in arrays]
    sources = [_source(array, reader, producer) for array in arrays]
    for adapter, (tensor, _) in zip(adapters, sources, strict=True):
        _check(tensor, adapter, reader)
    producers = list(dict.fromkeys(writer for _, writer in sources if writer is not None))
    reader.wait_stream(*producers)
    views = []
    for adapter, (tensor, writer) in zip(adapters, sources, strict=True):
        holder = Handover(tensor, _lasting(writer), reader, states=adapter is None)
        views.append(holder if adapter is None else _converted(holder, adapter, tensor))
    return views, producers


def _lasting(writer: ExternalStream | None) -> ExternalStream | None:
    """The same stream, by an object that keeps it alive; None if there is none.

    A stream that nothing keeps alive may be gone when the last array over the memory goes, and its address then crashes
    CUDA. The source is then kept until the consumer is done, which needs no stream of the producer's.
    """
    if writer is None or writer.cuda_stream == _cudart.PER_THREAD:
        return None  # the last array may go in another thread
    if writer.cuda_stream == _cudart.LEGACY:
        return writer
    in_use = next((stream for stream in streams_in_use() if stream == writer), None)
    if in_use is not None and in_use.owner is not None:
        # As its library's current stream it may be known to the library by its address only.
        return in_use
    if writer.owner is None or (writer._adapter is not None and not writer._adapter.keeps_alive(writer.owner)):
        return None
    return writer


def _target(array: object, consumer: object, into: str | None) -> Adapter | None:
    """The adapter that makes the array to return; None for the neutral holder."""
    if into is not None:
        adapter = adapter_named(into)
        if not adapter.makes_arrays:
            message = f"{into} makes no arrays over foreign memory that interop can offer{adapter.no_arrays}"
            raise NotSupportedError(message)
        return adapter
    for candidate in (consumer, array):
        for adapter in adapters_of(candidate):
            if adapter.makes_arrays and (candidate is array or adapter.stream_handle(candidate) is not None):
                return adapter
    return None


def _check(tensor: "Tensor", adapter: Adapter | None, reader: ExternalStream) -> None:
    """Make sure that the memory can be handed over, before anything is ordered."""
    from interop._tensor import typestr_of  # noqa: PLC0415  (ctypes is slow to import)

    if typestr_of(tensor.dtype) is None:
        message = f"numbers of type {tensor.dtype} cannot be handed over: the array interface has no name for them"
        raise NotSupportedError(message)
    if tensor.read_only and adapter is not None and not adapter.says_read_only:
        message = f"{adapter.library} cannot say that an array is read-only, and this one is; name another with into="
        raise NotSupportedError(message)
    if 0 in tensor.shape or tensor.device_id == reader.device:
        return
    if not reader._cuda.peer_access(reader.device, tensor.device_id):
        message = (
            f"the array is on device {tensor.device_id}, and device {reader.device}, of {reader!r}, has no peer access "
            "to it: copy the array there first"
        )
        raise DeviceMismatchError(message)


def _source(
    array: Any,  # noqa: ANN401
    reader: ExternalStream,
    producer: object,
) -> tuple["Tensor", ExternalStream | None]:
    """The array's memory, and the stream that wrote it; None if the array has ordered *reader* itself."""
    adapter = next((adapter for adapter in adapters_of(array) if adapter.is_array(array)), None)
    writer = None if producer is None else as_stream(producer)
    orders_itself = adapter is not None and adapter.orders_itself
    interface = None if orders_itself else _array_interface(array)
    if interface is not None:
        tensor = _by_interface(array, interface, reader)
    elif not hasattr(array, "__dlpack__"):
        message = (
            "expected an array on a GPU: one of CuPy, Numba, PyTorch, JAX or Warp, or an object with "
            f"__cuda_array_interface__ or __dlpack__; got {described(array)}"
        )
        raise InvalidArrayError(message)
    if writer is None and adapter is not None and not orders_itself:
        # The library's own object, and not the number that the array states: it keeps the stream alive.
        native = adapter.array_stream(array)
        writer = None if native is None else as_stream(native)
    if interface is None:
        return _by_dlpack(array, reader if writer is None else None), writer
    writer = writer or _stated(interface, tensor)
    if writer is None:
        message = (
            f"nothing says which stream wrote {described(array)}: it states none, and its library has no current "
            "stream. That need not mean that it is ready. Say producer=, the stream that it was last written on"
        )
        raise ProducerUnknownError(message)
    return tensor, writer


def _by_interface(array: object, interface: dict[str, Any], reader: ExternalStream) -> "Tensor":
    from interop import _tensor  # noqa: PLC0415  (ctypes is slow to import)

    address, read_only = interface["data"]
    dtype = _tensor.from_typestr(interface["typestr"])
    strides = interface.get("strides")
    if interface.get("mask") is not None:
        message = f"{described(array)} has a mask, which no other library understands; hand over its data instead"
        raise NotSupportedError(message)
    size = dtype.bits // 8
    if strides is not None and any(stride % size for stride in strides):
        message = f"the strides of {described(array)}, {strides} bytes, are no multiples of its items, {size} bytes"
        raise NotSupportedError(message)
    return _tensor.Tensor(
        address=address,
        shape=tuple(interface["shape"]),
        strides=None if strides is None else tuple(stride // size for stride in strides),
        dtype=dtype,
        device_type=_CUDA,
        device_id=reader._cuda.pointer_device(address) if address else reader.device,
        read_only=bool(read_only),
        owner=array,
    )


def _array_interface(array: object) -> dict[str, Any] | None:
    """What ``__cuda_array_interface__`` says; None if there is none, or none for this type of numbers."""
    try:
        interface: dict[str, Any] = array.__cuda_array_interface__  # type: ignore[attr-defined]
    except AttributeError:
        return None
    except Exception as error:
        # PyTorch for bfloat16 and float8, which have no typestr: DLPack can say more.
        if hasattr(array, "__dlpack__"):
            return None
        message = f"{described(array)} cannot be handed over: {type(error).__name__}: {error}"
        raise InvalidArrayError(message) from error
    return interface


def _stated(interface: dict[str, Any], tensor: "Tensor") -> ExternalStream | None:
    stream = interface.get("stream")
    if stream is None:
        return None
    if stream == 0:
        message = "the array states stream 0, which the CUDA Array Interface forbids: 1 is legacy, 2 per-thread"
        raise InvalidStreamError(message)
    return ExternalStream(stream, tensor.device_id if stream <= _cudart.PER_THREAD else None)


def _by_dlpack(array: Any, reader: ExternalStream | None) -> "Tensor":  # noqa: ANN401
    """The memory by DLPack. With a *reader*, the array orders that stream itself, as the protocol demands."""
    from interop import _tensor  # noqa: PLC0415  (ctypes is slow to import)

    try:
        kind, device = array.__dlpack_device__()
        if kind not in (_CUDA, _CUDA_HOST, _CUDA_MANAGED):
            message = f"{described(array)} is not on a GPU (DLPack device type {int(kind)}); copy it there first"
            raise InvalidArrayError(message)
        cuda = _cudart.active()
        # PyTorch gives a tensor away only while its device is current.
        with cuda.context(cuda.primary_context(device)):
            return _tensor.read(array.__dlpack__(stream=-1 if reader is None else reader.cuda_stream))
    except (BufferError, RuntimeError, TypeError) as error:
        if isinstance(error, InteropError):
            raise
        message = f"{described(array)} cannot be handed over: {type(error).__name__}: {error}"
        raise InvalidArrayError(message) from error


def _converted(holder: Handover, adapter: Adapter, tensor: "Tensor") -> Any:  # noqa: ANN401
    cuda = holder._consumer._cuda
    try:
        with cuda.context(cuda.primary_context(tensor.device_id)):
            return adapter.make_array(holder)
    except Exception as error:
        if isinstance(error, InteropError):
            raise
        message = f"{adapter.library} takes no array of {tensor.shape} {tensor.dtype}: {type(error).__name__}: {error}"
        raise NotSupportedError(message) from error
