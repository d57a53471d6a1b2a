"""Arrays, handed from one stream and library to another: in order, on the device, without a copy.

Two things are kept apart. First the order: the consumer's stream is made to wait for the producer's, by an event. Then
the conversion, of metadata only: the consumer's library is given a holder that says that there is nothing to wait for.
The holder is what the new array keeps alive. When the last array over it goes, the way back is ordered too, and only
then the source is let go: so a memory pool cannot give the block to somebody else while the consumer still works on it.
"""

import atexit
import contextlib
import reprlib
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from interop import _cudart, _watch
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
from interop.event import is_binding
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop._tensor import Tensor
    from interop.event import Event

_CUDA, _CUDA_HOST, _CUDA_MANAGED = 2, 3, 13
"""DLPack's device types for memory that a GPU can use."""

_PAUSE: Final = 1e-3
_LAST_WAIT: Final = 10.0
"""Seconds that the end of the process waits for the device at most."""


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
        finalizer.atexit = False  # a process that ends frees nothing that is still in use

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
    """What is kept until the device is done with it: for each consumer's stream a queue, since its work is in order.

    Finalisers come here from any thread, and in the middle of any call, also of one of these: hence a lock that its
    holder may take again. Nobody waits for the device under it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._queues: dict[ExternalStream, deque[_Back]] = {}
        self._releasing = False

    def keep(self, back: "_Back") -> None:
        """Keep what *back* holds until it is done."""
        with self._lock:
            self._queues.setdefault(back.consumer, deque()).append(back)

    def release(self) -> int:
        """Let go of what is done; how many entries are kept."""
        gone: list[_Back] = []  # let go of after the lock: what that sets off is not ours to foresee
        with self._lock:
            if not self._releasing:  # else a finaliser has come here in the middle of the loop below
                self._releasing = True
                try:
                    for stream in list(self._queues):
                        self._release(stream, gone)
                finally:
                    self._releasing = False
            kept = sum(map(len, list(self._queues.values())))
        del gone
        return kept

    def _release(self, stream: ExternalStream, gone: "list[_Back]") -> None:
        queue = self._queues[stream]
        while queue and queue[0].is_done():
            gone.append(queue.popleft())
        if not queue:
            late = self._queues.pop(stream)
            if late:  # a finaliser has kept something between the two lines above
                self._queues.setdefault(stream, deque()).extendleft(reversed(late))

    def give_back(self, producer: ExternalStream | None, consumer: ExternalStream, source: object) -> None:
        """Order *producer*'s later work after *consumer*'s, and keep *source* until *consumer* is done."""
        self.keep(_Back(producer, consumer, source))
        self.release()

    def drain(self) -> None:
        """Wait for the device, at the end of the process, so that nothing is freed under its hands."""
        deadline = time.monotonic() + _LAST_WAIT
        while self.release():
            if time.monotonic() > deadline:
                message = f"interop: work on held objects was not done {_LAST_WAIT} s after the end of the program"
                warnings.warn(message, RuntimeWarning, stacklevel=1)
                break
            time.sleep(_PAUSE)


class _Back:
    """The way back of one hand-over: first it is ordered, then the consumer's work is waited for, without blocking."""

    def __init__(self, producer: ExternalStream | None, consumer: ExternalStream, source: object) -> None:
        self.consumer = consumer
        self._producer = producer
        self._source = source
        self._event: Event | None = None
        with contextlib.suppress(InteropError):  # is_done asks again, and knows what to make of it
            self._advance()

    def is_done(self) -> bool:
        """Whether the source can be let go of."""
        try:
            if self._event is None and not self._advance():
                return False
            return self._event is not None and self._event.query()
        except InvalidStreamError:
            return False  # a per-thread stream, and this is another thread
        except CaptureError:
            self._event = None
            return False
        except InteropError:
            return True  # the device is lost, or the simulation over: there is nothing left to be protected from

    def _advance(self) -> bool:
        """Order the way back, and record what is to be waited for, unless a capture is in the way."""
        producer, capture = self._producer, self.consumer.capture_id()
        if producer is not None:
            if producer.capture_id() != capture:
                return False
            producer.wait_stream(self.consumer)
            self._producer = None
        if capture:
            return False
        self._event = self.consumer.record_event()
        return True


_held: Final = _Held()
atexit.register(_held.drain)


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
    consumer = as_stream(stream)
    consumer.is_capturing()  # so that a stream that cannot be used here is an error here
    _held.give_back(None, consumer, objects)


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
    for what the consumer's was given until then, so that the memory may be written again in order; and *array* is kept
    until the consumer is done, so that a pool cannot reuse it too early, on whichever stream. (Do not store the array
    that is returned in an attribute of *array*: the two would keep each other alive for ever.)

    While streams capture a graph, this is captured with them; the launches of the graph need *array* kept alive by you.

    Args:
        array: an array of CuPy, Numba, PyTorch, JAX, Warp, a buffer of RMM, a view of cuda.core, or any object with
            ``__cuda_array_interface__`` or ``__dlpack__``.
        consumer: the stream that will use it: anything that :func:`interop.as_stream` takes. If that is an address, or
            an object that only wraps one, keep the stream alive for as long as the array that is returned.
        producer: the stream that wrote it, likewise. By default the current stream of its library; else the stream that
            the array states; else, for JAX and for unknown objects that have ``__dlpack__`` only, the array is asked,
            and trusted, to order the consumer itself.
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
    views, _ = _lend([array], as_stream(consumer), producer, into, consumer)
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
    reader = as_stream(consumer)
    views, producers = _lend(arrays, reader, producer, into, consumer, and_back=True)
    with contextlib.ExitStack() as way_back:
        for writer in producers:
            way_back.callback(writer.wait_stream, reader)
        yield views[0] if len(views) == 1 else tuple(views)


def _lend(
    arrays: Sequence[Any],
    reader: ExternalStream,
    producer: object,
    into: str | None,
    consumer: object,
    *,
    and_back: bool = False,
) -> tuple[list[Any], list[ExternalStream]]:
    """Order *reader* after what wrote the arrays; arrays over the same memory, and the distinct producers."""
    _held.release()
    adapters = [_target(array, consumer, into) for array in arrays]
    sources = [_source(array, reader, producer) for array in arrays]
    for adapter, (tensor, _) in zip(adapters, sources, strict=True):
        _check(tensor, adapter, reader)
    if and_back and any(writer is None for _, writer in sources):
        message = (
            "an array that orders its consumers itself, like JAX's, cannot be lent: no stream of its library is known "
            "that could wait on the way back. Use handoff, and do not write to it; or say producer="
        )
        raise ProducerUnknownError(message)
    producers = list(dict.fromkeys(writer for _, writer in sources if writer is not None))
    reader.wait_stream(*producers)
    views = []
    for adapter, (tensor, writer) in zip(adapters, sources, strict=True):
        holder = Handover(tensor, _lasting(writer), reader, states=adapter is None)
        views.append(holder if adapter is None else _converted(holder, adapter, tensor))
    for array, (tensor, writer) in zip(arrays, sources, strict=True):
        for watcher in _watch.watchers:
            watcher.handed_over(array, tensor, writer, reader)
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
    if writer.owner is None or is_binding(writer.owner, "cudaStream_t", "CUstream"):
        return None
    if writer._adapter is not None and not writer._adapter.keeps_alive(writer.owner):
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
    if 0 in tensor.shape or tensor.device_id == reader.device or tensor.device_type != _CUDA:
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
    if adapter is not None and (problem := adapter.problem(array)):
        message = f"{described(array)} cannot be handed over: {problem}"
        raise InvalidArrayError(message)
    orders_itself = adapter.orders_itself if adapter is not None else not hasattr(array, "__cuda_array_interface__")
    interface = None if orders_itself else _array_interface(array)
    if interface is None and not hasattr(array, "__dlpack__"):
        message = (
            "expected an array on a GPU: one of CuPy, Numba, PyTorch, JAX or Warp, or an object with "
            f"__cuda_array_interface__ or __dlpack__; got {described(array)}"
        )
        raise InvalidArrayError(message)
    if interface is None:
        tensor = _by_dlpack(array, reader if orders_itself else None)
    else:
        tensor = _by_interface(array, interface, reader)
    if writer is None and adapter is not None and not orders_itself:
        # The library's own object, and not the number that the array states: it keeps the stream alive. On the
        # array's device, which a default stream is of.
        native = adapter.array_stream(array)
        if native is not None:
            with reader._cuda.context(reader._cuda.primary_context(tensor.device_id)):
                writer = as_stream(native)
    if writer is None and interface is not None:
        writer = _stated(interface, tensor)
    if writer is None and not orders_itself:
        message = (
            f"nothing says which stream wrote {described(array)}: it states none, and its library has no current "
            "stream. That need not mean that it is ready. Say producer=, the stream that it was last written on"
        )
        raise ProducerUnknownError(message)
    return tensor, writer


def _by_interface(array: object, interface: dict[str, Any], reader: ExternalStream) -> "Tensor":
    from interop import _tensor  # noqa: PLC0415  (ctypes is slow to import)

    try:
        address, read_only = interface["data"]
        shape = tuple(map(int, interface["shape"]))
        strides = interface.get("strides")
        strides = None if strides is None else tuple(map(int, strides))
        typestr = interface["typestr"]
        malformed = not isinstance(address, int) or (strides is not None and len(strides) != len(shape))
    except (KeyError, TypeError, ValueError):
        malformed = True
    if malformed:
        message = f"what {described(array)} says of itself is no CUDA array interface: {reprlib.repr(interface)}"
        raise InvalidArrayError(message)
    dtype = _tensor.from_typestr(typestr)
    if interface.get("mask") is not None:
        message = f"{described(array)} has a mask, which no other library understands; hand over its data instead"
        raise NotSupportedError(message)
    size = dtype.bits // 8
    if strides is not None and any(stride % size for stride in strides):
        message = f"the strides of {described(array)}, {strides} bytes, are no multiples of its items, {size} bytes"
        raise NotSupportedError(message)
    kind, device = _CUDA, reader.device
    if 0 not in shape:
        kind, device = reader._cuda.pointer_place(address)
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
    if not isinstance(stream, int) or stream == 0:
        message = (
            f"the array states stream {stream!r}: the CUDA Array Interface has handles, 1 for the legacy default "
            "stream, 2 for the per-thread one, and forbids 0"
        )
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
            stream = -1 if reader is None else reader.cuda_stream
            try:
                capsule = array.__dlpack__(stream=stream, max_version=(1, 0))
            except TypeError:  # a producer from before versions, which cannot say that it is read-only either
                capsule = array.__dlpack__(stream=stream)
            return _tensor.read(capsule)
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
